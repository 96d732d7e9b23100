package sandbox

import "time"

// peakWindow finds the fullest second: it holds the times of the requests of
// the last second, in a ring that grows as needed.
type peakWindow struct {
	ring  []int64 // unix nanoseconds
	first int
	count int
	peak  int
}

// add notes a request. Times must not go back.
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

// rateLimit allows a number of requests in any window. It remembers the time
// of each request that it allowed within one window.
type rateLimit struct {
	allowed []int64 // unix nanoseconds, a full ring; 0 = never
	next    int     // the oldest, and the next to be replaced
	window  int64   // nanoseconds
}

// maxAllowed bounds the memory of a rateLimit; above it the window is shorter
// than a second.
const maxAllowed = 1 << 20

// newRateLimit makes a limit of rate requests a second; nil means no limit. A
// rate that is no whole number gets a window in which it is one.
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

// allow takes one request at a time that must not go back.
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
