package worker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
)

// nothing is an API that must not be called.
type nothing struct{ t *testing.T }

func (n nothing) Cancel(_ context.Context, id string) (int, error) {
	n.t.Errorf("DELETE of %s", id)
	return 204, nil
}

func (n nothing) Get(_ context.Context, id string) (plexy.Link, error) {
	n.t.Errorf("GET of %s", id)
	return plexy.Link{Status: "cancelled"}, nil
}

func (n nothing) List(context.Context, int, int) (plexy.Page, error) {
	n.t.Error("GET of the list")
	return plexy.Page{}, nil
}

// queueEmpty waits until no slice is in the queue.
func (f *fleet) queueEmpty() {
	f.t.Helper()
	f.until("an empty queue", func() bool { return f.queued() == 0 })
}

// Tasks of which nothing is left to do leave the queue, and nothing is sent.
func TestNothingLeftToDo(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		f := newFleet(t, b)
		links := names(3)

		finished := f.batch("finished", links...)
		f.start(&finished, 3)
		var entries []ledger.Entry
		for i := range links {
			entries = append(entries, ledger.Entry{Position: i, Record: ledger.Record{Outcome: ledger.Cancelled}})
		}
		must(t, f.l.Commit(t.Context(), []ledger.Group{{Batch: finished.ID, Entries: entries}})[0].Err)

		half := f.batch("half", names(6)...) // of two slices, the first has its outcomes
		f.start(&half, 3)
		must(t, f.l.Commit(t.Context(), []ledger.Group{{Batch: half.ID, Entries: entries}})[0].Err)

		paused := f.batch("paused", links...)
		f.start(&paused, 3)
		_, _, err := f.l.Pause(t.Context(), paused.ID, history.By{Reason: "", Auto: true})
		must(t, err)

		aborted := f.batch("aborted", links...)
		f.start(&aborted, 3)
		_, _, err = f.l.Abort(t.Context(), aborted.ID, history.By{Actor: "ann"})
		must(t, err)

		_, _, err = f.l.Create(t.Context(), ledger.DraftConfig{ID: "unsealed"})
		must(t, err)

		for _, id := range []string{finished.ID, half.ID, paused.ID, aborted.ID, "unsealed", "deleted"} {
			f.enqueue(task.Slice{Batch: id, Links: links})
			f.enqueue(task.Slice{Batch: id, Links: links, Redeliveries: 1})
		}
		_, err = asynq.NewClientFromRedisClient(b.Client()).Enqueue(
			asynq.NewTask(task.TypeCancel, []byte("{}"), asynq.Queue(task.QueueCancel)))
		must(t, err)
		f.work(Config{}, nothing{t}, nil)
		f.queueEmpty()
		for id, want := range map[string]int64{"finished": 3, "half": 3, "paused": 0, "aborted": 0} {
			if n := f.get(id).Counts.Sum(); n != want {
				t.Errorf("batch %s has %d outcomes, want %d", id, n, want)
			}
		}
	})
}

// A batch that is deleted while its links are in flight.
func TestBatchDeletedInFlight(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		f := newFleet(t, b)
		api := sandbox.New(sandbox.Config{IDs: names(5)})
		gone := f.batch("gone", names(5)...)
		f.start(&gone, 5)
		f.enqueue(task.Slice{Batch: gone.ID, Links: names(5)})
		other := f.batch("other", "pl_other")
		f.start(&other, 5)
		f.enqueue(task.Slice{Batch: other.ID, Links: []string{"pl_other"}})
		called := make(chan struct{}, 10)
		deleted := make(chan struct{})
		f.work(Config{}, through{memory{api}, func(context.Context, string, string) error {
			called <- struct{}{}
			<-deleted
			return nil
		}}, nil)
		for range 6 {
			<-called
		}
		must(t, b.Client().Del(t.Context(), "lc:{gone}").Err())
		close(deleted)
		f.done("other")
		f.queueEmpty()
		if keys := redistest.Keys(t, b.Client(), "lc:{gone}*"); len(keys) != 2 { // its manifest and history
			t.Errorf("keys of the deleted batch: %v", keys)
		}
	})
}

