package main

import (
	"sync"
	"time"
)

// stalls watches how late this process itself comes to its turn: on a busy machine
// the sandbox API takes in requests late, and in bunches.
type stalls struct {
	mu   sync.Mutex
	list []stall
	over chan struct{}
	done chan struct{}
}

type stall struct{ from, to time.Time }

const (
	stallTick = 2 * time.Millisecond
	stallFrom = 8 * time.Millisecond
)

func watchStalls() *stalls {
	s := &stalls{over: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		ticker := time.NewTicker(stallTick)
		defer ticker.Stop()
		for last := time.Now(); ; {
			select {
			case <-s.over:
				return
			case <-ticker.C:
			}
			now := time.Now()
			if now.Sub(last) > stallFrom {
				s.mu.Lock()
				s.list = append(s.list, stall{last, now})
				s.mu.Unlock()
			}
			last = now
		}
	}()
	return s
}

func (s *stalls) stop() {
	close(s.over)
	<-s.done
}

// within is how much of the time was stalled, counting what began a little before.
func (s *stalls) within(from, to time.Time) (sum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from = from.Add(-100 * time.Millisecond)
	for _, st := range s.list {
		if st.to.After(from) && st.from.Before(to) {
			sum += st.to.Sub(st.from)
		}
	}
	return sum
}
