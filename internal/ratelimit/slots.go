package ratelimit

import (
	"cmp"
	"slices"
	"time"
)

// maxLateness is how late a slot may be handed out, since timers may fire late. Older slots are
// given up, so that a stopped process sends no burst. The script's margin pays for it.
const maxLateness = 5 * time.Millisecond

// slot is a reserved slot.
type slot struct {
	due   instant
	seq   uint64
	probe bool
}

// slots are the reserved slots of a process. Both due and seq ascend.
type slots struct {
	list   []slot
	buffer []slot // the array below list
	step   int    // every step-th slot of the last reply is kept
	wasted int    // slots given up while nobody waited, since the last call
	lost   int    // slots that may be replaced, since the last call

	giveBack func(probe uint64) // reports a probe that is given up
}

// giveUp notes that a slot is not used.
func (s *slots) giveUp(one slot) {
	if one.probe {
		s.giveBack(one.seq)
	}
}

// lose gives up a slot that the process may replace.
func (s *slots) lose(one slot) {
	s.lost++
	s.giveUp(one)
}

// next takes the first slot off the list if it is due.
func (s *slots) next(now instant) (slot, bool) {
	if len(s.list) == 0 || s.list[0].due > now {
		return slot{}, false
	}
	first := s.list[0]
	s.list = s.list[1:]
	return first, true
}

// expire gives up the slots that are too late.
func (s *slots) expire(now instant, waiting int) {
	for len(s.list) > 0 && now-s.list[0].due > maxLateness {
		s.lose(s.list[0])
		s.list = s.list[1:]
		if waiting == 0 {
			s.wasted++
		}
	}
}

// clear gives up all slots, and keepProbe all but a probe.
func (s *slots) clear() {
	for _, one := range s.list {
		s.lose(one)
	}
	s.list = s.list[:0]
}

func (s *slots) keepProbe() {
	before := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(one slot) bool { return !one.probe })
	s.lost += before - len(s.list)
}

// after returns how many slots are due at t or later.
func (s *slots) after(t instant) int {
	i, _ := slices.BinarySearchFunc(s.list, t, func(one slot, t instant) int { return cmp.Compare(one.due, t) })
	return len(s.list) - i
}

// add adds the slots of a reply, every step-th of them.
func (s *slots) add(r *reply, c *clock, step int) {
	s.list = append(s.buffer[:0], s.list...) // over those that are gone
	s.step = step
	ordered := true
	for j := 0; j < r.n; j += step {
		due := c.instant(max(r.from, r.base+micros(j)*r.spacing))
		if n := len(s.list); n > 0 && due < s.list[n-1].due {
			ordered = false
		}
		s.list = append(s.list, slot{due: due, seq: r.first + uint64(j), probe: r.probe})
	}
	s.buffer = s.list
	if ordered {
		return
	}
	// The rate has risen, so new slots are due before old ones. Their numbers may be exchanged.
	due := make([]instant, len(s.list))
	for i, one := range s.list {
		due[i] = one.due
	}
	slices.Sort(due)
	for i := range s.list {
		s.list[i].due = due[i]
	}
}
