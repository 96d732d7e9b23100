package worker

import (
	"sync"
	"time"
)

// resting records which links of returned slices wait, to explain why nothing moves.
type resting struct {
	mu     sync.Mutex
	slices map[string]restingSlice
}

type restingSlice struct {
	links int
	until time.Time
	text  string
}

// set records what is left of a slice. With 0 links the slice is forgotten.
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

// sum returns how many links wait, and one error text. A slice that is due is forgotten.
func (r *resting) sum(now time.Time) (links int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.slices {
		if now.Sub(s.until) > maxResting {
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

// maxResting is how long a slice still counts after it is due.
const maxResting = 5 * time.Second