// A task of a deleted batch is dropped, though another has its id by now: its
// links were not asked to be cancelled.
func TestTaskOfADeletedBatch(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		f := newFleet(t, b)
		api := sandbox.New(sandbox.Config{IDs: names(2)})
		second := f.batch("b1", names(2)[1])
		f.start(&second, 1)
		f.enqueue(task.Slice{Batch: "b1", Incarnation: second.Incarnation() - 1, Links: names(2)[:1]})
		f.work(Config{}, memory{api}, nil)
		f.queueEmpty()
		if got := api.Counts().Total; got != 0 {
			t.Errorf("%d requests for the links of the deleted batch", got)
		}
		f.enqueue(task.Slice{Batch: "b1", Incarnation: second.Incarnation(), Links: names(2)[1:]})
		f.done("b1")
	})
}

// A task of a newer release is left for that release.
func TestNewerPayload(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		const payload = `{"v":4,"links":7}`
		kinds := []string{task.TypeCancel, "links:something-new"}
		for _, kind := range kinds {
			_, err := asynq.NewClientFromRedisClient(f.b.Client()).Enqueue(asynq.NewTask(kind, []byte(payload)),
				asynq.Queue(task.QueueCancel), asynq.TaskID(kind))
			must(t, err)
		}
		p := f.work(Config{}, nothing{t}, nil)
		pass(10 * time.Minute)
		must(t, p.stop())
		for _, kind := range kinds {
			info, err := asynq.NewInspectorFromRedisClient(f.b.Client()).GetTaskInfo(task.QueueCancel, kind)
			must(t, err)
			if string(info.Payload) != payload || info.Retried != 0 || info.LastErr == "" {
				t.Errorf("the task is %+v", info)
			}
		}
	})
}

// So is a batch of a newer release, no matter who fed it; other batches continue.
func TestNewerBatch(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		b := f.batch("newer", names(40)...)
		f.start(&b, 20)
		f.enqueue(task.Slice{Batch: b.ID, Incarnation: b.Incarnation(), Links: names(20)})
		key := "lc:{newer}"
		must(t, f.b.Client().HSet(t.Context(), key, "v", 99, "cursor", 20, "something", "new").Err())
		before := f.b.Client().HGetAll(t.Context(), key).Val()
		f.batch("other", "pl_other")
		var requests atomic.Int64
		p := f.work(Config{}, through{memory{sandbox.New(sandbox.Config{IDs: []string{"pl_other"}})}, func(_ context.Context, method, id string) error {
			if method == "DELETE" {
				requests.Add(1)
			}
			if id != "pl_other" {
				t.Errorf("a request for %s", id)
			}
			return nil
		}}, nil)
		stop := f.feed(100)
		f.done("other")
		pass(10 * time.Minute)
		stop()
		must(t, p.stop())
		if diff := cmp.Diff(before, f.b.Client().HGetAll(t.Context(), key).Val()); diff != "" {
			t.Error(diff)
		}
		if keys := redistest.Keys(t, f.b.Client(), key+":*"); len(keys) != 2 { // its manifest and history
			t.Errorf("keys of the newer batch: %v", keys)
		}
		i, err := asynq.NewInspectorFromRedisClient(f.b.Client()).GetQueueInfo(task.QueueCancel)
		must(t, err)
		// To be tried again, or due just as the worker was stopped.
		if i.Size != 1 || i.Retry+i.Pending != 1 || requests.Load() != 1 {
			t.Errorf("%d requests, queue %+v", requests.Load(), i)
		}
		// It took the task up once a minute, and called that no failure.
		if i.Failed != 0 || i.Processed > 12 {
			t.Errorf("%d runs, %d failures", i.Processed, i.Failed)
		}
	})
}

// A newer release that changes a batch in the hands of an older worker keeps its
// records: what that found out is as if it had crashed.
func TestBatchBecomesNewer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		b := f.batch("b1", names(2)...)
		f.start(&b, 2)
		f.enqueue(task.Slice{Batch: b.ID, Links: names(2)})
		called, changed := make(chan struct{}, 2), make(chan struct{})
		f.work(Config{}, through{memory{sandbox.New(sandbox.Config{IDs: names(2)})}, func(_ context.Context, _, id string) error {
			select {
			case called <- struct{}{}:
				<-changed
			default:
			}
			return nil
		}}, nil)
		<-called
		<-called
		set := func(v int) { must(t, f.b.Client().HSet(t.Context(), "lc:{b1}", "v", v).Err()) }
		set(99)
		close(changed)
		pass(5 * time.Minute)
		if keys := redistest.Keys(t, f.b.Client(), "lc:{b1}:r:*"); len(keys) > 0 {
			t.Errorf("records %v", keys)
		}
		set(2)
		f.done("b1")
		for link, r := range f.records("b1") {
			if r.Record.Outcome != ledger.Cancelled || !r.Record.Ambiguous {
				t.Errorf("%s: %+v", link, r.Record)
			}
		}
	})
}

