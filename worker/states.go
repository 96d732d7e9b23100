package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"linkcancel/internal/ledger"
)

// states caches the state and the source of the batches in hand.
type states struct {
	ledger *ledger.Ledger
	known  recent[string, stateEntry]
}

type stateEntry struct {
	reading sync.Mutex // held during a read

	mu   sync.Mutex
	head ledger.Head // before the first read only the state is set
	at   time.Time   // the state was read at this time or later
}

// set caches a state that was read at or after the given time.
func (s *states) set(batch string, state ledger.State, at time.Time) {
	e := s.known.of(batch)
	e.mu.Lock()
	defer e.mu.Unlock()
	if at.After(e.at) {
		e.head.State, e.at = state, at
	}
}

// get returns a state that is at most maxAge old. It reads the ledger if necessary.
func (s *states) get(ctx context.Context, batch string, maxAge time.Duration) (ledger.State, error) {
	e := s.known.of(batch)
	if state, ok := e.fresh(maxAge); ok {
		return state, nil
	}
	e.reading.Lock()
	defer e.reading.Unlock()
	if state, ok := e.fresh(maxAge); ok {
		return state, nil
	}
	head, err := s.read(ctx, batch, e)
	return head.State, err
}

// origin returns a batch's source and creation time, zero if they cannot be read now.
func (s *states) origin(ctx context.Context, batch string) ledger.Head {
	e := s.known.of(batch)
	e.mu.Lock()
	head := e.head
	e.mu.Unlock()
	if head.Created.IsZero() { // none of its links was sent
		head, _ = s.read(ctx, batch, e)
	}
	return head
}

func (s *states) read(ctx context.Context, batch string, e *stateEntry) (ledger.Head, error) {
	began := time.Now()
	head, err := s.ledger.Head(ctx, batch)
	if err != nil {
		return ledger.Head{}, err
	}
	e.mu.Lock()
	e.head.Source, e.head.Created = head.Source, head.Created
	e.mu.Unlock()
	s.set(batch, head.State, began)
	return head, nil
}

func (e *stateEntry) fresh(maxAge time.Duration) (ledger.State, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.head.State, !e.at.IsZero() && time.Since(e.at) <= maxAge
}

// average is a running mean of durations: each new one counts a tenth.
type average struct{ nanos atomic.Int64 }

func (a *average) add(d time.Duration) {
	old := a.nanos.Load()
	if old == 0 {
		a.nanos.Store(int64(d))
		return
	}
	a.nanos.Store(old + (int64(d)-old)/10) // a lost update does not matter
}

func (a *average) get() time.Duration { return time.Duration(a.nanos.Load()) }

// recent holds a value for each key. It forgets all of them when there are many.
type recent[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]*V
}

func (r *recent[K, V]) of(key K) *V {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.known[key]
	if v == nil {
		if r.known == nil || len(r.known) > 1000 {
			r.known = map[K]*V{}
		}
		v = new(V)
		r.known[key] = v
	}
	return v
}
