package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"linkcancel/internal/ledger"
)

// figures are the numbers of a round, or of all.
type figures struct {
	round      int
	rounds     int
	workers    int
	rate       int
	batches    int
	links      int
	requests   int
	spoilt     int // requests that got no proper answer
	inFaults   int // requests while faults were let loose
	faults     map[kind]int
	outcomes   ledger.Counts
	documented map[string]int
	fullest    float64 // the fullest second, as a part of the limit
	took       time.Duration
	goingOn    time.Duration // from the last fault to the end of all work
	violations int
}

func (t *truth) figures() figures {
	f := figures{
		round: t.r.plan.round, rounds: 1, workers: t.r.plan.workers, rate: t.r.plan.rate, batches: len(t.batches), requests: len(t.requests),
		faults: map[kind]int{}, documented: t.documented, took: t.r.closed.Sub(t.r.began), goingOn: t.r.closed.Sub(t.r.ended), violations: len(t.r.violations),
	}
	for _, b := range t.batches {
		f.links += int(b.Total)
		for o, n := range b.Counts {
			f.outcomes[o] += n
		}
	}
	for _, q := range t.requests {
		if q.Fault != "" {
			f.spoilt++
		}
		if q.Time.Before(t.r.ended) {
			f.inFaults++
		}
	}
	for _, m := range t.r.timeline {
		f.faults[m.kind]++
	}
	_, most := fullest(t.requests, time.Second)
	f.fullest = float64(most) / float64(t.r.plan.rate)
	return f
}

// add adds the figures of a round.
func (f *figures) add(g figures) {
	if f.faults == nil {
		f.faults, f.documented = map[kind]int{}, map[string]int{}
	}
	f.rounds++
	f.batches += g.batches
	f.links += g.links
	f.requests += g.requests
	f.spoilt += g.spoilt
	f.violations += g.violations
	f.took += g.took
	f.goingOn = max(f.goingOn, g.goingOn)
	f.fullest = max(f.fullest, g.fullest)
	for k, n := range g.faults {
		f.faults[k] += n
	}
	for k, n := range g.documented {
		f.documented[k] += n
	}
	for o, n := range g.outcomes {
		f.outcomes[o] += n
	}
}

func (f figures) faultSum() (n int) {
	for _, k := range f.faults {
		n += k
	}
	return n
}

// head and line make the table of rounds.
func (s *suite) head() {
	fmt.Fprintf(s.out, "%5s %8s %8s %8s %9s %9s %8s %10s %7s %10s\n", "round", "workers", "limit", "faults", "links", "requests", "spoilt", "fullest s", "took", "violations")
}

func (s *suite) line(f figures) {
	fmt.Fprintf(s.out, "%5d %8d %6d/s %8d %9s %9s %8s %9.1f%% %5.0f s %10d\n", f.round, f.workers, f.rate, f.faultSum(), grouped(f.links),
		grouped(f.requests), grouped(f.spoilt), 100*f.fullest, f.took.Seconds(), f.violations)
}

// total prints the figures of all rounds.
func (s *suite) total() {
	f := s.sum
	row := func(name string, n int) { fmt.Fprintf(s.out, "  %-72s %9s\n", name, grouped(n)) }
	fmt.Fprintf(s.out, "\nFaults\n")
	kinds := []kind{failedOver}
	for _, card := range deck {
		kinds = append(kinds, card.kind)
	}
	for _, k := range kinds {
		if n := f.faults[k]; n > 0 {
			row(string(k), n)
		}
	}
	row("all", f.faultSum())
	row("beside them: requests that got no proper answer", f.spoilt)
	fmt.Fprintf(s.out, "\nLinks, by what became of them\n")
	for _, o := range ledger.Outcomes {
		row(o.String(), int(f.outcomes[o]))
	}
	row("all", f.links)
	if len(f.documented) > 0 {
		fmt.Fprintf(s.out, "\nOf them, explained by the limits of the promise\n")
		for _, name := range slices.Sorted(maps.Keys(f.documented)) {
			row(name, f.documented[name])
		}
	}
	fmt.Fprintf(s.out, "\n%d rounds, %s faults, %s links in %d batches, %s requests; longest time from the last fault to the end of all work %.0f s\n",
		f.rounds, grouped(f.faultSum()), grouped(f.links), f.batches, grouped(f.requests), f.goingOn.Seconds())
	fmt.Fprintf(s.out, "Violations: %d\n", f.violations)
}

// printFaults prints every fault of a round.
func (t *truth) printFaults(w io.Writer) {
	for _, m := range t.r.timeline {
		fmt.Fprintf(w, "      %7.2f s  %5.2f s  %s %s\n", m.from.Sub(t.r.began).Seconds(), m.to.Sub(m.from).Seconds(), m.kind, m.what)
	}
}

// grouped writes a number with spaces between its thousands.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
