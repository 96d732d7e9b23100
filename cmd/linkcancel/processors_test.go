package main

import "testing"

func TestProcessors(t *testing.T) {
	const all = 8
	for _, c := range []struct {
		now  int
		busy float64
		want int
	}{
		{1, 0.01, 1}, {1, 0.6, 1}, {1, 0.8, all}, {1, 1, all},
		{all, 3, all}, {all, 0.6, all}, {all, 0.4, 1}, {all, 0, 1},
	} {
		if got := processors(c.now, all, c.busy); got != c.want {
			t.Errorf("%d processors, %v busy: then %d, want %d", c.now, c.busy, got, c.want)
		}
	}
	if used, known := cpuTime(); known && used <= 0 {
		t.Errorf("this process has used %v of CPU time", used)
	}
}
