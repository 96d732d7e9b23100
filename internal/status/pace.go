package status

import "time"

const (
	// A rate is measured over rateWindow, or up to rateWindowMost until rateLinks links ended.
	rateWindow, rateWindowMost = 10 * time.Second, 10 * time.Minute
	rateLinks                  = 10
	// minMeasured is the shortest time over which a rate is measured.
	minMeasured = 400 * time.Millisecond
)

// Pace measures how many links end per second. The zero value is ready for use.
type Pace struct {
	samples []sample
	last    time.Time // of the last call
}

type sample struct {
	at   time.Time
	done int64
}

// Add records the number of links that have an outcome now.
func (p *Pace) Add(now time.Time, done int64) {
	p.last = now
	p.samples = append(p.samples, sample{now, done})
	for len(p.samples) > 2 {
		age := now.Sub(p.samples[0].at)
		if age <= rateWindow || age <= rateWindowMost && done-p.samples[1].done < rateLinks {
			return
		}
		p.samples = p.samples[1:]
	}
}

// Skip leaves out the time since the last call: the window is closed.
func (p *Pace) Skip(now time.Time) {
	for i := range p.samples {
		p.samples[i].at = p.samples[i].at.Add(now.Sub(p.last))
	}
	p.last = now
}

// Rate is the number of links that ended per second. known is false until there are enough samples.
func (p *Pace) Rate() (rate float64, known bool) {
	if len(p.samples) == 0 {
		return 0, false
	}
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	took := last.at.Sub(first.at)
	if took < minMeasured {
		return 0, false
	}
	return float64(last.done-first.done) / took.Seconds(), true
}

// causeEvery is how often the cause of a hold is reported again.
const causeEvery = time.Minute

// Causes remembers which causes of holds were reported. The zero value is ready for use.
type Causes struct{ reported map[string]time.Time }

// Due reports whether to report a cause: the first time, and again each minute.
func (c *Causes) Due(cause string, now time.Time) bool {
	if at, known := c.reported[cause]; cause == "" || known && now.Sub(at) < causeEvery {
		return false
	}
	if c.reported == nil || len(c.reported) > 100 {
		c.reported = map[string]time.Time{}
	}
	c.reported[cause] = now
	return true
}