// Whoever had a slice when a process crashed may have cancelled its links.
func TestAfterACrash(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		f := newFleet(t, b)
		api := sandbox.New(sandbox.Config{})
		for _, id := range names(3) {
			api.SetStatus(id, "cancelled")
		}
		batch := f.batch("b1", names(3)...)
		f.start(&batch, 1)
		f.enqueue(task.Slice{Batch: "b1", Links: names(3)[:1]})
		f.enqueue(task.Slice{Batch: "b1", Index: 1, Links: names(3)[1:2], Redeliveries: 1})
		f.enqueue(task.Slice{Batch: "b1", Index: 2, Links: names(3)[2:], ReplicationID: "of a server that is no more"})
		f.work(Config{}, memory{api}, nil)
		f.done("b1")
		records := f.records("b1")
		if r := records["pl_000000"].Record; r.Outcome != ledger.AlreadyCancelled || r.Ambiguous {
			t.Errorf("no crash: %+v", r)
		}
		if r := records["pl_000001"].Record; r.Outcome != ledger.Cancelled || !r.Ambiguous {
			t.Errorf("after a crash: %+v", r)
		}
		if r := records["pl_000002"].Record; r.Outcome != ledger.Cancelled || !r.Ambiguous {
			t.Errorf("after a failover of the queue's server: %+v", r)
		}
	})
}

// After a failover another worker may still have a slice that the new primary gave to this one. What that one
// records is not sent again.
func TestSliceInTwoHandsAfterAFailover(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	f := newFleet(t, redistest.Open(t, redistest.Start(t)))
	api := sandbox.New(sandbox.Config{IDs: names(4)})
	batch := f.batch("b1", names(4)...)
	f.start(&batch, 4)
	// As after a failover: all four may have been sent.
	must(t, f.b.Client().HSet(t.Context(), "lc:{b1}", "doubt", 4).Err())
	first, other := make(chan struct{}), make(chan struct{})
	f.enqueue(task.Slice{Batch: "b1", Links: names(4)})
	f.work(Config{Concurrency: 1}, through{memory{api}, func(_ context.Context, method, id string) error {
		if method == "DELETE" && id == names(4)[0] {
			close(first)
			<-other
		}
		return nil
	}}, nil)
	<-first
	var entries []ledger.Entry
	for n := 1; n < 4; n++ {
		entries = append(entries, ledger.Entry{Position: n, Record: ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 400}})
	}
	must(t, f.l.Commit(t.Context(), []ledger.Group{{Batch: "b1", Entries: entries}})[0].Err)
	time.Sleep(stateAge) // what the worker has read is older then
	close(other)
	f.done("b1")
	for _, id := range names(4)[1:] {
		if n := api.Applied(id); n > 0 {
			t.Errorf("%s was sent, though another worker had recorded its outcome", id)
		}
	}
}

