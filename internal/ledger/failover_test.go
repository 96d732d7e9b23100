package ledger

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
)

// twin is a ledger on a server, and another on its replica.
func twin(t *testing.T) (master, replica *bench, servers [2]*redistest.Server) {
	t.Helper()
	servers[0] = redistest.NewServer(t, "--repl-diskless-sync-delay", "0")
	servers[0].Start(t)
	t.Cleanup(func() { servers[0].Stop(t) })
	servers[1] = redistest.StartReplica(t, servers[0])
	of := func(i int) *bench {
		return &bench{T: t, Ledger: New(redistest.Open(t, servers[i].URL()).Client())}
	}
	return of(0), of(1), servers
}

// slice reads one link as a worker finds it.
func (l *bench) slice(id string, place int) SliceView {
	l.Helper()
	view, err := l.Slice(l.Context(), id, place/ChunkLinks, place%ChunkLinks, 1)
	l.must(err)
	return view
}

// A replica that succeeds its master may have forgotten what was sent, up to
// some place behind the cursor that it has.
func TestFailover(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	master, l, _ := twin(t)
	const cursor, total = 500, 22_000
	b := master.running(total)
	master.must(master.Advance(t.Context(), b, 1, cursor, 0))
	master.commit(outcomes(NotFound, 0, 1)...)
	before := master.slice("b", 1)
	master.equal("before it", SliceView{State: Running, Incarnation: b.Incarnation(), Created: b.Created, Now: before.Now, Records: []Record{{}}}, before)
	master.awaitReplica(t.Context(), "b")
	l.must(l.rdb.Do(t.Context(), "replicaof", "no", "one").Err())

	if view := l.slice("b", cursor+task.MaxAhead); !view.FailedOver || view.Records[0].Ambiguous {
		t.Errorf("far behind the cursor: %+v", view)
	}
	for place, want := range map[int]bool{0: false, 1: true, cursor - 1: true, cursor + task.MaxAhead - 1: true, cursor + task.MaxAhead: false} {
		if view := l.slice("b", place); view.FailedOver || view.Records[0].Ambiguous != want {
			t.Errorf("link %d: %+v", place, view)
		}
	}
	l.equal("the outcome", NotFound, l.slice("b", 0).Records[0].Outcome)

	// Who sent before the failover takes for another's what may be its own.
	c := l.commit(outcomes(AlreadyCancelled, 1, 2)...)
	l.equal("what stands", []CommitResult{{Cancelled, true}}, c.Results)
	if r := l.record(1); r.Outcome != Cancelled || !r.Ambiguous {
		t.Errorf("recorded: %+v", r)
	}
	counts := l.get("b").Counts
	if counts[Cancelled] != 1 || counts[AlreadyCancelled] != 0 || counts.Sum() != 2 {
		t.Errorf("counts %v", counts)
	}
	c = l.Commit(t.Context(), []Group{{Batch: "b", Chunk: 21, Entries: outcomes(AlreadyCancelled, 0, 1)}})[0]
	l.equal("what stands far behind the cursor", []CommitResult{{AlreadyCancelled, true}}, c.Results)

	// The next batch is of this server's own history.
	l.batch("next", 1, false)
	if view := l.slice("next", 0); view.FailedOver || view.Records[0].Ambiguous {
		t.Errorf("a batch made after it: %+v", view)
	}

	// A second failover forgets what came after the first.
	l.must(l.Start(t.Context(), &b, 2, 50, "w1"))
	l.must(l.Advance(t.Context(), b, 2, 3*cursor, 0))
	l.must(l.rdb.HSet(t.Context(), "lc:{b}", "line", "another").Err())
	if view := l.slice("b", cursor+task.MaxAhead); !view.FailedOver || !view.Records[0].Ambiguous {
		t.Errorf("after a second one: %+v", view)
	}
}

// A call in flight may be the first to see a failover.
func TestFailoverFoundByARecord(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	master, l, _ := twin(t)
	master.running(10)
	master.awaitReplica(t.Context(), "b")
	l.must(l.rdb.Do(t.Context(), "replicaof", "no", "one").Err())
	l.equal("what stands", []CommitResult{{Cancelled, true}}, l.commit(outcomes(AlreadyCancelled, 0, 1)...).Results)
	if view := l.slice("b", 1); !view.Records[0].Ambiguous {
		t.Errorf("%+v", view)
	}
}

// waits records commands that wait for a replica, and how many replicas had the writes.
type waits struct {
	before func()
	acked  []int64
}

