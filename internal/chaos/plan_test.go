package main

import (
	"reflect"
	"testing"
	"time"
)

func TestPlanFollowsSeed(t *testing.T) {
	one, same, other := newPlan(7, 3, 20*time.Second), newPlan(7, 3, 20*time.Second), newPlan(8, 3, 20*time.Second)
	if !reflect.DeepEqual(one, same) {
		t.Error("the same seed and round made two plans")
	}
	if reflect.DeepEqual(one.events, other.events) || reflect.DeepEqual(one.events, newPlan(7, 4, 20*time.Second).events) {
		t.Error("another seed or round made the same plan")
	}
}

func TestPlanHasEveryKind(t *testing.T) {
	for _, faults := range []time.Duration{10 * time.Second, 40 * time.Second} {
		p := newPlan(1, 1, faults)
		seen := map[kind]int{}
		long := 0
		for i, e := range p.events {
			seen[e.kind]++
			if e.at < 0 || e.at >= faults || i > 0 && e.at < p.events[i-1].at {
				t.Errorf("event %d comes at %v, out of order or out of %v", i, e.at, faults)
			}
			if e.lasts > 6*time.Second {
				long++
			}
		}
		for _, card := range deck {
			if seen[card.kind] == 0 {
				t.Errorf("faults for %v have no %q", faults, card.kind)
			}
		}
		if len(p.events) < int(eventsASecond*faults.Seconds()) || long > 1 {
			t.Errorf("%d events in %v, %d of them long", len(p.events), faults, long)
		}
	}
}

func TestPlanFailsOver(t *testing.T) {
	p, plain := newPlan(7, 3, 40*time.Second), newPlan(7, 3, 40*time.Second)
	p.failOver(withSentinel)
	seen, kept := map[kind]int{}, 0
	for i, e := range p.events {
		seen[e.kind]++
		if e.at < 0 || e.at >= p.faults || i > 0 && e.at < p.events[i-1].at {
			t.Errorf("event %d comes at %v, out of order or out of %v", i, e.at, p.faults)
		}
	}
	for _, e := range plain.events {
		if seen[e.kind] > 0 {
			kept++
		}
	}
	if seen[failedOver] != 5 || len(p.events) != kept+5 || seen[redisKilled]+seen[redisFull]+seen[commandCut] > 0 {
		t.Errorf("%v of %d events", seen, len(plain.events))
	}
}

// TestMutantsFit finds out at once when the code that a mutant changes has changed.
func TestMutantsFit(t *testing.T) {
	for _, m := range mutants {
		if _, err := m.overlay("../..", t.TempDir()); err != nil {
			t.Error(err)
		}
	}
}