// A slice whose worker crashed comes back by asynq. If a repair has enqueued a copy
// by then, the copy is left to send its links.
func TestRecoveredSliceWithACopy(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(4)})
		batch := f.batch("b1", names(4)...)
		f.start(&batch, 2)
		copied := task.Slice{Batch: "b1", Links: names(4)[:2]}
		alone := task.Slice{Batch: "b1", Index: 2, Links: names(4)[2:]}
		rdb, key := f.b.Client(), "asynq:{"+task.QueueCancel+"}:"
		for _, s := range []task.Slice{copied, alone} {
			f.enqueue(s)
			// As a worker leaves it that took it and died.
			must(t, rdb.LRem(t.Context(), key+"pending", 0, s.ID()).Err())
			must(t, rdb.LPush(t.Context(), key+"active", s.ID()).Err())
			must(t, rdb.ZAdd(t.Context(), key+"lease", redis.Z{Score: float64(time.Now().Add(-time.Minute).Unix()), Member: s.ID()}).Err())
			must(t, rdb.HSet(t.Context(), key+"t:"+s.ID(), "state", "active").Err())
		}
		again := copied
		again.Redeliveries++
		later, err := again.Task()
		must(t, err)
		// The worker moves no scheduled task: the copy waits until RunTask.
		_, err = asynq.NewClientFromRedisClient(rdb).Enqueue(later, asynq.ProcessIn(time.Hour))
		must(t, err)

		f.work(Config{}, memory{api}, nil)
		f.until("the copy to be alone in the queue", func() bool { return f.queued() == 1 })
		for link, r := range f.records("b1") {
			want := 0
			if slices.Contains(alone.Links, link) {
				want = 1
			}
			if api.Applied(link) != want || int(r.Record.Attempts) != want || r.Record.Ambiguous != (want == 1) {
				t.Errorf("before the copy, %s was applied %d times: %+v", link, api.Applied(link), r.Record)
			}
		}
		must(t, asynq.NewInspectorFromRedisClient(rdb).RunTask(task.QueueCancel, again.ID()))
		f.done("b1")
		f.queueEmpty()
		for link, r := range f.records("b1") {
			if api.Applied(link) != 1 || r.Record.Outcome != ledger.Cancelled || !r.Record.Ambiguous {
				t.Errorf("%s was applied %d times: %+v", link, api.Applied(link), r.Record)
			}
		}
	})
}

// A worker that was suspended for longer than its lease continues, and records the
// answers that it had: what others have taken up from it is not sent again.
func TestSuspendedWorkerContinues(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		batch := f.batch("b1", names(20)...)
		f.start(&batch, 20)
		f.enqueue(task.Slice{Batch: "b1", Links: names(20), Redeliveries: 1})
		var requests atomic.Int64
		api := through{memory{sandbox.New(sandbox.Config{IDs: names(20)})}, func(_ context.Context, method, _ string) error {
			if method == "DELETE" {
				requests.Add(1)
			}
			return nil
		}}
		f.work(Config{}, api, f.limiter("w1", ratelimit.Config{Rate: 1}))
		f.until("the first requests", func() bool { return requests.Load() > 2 })
		var answers []ledger.Entry
		for i := 5; i < 15; i++ {
			answers = append(answers, ledger.Entry{Position: i, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}})
		}
		must(t, f.l.Commit(t.Context(), []ledger.Group{{Batch: "b1", Entries: answers}})[0].Err)
		f.done("b1")
		pass(time.Minute)
		if n := requests.Load(); n != 10 {
			t.Errorf("%d requests for the 10 links that nobody had an answer to", n)
		}
		f.queueEmpty()
	})
}

func TestSliceThatCrashesWorkers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		batch := f.batch("b1", names(3)...)
		f.start(&batch, 3)
		f.enqueue(task.Slice{Batch: "b1", Links: names(3), Redeliveries: maxCrashes + 1})
		f.work(Config{}, nothing{t}, nil)
		f.done("b1")
		for link, r := range f.records("b1") {
			if r.Record.Outcome != ledger.Failed || r.Error != "crashes its worker (51 times)" {
				t.Errorf("%s: %+v", link, r)
			}
		}
		f.queueEmpty()
	})
}

// A panic in the middle of a slice takes neither the process nor the slice's
// other links down, and is remembered.
func TestPanic(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(5)})
		batch := f.batch("b1", names(5)...)
		f.start(&batch, 5)
		s := task.Slice{Batch: "b1", Links: names(5)}
		f.enqueue(s)
		var panicked atomic.Bool
		f.work(Config{}, through{memory{api}, func(ctx context.Context, method, id string) error {
			if id != "pl_000002" || panicked.Swap(true) {
				return nil
			}
			_, _ = memory{api}.Cancel(ctx, id) // it was applied, and nobody heard of it
			panic("a test's panic")
		}}, nil)
		f.until("the panic", panicked.Load)
		i := asynq.NewInspectorFromRedisClient(f.b.Client())
		f.until("the retry", func() bool {
			info, err := i.GetTaskInfo(task.QueueCancel, s.ID())
			return err != nil || info.State == asynq.TaskStateRetry && info.Retried == 1
		})
		f.done("b1")
		for link, r := range f.records("b1") {
			want := ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}
			if link == "pl_000002" { // ours, though the second DELETE was refused
				want.Ambiguous, want.HTTPStatus = true, 422
			}
			r.Record.After, r.Record.LinkStatus = 0, 0
			if r.Record != want {
				t.Errorf("%s: %+v", link, r.Record)
			}
			if api.Applied(link) != 1 {
				t.Errorf("%s was applied %d times", link, api.Applied(link))
			}
		}
	})
}

