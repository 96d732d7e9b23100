package worker

import (
	"sync"
	"time"
)

// resting knows which links of the slices that this process gave back wait to be
// tried again, for those who want to know why nothing moves.
type resting struct {
	mu     sync.Mutex
	slices map[string]restingSlice
}

type restingSlice struct {
	links int
	until time.Time
	text  string
}

// set takes in what is left of a slice; 0 links: nothing.
func (r *resting) set(slice string, s restingSlice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.links == 0 {
		delete(r.slices, slice)
		return
	}
	if r.slices == nil || len(r.slices) > 10_000 {
		r.slices = map[string]restingSlice{}
	}
	if s.text == "" { // none of its links was sent
		s.text = r.slices[slice].text
	}
	r.slices[slice] = s
}

// sum is the number of links that wait, and why one of them does. A slice whose
// time has come is another process's by now, or about to be taken up again.
func (r *resting) sum(now time.Time) (links int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.slices {
		if now.Sub(s.until) > restingMost {
			delete(r.slices, id)
			continue
		}
		links += s.links
		if s.text != "" {
			text = s.text
		}
	}
	return links, text
}

// restingMost is how long after its time a slice counts as resting here.
const restingMost = 5 * time.Second
