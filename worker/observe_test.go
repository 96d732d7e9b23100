package worker

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
)

// tally is an Observer that adds everything up.
type tally struct {
	mu        sync.Mutex
	requests  int
	waits     int
	outcomes  map[string]int // "source outcome"
	attempts  int
	after     time.Duration // the longest
	settled   ledger.Counts
	ambiguous int
}

func newTally() *tally { return &tally{outcomes: map[string]int{}} }

func (o *tally) add(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *tally) Request(string, int, time.Duration) { o.add(func() { o.requests++ }) }
func (o *tally) Unproven(int)                       {}

func (o *tally) Waited(time.Duration)      { o.add(func() { o.waits++ }) }
func (o *tally) Settled(is ledger.Outcome) { o.add(func() { o.settled[is]++ }) }
func (o *tally) Ambiguous(attempts int)    { o.add(func() { o.ambiguous += attempts }) }
func (o *tally) Outcome(source string, is ledger.Outcome, attempts int, after time.Duration) {
	o.add(func() {
		o.outcomes[source+" "+is.String()]++
		o.attempts += attempts
		o.after = max(o.after, after)
	})
}

// sweep makes a sealed batch of a sweep.
func (f *fleet) sweep(id string, links ...string) ledger.Batch {
	f.t.Helper()
	b, err := importer.MakeBatch(f.t.Context(), f.l, &ids{links: links}, importer.BatchConfig{ID: id, Source: importer.SourceSweep})
	must(f.t, err)
	return b
}

// What two processes report about two batches agrees with the ledger.
func TestObserver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{
			Seed: 3, Links: 200, Paid: .1, Expired: .05, Cancelled: .1, Missing: .1,
			Faults: sandbox.Faults{
				Error500: .06, HTML502: .06, Cut: .06, CutBefore: .06, Hang: .03, BadRequest: .02, Friendly: .05, Gets: true,
			},
			Latency: 20 * time.Millisecond, Jitter: 200 * time.Millisecond, Rate: 150,
		})
		t.Cleanup(api.Close)
		began := time.Now()
		f.batch("b1", api.IDs()[:120]...)
		f.sweep("s1", api.IDs()[120:]...)
		seen := newTally()
		f.work(Config{ID: "w1", Concurrency: 8, Rate: 100, Observer: seen}, memory{api}, nil)
		f.work(Config{ID: "w2", Concurrency: 8, Rate: 100, Observer: seen}, memory{api}, nil)
		f.feed(100)
		f.done("b1")
		f.done("s1")
		f.until("an empty queue", func() bool { return f.queued() == 0 })

		want := map[string]int{}
		attempts, ambiguous := 0, 0
		for batch, source := range map[string]string{"b1": "import", "s1": "sweep"} {
			for _, r := range f.records(batch) {
				want[source+" "+r.Record.Outcome.String()]++
				attempts += int(r.Record.Attempts)
				if r.Record.Ambiguous {
					ambiguous++
				}
			}
		}
		if diff := cmp.Diff(want, seen.outcomes); diff != "" {
			t.Errorf("outcomes: %s", diff)
		}
		if seen.attempts != attempts {
			t.Errorf("%d attempts were reported, the records have %d", seen.attempts, attempts)
		}
		if seen.ambiguous < ambiguous || ambiguous == 0 {
			t.Errorf("%d ambiguous attempts were reported, %d links had some", seen.ambiguous, ambiguous)
		}
		if n := api.Counts().Total; seen.requests != n || seen.waits < n {
			t.Errorf("%d requests and %d slots were reported, the API had %d requests", seen.requests, seen.waits, n)
		}
		if took := time.Since(began); seen.after <= 0 || seen.after > took {
			t.Errorf("the longest took %v of %v", seen.after, took)
		}
		for _, o := range []ledger.Outcome{ledger.AlreadyCancelled, ledger.NotCancellable} { // never the result of a DELETE
			all := want["import "+o.String()] + want["sweep "+o.String()]
			if int(seen.settled[o]) != all || all == 0 {
				t.Errorf("%d settled as %v of %d", seen.settled[o], o, all)
			}
		}
	})
}

// Of a link that another process was faster with, or whose batch is gone,
// nothing is reported but the requests.
func TestObserverSeesOnlyWhatWasWritten(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(3)})
		b := f.batch("b1", names(3)...)
		f.start(&b, 3)
		gone := f.batch("gone", "pl_gone")
		f.start(&gone, 1)
		seen := newTally()
		faster := func(ctx context.Context, position int) error {
			record := ledger.Record{Outcome: ledger.NotFound, Attempts: 1}
			return f.l.Commit(ctx, []ledger.Group{{Batch: "b1", Entries: []ledger.Entry{{Position: position, Record: record}}}})[0].Err
		}
		f.work(Config{Observer: seen}, through{memory{api}, func(ctx context.Context, _, id string) (err error) {
			switch id {
			case "pl_000001":
				if err = faster(ctx, 1); err == nil {
					return errCut
				}
			case "pl_000002":
				err = faster(ctx, 2)
			case "pl_gone":
				err = f.b.Client().Del(ctx, "lc:{gone}").Err()
			}
			if err != nil {
				t.Error(err)
			}
			return nil
		}}, nil)
		f.enqueue(task.Slice{Batch: "gone", Incarnation: gone.Incarnation(), Links: []string{"pl_gone"}})
		f.queueEmpty()
		f.enqueue(task.Slice{Batch: "b1", Incarnation: b.Incarnation(), Links: names(3)})
		f.done("b1")
		f.queueEmpty()
		if diff := cmp.Diff(map[string]int{"import cancelled": 1}, seen.outcomes); diff != "" {
			t.Errorf("outcomes: %s", diff)
		}
		if seen.ambiguous != 0 || seen.settled != (ledger.Counts{}) || seen.attempts != 1 {
			t.Errorf("reported: %+v", seen)
		}
	})
}

// Links that get their outcome without being sent are reported with their batch's
// source and age too.
func TestObserverOfLinksNotSent(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		b := f.sweep("s1", names(3)...)
		f.start(&b, 3)
		pass(time.Hour)
		seen := newTally()
		f.enqueue(task.Slice{Batch: "s1", Incarnation: b.Incarnation(), Links: names(3), Redeliveries: maxCrashes + 1})
		f.work(Config{Observer: seen}, nothing{t}, nil)
		f.done("s1")
		f.queueEmpty()
		if diff := cmp.Diff(map[string]int{"sweep failed": 3}, seen.outcomes); diff != "" {
			t.Errorf("outcomes: %s", diff)
		}
		if seen.after < time.Hour || seen.after > 2*time.Hour || seen.requests != 0 || seen.settled != (ledger.Counts{}) {
			t.Errorf("reported: %+v", seen)
		}
	})
}

// A worker takes tasks from its start to its end.
func TestTaking(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		p := f.work(Config{}, nothing{t}, nil)
		f.until("the worker to take tasks", p.w.Taking)
		must(t, p.stop())
		if p.w.Taking() {
			t.Error("it takes tasks after its end")
		}
	})
}
