package main

import (
	"sort"
	"time"

	"linkcancel/internal/sandbox"
)

// arrivalJitter is what the requests may be more than the limit by the API's count, as a part of the
// limit: the promise of docs/guarantees.md. If that is less than one request, it is one.
const arrivalJitter = 0.01

// windows are those over which the rate is counted.
var windows = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}

// checkRate counts the requests of every window.
func (t *truth) checkRate() {
	t.checkWindows(t.requests, float64(t.r.plan.rate))
	for _, span := range t.r.limits {
		from, to := span.from.Add(slack), span.to
		first := sort.Search(len(t.requests), func(i int) bool { return !t.requests[i].Time.Before(from) })
		last := sort.Search(len(t.requests), func(i int) bool { return !t.requests[i].Time.Before(to) })
		if first < last {
			t.checkWindows(t.requests[first:last], span.rate)
		}
	}
}

func (t *truth) checkWindows(requests []sandbox.Request, limit float64) {
	for _, window := range windows {
		at, count := fullest(requests, window)
		if count == 0 {
			continue
		}
		from := requests[at].Time
		seconds := window.Seconds()
		spare := arrivalJitter*seconds + t.r.stalls.within(from, from.Add(window)).Seconds()
		if most := max(limit*(seconds+spare), limit*seconds+1); float64(count) > most {
			t.violate("all requests together stay within the limit", "", "", from, "%d requests within %v, at a limit of %.0f/s: at most %.0f may come", count, window, limit, most)
			return
		}
	}
}

// fullest is the window with the most requests: its first one, and how many they are.
func fullest(requests []sandbox.Request, window time.Duration) (at, most int) {
	first := 0
	for i, q := range requests {
		for q.Time.Sub(requests[first].Time) >= window {
			first++
		}
		if n := i - first + 1; n > most {
			at, most = first, n
		}
	}
	return at, most
}
