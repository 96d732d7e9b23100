package feeder

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// repairs counts what a feeder repaired.
type repairs map[string]int

func (r repairs) Repaired(reason string, slices int) { r[reason] += slices }
func (repairs) Archived(bool)                        {}

// ticks lets a feeder do its rounds for a time, which keeps its lease.
func (y *yard) ticks(f *Feeder, d time.Duration) {
	y.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		testutil.Advance(time.Second)
		y.tick(f)
	}
}

// due lets all of a leader's other duties be done in its next round.
func due(f *Feeder) {
	for i := range f.term.repair.duties {
		f.term.repair.duties[i].next = time.Time{}
	}
}

// A slice whose worker lost its lease is enqueued again, once, as a copy that says so.
func TestOrphans(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		y.batch("b1", importer.SourceImport, 200)
		f, seen := y.feeder(100), repairs{}
		f.cfg.Observer = seen
		y.tick(f)

		lost := time.Now().Add(-time.Minute)
		orphan, _ := y.take(lost)
		finished, _ := y.take(lost)
		y.settle(finished) // its worker died before it could say so
		held, _ := y.take(time.Now().Add(time.Minute))
		last, _ := y.take(lost)
		y.settle(last, 0, 1, 2)

		for round := range 3 {
			due(f)
			y.tick(f)
			again, err := y.l.Redeliveries(t.Context(), "b1")
			testutil.Must(t, err)
			if diff := cmp.Diff(map[string]int{orphan.Key(): 1, last.Key(): 1}, again); diff != "" {
				t.Errorf("round %d: %s", round, diff)
			}
		}
		orphan.Redeliveries, last.Redeliveries = 1, 1
		var copies []task.Slice
		for range 2 {
			s, ok := y.take(lost) // the copies are lost too
			if !ok {
				t.Fatal("a copy is missing")
			}
			copies = append(copies, s)
		}
		if diff := cmp.Diff(ids([]task.Slice{orphan, last}), ids(copies)); diff != "" {
			t.Error(diff)
		}
		if s, ok := y.take(lost); ok {
			t.Errorf("enqueued: %s", s.ID())
		}
		y.drop(task.Slice{Batch: "b1", Index: orphan.Index}) // asynq recovers the originals some day
		y.drop(task.Slice{Batch: "b1", Index: last.Index})
		due(f)
		y.tick(f)
		orphan.Redeliveries, last.Redeliveries = 2, 2
		if diff := cmp.Diff(ids([]task.Slice{orphan, last}), ids(y.all())); diff != "" {
			t.Error(diff)
		}
		if seen["orphaned"] != 4 || seen["missing"] != 0 {
			t.Errorf("repairs told: %v", seen)
		}
		y.drop(held)
	})
}

// An orphan of a batch that does not run is left alone.
func TestOrphansOfPausedBatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		y.batch("b1", importer.SourceImport, 50)
		y.batch("b2", importer.SourceImport, 50)
		f := y.feeder(100)
		y.tick(f)
		for range 2 {
			if _, ok := y.take(time.Now().Add(-time.Minute)); !ok {
				t.Fatal("not fed")
			}
		}
		_, _, err := y.l.Pause(t.Context(), "b1", history.By{Reason: "", Auto: true})
		testutil.Must(t, err)
		testutil.Must(t, y.rdb.Del(t.Context(), "lc:{b2}").Err())
		due(f)
		y.tick(f)
		if all := y.all(); len(all) > 0 {
			t.Errorf("enqueued: %v", ids(all))
		}
	})
}

