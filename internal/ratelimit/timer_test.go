package ratelimit

import (
	"context"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// Both kinds of waits call, none too early, and one that is replaced does not delay the next.
func TestKernelTimer(t *testing.T) {
	fired := make(chan time.Time, 100)
	timer := newKernelTimer(func() { fired <- time.Now() })
	defer timer.Stop()
	timer.Reset(never)
	for _, d := range []time.Duration{20 * time.Millisecond, time.Millisecond, 0, 20 * time.Millisecond, 5 * time.Millisecond} {
		timer.Reset(time.Hour)
		began := time.Now()
		timer.Reset(d)
		if took := (<-fired).Sub(began); took < d {
			t.Errorf("the timer for %v called after %v", d, took)
		}
	}
}

// A limiter with a kernel timer hands out slots, and can be used after Run has ended.
func TestRunWithKernelTimer(t *testing.T) {
	redistest.Each(t, testRunWithKernelTimer)
}

func testRunWithKernelTimer(t *testing.T, b *broker.Broker) {
	f, err := NewFleet(FleetConfig{Config: Config{Rate: 100}, Redis: b.Client(), Process: "one", KernelTimer: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Run(ctx)
	}()
	for range 5 {
		s, err := f.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.Report(s, Answer{Kind: OK})
	}
	stop()
	<-ended
	f.HoldOwn(ReasonUnauthorized, "key refused")
	if reason := f.Status().Hold.Reason; reason != ReasonUnauthorized {
		t.Errorf("after the end the hold is %q", reason)
	}
}
