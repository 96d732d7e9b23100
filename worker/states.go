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
	mu     sync.Mutex
	known  map[string]*stateEntry
}

type stateEntry struct {
	reading sync.Mutex  // held during a read
	head    ledger.Head // before the first read only the state is set
	at      time.Time   // the state is no older
}

func newStates(l *ledger.Ledger) *states {
	return &states{ledger: l, known: map[string]*stateEntry{}}
}

func (s *states) entry(batch string) *stateEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[batch]
	if e == nil {
		if len(s.known) > 1000 {
			clear(s.known)
		}
		e = &stateEntry{}
		s.known[batch] = e
	}
	return e
}

// set caches a state that was read at or after the given time.
func (s *states) set(batch string, state ledger.State, at time.Time) {
	e := s.entry(batch)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(e.at) {
		e.head.State, e.at = state, at
	}
}

// get returns a state that is at most maxAge old. It reads the ledger if necessary.
func (s *states) get(ctx context.Context, batch string, maxAge time.Duration) (ledger.State, error) {
	e := s.entry(batch)
	if state, ok := s.fresh(e, maxAge); ok {
		return state, nil
	}
	e.reading.Lock()
	defer e.reading.Unlock()
	if state, ok := s.fresh(e, maxAge); ok {
		return state, nil
	}
	head, err := s.read(ctx, batch, e)
	return head.State, err
}

// origin returns the source and the creation time of a batch. Both are zero if they
// cannot be read now.
func (s *states) origin(ctx context.Context, batch string) ledger.Head {
	e := s.entry(batch)
	s.mu.Lock()
	head := e.head
	s.mu.Unlock()
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
	s.mu.Lock()
	e.head.Source, e.head.Created = head.Source, head.Created
	s.mu.Unlock()
	s.set(batch, head.State, began)
	return head, nil
}

func (s *states) fresh(e *stateEntry, maxAge time.Duration) (ledger.State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
