package ratelimit

import (
	"math"
	"testing"
	"time"
)

func TestDemand(t *testing.T) {
	// 1,000 slots per second, 50 for each of two processes within the horizon.
	usual := demand{soon: math.MaxInt32, trust: 0.9, horizon: 100 * time.Millisecond, active: 2, interval: 1000}
	// The same for a process alone, and a second.
	alone := demand{soon: math.MaxInt32, trust: 0.9, horizon: time.Second, active: 1, interval: 1000}
	// Among four in a row, of which each needs a caller.
	row := demand{soon: math.MaxInt32, trust: 0.9, speed: 50, horizon: 320 * time.Millisecond, active: 4, interval: 5000}
	// 200,000 per second, far above what is sent.
	fast := demand{soon: math.MaxInt32, trust: 0.9, speed: 100, horizon: 100 * time.Millisecond, active: 1, interval: 5}
	for _, tt := range []struct {
		name         string
		base         demand
		change       func(*demand)
		usable, want int
	}{
		{"nothing to do", usual, func(*demand) {}, 0, 0},
		{"one waits", usual, func(d *demand) { d.waiting = 1 }, 1, 1},
		{"one waits and has a slot", usual, func(d *demand) { d.waiting, d.reserved, d.later = 1, 1, 1 }, 1, 0},
		{"as many as it will likely use", usual, func(d *demand) { d.speed = 200 }, 18, 18},
		{"less if it does not trust its speed", usual, func(d *demand) { d.speed, d.trust = 200, 0.5 }, 10, 10},
		{"no more than it has in hand", usual, func(d *demand) { d.speed, d.waiting, d.soon = 200, 2, 3 }, 5, 5},
		{"more than it needs", usual, func(d *demand) { d.speed, d.reserved, d.later = 100, 20, 20 }, 9, -11},
		{"its fair share", usual, func(d *demand) { d.waiting, d.active = 100, 10 }, 10, 10},
		{"one if its share is less", usual, func(d *demand) { d.waiting, d.active = 100, 120 }, 1, 1},
		{"a probe in a hold", usual, func(d *demand) { d.waiting, d.held = 100, true }, 1, 1},
		{"a few at its own rate", usual, func(d *demand) { d.waiting, d.reserved, d.ownRate = 100, 3, 400 }, 5, 2},
		{"at least one at its own rate", usual, func(d *demand) { d.waiting, d.ownRate = 100, 10 }, 1, 1},
		{"alone, what it may use", alone, func(d *demand) { d.speed = 200 }, 400, 400},
		{"alone, all", alone, func(d *demand) { d.speed, d.reserved, d.later = 990, 100, 100 }, 1000, 900},
		{"alone, in place of those that will be used", alone, func(d *demand) { d.speed, d.reserved, d.later = 990, 100, 98 }, 1000, 902},
		{"alone, a few more than it has in hand", alone, func(d *demand) { d.speed, d.waiting, d.soon = 990, 2, 3 }, 20, 20},
		{"alone, one that waits", alone, func(d *demand) { d.waiting = 1 }, 1, 1},
		{"alone, a probe in a hold", alone, func(d *demand) { d.speed, d.waiting, d.held = 990, 100, true }, 1, 1},
		{"a row of as many as there are callers", row, func(d *demand) { d.waiting, d.flying = 2, 6 }, 8, 8},
		{"a row of as many as there are callers, which are slow", row, func(d *demand) { d.flying, d.took = 4, 21*time.Millisecond; d.speed = 500 }, 4, 4},
		{"a longer row for callers that come back in time", row, func(d *demand) { d.flying, d.took = 4, 20*time.Millisecond; d.speed = 500 }, 16, 16},
		{"a row of what it will likely use", row, func(d *demand) { d.waiting, d.flying = 2, 60 }, 14, 14},
		{"a short row of what it will likely use", row, func(*demand) {}, 4, 4},
		{"a row while calls are slow", row, func(d *demand) { d.lead = 50 * time.Millisecond }, 9, 9},
		{"a stretch at a high limit", fast, func(*demand) {}, 20_000, 20_000},
		{"a stretch beside others", fast, func(d *demand) { d.active = 2 }, 2500, 2500},
		{"the rest of a stretch", fast, func(d *demand) { d.reserved, d.left = 4000, 3000 }, 20_000, 17_000},
		{"no stretch without use", fast, func(d *demand) { d.speed = 0 }, 0, 0},
		{"no stretch if a quarter of the share is not enough", fast, func(d *demand) { d.speed, d.active = 60_000, 2 }, 5400, 5400},
		{"no stretch of few slots", fast, func(d *demand) { d.active = 26 }, 9, 9},
		{"no stretch while others use the schedule", fast, func(d *demand) { d.backlog = 51 * time.Millisecond }, 9, 9},
		{"no stretch in a hold", fast, func(d *demand) { d.held = true }, 1, 1},
		{"no stretch at its own rate", fast, func(d *demand) { d.ownRate = 1000 }, 5, 5},
	} {
		d := tt.base
		tt.change(&d)
		if usable, want := d.slots(); usable != tt.usable || want != tt.want {
			t.Errorf("%s: %d usable, %d wanted; want %d, %d", tt.name, usable, want, tt.usable, tt.want)
		}
	}
}

func TestUsage(t *testing.T) {
	u := usage{sent: 10, trust: trustMost}
	u.average(speedWindow)
	if want := 100 * (1 - 1/math.E); math.Abs(u.speed-want) > 1e-9 || u.sent != 0 {
		t.Errorf("10 requests in 100 ms: %v/s, want %v", u.speed, want)
	}
	for range 100 {
		u.average(speedWindow)
	}
	if u.speed > 1e-9 {
		t.Errorf("%v/s without requests", u.speed)
	}
	u.judge(true)
	if u.trust != trustMost/2 {
		t.Errorf("trust %v after wasted slots", u.trust)
	}
	for range 100 {
		u.judge(false)
	}
	if u.trust != trustMost {
		t.Errorf("trust %v in the end", u.trust)
	}
}
