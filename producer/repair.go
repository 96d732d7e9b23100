package producer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/errgroup"

	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

const (
	leasesEvery  = time.Second // looks whether a lease has ended
	orphansEvery = 5 * time.Second
	missingEvery = 30 * time.Second
	pruneEvery   = time.Hour
	relistEvery  = 5 * time.Minute

	// deadImport is how long an import may be silent before it is deleted.
	deadImport = 24 * time.Hour

	// resumeQuiet is how long after a resume slices are enqueued as if for the
	// first time: workers dropped them when the batch was paused.
	resumeQuiet = time.Minute

	activePage = 200
)

// resumeLooks are the times after a resume at which missing slices are sought.
var resumeLooks = [...]time.Duration{0, 2 * time.Second, 10 * time.Second, 20 * time.Second}

// repair does what is due of the leader's other duties.
func (f *Feeder) repair(ctx context.Context, batches []ledger.Batch) error {
	now := time.Now()
	due := !now.Before(f.nextOrphans)
	if due {
		f.nextOrphans = now.Add(orphansEvery) // also if it fails: it must not keep the rest from its turn
	}
	if due || !now.Before(f.nextLeases) {
		f.nextLeases = now.Add(leasesEvery)
		ended, err := f.rdb.ZCount(ctx, task.LeaseKey, "-inf", strconv.FormatInt(now.Unix(), 10)).Result()
		if err != nil {
			return fmt.Errorf("look for ended leases: %w", err)
		}
		before := f.ended
		f.ended = ended
		if ended > before || due && ended > 0 {
			if err := f.adoptOrphans(ctx); err != nil {
				return err
			}
		}
	}
	if due {
		if err := f.adoptSweeps(ctx); err != nil {
			return err
		}
	}
	all := !now.Before(f.nextMissing)
	if all {
		f.nextMissing = now.Add(missingEvery)
	}
	for i := range batches {
		b := &batches[i]
		switch b.State {
		case ledger.Running:
			due, quiet, err := f.afterResume(ctx, *b, now)
			if err != nil {
				return err
			}
			if all || due {
				if err := f.findMissing(ctx, b, quiet); err != nil {
					return err
				}
			}
		case ledger.Done, ledger.AbortedState, ledger.Importing:
			if err := f.finish(ctx, *b); err != nil {
				return err
			}
		}
	}
	if !now.Before(f.nextRelist) {
		f.nextRelist = now.Add(relistEvery)
		found, err := f.ledger.Relist(ctx)
		for _, id := range found {
			f.cfg.Log.Warn("batch put back into the lists of batches", "batch", id)
		}
		if err != nil {
			return err
		}
	}
	if !now.Before(f.nextPrune) {
		f.nextPrune = now.Add(pruneEvery)
		return f.ledger.Prune(ctx)
	}
	return nil
}

// resume is a resume that the leader looks after.
type resume struct {
	stamp time.Time // as the batch has it
	at    time.Time // by our clock
	looks int       // of resumeLooks, done
}

// afterResume says whether a look after a resume is due, and whether one was so
// short a time ago that missing slices were dropped by the pause.
func (f *Feeder) afterResume(ctx context.Context, b ledger.Batch, now time.Time) (due, quiet bool, err error) {
	if b.Resumed.IsZero() {
		return false, false, nil
	}
	r := f.resumed[b.ID]
	if r == nil || !r.stamp.Equal(b.Resumed) {
		// It may have been long ago, under another leader.
		redisNow, err := f.ledger.Now(ctx)
		if err != nil {
			return false, false, fmt.Errorf("ask Redis for the time: %w", err)
		}
		r = &resume{stamp: b.Resumed, at: now.Add(-max(0, redisNow.Sub(b.Resumed)))}
		f.resumed[b.ID] = r
	}
	for r.looks < len(resumeLooks) && now.Sub(r.at) >= resumeLooks[r.looks] {
		r.looks++
		due = true
	}
	return due, now.Sub(r.at) < resumeQuiet, nil
}

// adoptOrphans enqueues again every slice whose worker lost its lease, as a copy
// under an id of its own: asynq itself takes another minute or more.
func (f *Feeder) adoptOrphans(ctx context.Context) error {
	return f.orphans(task.QueueCancel, task.TypeCancel, func(payload []byte) error {
		s, err := task.Parse(payload)
		if err != nil {
			return nil // of a newer release, which repairs it
		}
		return f.adopt(ctx, s)
	})
}

// adoptSweeps does the same for sweeps. The ledger knows whether one has ended,
// and lets one worker at a time run it.
func (f *Feeder) adoptSweeps(ctx context.Context) error {
	return f.orphans(task.QueueSweep, task.TypeSweep, func(payload []byte) error {
		s, err := task.ParseSweep(payload)
		if err != nil {
			return nil // as above
		}
		s.Redeliveries++
		enqueued, err := enqueueSweep(ctx, f.client, s)
		if enqueued {
			f.cfg.Log.Warn("sweep enqueued again", "sweep", s.Name, "again", s.Redeliveries)
		}
		return err
	})
}

// orphans finds the tasks of a queue whose worker lost its lease.
func (f *Feeder) orphans(queue, kind string, found func(payload []byte) error) error {
	for page := 1; ; page++ {
		active, err := f.inspector.ListActiveTasks(queue, asynq.PageSize(activePage), asynq.Page(page))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list tasks at work: %w", err)
		}
		for _, t := range active {
			if !t.IsOrphaned || t.Type != kind {
				continue
			}
			if err := found(t.Payload); err != nil {
				return err
			}
		}
		if len(active) < activePage {
			return nil
		}
	}
}

