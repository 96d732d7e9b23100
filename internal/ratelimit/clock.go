package ratelimit

import (
	"math"
	"time"
)

// instant is a time since a limiter was made.
type instant = time.Duration

const never instant = math.MaxInt64

// micros is a time of the fleet's clock (Redis' TIME without steps back) or a duration, in µs.
type micros float64

// neverMicros is never in the script.
const neverMicros micros = 1<<53 - 1

func microsOf(d time.Duration) micros { return micros(d) / micros(time.Microsecond) }

func (m micros) duration() time.Duration { return time.Duration(m * micros(time.Microsecond)) }

const (
	// clockSamples calls only compare the clocks. The very first call is slow.
	clockSamples = 5
	// maxDrift is how fast Redis' clock and ours may drift apart.
	maxDrift = 200e-6
	// maxSlew is how fast a better estimate is adopted, which moves slots closer together.
	maxSlew = 0.004
	// clockTolerance is how impossible an estimate must be before a clock must have been set.
	clockTolerance = 10 * time.Millisecond
)

// clock estimates the fleet's clock. The script reads its time between the sending of a call and
// the receipt of the reply. The least of many such upper bounds is closest to the truth, and no
// slot is early.
type clock struct {
	epoch   micros        // identifies the fleet's clock: it changes when Redis loses its data
	seen    micros        // the time in the last reply
	samples int           // replies of this epoch
	zero    instant       // the fleet's instant 0, at the latest
	lag     time.Duration // how long calls take: the maximum, decaying
}

// update applies a reply.
func (c *clock) update(sent, received instant, epoch, now micros) {
	passed := float64((now - c.seen).duration())
	// A slow call counts for about a second, whether calls are many or few.
	c.lag = max(received-sent, min(c.lag*9/10, time.Duration(float64(c.lag)*math.Exp(-passed/float64(time.Second)))))
	low, high := sent-now.duration(), received-now.duration()
	if c.epoch != epoch {
		c.samples = 0
	}
	zero := c.zero + time.Duration(maxDrift*passed)
	switch {
	case c.samples == 0, zero < low, zero > high+c.lag+clockTolerance, zero > high && c.samples < clockSamples:
		zero = high
	case zero > high:
		zero = max(high, zero-time.Duration(maxSlew*passed))
	}
	c.zero, c.epoch, c.seen = zero, epoch, now
	c.samples++
}

// ready reports whether the estimate is good enough to use slots.
func (c *clock) ready() bool { return c.samples >= clockSamples }

// instant converts a time of the fleet's clock.
func (c *clock) instant(m micros) instant {
	if m >= neverMicros {
		return never
	}
	return c.zero + m.duration()
}

// micros converts to a time of the fleet's clock.
func (c *clock) micros(at instant) micros { return microsOf(at - c.zero) }
