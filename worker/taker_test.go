package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
)

// asker asks the queues in passes, as asynq does: a pass ends at the first queue that has a task.
type asker struct {
	taker *taker
	queue atomic.Int64 // slices in the first queue
	asked atomic.Int64 // queries that reached Redis
	found atomic.Int64
}

func (a *asker) pass() {
	for name := range len(task.Queues) {
		if a.taker.AwaitTask() {
			continue // the hook says that the queue is empty
		}
		a.asked.Add(1)
		has := name == 0 && a.queue.Load() > 0
		a.taker.Asked(has)
		if has {
			a.queue.Add(-1)
			a.found.Add(1)
			a.taker.taken.Add(-1) // its links are counted
			return
		}
	}
	time.Sleep(taskCheck)
}

// rateOf is a Limiter that only has a rate.
type rateOf struct {
	Limiter
	rate float64
}

func (r rateOf) Status() ratelimit.Status { return limitOf(r.rate)() }

func TestTaker(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		leads bool
		tell  int           // the argument of each call of tell; -1: no calls
		most  int64         // queries
		soon  time.Duration // until all are taken
	}{
		// Two queries find that the queues are empty. Then each slice costs one.
		{name: "a leader", leads: true, tell: 1, most: 2 + 20, soon: 100 * time.Millisecond},
		// A call without a number makes it look. Without calls it looks every ten seconds.
		{name: "a leader that hears of work of others", leads: true, tell: 0, most: 2 + 3*20, soon: 100 * time.Millisecond},
		{name: "a leader that hears nothing", leads: true, tell: -1, most: 2 + 3*20, soon: 11 * time.Second},
		{name: "another process", tell: 0, most: 2 + 3*20 + 2*20, soon: 100 * time.Millisecond},
		{name: "another process that hears nothing", tell: -1, most: 2 + 3*20 + 2*200, soon: 4 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stopCtx, stop := context.WithCancelCause(t.Context())
				w := &Worker{cfg: Config{Leads: func() bool { return c.leads }, Lone: func() bool { return false }}, limiter: rateOf{rate: 10}, stopCtx: stopCtx}
				w.taker = newTaker(w)
				a := &asker{taker: w.taker}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for stopCtx.Err() == nil {
						a.pass()
					}
				}()
				for range 20 {
					time.Sleep(1700 * time.Millisecond)
					a.queue.Add(1)
					want := a.found.Load() + 1
					if c.tell >= 0 {
						a.taker.tell(c.tell)
					}
					began := time.Now()
					for a.found.Load() < want {
						time.Sleep(time.Millisecond)
						if time.Since(began) > c.soon {
							t.Fatalf("a slice is not taken after %v", time.Since(began))
						}
					}
				}
				if a.asked.Load() > c.most {
					t.Errorf("%d queries for 20 slices, want at most %d", a.asked.Load(), c.most)
				}
				stop(errStopping)
				<-ended
			})
		})
	}
}

// Work that comes while the queues are looked through is not forgotten.
func TestTakerIsToldDuringALook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stopCtx, stop := context.WithCancelCause(t.Context())
		defer stop(errStopping)
		w := &Worker{cfg: Config{Leads: func() bool { return true }, Lone: func() bool { return false }}, limiter: rateOf{rate: 10}, stopCtx: stopCtx}
		w.taker = newTaker(w)
		k := w.taker
		for range 3 {
			if k.AwaitTask() {
				t.Fatal("the first queue is not asked")
			}
			k.Asked(false)
			if k.AwaitTask() {
				t.Fatal("the second queue is not asked")
			}
			k.tell(1) // a slice in the first one
			k.Asked(false)
			began := time.Now()
			for k.AwaitTask() {
				if time.Since(began) > time.Second {
					t.Fatal("the taker waits")
				}
			}
			k.Asked(true)
			k.taken.Add(-1)
			k.tell(0)
		}
	})
}
