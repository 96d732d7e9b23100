package broker

import (
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// ttlClock advances the TTLs of the embedded Redis. Its own ClockTTL looks at every key before
// each command of each script, so that the time of a run grew with the square of its links.
type ttlClock struct {
	server *miniredis.Miniredis

	mu   sync.Mutex
	at   time.Time     // how far the TTLs are advanced
	step time.Duration // between two advances
}

const (
	// ttlShare limits the share of the time that advancing TTLs takes: one part in so many.
	ttlShare = 100
	// ttlStepMost is by how much a key may expire too early or too late.
	ttlStepMost = 100 * time.Millisecond
)

// advance advances the TTLs, unless it did so a moment ago.
func (c *ttlClock) advance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	passed := now.Sub(c.at)
	if passed <= c.step {
		return
	}
	c.server.FastForward(passed)
	c.at, c.step = now, min(ttlShare*time.Since(now), ttlStepMost)
}
