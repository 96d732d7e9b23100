package ratelimit

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLocalLateTimer plays a timer that fires late by hand: lateness up to
// 5 ms is caught up, so that a loaded machine keeps the rate; what a stalled
// process missed is given up.
func TestLocalLateTimer(t *testing.T) {
	for _, tt := range []struct {
		late time.Duration
		want int // slots at once
	}{
		{0, 1},
		{4 * time.Millisecond, 4}, // at 995/s; the fifth is not due yet
		{3 * time.Second, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := NewLocal(Config{Rate: 1000})
			slot, err := l.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex
			served := 0
			var wg sync.WaitGroup
			for range 5000 {
				wg.Go(func() {
					if _, err := l.Acquire(ctx); err == nil {
						mu.Lock()
						served++
						mu.Unlock()
					}
				})
			}
			synctest.Wait()
			l.mu.Lock()
			due := l.timerAt
			l.timer.Stop()
			l.mu.Unlock()
			time.Sleep(due - l.now() + tt.late)
			go l.fire()
			synctest.Wait()
			mu.Lock()
			if served != tt.want {
				t.Errorf("timer late by %v: %d slots at once, want %d", tt.late, served, tt.want)
			}
			mu.Unlock()
			cancel()
			wg.Wait()
			l.Report(slot, Answer{Kind: Unused})
		})
	}
}

// TestLocalIdleIsNotLate: what came due while nobody waited is not caught up,
// be it ever so short ago.
func TestLocalIdleIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocal(Config{Rate: 1000})
		for range 5 { // the later ones wait
			if _, err := l.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(4 * time.Millisecond)
		start := time.Now()
		for range 4 {
			if _, err := l.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		between(t, "4 slots after a quiet time took", time.Since(start), 3*time.Millisecond, 4*time.Millisecond)
	})
}

// TestLocalRateChangeMintsNothing cuts and restores the rate at random times:
// between two changes at most rate × time slots come due.
func TestLocalRateChangeMintsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocal(Config{Rate: 100, Burst: 1})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		expected := 1.0 // the bucket's first
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				rate := []float64{100, 1, 50, 0.5}[i%4]
				l.mu.Lock()
				l.gov.rate, l.gov.clear = rate, -time.Hour // no climb
				l.serve(l.now())
				l.mu.Unlock()
				d := 30*time.Millisecond + time.Duration(i%7)*11*time.Millisecond
				expected += rate * d.Seconds()
				time.Sleep(d)
			}
		})
		n := 0
		for {
			s, err := l.Acquire(ctx)
			if err != nil {
				break
			}
			n++
			l.Report(s, Answer{Kind: Proper})
		}
		wg.Wait()
		t.Logf("%d slots in %v, %.0f came due", n, time.Since(start), expected)
		if float64(n) > expected || float64(n) < 0.9*expected {
			t.Errorf("%d slots granted, want at most %.0f and at least 0.9 of that", n, expected)
		}
	})
}

// TestLocalCancelAgainstGrant ends a context at the instant of a grant: the
// probe goes on to the next waiter.
func TestLocalCancelAgainstGrant(t *testing.T) {
	for range 50 { // select picks at random
		synctest.Test(t, func(t *testing.T) {
			l := NewLocal(Config{Rate: 1000})
			s, err := l.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			l.Report(s, Answer{Kind: Unauthorized})
			time.Sleep(500 * time.Millisecond)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				if s, err := l.Acquire(ctx); err == nil {
					l.Report(s, Answer{Kind: Unused})
				}
			}()
			synctest.Wait()
			got := make(chan Slot)
			go func() {
				s, err := l.Acquire(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- s
			}()
			synctest.Wait()
			l.mu.Lock()
			cancel()
			l.gov.probeNow(l.now())
			l.serve(l.now()) // grants the probe to the first
			l.mu.Unlock()
			start := time.Now()
			if s := <-got; !s.Probe() || time.Since(start) > 2*time.Millisecond {
				t.Fatalf("the second waiter got probe %v after %v; want a probe at once", s.Probe(), time.Since(start))
			}
		})
	}
}

func TestNewLocalPanics(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "rate 0/s"},
		{Config{Rate: -1}, "rate -1/s"},
		{Config{Rate: 2e6}, "rate 2000000/s"},
		{Config{Rate: 1, Burst: -1}, "burst -1"},
		{Config{Rate: 1, GiveBack: -1}, "give-back"},
	} {
		func() {
			defer func() {
				if msg, _ := recover().(string); !strings.Contains(msg, tt.want) {
					t.Errorf("NewLocal(%+v) panics with %q, want %q in it", tt.cfg, msg, tt.want)
				}
			}()
			NewLocal(tt.cfg)
		}()
	}
}

// TestLocalConcurrent is for the race detector: real time, everything at once.
func TestLocalConcurrent(t *testing.T) {
	l := NewLocal(Config{Rate: 20000, Burst: 10, OnHold: func(Hold) {}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for n := 0; ; n++ {
				callCtx, end := context.WithTimeout(ctx, time.Duration(1+n%5)*time.Millisecond)
				s, err := l.Acquire(callCtx)
				end()
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
				case n%50 == i:
					l.Report(s, Answer{Kind: Unauthorized})
					l.ProbeNow()
					l.Status()
				case n%70 == i:
					l.HoldManual(time.Now().Add(time.Millisecond))
					l.Report(s, Answer{Kind: Unused})
				case n%90 == i:
					l.Report(s, retryAfter(time.Millisecond))
					l.Release()
				default:
					l.Report(s, Answer{Kind: Proper})
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkAcquireReport is the fast path: slots enough, one caller.
func BenchmarkAcquireReport(b *testing.B) {
	l := NewLocal(Config{Rate: MaxRate, Burst: 1 << 40})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		s, err := l.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		l.Report(s, Answer{Kind: Proper})
	}
}

// BenchmarkAcquireReport50 has 50 callers. At 1 000 000/s one operation cannot
// take less than 1.005 µs; with the large burst, nothing limits it.
func BenchmarkAcquireReport50(b *testing.B) {
	for _, bench := range []struct {
		name  string
		burst int
	}{{"limited", 1}, {"unlimited", 1 << 40}} {
		b.Run(bench.name, func(b *testing.B) {
			l := NewLocal(Config{Rate: MaxRate, Burst: bench.burst})
			ctx := b.Context()
			b.ReportAllocs()
			b.SetParallelism(25)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					s, err := l.Acquire(ctx)
					if err != nil {
						b.Error(err)
						return
					}
					l.Report(s, Answer{Kind: Proper})
				}
			})
		})
	}
}

// BenchmarkRealRate measures how much of the rate a real clock leaves.
func BenchmarkRealRate(b *testing.B) {
	for _, rate := range []Rate{50, 500, 2000, 20000} {
		b.Run(strings.TrimSuffix(rate.String(), "/s"), func(b *testing.B) {
			for b.Loop() {
				l := NewLocal(Config{Rate: rate})
				ctx, cancel := context.WithTimeout(b.Context(), 2*time.Second)
				var mu sync.Mutex
				n := 0
				start := time.Now()
				load(ctx, l, 50, func(string) Answer {
					mu.Lock()
					n++
					mu.Unlock()
					return Answer{Kind: Proper}
				})
				b.ReportMetric(100*float64(n)/time.Since(start).Seconds()/float64(rate), "%ofrate")
				cancel()
			}
		})
	}
}
