package feeder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"linkcancel/internal/ledger"
	"linkcancel/internal/notify"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
)

// missingInterval is how often missing slices are looked for.
const missingInterval = 30 * time.Second

// windowRefresh is how often the leader tells the limiter when the window is open in the next two weeks.
const windowRefresh = 10 * time.Minute

// resumeQuiet is how long after a resume missing slices are enqueued without a
// redelivery count: the workers dropped them because the batch was paused.
const resumeQuiet = time.Minute

// resumeChecks are the times after a resume at which missing slices are looked for.
var resumeChecks = [...]time.Duration{0, 2 * time.Second, 10 * time.Second, 20 * time.Second}

// repairer does the duties of the leader besides feeding.
type repairer struct {
	cfg    *Config
	log    *slog.Logger
	ledger *ledger.Ledger
	queue  *queue
	epoch  int64

	archiver *archiver
	verifier *verifier
	notifier *notify.Dispatcher // nil: no notifications

	duties  []duty
	first   int   // of them in the next round
	expired int64 // the number of expired task leases at the last check
	again   map[requeued]int
}

// duty is a job that the leader does from time to time.
type duty struct {
	every time.Duration // 0: in each round
	run   func(ctx context.Context, batches []*batch) error
	next  time.Time
}

func newRepairer(t *term, f *Feeder) *repairer {
	r := &repairer{archiver: &f.archiver, verifier: &f.verifier, notifier: f.cfg.Notifier, cfg: t.cfg, log: t.cfg.Log, ledger: t.ledger, queue: t.queue, epoch: t.epoch}
	r.duties = []duty{
		{every: 3 * time.Second, run: r.checkLeases},
		{every: 5 * time.Second, run: r.requeueOrphans},
		{run: r.checkResumed},
		{every: missingInterval, run: r.requeueMissing, next: time.Now().Add(missingInterval)},
		{run: r.logBatches},
		{every: 4 * time.Second, run: r.logFleet},
		{every: time.Second / 2, run: r.notifyBatches},
		{every: 2 * time.Second, run: r.notifyFleet},
		{run: r.retire},
		{every: 5 * time.Minute, run: r.relist},
		{every: archiveSearch, run: r.archiveRetired},
		{every: windowRefresh, run: func(ctx context.Context, _ []*batch) error { return ratelimit.RefreshWindow(ctx, r.queue.rdb) }},
		{every: time.Hour, run: func(ctx context.Context, _ []*batch) error { return r.ledger.Prune(ctx) }},
		{every: time.Hour, run: func(ctx context.Context, _ []*batch) error { return r.ledger.TrimIndex(ctx, r.cfg.Keep) }},
		{every: time.Hour, run: func(ctx context.Context, _ []*batch) error { return r.ledger.TrimDelivered(ctx, r.cfg.Keep) }},
	}
	return r
}

// do runs the duties that are due.
func (r *repairer) do(ctx context.Context, batches []*batch) error {
	defer r.logAgain()
	now := time.Now()
	first := r.first
	r.first = 0
	for i := range r.duties {
		at := (first + i) % len(r.duties)
		d := &r.duties[at]
		if now.Before(d.next) {
			continue
		}
		d.next = now.Add(d.every)
		if err := d.run(ctx, batches); err != nil {
			r.first = at + 1 // one that always fails must not block those after it
			return err
		}
	}
	return nil
}

// checkLeases counts expired leases. If there are more, it requeues orphans at once.
func (r *repairer) checkLeases(ctx context.Context, batches []*batch) error {
	expired := int64(0)
	if len(batches) > 0 { // without, nothing in the queue matters
		var err error
		if expired, err = task.ExpiredLeases(ctx, r.queue.rdb, slices.Collect(maps.Keys(task.Queues))...); err != nil {
			return err
		}
	}
	before := r.expired
	r.expired = expired
	if expired > before {
		return r.requeueOrphans(ctx, batches)
	}
	return nil
}

