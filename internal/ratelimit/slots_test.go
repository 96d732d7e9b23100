package ratelimit

import (
	"testing"
	"time"
)

// A slot that is later than maxLateness is given up, however long the process stood still.
func TestSlotsExpire(t *testing.T) {
	s := slots{list: []slot{{due: 0, seq: 1}, {due: 3 * time.Millisecond, seq: 2}, {due: 20 * time.Millisecond, seq: 3}}}
	for _, step := range []struct {
		now                instant
		waiting            int
		left, wasted, lost int
	}{
		{maxLateness, 1, 3, 0, 0},
		{maxLateness + 1, 0, 2, 1, 1},
		{maxLateness + 3*time.Millisecond + 1, 1, 1, 1, 2},
		{time.Second, 1, 0, 1, 3},
	} {
		s.expire(step.now, step.waiting)
		if len(s.list) != step.left || s.wasted != step.wasted || s.lost != step.lost {
			t.Errorf("at %v: %d left, %d wasted, %d lost; want %+v", step.now, len(s.list), s.wasted, s.lost, step)
		}
	}
}