// The end of a worker with calls in flight.
func TestStop(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		links := names(20)
		api := sandbox.New(sandbox.Config{IDs: links})
		t.Cleanup(api.Close)
		before := truth(api)
		api.Script(links[0], sandbox.Answer{Hang: true, Apply: true})
		api.Script(links[1], sandbox.Answer{Hang: true})
		batch := f.batch("b1", links...)
		f.start(&batch, 20)
		s := task.Slice{Batch: "b1", Links: links}
		f.enqueue(s)
		var slow atomic.Int64
		p := f.work(Config{Concurrency: 4, DrainTimeout: 3 * time.Second}, through{memory{api}, func(ctx context.Context, _, id string) error {
			if id == links[2] || id == links[3] {
				slow.Add(1)
				pass(2 * time.Second) // within the drain time-out
			}
			return nil
		}}, nil)
		f.until("calls in flight", func() bool { return slow.Load() == 2 && api.Counts().Total == 2 })
		began := time.Now()
		if err := p.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
		if took := time.Since(began); took < 2*time.Second || took > 6*time.Second {
			t.Errorf("the end took %v", took)
		}
		if n := api.Counts().Total; n != 4 {
			t.Errorf("%d requests", n)
		}
		records := f.records("b1")
		for i, link := range links {
			r := records[link].Record
			r.Due = 0
			want := ledger.Record{}
			switch i {
			case 0, 1: // cut
				want = ledger.Record{Attempts: 1, Ambiguous: true}
			case 2, 3: // finished in the drain
				want = ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: r.After}
			}
			if diff := cmp.Diff(want, r); diff != "" {
				t.Errorf("%s: %s", link, diff)
			}
		}
		info, err := asynq.NewInspectorFromRedisClient(f.b.Client()).GetTaskInfo(task.QueueCancel, s.ID())
		must(t, err)
		if info.State != asynq.TaskStateRetry || info.Retried != 0 {
			t.Errorf("the slice is in state %v, counted %d times", info.State, info.Retried)
		}
		if p.w.Unsent() != 0 {
			t.Errorf("%d links unsent in a worker that has ended", p.w.Unsent())
		}

		f.work(Config{ID: "w2"}, memory{api}, nil)
		f.done("b1")
		f.check("b1", api, before)
		// The one whose answer was cut after it was applied is ours.
		if r := f.records("b1")[links[0]].Record; r.Outcome != ledger.Cancelled || r.HTTPStatus != 422 {
			t.Errorf("%s: %+v", links[0], r)
		}
	})
}

// A slice that has no outcome left to be written in time is one that crashed.
func TestStopInAHold(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(3)})
		batch := f.batch("b1", names(3)...)
		f.start(&batch, 3)
		s := task.Slice{Batch: "b1", Links: names(3)}
		f.enqueue(s)
		must(t, ratelimit.HoldFleet(t.Context(), f.b.Client(), time.Time{}, history.By{Actor: "ann"}))
		p := f.work(Config{}, memory{api}, f.limiter("w1", ratelimit.Config{Rate: 100}))
		f.until("work in hand", func() bool { return p.w.Unsent() == 3 })
		began := time.Now()
		if err := p.stop(); err != nil || time.Since(began) > time.Second {
			t.Errorf("Run = %v after %v", err, time.Since(began))
		}
		for link, r := range f.records("b1") {
			if r.Record != (ledger.Record{}) {
				t.Errorf("%s: %+v", link, r.Record)
			}
		}
		must(t, ratelimit.ReleaseFleet(t.Context(), f.b.Client(), history.By{Actor: "ann"}))
		f.work(Config{ID: "w2"}, memory{api}, nil)
		f.done("b1")
	})
}