// If asynq's data are lost, the ledger alone is enough to carry on.
func TestMissing(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 1230)
		f, seen := y.feeder(1000), repairs{}
		f.cfg.Observer = seen
		y.tick(f)
		if got := y.get("b1"); got.Cursor != 1230 || got.Low != 0 {
			t.Fatalf("%+v", got)
		}
		all := map[string]task.Slice{}
		for {
			s, ok := y.take(time.Now().Add(time.Hour))
			if !ok {
				break
			}
			all[s.Key()] = s
		}
		for _, key := range []string{"0:0", "0:50", "0:150", "1:200"} {
			y.settle(all[key])
		}
		y.settle(all["0:100"], 0, 49)
		y.settle(all["1:0"], 7)
		for _, key := range []string{"0:0", "0:50", "0:100", "0:150", "1:0", "1:200"} {
			y.drop(all[key]) // all others are at work
		}
		// Of this one a copy was done with, while the first is still at work.
		testutil.Must(t, y.l.SetRedeliveries(t.Context(), "b1", "0:200", 1))
		y.ticks(f, missingInterval-5*time.Second)
		if n := y.rdb.LLen(t.Context(), keyPending).Val(); n > 0 {
			t.Errorf("%d slices enqueued before their time", n)
		}
		y.ticks(f, 10*time.Second)
		want := []string{"b1:0:100~1", "b1:1:0~1"}
		if diff := cmp.Diff(want, ids(y.all())); diff != "" {
			t.Error(diff)
		}
		if got := y.get("b1"); got.Low != 100 {
			t.Errorf("low-water mark %d", got.Low)
		}
		again, err := y.l.Redeliveries(t.Context(), "b1")
		testutil.Must(t, err)
		if diff := cmp.Diff(map[string]int{"0:100": 1, "0:200": 1, "1:0": 1}, again); diff != "" || seen["missing"] != 2 {
			t.Errorf("repairs %v: %s", seen, diff)
		}

		// All of the queue is lost, but the first copy.
		for _, s := range all {
			y.drop(s)
		}
		copied := all["0:100"]
		copied.Redeliveries = 1
		tk, err := copied.Task()
		testutil.Must(t, err)
		_, err = asynq.NewClientFromRedisClient(y.rdb).Enqueue(tk)
		testutil.Must(t, err)
		y.ticks(f, missingInterval)
		found := map[string]int{}
		for _, s := range y.all() {
			found[s.Key()] = s.Redeliveries
			y.settle(s)
		}
		if len(found) != 25-4 || found["0:100"] != 1 || found["1:0"] != 2 || found["0:200"] != 2 || found["0:250"] != 1 {
			t.Errorf("%d slices: %v", len(found), found)
		}
		if got := y.get("b1"); got.State != ledger.Done {
			t.Errorf("%+v", got)
		}
	})
}

// The low-water mark stays before the first pending slice, whatever is done after it.
func TestLowWaterMark(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 1230)
		f := y.feeder(1000)
		y.tick(f)
		for {
			s, ok := y.take(time.Now().Add(time.Hour))
			if !ok {
				break
			}
			if s.Chunk == 1 || s.Index == 0 {
				y.settle(s)
				y.drop(s)
			}
		}
		y.ticks(f, missingInterval+5*time.Second)
		if got := y.get("b1"); got.Low != 50 {
			t.Errorf("low-water mark %d", got.Low)
		}
	})
}

// A new leader finds what its predecessor fed and nobody has, by the ledger alone.
func TestMissingAfterTakeover(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 3000)
		f := y.feeder(100)
		y.tick(f)
		y.all() // lost
		f.resign()
		testutil.Advance(time.Second)
		f = y.feeder(100)
		seen := map[string]int{}
		for range 400 {
			y.tick(f)
			for _, s := range y.all() {
				y.settle(s)
				seen[s.Key()] = s.Redeliveries
			}
			testutil.Advance(500 * time.Millisecond)
		}
		if got := y.get("b1"); got.State != ledger.Done {
			t.Errorf("%+v", got)
		}
		if len(seen) != 60 || seen["0:0"] != 1 || seen["2:950"] != 0 {
			t.Errorf("%d slices: %v", len(seen), seen)
		}
	})
}