// requeueOrphans enqueues slices of lost leases as copies. asynq would take another minute.
func (r *repairer) requeueOrphans(ctx context.Context, _ []*batch) error {
	if r.expired == 0 {
		return nil
	}
	orphans, err := task.Orphans(r.queue.inspector, task.QueueCancel, task.TypeCancel)
	if err != nil {
		return err
	}
	verifying, err := task.Orphans(r.queue.inspector, task.QueueVerify, task.TypeVerify)
	if err != nil {
		return err
	}
	orphans = append(orphans, verifying...)
	for _, payload := range orphans {
		s, err := task.Parse(payload)
		if err != nil {
			continue // written by a newer release, which repairs it
		}
		if err := r.requeueOrphan(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *repairer) requeueOrphan(ctx context.Context, s task.Slice) error {
	unfinished, err := r.unfinished(ctx, s)
	if err != nil || !unfinished {
		return err // a paused batch is repaired when it is resumed
	}
	s.Redeliveries++
	known, err := r.queue.contains(s)
	if err != nil || known {
		return err
	}
	if err := r.redelivered(ctx, s, "orphaned"); err != nil {
		return err
	}
	return r.queue.enqueue(ctx, []task.Slice{s})
}

// unfinished reports whether a slice has pending links and its batch runs.
func (r *repairer) unfinished(ctx context.Context, s task.Slice) (bool, error) {
	view, err := r.ledger.Slice(ctx, s.Batch, s.Chunk, s.Index, len(s.Links))
	switch {
	case errors.Is(err, ledger.ErrNoBatch), errors.Is(err, ledger.ErrNewer):
		return false, nil
	case err != nil:
		return false, err
	case s.Incarnation != 0 && s.Incarnation != view.Incarnation: // of a deleted batch
		return false, nil
	}
	return view.State == ledger.Running && pending(view.Records) > 0, nil
}

// redelivered records and reports that a slice is enqueued again.
func (r *repairer) redelivered(ctx context.Context, s task.Slice, reason string) error {
	if err := r.ledger.SetRedeliveries(ctx, s.Batch, s.Key(), s.Redeliveries); err != nil {
		return err
	}
	if r.again == nil {
		r.again = map[requeued]int{}
	}
	r.again[requeued{s.Batch, reason}]++
	if r.cfg.Observer != nil {
		r.cfg.Observer.Repaired(reason, 1)
	}
	return nil
}

// requeued is what the slices have in common that one line of the log is about.
type requeued struct{ batch, reason string }

// logAgain logs how many slices were enqueued again in this round.
func (r *repairer) logAgain() {
	for what, slices := range r.again {
		r.log.Warn("slices enqueued again", "batch", what.batch, "reason", what.reason, "slices", slices)
	}
	r.again = nil
}

// resume is the latest resume of a batch that the leader has seen.
type resume struct {
	stamp  time.Time // ledger.Batch.Resumed
	at     time.Time // the same instant by this machine's clock
	checks int       // how many of resumeChecks were done
}

// recent reports whether missing slices were dropped because of the pause.
func (r resume) recent() bool { return !r.stamp.IsZero() && time.Since(r.at) < resumeQuiet }

// checkResumed looks for missing slices at the times in resumeChecks.
func (r *repairer) checkResumed(ctx context.Context, batches []*batch) error {
	for _, b := range batches {
		if b.State != ledger.Running || b.Resumed.IsZero() {
			continue
		}
		if !b.resume.stamp.Equal(b.Resumed) {
			// It may have been long ago, under another leader.
			now, err := r.ledger.Now(ctx)
			if err != nil {
				return fmt.Errorf("ask Redis for the time: %w", err)
			}
			b.resume = resume{stamp: b.Resumed, at: time.Now().Add(-max(0, now.Sub(b.Resumed)))}
		}
		before := b.resume.checks
		for b.resume.checks < len(resumeChecks) && time.Since(b.resume.at) >= resumeChecks[b.resume.checks] {
			b.resume.checks++
		}
		if b.resume.checks > before {
			if err := r.findMissing(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *repairer) requeueMissing(ctx context.Context, batches []*batch) error {
	for _, b := range batches {
		if b.State == ledger.Running {
			if err := r.findMissing(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// findMissing enqueues pending slices that the queue has lost, and moves the low-water mark.
func (r *repairer) findMissing(ctx context.Context, b *batch) error {
	if b.Slice == 0 {
		return nil // nothing was fed yet
	}
	redeliveries, err := r.ledger.Redeliveries(ctx, b.ID)
	if err != nil {
		return err
	}
	low, found := b.Low, false
	for n := int(b.Low / ledger.ChunkLinks); int64(n)*ledger.ChunkLinks < b.Cursor; n++ {
		c, err := readChunk(ctx, r.ledger, b.ID, n)
		if errors.Is(err, ledger.ErrNoBatch) {
			return nil
		}
		if err != nil {
			return err
		}
		first := int64(n) * ledger.ChunkLinks
		var open []task.Slice
		for index := 0; index < len(c.links) && first+int64(index) < b.Cursor; index += b.Slice {
			end := min(index+b.Slice, len(c.links))
			if pending(c.records[index:end]) > 0 {
				found = true
				s := b.slice(c, index, end)
				s.Redeliveries = redeliveries[s.Key()]
				open = append(open, s)
			} else if !found {
				low = first + int64(end)
			}
		}
		missing, err := r.missing(ctx, open)
		if err != nil {
			return err
		}
		for i := range missing {
			if b.resume.recent() {
				break // they keep their redelivery count
			}
			missing[i].Redeliveries++
			if err := r.redelivered(ctx, missing[i], "missing"); err != nil {
				return err
			}
		}
		if err := r.queue.enqueue(ctx, missing); err != nil {
			return err
		}
	}
	if low > b.Low {
		b.Low = low
		return b.advance(ctx, r.ledger, r.epoch)
	}
	return nil
}

// missing returns those of the slices that are not in the queue and still have pending links.
func (r *repairer) missing(ctx context.Context, open []task.Slice) (missing []task.Slice, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, s := range open {
		group.Go(func() error {
			// As its latest copy, or as first fed.
			for _, redeliveries := range []int{s.Redeliveries, 0} {
				fed := s
				fed.Redeliveries = redeliveries
				if ok, err := r.queue.contains(fed); ok || err != nil {
					return err
				}
			}
			// It may have been finished since its records were read.
			unfinished, err := r.unfinished(ctx, s)
			if unfinished {
				mu.Lock()
				defer mu.Unlock()
				missing = append(missing, s)
			}
			return err
		})
	}
	return missing, group.Wait()
}
