package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
)

const (
	// stateAge is the maximum age of the batch's state at a request; at stateRefresh it is read.
	stateAge     = time.Second
	stateRefresh = 750 * time.Millisecond

	// asynq's lease is 30 s. After leaseDoubt it may be another's, after leaseEnd nothing is sent.
	leaseDoubt = 20 * time.Second
	leaseEnd   = 27 * time.Second

	// redisRetry is the delay between reads of Redis while it does not answer.
	redisRetry = 200 * time.Millisecond
)

// Reasons to stop sending in the middle of a slice.
var (
	errStopping   = errors.New("the worker is stopping")
	errNotRunning = errors.New("the batch is not running")
	errLease      = task.ErrLeaseOver
)

// gate lets requests of a slice through while its batch runs, the lease holds and slots come.
type gate struct {
	w       *Worker
	slice   task.Slice
	ctx     context.Context // ends with the lease
	waitCtx context.Context // ends when the worker stops, too
	started time.Time

	// A redelivered slice may be in the hands of another worker, such as one that
	// was suspended. It keeps recording outcomes, so the records are read again.
	redelivered bool
	reading     sync.Mutex // held during a read
	seen        struct {
		sync.Mutex
		at      time.Time // the records were read at this time or later
		records []ledger.Record
	}
}

// pass waits until one request of the slice may be sent, and returns its slot.
func (g *gate) pass() (ratelimit.Slot, error) {
	for {
		if err := g.check(stateRefresh); err != nil {
			return ratelimit.Slot{}, err
		}
		began := time.Now()
		slot, err := g.w.limiter.Acquire(g.waitCtx)
		if err != nil {
			return ratelimit.Slot{}, g.why(err)
		}
		g.w.observe.Waited(time.Since(began))
		if g.leaseAge() > leaseEnd {
			err = errLease
		} else {
			err = g.check(stateAge)
		}
		if err == nil && !slot.Stale() {
			return slot, nil
		}
		g.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		if err != nil {
			return ratelimit.Slot{}, err
		}
	}
}

// again is pass for a request whose slot was too old when its connection was there. Whether another worker
// may have the slice was asked before, so the lease must not have become doubtful.
func (g *gate) again() (ratelimit.Slot, error) {
	slot, err := g.pass()
	if err == nil && g.leaseAge() > leaseDoubt {
		g.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		err = errLease
	}
	return slot, err
}

// check returns errNotRunning if the batch is not running. The state that it uses is at most maxAge
// old. It also refreshes the records of a redelivered slice. While Redis does not answer, it waits.
func (g *gate) check(maxAge time.Duration) error {
	if err := g.refresh(maxAge); err != nil {
		return err
	}
	for {
		state, err := g.w.states.get(g.waitCtx, g.slice.Batch, maxAge)
		switch {
		case err == nil && (state == ledger.Running || state == ledger.Ready):
			return nil
		case err == nil, errors.Is(err, ledger.ErrNoBatch):
			return errNotRunning
		}
		if err := g.retryWait(); err != nil {
			return err
		}
	}
}

// refresh reads the records of a redelivered slice if they are older than maxAge.
func (g *gate) refresh(maxAge time.Duration) error {
	if !g.redelivered {
		return nil
	}
	g.reading.Lock()
	defer g.reading.Unlock()
	for {
		now := time.Now()
		g.seen.Lock()
		age := now.Sub(g.seen.at)
		g.seen.Unlock()
		if age <= maxAge {
			return nil
		}
		view, err := g.w.read(g.waitCtx, g.slice)
		switch {
		case err == nil:
			g.w.states.set(g.slice.Batch, view.State, now)
			g.seen.Lock()
			g.seen.at, g.seen.records = now, view.Records
			g.seen.Unlock()
			return nil
		case errors.Is(err, ledger.ErrNoBatch), errors.Is(err, ledger.ErrNewer):
			return errNotRunning
		}
		if err := g.retryWait(); err != nil {
			return err
		}
	}
}

// doneElsewhere says whether another worker has recorded l's outcome, as of the last refresh.
func (g *gate) doneElsewhere(l *link) bool {
	if !g.redelivered {
		return false
	}
	g.seen.Lock()
	defer g.seen.Unlock()
	return g.seen.records[l.position-g.slice.Index].Outcome != ledger.None
}

// leaseAge is the time since the task's lease began or was last renewed.
func (g *gate) leaseAge() time.Duration {
	renewed := g.w.hook.LastRenewal()
	if renewed.Before(g.started) {
		renewed = g.started
	}
	return time.Since(renewed)
}

// take puts a token into slots, which bound what runs at once.
func (g *gate) take(slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-g.w.stopCtx.Done():
		return errStopping
	case <-g.ctx.Done():
		return errLease
	}
}

func (g *gate) retryWait() error {
	select {
	case <-time.After(redisRetry):
		return nil
	case <-g.waitCtx.Done():
		return g.why(g.waitCtx.Err())
	}
}

// why turns the error of a wait into the reason that ended it.
func (g *gate) why(err error) error {
	switch {
	case g.w.stopCtx.Err() != nil:
		return errStopping
	case g.ctx.Err() != nil:
		return errLease
	}
	return err
}