// held is a limiter in a hold that lasts.
type held struct{ asked atomic.Int64 }

func (h *held) Acquire(context.Context) (ratelimit.Slot, error) {
	h.asked.Add(1)
	return ratelimit.Slot{}, ratelimit.ErrHeld
}
func (h *held) AcquireFirst(ctx context.Context) (ratelimit.Slot, error)      { return h.Acquire(ctx) }
func (*held) AwaitHold(context.Context, ratelimit.Reason, time.Duration) bool { return false }
func (*held) HoldOwn(ratelimit.Reason, string)                                {}
func (*held) Report(ratelimit.Slot, ratelimit.Answer)                         {}
func (*held) Status() ratelimit.Status                                        { return ratelimit.Status{} }

func TestHeldSlicesGoBackUncounted(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		batch := f.batch("b1", names(3)...)
		f.start(&batch, 3)
		s := task.Slice{Batch: "b1", Links: names(3)}
		f.enqueue(s)
		limiter := &held{}
		p := f.work(Config{}, nothing{t}, limiter)
		f.until("several tries", func() bool { return limiter.asked.Load() >= 3 })
		p.stop()
		info, err := asynq.NewInspectorFromRedisClient(f.b.Client()).GetTaskInfo(task.QueueCancel, s.ID())
		must(t, err)
		if info.Retried != 0 || !strings.Contains(info.LastErr, "3 links given back") {
			t.Errorf("the slice was counted %d times: %s", info.Retried, info.LastErr)
		}
	})
}

// stale is a limiter whose first slots are too old.
type stale struct {
	*ratelimit.Fleet
	left   atomic.Int64
	unused atomic.Int64
}

func (s *stale) Acquire(ctx context.Context) (ratelimit.Slot, error) {
	if s.left.Add(-1) >= 0 {
		return ratelimit.Slot{}, nil
	}
	return s.Fleet.Acquire(ctx)
}

func (s *stale) Report(slot ratelimit.Slot, a ratelimit.Answer) {
	if slot.Stale() && a.Kind == ratelimit.Unused {
		s.unused.Add(1)
		return
	}
	s.Fleet.Report(slot, a)
}

func TestStaleSlotsAreNotUsed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(3)})
		batch := f.batch("b1", names(3)...)
		f.start(&batch, 3)
		f.enqueue(task.Slice{Batch: "b1", Links: names(3)})
		limiter := &stale{Fleet: f.limiter("w1", ratelimit.Config{Rate: 100})}
		limiter.left.Store(5)
		f.work(Config{}, memory{api}, limiter)
		f.done("b1")
		// Three DELETEs, and the GETs that look into their 204s.
		if limiter.unused.Load() != 5 || api.Counts().Total != 6 {
			t.Errorf("%d slots given up, %d requests", limiter.unused.Load(), api.Counts().Total)
		}
	})
}

// Connections that take long do not bunch requests: a slot of before is not used.
func TestSlowConnections(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		const rate, links = 400, 1600
		var mu sync.Mutex
		var arrived []time.Time
		idle, dialed := 0, 0
		var closed time.Time
		api := through{memory{sandbox.New(sandbox.Config{IDs: names(links)})}, func(ctx context.Context, method, _ string) error {
			mu.Lock()
			if now := time.Now().Truncate(time.Second); now.After(closed) { // the server closes all
				idle, closed = 0, now
			}
			kept := idle > 0
			if kept {
				idle--
			} else {
				dialed++
			}
			mu.Unlock()
			if !kept {
				time.Sleep(100 * time.Millisecond)
			}
			if p := plexy.PermitOf(ctx); !p.Good() {
				if err := p.Renew(); err != nil {
					return &plexy.TransportError{Method: method, Err: err}
				}
			}
			mu.Lock()
			arrived = append(arrived, time.Now())
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			idle++
			return nil
		}}
		f.batch("b1", names(links)...)
		defer f.feed(rate)()
		f.work(Config{Rate: rate, Concurrency: 50}, api, f.limiter("w1", ratelimit.Config{Rate: rate}))
		f.done("b1")
		fullest, first := 0, 0
		for i, at := range arrived {
			for at.Sub(arrived[first]) >= time.Second {
				first++
			}
			fullest = max(fullest, i-first+1)
		}
		if most := rate + rate/100; fullest > most || dialed < 50 {
			t.Errorf("%d requests in a second, want at most %d; %d connections", fullest, most, dialed)
		}
		t.Logf("%d requests in a second, %d connections, %v", fullest, dialed, arrived[len(arrived)-1].Sub(arrived[0]))
	})
}