func (w *waits) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (w *waits) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (w *waits) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		last := cmds[len(cmds)-1]
		if last.Name() != "wait" {
			return next(ctx, cmds)
		}
		w.before()
		err := next(ctx, cmds)
		n, _ := last.(*redis.Cmd).Int64()
		w.acked = append(w.acked, n)
		return err
	}
}

// A confirmed command is on a replica too.
func TestSealWaitsForAReplica(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	l, replica, servers := twin(t)
	l.replicaWait = time.Minute // however busy the machine is
	options := *l.rdb.(*redis.Client).Options()
	options.ReadTimeout = 2 * l.replicaWait
	client, hook := redis.NewClient(&options), &waits{before: func() {}}
	defer client.Close()
	client.AddHook(hook)
	l.rdb = client
	d := l.draft(3)
	l.awaitReplica(t.Context(), "b")
	l.equal("replicas that had the draft", []int64{1}, hook.acked)

	servers[1].Freeze(t)
	hook.before = func() { servers[1].Thaw(t) } // when it is waited for
	l.must(d.Seal(t.Context(), "digest", 0, 0))
	l.equal("replicas that had the seal", []int64{1, 1}, hook.acked)
	l.equal("on the replica", Ready, replica.get("b").State)

	servers[1].Freeze(t)
	hook.before, l.replicaWait = func() {}, 10*time.Millisecond
	_, changed, err := l.Pause(t.Context(), "b", history.By{Reason: "a test", Auto: true}) // and does not wait for ever
	if err != nil || !changed {
		t.Errorf("pause: %v, %v", changed, err)
	}
	l.equal("replicas that had the pause", []int64{1, 1, 0}, hook.acked)
	servers[1].Thaw(t)

	l.set("lc:{b}", "v", 1) // waiting writes to the batch, and changes nothing
	l.replicaWait = time.Minute
	_, _, err = l.Resume(t.Context(), "b", history.By{Actor: "ann"})
	l.must(err)
	l.equal("replicas that had the resume", []int64{1, 1, 0, 1}, hook.acked)
	l.equal("format", "1", l.hash("lc:{b}")["v"])
}

// The lists of batches are on other servers of a cluster than the batches.
func TestRelist(t *testing.T) {
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	t.Parallel()
	c := redistest.StartCluster(t, 3, false)
	l := &bench{T: t, Ledger: New(redistest.Open(t, c.URL()).Client())}
	var all []string
	for i := range 10 { // on all servers
		all = append(all, fmt.Sprintf("b%d", i))
		l.batch(all[i], 1, false)
	}
	l.create(DraftConfig{ID: "importing"})
	done, retired := l.batch("done", 1, false), l.batch("retired", 1, false)
	for _, b := range []Batch{done, retired} {
		l.must(l.Commit(t.Context(), []Group{{Batch: b.ID, Entries: outcomes(Cancelled, 0, 1)}})[0].Err)
	}
	l.must(l.Retire(t.Context(), l.get("retired"), time.Hour))
	unfinished := append(all, "done", "importing")
	// By name: those of the same millisecond may change places.
	lists := func() (batches, open []string) {
		for _, z := range l.rdb.ZRangeWithScores(t.Context(), keyBatches, 0, -1).Val() {
			id := z.Member.(string)
			batches = append(batches, id)
			if made := l.get(id).Created; time.UnixMilli(int64(z.Score)).Sub(made).Abs() > time.Minute {
				t.Errorf("%s was made at %v, and is listed for %v", id, made, time.UnixMilli(int64(z.Score)))
			}
		}
		slices.Sort(batches)
		return batches, l.rdb.SMembers(t.Context(), keyOpen).Val()
	}
	found := func(what string, want ...string) {
		t.Helper()
		got, err := l.Relist(t.Context())
		l.must(err)
		l.equal(what, want, got)
	}
	inOrder, before := lists()
	found("nothing is missing")
	l.must(l.rdb.Del(t.Context(), keyBatches).Err())
	l.must(l.rdb.Del(t.Context(), keyOpen).Err())
	found("both lists are gone", append(unfinished, "retired")...)
	batches, open := lists()
	l.equal("batches", inOrder, batches)
	if got, want := set(open), set(before); len(got) != len(unfinished) || len(want) != len(got) {
		t.Errorf("open: %v, want %v", open, before)
	}
	l.must(l.rdb.SRem(t.Context(), keyOpen, "b3").Err())
	l.must(l.rdb.ZRem(t.Context(), keyBatches, "b5").Err())
	found("one of each", "b3", "b5")
	found("nothing is missing again")
}
