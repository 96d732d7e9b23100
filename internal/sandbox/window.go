package sandbox

import "time"

// peakWindow finds the busiest second. A growing ring has the requests of the last second.
type peakWindow struct {
	ring  []int64 // unix nanoseconds
	first int
	count int
	peak  int
}

// add adds a request. Times must be monotonic.
func (w *peakWindow) add(now int64) {
	for w.count > 0 && w.ring[w.first] <= now-int64(time.Second) {
		w.first = (w.first + 1) % len(w.ring)
		w.count--
	}
	if w.count == len(w.ring) {
		grown := make([]int64, max(1024, 2*len(w.ring)))
		n := copy(grown, w.ring[w.first:])
		copy(grown[n:], w.ring[:w.first])
		w.ring, w.first = grown, 0
	}
	w.ring[(w.first+w.count)%len(w.ring)] = now
	w.count++
	w.peak = max(w.peak, w.count)
}

// rateLimit limits the requests in any window, by the times of the allowed ones.
type rateLimit struct {
	allowed []int64 // Unix nanoseconds, a full ring; 0 means never
	next    int     // index of the oldest
	window  int64   // nanoseconds
}

// maxAllowed limits the memory of a rateLimit. A higher rate gets a window shorter than a second.
const maxAllowed = 1 << 20

// newRateLimit returns a limit of rate requests per second, or nil for no limit. A fractional rate
// gets a window in which it is whole.
func newRateLimit(rate float64) *rateLimit {
	if rate <= 0 {
		return nil
	}
	count := int(min(max(rate, 1), maxAllowed))
	return &rateLimit{
		allowed: make([]int64, count),
		window:  int64(float64(count) / rate * float64(time.Second)),
	}
}

// allow counts a request. Times must be monotonic.
func (l *rateLimit) allow(now int64) bool {
	if l == nil {
		return true
	}
	if oldest := l.allowed[l.next]; oldest != 0 && oldest > now-l.window {
		return false
	}
	l.allowed[l.next] = now
	l.next = (l.next + 1) % len(l.allowed)
	return true
}