// Workers drop the slices of a paused batch: after the resume these come back,
// and do not count as crashed.
func TestAfterResume(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 200)
		f, seen := y.feeder(100), repairs{}
		f.cfg.Observer = seen
		y.tick(f)
		_, _, err := y.l.Pause(t.Context(), "b1", history.By{Reason: "", Auto: true})
		testutil.Must(t, err)
		dropped := y.all()
		if len(dropped) != 4 {
			t.Fatalf("fed %v", ids(dropped))
		}
		y.settle(dropped[0])
		y.tick(f)
		testutil.Advance(time.Minute)
		y.tick(f)
		if all := y.all(); len(all) > 0 {
			t.Errorf("enqueued while paused: %v", ids(all))
		}
		_, _, err = y.l.Resume(t.Context(), "b1", history.By{Actor: "ann"})
		testutil.Must(t, err)
		y.tick(f)
		first := y.all()
		if diff := cmp.Diff(ids(dropped[1:]), ids(first)); diff != "" {
			t.Errorf("after the resume: %s", diff)
		}
		// One worker was slow to see the pause and drops its slice only now: the
		// next looks find it.
		y.ticks(f, 8*time.Second)
		y.settle(first[0])
		if all := y.all(); len(all) != 3 {
			t.Errorf("at the second look: %v", ids(all))
		}
		y.ticks(f, 10*time.Second)
		late := y.all()
		if diff := cmp.Diff(ids(first[1:]), ids(late)); diff != "" {
			t.Errorf("at a later look: %s", diff)
		}
		again, err := y.l.Redeliveries(t.Context(), "b1")
		if err != nil || len(again) > 0 || len(seen) > 0 {
			t.Errorf("counted as crashed: %v, %v, %v", again, seen, err)
		}
		// A long time after, what is missing crashed.
		y.settle(late[0])
		y.ticks(f, resumeQuiet)
		y.all()
		y.ticks(f, missingInterval)
		lost := y.all()
		if len(lost) != 1 || lost[0].Redeliveries != 1 || seen["missing"] != 1 {
			t.Errorf("missing long after the resume: %v, repairs %v", ids(lost), seen)
		}
		// For another leader, too.
		f.resign()
		testutil.Advance(time.Second)
		f = y.feeder(100)
		y.ticks(f, missingInterval)
		if lost = y.all(); len(lost) != 1 || lost[0].Redeliveries != 2 {
			t.Errorf("missing under another leader: %v", ids(lost))
		}
	})
}

// record gives links of a chunk of batch b1 an outcome.
func (y *yard) record(o ledger.Outcome, chunk, from, to int) {
	y.t.Helper()
	g := ledger.Group{Batch: "b1", Chunk: chunk}
	for pos := from; pos < to; pos++ {
		g.Entries = append(g.Entries, ledger.Entry{Position: pos, Record: ledger.Record{Outcome: o, Attempts: 1}})
	}
	testutil.Must(y.t, y.l.Commit(y.t.Context(), []ledger.Group{g})[0].Err)
}

// What a resume puts back lies before the low-water mark, and is fed again.
func TestAfterResumeOfACanary(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		_, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(1230)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport, Canary: true})
		testutil.Must(t, err)
		f := y.feeder(1000)
		y.tick(f)
		if fed := y.all(); len(fed) != 25 {
			t.Fatalf("fed %v", ids(fed))
		}
		for chunk, links := range []int{1000, 230} {
			for from := 0; from < links; from += 50 {
				if at := chunk*ledger.ChunkLinks + from; at != 50 && at != 1000 && at != 1200 {
					y.record(ledger.Cancelled, chunk, from, min(from+50, links))
				}
			}
		}
		y.record(ledger.NotFound, 0, 70, 100)
		y.record(ledger.NotFound, 1, 200, 230)
		y.record(ledger.NotFound, 0, 50, 70)
		paused := y.get("b1")
		if paused.State != ledger.Paused || paused.Counts[ledger.NotFound] != 80 || paused.Pending() != 50 {
			t.Fatalf("%+v", paused)
		}
		testutil.Must(t, y.l.Advance(t.Context(), paused, f.term.epoch, 1230, 1000)) // a leader has looked
		y.ticks(f, time.Minute)
		if all := y.all(); len(all) > 0 {
			t.Errorf("enqueued while paused: %v", ids(all))
		}
		_, _, err = y.l.Resume(t.Context(), "b1", history.By{Actor: "ann"})
		testutil.Must(t, err)
		seen := repairs{}
		f.cfg.Observer = seen
		y.tick(f)
		all := y.all()
		if diff := cmp.Diff([]string{"b1:0:50", "b1:1:0", "b1:1:200"}, ids(all)); diff != "" || len(seen) > 0 {
			t.Errorf("after the resume: %s, repairs %v", diff, seen)
		}
		for _, s := range all {
			y.settle(s)
		}
		if got := y.get("b1"); got.State != ledger.Done || got.Counts != (ledger.Counts{ledger.Cancelled: 1230}) {
			t.Errorf("%+v", got)
		}
	})
}

// An import whose importer died is deleted after a day.
func TestDeadImport(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		draft, _, err := y.l.Create(t.Context(), ledger.DraftConfig{ID: "b1", Source: importer.SourceImport})
		testutil.Must(t, err)
		testutil.Must(t, draft.Write(t.Context(), testutil.LinkIDs(1000), testutil.LinkIDs(1000)))
		f := y.feeder(100)
		testutil.Advance(deadImport - time.Minute)
		y.tick(f)
		if got := y.get("b1"); got.State != ledger.Importing {
			t.Fatalf("%+v", got)
		}
		testutil.Advance(2 * time.Minute)
		y.tick(f)
		if diff := cmp.Diff([]string{"lc:epoch", "lc:feeder"}, redistest.Keys(t, y.b.Client(), "*")); diff != "" {
			t.Error(diff)
		}
	})
}

