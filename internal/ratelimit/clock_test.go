package ratelimit

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	const ms = time.Millisecond
	type call struct {
		sent, received time.Duration
		epoch          micros
		now            time.Duration // of the fleet
		want           instant       // the fleet's instant 0
	}
	for _, tt := range []struct {
		name  string
		calls []call
	}{
		{"the first reply gives an upper bound", []call{{100 * ms, 110 * ms, 1, 5 * ms, 105 * ms}}},
		{"a lower bound counts at once in the first calls", []call{
			{100 * ms, 110 * ms, 1, 5 * ms, 105 * ms},
			{200 * ms, 202 * ms, 1, 100 * ms, 102 * ms},
			{300 * ms, 309 * ms, 1, 200 * ms, 102*ms + 20*time.Microsecond}, // and drifts
		}},
		{"later it is adopted slowly", []call{
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{1000 * ms, 1002 * ms, 1, 1000 * ms, 10*ms + 200*time.Microsecond - 4*ms},
		}},
		{"an impossible estimate is dropped", []call{
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{0, 10 * ms, 1, 0, 10 * ms},
			{1000 * ms, 1002 * ms, 1, 900 * ms, 102 * ms},    // Redis' clock stopped for a while
			{2000 * ms, 2002 * ms, 1, 5900 * ms, -3898 * ms}, // and was set forward
		}},
		{"a new epoch starts anew", []call{
			{100 * ms, 110 * ms, 1, 5 * ms, 105 * ms},
			{200 * ms, 250 * ms, 2, 5 * ms, 245 * ms},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c clock
			for i, call := range tt.calls {
				c.update(call.sent, call.received, call.epoch, microsOf(call.now))
				if diff := c.instant(0) - call.want; diff < -time.Microsecond || diff > time.Microsecond {
					t.Errorf("after call %d: instant 0 is at %v, want %v", i+1, c.instant(0), call.want)
				}
			}
		})
	}
	var c clock
	for i, lag := range []time.Duration{10 * ms, 0, 0, 0, 0} {
		if c.ready() {
			t.Errorf("ready after %d calls", i)
		}
		c.update(0, lag, 1, 0)
	}
	if c.update(0, 0, 2, 0); c.ready() {
		t.Error("ready after one call of another epoch")
	}
	if c.instant(neverMicros) != never {
		t.Error("never is not never")
	}
	if want := 5904900 * time.Nanosecond; c.lag != want {
		t.Errorf("the lag decays to %v, want %v", c.lag, want)
	}
	if c.update(0, 0, 2, microsOf(3*time.Second)); c.lag > 300*time.Microsecond {
		t.Errorf("the lag decays to %v after 3 s without a call", c.lag)
	}
}