func (f *Feeder) adopt(ctx context.Context, s task.Slice) error {
	view, err := f.ledger.Slice(ctx, s.Batch, s.Chunk, s.Index, len(s.Links))
	if errors.Is(err, ledger.ErrNoBatch) || errors.Is(err, ledger.ErrNewer) {
		return nil
	}
	if err != nil {
		return err
	}
	if view.State != ledger.Running || pending(view.Records) == 0 || s.Incarnation != 0 && s.Incarnation != view.Incarnation {
		return nil // a paused batch is looked after when it is resumed
	}
	s.Redeliveries++
	known, err := f.inQueue(s)
	if err != nil || known {
		return err
	}
	if err := f.ledger.SetAgain(ctx, s.Batch, s.Key(), s.Redeliveries); err != nil {
		return err
	}
	if err := f.enqueue(ctx, []task.Slice{s}); err != nil {
		return err
	}
	f.repaired("orphaned", s)
	return nil
}

func (f *Feeder) repaired(reason string, s task.Slice) {
	f.cfg.Log.Warn("slice enqueued again", "reason", reason, "batch", s.Batch, "slice", s.Key(), "again", s.Redeliveries)
	if f.cfg.Observer != nil {
		f.cfg.Observer.Repaired(reason, 1)
	}
}

func (f *Feeder) inQueue(s task.Slice) (bool, error) {
	_, err := f.inspector.GetTaskInfo(task.QueueCancel, s.ID())
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, asynq.ErrTaskNotFound), errors.Is(err, asynq.ErrQueueNotFound):
		return false, nil
	}
	return false, fmt.Errorf("look up task %s: %w", s.ID(), err)
}

// findMissing enqueues every slice behind the cursor that has a pending link and
// is not in the queue, and moves the low-water mark. resumed: such slices were
// dropped because of a pause, not by a crash.
func (f *Feeder) findMissing(ctx context.Context, b *ledger.Batch, resumed bool) error {
	if b.Slice == 0 {
		return nil // nothing was fed yet
	}
	again, err := f.ledger.Redeliveries(ctx, b.ID)
	if err != nil {
		return err
	}
	low, found := b.Low, false
	for n := int(b.Low / ledger.ChunkLinks); int64(n)*ledger.ChunkLinks < b.Cursor; n++ {
		c, err := f.readChunk(ctx, *b, n)
		if errors.Is(err, ledger.ErrNoBatch) {
			return nil
		}
		if err != nil {
			return err
		}
		var open []task.Slice
		for index := 0; index < len(c.links); index += b.Slice {
			end := min(index+b.Slice, len(c.links))
			at := int64(n)*ledger.ChunkLinks + int64(index)
			if at >= b.Cursor {
				break
			}
			if pending(c.records[index:end]) > 0 {
				found = true
				s := task.Slice{Batch: b.ID, Incarnation: b.Incarnation(), Chunk: n, Index: index, Links: c.links[index:end]}
				s.Redeliveries = again[s.Key()]
				open = append(open, s)
			} else if !found {
				low = int64(n)*ledger.ChunkLinks + int64(end)
			}
		}
		if err := f.enqueueMissing(ctx, open, resumed); err != nil {
			return err
		}
	}
	if low > b.Low {
		b.Low = low
		return f.advance(ctx, b, low)
	}
	return nil
}

func (f *Feeder) enqueueMissing(ctx context.Context, open []task.Slice, resumed bool) error {
	var missing []task.Slice
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(enqueueParallel)
	for _, s := range open {
		group.Go(func() error {
			// As it was fed, or as its latest copy.
			for _, copied := range []int{s.Redeliveries, 0} {
				known := s
				known.Redeliveries = copied
				if ok, err := f.inQueue(known); ok || err != nil {
					return err
				}
			}
			// It may have been finished since its records were read.
			view, err := f.ledger.Slice(groupCtx, s.Batch, s.Chunk, s.Index, len(s.Links))
			if errors.Is(err, ledger.ErrNoBatch) || errors.Is(err, ledger.ErrNewer) {
				return nil
			}
			if err != nil {
				return err
			}
			if view.State != ledger.Running || pending(view.Records) == 0 {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			missing = append(missing, s)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range missing {
		s := &missing[i]
		if resumed {
			continue // as it was: with a copy's mark if it had one
		}
		s.Redeliveries++
		if err := f.ledger.SetAgain(ctx, s.Batch, s.Key(), s.Redeliveries); err != nil {
			return err
		}
		f.repaired("missing", *s)
	}
	return f.enqueue(ctx, missing)
}

// finish ends what has ended: aborted batches are filled, finished ones retired,
// dead imports deleted.
func (f *Feeder) finish(ctx context.Context, b ledger.Batch) error {
	switch {
	case b.State == ledger.Importing:
		now, err := f.ledger.Now(ctx)
		if err != nil {
			return err
		}
		if now.Sub(b.Beat) < deadImport {
			return nil
		}
		f.cfg.Log.Warn("dead import deleted", "batch", b.ID)
		return f.ledger.DiscardUnsealed(ctx, b.ID, b.Chunks)
	case b.Pending() > 0: // aborted, and the command that did it is gone
		return f.ledger.FillAborted(ctx, b)
	}
	f.forget(b.ID)
	if err := f.ledger.Retire(ctx, b, f.cfg.Keep); err != nil {
		return err
	}
	f.cfg.Log.Info("batch finished", "batch", b.ID, "state", string(b.State), "links", b.Total)
	return nil
}
