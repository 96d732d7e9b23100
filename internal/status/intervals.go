package status

import (
	"time"

	"linkcancel/internal/ledger"
)

// maxIntervals is how many intervals the life of a batch is divided into, at most.
const maxIntervals = 120

// Interval is how many links ended in a part of a batch's life, by outcome.
type Interval struct {
	From, To time.Time
	Counts   ledger.Counts
}

// steps are the lengths of an interval.
var steps = [...]time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
}

// intervalsOf finds out from the records when the links of a batch ended. Each record has the second of
// its outcome. Links that were aborted without being sent are left out.
func intervalsOf(found *ledger.Snapshot, b ledger.Batch) []Interval {
	var first, last uint32
	seen := false
	each := func(do func(o ledger.Outcome, after uint32)) {
		for position := range int(b.Total) {
			if r := found.Record(position); r.Outcome != ledger.None && r.Outcome != ledger.Aborted {
				do(r.Outcome, r.After)
			}
		}
	}
	each(func(_ ledger.Outcome, after uint32) {
		if !seen {
			first, last, seen = after, after, true
		}
		first, last = min(first, after), max(last, after)
	})
	if !seen {
		return nil
	}
	life := time.Duration(last-first+1) * time.Second
	step := steps[len(steps)-1]
	for _, s := range steps {
		if life <= s*maxIntervals {
			step = s
			break
		}
	}
	seconds := uint32(step / time.Second)
	origin := first - first%seconds
	intervals := make([]Interval, min(maxIntervals+1, int((last-origin)/seconds)+1))
	for i := range intervals {
		from := b.Created.Add(time.Duration(origin)*time.Second + time.Duration(i)*step)
		intervals[i].From, intervals[i].To = from, from.Add(step)
	}
	each(func(o ledger.Outcome, after uint32) {
		intervals[min(int((after-origin)/seconds), len(intervals)-1)].Counts[o]++
	})
	return intervals
}
