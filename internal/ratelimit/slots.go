package ratelimit

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// maxLateness is how late a slot may be handed out, since timers may fire late. Older slots are
// given up, so that a stopped process sends no burst. The script's margin pays for it.
const maxLateness = 5 * time.Millisecond

// slot is a reserved slot.
type slot struct {
	due     instant
	seq     uint64
	spacing micros // to the next slot of the fleet, when this one was reserved
	probe   bool
}

// keeps reports whether the slot is one of those that remain at a wider spacing. The numbers decide, so
// the processes of the fleet together keep the right part of their slots.
func (s slot) keeps(spacing micros) bool {
	if s.probe || s.spacing >= spacing {
		return true
	}
	part := float64(s.spacing / spacing)
	return math.Floor(float64(s.seq)*part) > math.Floor(float64(s.seq-1)*part)
}

// slots are the reserved slots of a process. Both due and seq ascend.
type slots struct {
	list   []slot
	buffer []slot // the array below list
	step   int    // every step-th slot of the last reply is kept
	wasted int    // slots given up while nobody waited, since the last call
	lost   int    // slots that may be replaced, since the last call

	giveBack func(probe uint64) // reports a probe that is given up

	// From first to last no other process has a slot. Those from one that is given up on are reported,
	// so that others get them if no later ones are reserved.
	first, last uint64
	returns     func(from slot, last uint64)
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
	s.giveEndBack()
	for _, one := range s.list {
		s.lose(one)
	}
	s.list = s.list[:0]
}

// giveEndBack reports slots that are about to be given up.
func (s *slots) giveEndBack() {
	for _, one := range s.list {
		if one.seq >= s.first && !one.probe {
			s.returns(one, s.last)
			return
		}
	}
}

func (s *slots) keepProbe() {
	s.giveEndBack()
	before := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(one slot) bool { return !one.probe })
	s.lost += before - len(s.list)
}

// thin gives up slots if the rate of the fleet has fallen since they were reserved.
func (s *slots) thin(spacing micros) {
	before := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(one slot) bool { return !one.keeps(spacing) })
	s.lost += before - len(s.list)
}

// end returns when the last slot is due.
func (s *slots) end() instant { return s.list[len(s.list)-1].due }

// after returns how many slots are due at t or later.
func (s *slots) after(t instant) int {
	i, _ := slices.BinarySearchFunc(s.list, t, func(one slot, t instant) int { return cmp.Compare(one.due, t) })
	return len(s.list) - i
}

// add adds the slots of a reply, every step-th of them.
func (s *slots) add(r *reply, c *clock, step int) {
	if r.n == 0 {
		return
	}
	s.list = append(s.buffer[:0], s.list...) // over those that are gone
	s.step = step
	if r.first != s.last+1 {
		s.first = r.first
	}
	s.last = r.first + uint64(r.n) - 1
	ordered := true
	for j := 0; j < r.n; j += step {
		due := c.instant(max(r.from, r.base+micros(j)*r.spacing))
		if n := len(s.list); n > 0 && due < s.list[n-1].due {
			ordered = false
		}
		s.list = append(s.list, slot{due: due, seq: r.first + uint64(j), spacing: r.spacing, probe: r.probe})
	}
	s.buffer = s.list
	if ordered {
		return
	}
	// The estimate of the fleet's clock has changed, or the rate has risen by a rule of an earlier
	// release. So new slots are due before old ones. Their numbers may be exchanged.
	due := make([]instant, len(s.list))
	for i, one := range s.list {
		due[i] = one.due
	}
	slices.Sort(due)
	for i := range s.list {
		s.list[i].due = due[i]
	}
}
