package worker

import (
	"context"
	"sync"
	"time"

	"linkcancel/internal/ledger"
)

// states remembers the state of the batches in hand for a moment.
type states struct {
	ledger *ledger.Ledger
	mu     sync.Mutex
	known  map[string]*stateEntry
}

type stateEntry struct {
	reading sync.Mutex // one reader at a time
	state   ledger.State
	at      time.Time
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

// set stores a state that was read no earlier than at.
func (s *states) set(batch string, state ledger.State, at time.Time) {
	e := s.entry(batch)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(e.at) {
		e.state, e.at = state, at
	}
}

// get returns a state that is at most maxAge old, reading it if need be.
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
	began := time.Now()
	state, err := s.ledger.State(ctx, batch)
	if err != nil {
		return "", err
	}
	s.set(batch, state, began)
	return state, nil
}

func (s *states) fresh(e *stateEntry, maxAge time.Duration) (ledger.State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.state, !e.at.IsZero() && time.Since(e.at) <= maxAge
}
