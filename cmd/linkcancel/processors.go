package main

import (
	"context"
	"runtime"
	"time"
)

const (
	// processorsCheck is the time between two looks at the load.
	processorsCheck = 250 * time.Millisecond
	// From busyShare of a processor on, the process may use all of them, and below calmShare one again.
	busyShare, calmShare = 0.8, 0.5
)

// adaptProcessors lets the process use one processor at a time while that is enough, until ctx ends. Go wakes
// another one for each goroutine that could run there, which took a fifth of a worker's CPU time.
func adaptProcessors(ctx context.Context, most float64) {
	all := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(all)
	used, known := cpuTime()
	if all == 1 || most <= oneProcessor || !known {
		<-ctx.Done()
		return
	}
	ticker := time.NewTicker(processorsCheck)
	defer ticker.Stop()
	now := 1
	for at := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		before, since := used, at
		used, _ = cpuTime()
		at = time.Now()
		if next := processors(now, all, (used-before).Seconds()/at.Sub(since).Seconds()); next != now {
			runtime.GOMAXPROCS(next)
			now = next
		}
	}
}

// processors returns how many processors to use after a time in which so many were busy on average.
func processors(now, all int, busy float64) int {
	switch {
	case busy >= busyShare:
		return all
	case busy < calmShare:
		return 1
	}
	return now
}
