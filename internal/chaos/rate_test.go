package main

import (
	"testing"
	"time"

	"linkcancel/internal/sandbox"
)

func TestRateIsChecked(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const limit = 100
	// requests are as many per second as rate says, a bunch of them at 5 s.
	requests := func(rate float64, bunch int) (all []sandbox.Request) {
		for i := range int(rate * 20) {
			at := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			all = append(all, sandbox.Request{Time: at})
			if i == int(rate*5) {
				for range bunch {
					all = append(all, sandbox.Request{Time: at})
				}
			}
		}
		return all
	}
	for _, test := range []struct {
		name  string
		rate  float64
		bunch int
		bad   bool
	}{
		{"at the limit", limit, 0, false},
		{"a late slot", limit * 0.995, 1, false},
		{"a bunch", limit * 0.995, 3, true},
		{"a little over it, for long", limit * 1.02, 0, true},
		{"twice", 2 * limit, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &round{plan: plan{rate: limit}, stalls: &stalls{}}
			(&truth{r: r, requests: requests(test.rate, test.bunch)}).checkRate()
			if bad := len(r.violations) > 0; bad != test.bad {
				t.Errorf("violations: %v", r.violations)
			}
		})
	}
}