// Near the end of its lease another process may have the slice too.
func TestLease(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		batch := f.batch("b1", names(1)...)
		f.start(&batch, 1)
		limiter := f.limiter("w1", ratelimit.Config{Rate: 100})
		w, err := New(Config{ID: "w", Log: f.log}, f.b, f.l, through{nil, func(context.Context, string, string) error { return errCut }}, limiter)
		must(t, err)
		go w.recorder.run(t.Context())
		r := newSliceRun(t.Context(), w, task.Slice{Batch: "b1", Links: names(1)}, ledger.SliceView{Records: make([]ledger.Record, 1)}, time.Now(), false)
		r.gate.waitCtx = t.Context()
		l := r.links[0]

		one := func() {
			slot, err := limiter.Acquire(t.Context())
			must(t, err)
			r.cancel(l, slot)
			r.writes.Wait()
		}
		w.api = through{nil, func(context.Context, string, string) error { return errUnsent }}
		one()
		if l.record.Ambiguous {
			t.Error("ambiguous within the lease")
		}
		pass(leaseDoubt + time.Second)
		one()
		if !l.record.Ambiguous {
			t.Error("not ambiguous near the end of the lease")
		}
		if _, err := r.gate.pass(); err != nil {
			t.Errorf("near the end of the lease: %v", err)
		}
		// What was asked for before is not known to be ambiguous.
		if _, err := r.gate.again(); !errors.Is(err, errLease) {
			t.Errorf("a slot near the end of the lease, instead of an old one: %v", err)
		}
		pass(leaseEnd - leaseDoubt)
		if _, err := r.gate.pass(); !errors.Is(err, errLease) {
			t.Errorf("after the end of the lease: %v", err)
		}
		// Others have the slice by now: the next run must know that.
		if err := r.end(errLease); !task.IsFailure(err) || task.RetryDelay(0, err, nil) != 0 {
			t.Errorf("the slice ends with %v", err)
		}
		if err := r.end(nil); !task.IsFailure(err) {
			t.Errorf("the slice whose links have all had their turn ends with %v", err)
		}
	})
}

// journal writes down what it is told.
type journal struct {
	mu               sync.Mutex
	started          map[int]bool // positions, of chunk 0
	commits          map[int][]ledger.Entry
	onStart, onWrite error
}

func (j *journal) Started(_, first, n int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.started == nil {
		j.started, j.commits = map[int]bool{}, map[int][]ledger.Entry{}
	}
	for i := range n {
		j.started[first+i] = true
	}
	return j.onStart
}

func (j *journal) Commit(all []ledger.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range all {
		j.commits[w.Position] = append(j.commits[w.Position], w)
	}
	return j.onWrite
}

func TestJournal(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		links := names(60)
		api := sandbox.New(sandbox.Config{IDs: links})
		t.Cleanup(api.Close)
		for _, link := range links[:10] {
			api.SetStatus(link, "paid")
		}
		api.Script(links[20], sandbox.Answer{Status: 500})
		f.batch("b1", links...)
		position := map[string]int{}
		for i, link := range links {
			position[link] = i
		}
		j := &journal{}
		f.work(Config{Journal: j, Concurrency: 8}, through{memory{api}, func(_ context.Context, method, id string) error {
			j.mu.Lock()
			defer j.mu.Unlock()
			if !j.started[position[id]] {
				t.Errorf("%s of %s before the journal knows of it", method, id)
			}
			if r := f.records("b1")[id].Record; method == "DELETE" && r.Outcome != ledger.None {
				t.Errorf("%s of %s, which has its outcome", method, id)
			}
			return nil
		}}, nil)
		f.feed(100)
		f.done("b1")
		records := f.records("b1")
		for i, link := range links {
			all := j.commits[i]
			if len(all) == 0 {
				t.Errorf("%s is not in the journal", link)
				continue
			}
			got, want := all[len(all)-1], records[link]
			want.Record.After, want.Record.LinkStatus = 0, 0
			got.Record.Due = 0 // it has its outcome
			if got.Record != want.Record || got.LinkStatus != want.LinkStatus || got.Error != want.Error || got.Batch != "b1" {
				t.Errorf("%s: the journal ends with %+v, the ledger has %+v", link, got, want)
			}
		}
		if n := len(j.commits[20]); n != 2 || !j.commits[20][0].Record.Ambiguous {
			t.Errorf("a retried link: %+v", j.commits[20])
		}
	})
}