// An abort whose command died is brought to its end, and ended batches expire.
func TestEndedBatches(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 1200)
		f := y.feeder(100)
		y.tick(f)
		y.settle(task.Slice{Batch: "b1", Index: 100, Links: testutil.LinkIDs(150)[100:]})
		_, _, err := y.l.Abort(t.Context(), "b1", history.By{Actor: "ann"})
		testutil.Must(t, err)
		y.tick(f)
		got := y.get("b1")
		if got.State != ledger.AbortedState || got.Counts[ledger.Aborted] != 1150 || got.Counts[ledger.Cancelled] != 50 || got.Pending() != 0 {
			t.Errorf("%+v", got)
		}
		y.tick(f)
		open, err := y.l.Unfinished(t.Context())
		if err != nil || len(open) > 0 {
			t.Errorf("unfinished: %v, %v", open, err)
		}
		y.tick(f)
		if len(f.term.batches) > 0 {
			t.Errorf("the feeder remembers it: %v", f.term.batches)
		}
		y.all()
		testutil.Advance(2 * time.Hour) // more than it is kept
		due(f)
		y.tick(f)
		for _, key := range redistest.Keys(t, y.b.Client(), "*") {
			if len(key) > 6 && key[:4] == "lc:{" {
				t.Errorf("left: %s", key)
			}
		}
		testutil.Advance(24 * time.Hour)
		due(f)
		y.tick(f)
		if all, err := y.l.List(t.Context()); err != nil || len(all) > 0 || y.rdb.ZCard(t.Context(), "lc:batches").Val() > 0 {
			t.Errorf("still listed: %v, %v", all, err)
		}
	})
}

// Tasks of other types and of newer releases are not for this feeder.
func TestOrphansOfOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		y.batch("b1", importer.SourceImport, 10)
		client := asynq.NewClientFromRedisClient(y.rdb)
		for id, tk := range map[string]*asynq.Task{
			"x1": asynq.NewTask("links:other", []byte(`{"v":1,"batch":"b1","links":["a"]}`)),
			"x2": asynq.NewTask(task.TypeCancel, []byte(`{"v":4,"batch":"b1"}`)),
			"x3": asynq.NewTask(task.TypeCancel, []byte(`nonsense`)),
		} {
			_, err := client.Enqueue(tk, asynq.Queue(task.QueueCancel), asynq.TaskID(id))
			testutil.Must(t, err)
			testutil.Must(t, y.rdb.RPopLPush(t.Context(), keyPending, keyActive).Err())
			testutil.Must(t, y.rdb.HSet(t.Context(), keyTask+id, "state", "active").Err())
			testutil.Must(t, y.rdb.ZAdd(t.Context(), keyLease, redisZ(id)).Err())
		}
		f := y.feeder(100)
		y.tick(f)
		if diff := cmp.Diff([]string{"b1:0:0"}, ids(y.all())); diff != "" {
			t.Error(diff)
		}
	})
}

// asynq lists tasks at work in pages.
func TestOrphansOnManyPages(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		client := asynq.NewClientFromRedisClient(y.rdb)
		const n = 450
		for i := range n {
			id := fmt.Sprint(i)
			_, err := client.Enqueue(asynq.NewTask(task.TypeCancel, []byte(id)), asynq.Queue(task.QueueCancel), asynq.TaskID(id))
			testutil.Must(t, err)
			lease := redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: id}
			if i == 0 || i == 210 || i == n-1 {
				lease = redisZ(id)
			}
			testutil.Must(t, y.rdb.RPopLPush(t.Context(), keyPending, keyActive).Err())
			testutil.Must(t, y.rdb.HSet(t.Context(), keyTask+id, "state", "active").Err())
			testutil.Must(t, y.rdb.ZAdd(t.Context(), keyLease, lease).Err())
		}
		payloads, err := task.Orphans(asynq.NewInspectorFromRedisClient(y.rdb), task.QueueCancel, task.TypeCancel)
		testutil.Must(t, err)
		var got []string
		for _, p := range payloads {
			got = append(got, string(p))
		}
		slices.Sort(got)
		if diff := cmp.Diff([]string{"0", "210", "449"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// redisZ is a lease that ended long ago.
func redisZ(id string) redis.Z { return redis.Z{Score: 1, Member: id} }
