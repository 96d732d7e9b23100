// Package tick lets the regular duties of a process fall together. An idle process and its Redis then wake up
// once for several of them. Each time costs both more than the duty does.
package tick

import "time"

// grid is the time between the instants at which duties happen.
const grid = time.Second

var origin = time.Now()

// After returns the instant about d after t at which a duty may happen. It is at most half a second off,
// and not at all if d is less than a second.
func After(t time.Time, d time.Duration) time.Time {
	t = t.Add(d)
	if d < grid {
		return t
	}
	return origin.Add(t.Sub(origin).Round(grid))
}

// In is After for now: it returns the time until then.
func In(d time.Duration) time.Duration {
	now := time.Now()
	return After(now, d).Sub(now)
}

// Next returns the time until the next instant at which duties happen: a second at most.
func Next() time.Duration {
	since := time.Since(origin) % grid
	if since < 0 { // in a bubble of testing/synctest
		since += grid
	}
	return grid - since
}