// A run that is killed has to ask again for each link that the journal has as
// started: those that only waited must not be among them.
func TestJournalHasOnlyWhatIsSent(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(50)})
		t.Cleanup(api.Close)
		batch := f.batch("b1", names(50)...)
		f.start(&batch, 50)
		f.enqueue(task.Slice{Batch: "b1", Links: names(50)})
		j := &journal{}
		f.work(Config{Journal: j}, memory{api}, f.limiter("w1", ratelimit.Config{Rate: 1}))
		// The second one is the GET that looks into the first 204.
		f.until("four requests", func() bool { return api.Counts().Total == 4 })
		j.mu.Lock()
		defer j.mu.Unlock()
		if len(j.started) != 3 {
			t.Errorf("%d links in the journal, 3 were sent", len(j.started))
		}
	})
}

// What is not in the journal must not happen.
func TestJournalThatFails(t *testing.T) {
	t.Parallel()
	t.Run("at the start of a slice", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fleet) {
			batch := f.batch("b1", names(3)...)
			f.start(&batch, 3)
			f.enqueue(task.Slice{Batch: "b1", Links: names(3)})
			full := errors.New("disk full")
			p := f.work(Config{Journal: &journal{onStart: full}}, nothing{t}, nil)
			if err := p.wait(); !errors.Is(err, full) {
				t.Errorf("Run = %v", err)
			}
		})
	})
	t.Run("at an outcome", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fleet) {
			api := sandbox.New(sandbox.Config{IDs: names(3)})
			batch := f.batch("b1", names(3)...)
			f.start(&batch, 3)
			f.enqueue(task.Slice{Batch: "b1", Links: names(3)})
			full := errors.New("disk full")
			p := f.work(Config{Journal: &journal{onWrite: full}}, memory{api}, nil)
			if err := p.wait(); !errors.Is(err, full) {
				t.Errorf("Run = %v", err)
			}
			if n := f.get("b1").Counts.Sum(); n > 0 {
				t.Errorf("%d outcomes that the journal does not have", n)
			}
		})
	})
	t.Run("a panic is no proof that nothing was sent", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fleet) {
			api := sandbox.New(sandbox.Config{IDs: names(3)})
			batch := f.batch("b1", names(3)...)
			f.start(&batch, 3)
			f.enqueue(task.Slice{Batch: "b1", Links: names(3)})
			j := &journal{}
			var panicked atomic.Bool
			f.work(Config{Journal: j}, through{memory{api}, func(_ context.Context, _, id string) error {
				if id == "pl_000001" && !panicked.Swap(true) {
					panic("a test's panic")
				}
				return nil
			}}, nil)
			f.done("b1")
			if first := j.commits[1][0].Record; !first.Ambiguous {
				t.Errorf("the journal has first %+v", first)
			}
		})
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	f := newFleet(t, broker.Embedded())
	t.Cleanup(func() { _ = f.b.Close() })
	for want, cfg := range map[string]Config{
		"an id":         {Log: f.log},
		"a logger":      {ID: "w"},
		"concurrency":   {ID: "w", Log: f.log, Concurrency: -1},
		"attempts":      {ID: "w", Log: f.log, Attempts: 201},
		"drain timeout": {ID: "w", Log: f.log, DrainTimeout: -1},
	} {
		if _, err := New(cfg, f.b, f.l, nothing{t}, &held{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want an error about %s", err, want)
		}
	}
	w, err := New(Config{ID: "w", Log: f.log}, f.b, f.l, nothing{t}, &held{})
	must(t, err)
	if w.cfg.Concurrency != 50 || w.cfg.Attempts != 12 || w.cfg.DrainTimeout != 6*time.Second || w.cfg.Observer == nil {
		t.Errorf("defaults: %+v", w.cfg)
	}
}
