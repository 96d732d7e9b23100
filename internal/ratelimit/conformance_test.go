package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testLimiter is the conformance suite of a fleet of one process. Each of its
// tests runs in a synctest bubble of its own and calls make inside it, which
// gives the limiter a Redis that goes by the bubble's clock. throttled are the
// rates a second of the APIs in the simulation of 429s.
func testLimiter(t *testing.T, throttled []int, make func(*testing.T, Config) *Fleet) {
	// What happens at once may take so long: the slot has to come due, and a
	// fleet needs a moment to agree.
	const eps = 50 * time.Millisecond

	for _, tt := range []struct {
		name string
		cfg  Config
		test func(t *testing.T, d *driver)
	}{
		{"sends at the rate", Config{Rate: 50}, func(t *testing.T, d *driver) {
			start := time.Now()
			d.times(501, Proper)
			// 500 intervals of 20 ms, and the limiter's margin.
			between(t, "501 requests at 50/s took", time.Since(start), 10*time.Second, 10200*time.Millisecond)
		}},
		{"burst after a quiet time", Config{Rate: 10, Burst: 5}, func(t *testing.T, d *driver) {
			for range 2 {
				start := time.Now()
				d.times(5, Proper)
				between(t, "the burst took", time.Since(start), 0, eps)
				d.times(1, Proper)
				between(t, "one more took", time.Since(start), 95*time.Millisecond, 120*time.Millisecond)
				time.Sleep(2 * time.Second)
			}
		}},
		{"serves in order", Config{Rate: 100}, testOrder},
		{"an ended context ends the wait", Config{Rate: 1}, testCancel},
		{"a slot grows stale", Config{Rate: 100}, func(t *testing.T, d *driver) {
			s := d.acquire()
			time.Sleep(50 * time.Millisecond)
			if s.Stale() {
				t.Error("stale after 50 ms")
			}
			time.Sleep(time.Millisecond)
			if !s.Stale() {
				t.Error("not stale after 51 ms")
			}
			if !(Slot{}).Stale() {
				t.Error("the zero slot is not stale")
			}
			d.Report(s, Answer{Kind: Unused})
		}},
		{"an unused slot is not sent later", Config{Rate: 10}, func(t *testing.T, d *driver) {
			d.times(1, Unused)
			start := time.Now()
			d.times(1, Proper)
			between(t, "the next took", time.Since(start), 95*time.Millisecond, 120*time.Millisecond)
		}},

		{"throttled: Retry-After", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(5*time.Second))
			d.wantHold(ReasonThrottled, 5*time.Second)
			first := d.wantNext(5*time.Second, true)
			d.wantHold(ReasonNone, 0)
			d.Report(first, Answer{Kind: Proper})
			d.wantNext(0, false)
		}},
		{"throttled: after it one request at a time until one is answered well", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(5*time.Second))
			d.wantNext(5*time.Second, true) // hangs
			d.wantNext(time.Second, true)   // hangs too
			d.Report(d.wantNext(time.Second, true), retryAfter(2*time.Second))
			d.Report(d.wantNext(2*time.Second, true), Answer{Kind: Unused})
			d.Report(d.wantNext(0, true), transient(1)) // it may be overloaded still
			d.Report(d.wantNext(0, true), Answer{Kind: Proper})
			d.wantNext(0, false)
		}},
		{"throttled: the longer end stands", Config{Rate: 100}, func(t *testing.T, d *driver) {
			a, b, c := d.acquire(), d.acquire(), d.acquire()
			d.Report(a, retryAfter(5*time.Second))
			time.Sleep(time.Second)
			d.Report(b, retryAfter(time.Second))
			d.wantHold(ReasonThrottled, 4*time.Second)
			d.Report(c, retryAfter(10*time.Second))
			d.wantHold(ReasonThrottled, 10*time.Second)
		}},
		{"throttled: no Retry-After doubles to 30 s", Config{Rate: 100}, func(t *testing.T, d *driver) {
			for _, s := range []int{1, 2, 4, 8, 16, 30, 30} {
				d.Report(d.acquire(), Answer{Kind: Throttled})
				d.wantHold(ReasonThrottled, time.Duration(s)*time.Second)
				d.wantNext(time.Duration(s)*time.Second, true)
			}
			d.times(1, Proper) // starts the doubling afresh
			d.Report(d.acquire(), Answer{Kind: Throttled})
			d.wantHold(ReasonThrottled, time.Second)
		}},
		{"throttled: 429s of one time count once", Config{Rate: 100}, func(t *testing.T, d *driver) {
			var slots []Slot
			for range 5 {
				slots = append(slots, d.acquire())
			}
			before := d.look().Rate
			d.Report(slots[0], Answer{Kind: Throttled})
			cut := d.look().Rate
			if cut >= before {
				t.Errorf("rate %v after a 429, was %v", cut, before)
			}
			for _, s := range slots[1:] {
				d.Report(s, Answer{Kind: Throttled})
			}
			d.wantHold(ReasonThrottled, time.Second)
			if got := d.look().Rate; got != cut {
				t.Errorf("rate %v after 429s to requests from before the cut to %v", got, cut)
			}
		}},
		{"throttled: a past Retry-After is none", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(-time.Hour))
			d.wantHold(ReasonThrottled, time.Second)
		}},
		{"throttled: a long Retry-After is probed every 15 min", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(2*time.Hour))
			d.wantHold(ReasonThrottled, 2*time.Hour)
			d.Report(d.wantNext(15*time.Minute, true), Answer{Kind: Transient})
			d.wantHold(ReasonThrottled, 105*time.Minute)
			d.Report(d.wantNext(15*time.Minute, true), retryAfter(time.Hour))
			d.wantHold(ReasonThrottled, 90*time.Minute)
			d.Report(d.wantNext(15*time.Minute, true), Answer{Kind: Proper})
			d.wantHold(ReasonNone, 0)
			d.wantNext(0, false)
		}},
		{"throttled: late good answers do not end it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			late := d.acquire()
			d.Report(d.acquire(), retryAfter(5*time.Second))
			d.Report(late, Answer{Kind: Proper})
			d.wantHold(ReasonThrottled, 5*time.Second)
		}},
		{"throttled: the cut rate climbs back", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.times(300, Proper)
			d.Report(d.acquire(), retryAfter(time.Second))
			rate := d.wantRate(80, 87) // 0.85 × 99.5
			time.Sleep(time.Second)
			d.wantRate(rate, rate+0.01) // not in the hold
			d.times(1, Proper)
			time.Sleep(20 * time.Second)
			d.wantRate(rate+4.9, rate+5.1) // 0.25 a second
			time.Sleep(10 * time.Second)
			d.wantRate(rate+9.9, rate+10.1) // 0.5 a second
			time.Sleep(10 * time.Second)
			d.wantRate(rate+14.9, 100)
			time.Sleep(5 * time.Second)
			d.wantRate(100, 100) // 1 a second
		}},

		{"unauthorized: probes", Config{Rate: 100, GiveBackUnauthorized: time.Hour}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			for _, s := range []int{1, 2, 4, 8, 16, 30, 30} {
				d.wantHold(ReasonUnauthorized, time.Duration(s)*time.Second)
				d.Report(d.wantNext(time.Duration(s)*time.Second, true), Answer{Kind: Unauthorized})
			}
			d.Report(d.wantNext(30*time.Second, true), Answer{Kind: Proper})
			d.wantHold(ReasonNone, 0)
			d.wantRate(100, 100)
			d.wantNext(0, false)
		}},
		{"unauthorized: answers from before the hold do not end it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			late, later := d.acquire(), d.acquire()
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			d.Report(late, Answer{Kind: Proper})
			d.wantHold(ReasonUnauthorized, time.Second)
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Proper})
			// Nor does an answer to the old key begin another.
			d.Report(later, Answer{Kind: Unauthorized})
			d.wantHold(ReasonNone, 0)
		}},
		{"unauthorized: ProbeNow", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.ProbeNow() // nothing to probe
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Unauthorized})
			d.ProbeNow()
			s := d.wantNext(0, true)
			d.ProbeNow() // the key changed again while the probe is out
			d.Report(s, Answer{Kind: Unauthorized})
			d.Report(d.wantNext(0, true), Answer{Kind: Unauthorized})
			d.wantHold(ReasonUnauthorized, 2*time.Second)
		}},
		{"unauthorized: a 429 in between counts", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			d.Report(d.wantNext(time.Second, true), retryAfter(10*time.Second))
			d.wantHold(ReasonThrottled, 10*time.Second)
			// It said nothing about the key: a probe comes first.
			d.Report(d.wantNext(10*time.Second, true), retryAfter(100*time.Millisecond))
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Proper})
			d.wantNext(0, false)
		}},

		{"outage: begins with 20 failures of 10 links", Config{Rate: 1000}, func(t *testing.T, d *driver) {
			for i := range 19 {
				d.Report(d.acquire(), transient(i))
			}
			d.wantHold(ReasonNone, 0)
			d.Report(d.acquire(), transient(19))
			d.wantHold(ReasonOutage, time.Second)
		}},
		{"outage: not of few links", Config{Rate: 1000}, func(t *testing.T, d *driver) {
			for i := range 60 {
				d.Report(d.acquire(), transient(i%9))
			}
			d.wantHold(ReasonNone, 0)
			d.Report(d.acquire(), transient(9))
			d.wantHold(ReasonOutage, time.Second)
		}},
		{"outage: any other answer in between prevents it", Config{Rate: 1000, GiveBackUnauthorized: time.Hour}, func(t *testing.T, d *driver) {
			for _, a := range []Answer{{Kind: Proper}, retryAfter(time.Second), {Kind: Unauthorized}} {
				for i := range 19 {
					d.Report(d.acquire(), transient(i))
				}
				d.Report(d.acquire(), a)
				d.release()
			}
			for i := range 19 {
				d.Report(d.acquire(), transient(i))
			}
			d.wantHold(ReasonNone, 0)
		}},
		{"outage: probes", Config{Rate: 100}, func(t *testing.T, d *driver) {
			inFlight := d.outage()
			for _, s := range []int{1, 2, 4, 8, 10, 10} {
				d.wantHold(ReasonOutage, time.Duration(s)*time.Second)
				probe := d.wantNext(time.Duration(s)*time.Second, true)
				d.Report(inFlight, transient(0)) // changes nothing
				d.Report(probe, transient(1))
			}
			d.Report(d.wantNext(10*time.Second, true), Answer{Kind: Proper})
			d.wantHold(ReasonNone, 0)
			d.wantRate(10, 10)
			time.Sleep(7 * time.Second)
			d.wantRate(50, 60)
			time.Sleep(8 * time.Second)
			d.wantRate(100, 100)
		}},
		{"outage: a late good answer ends it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.outage(), Answer{Kind: Proper})
			d.wantHold(ReasonNone, 0)
			d.wantRate(10, 10)
		}},
		{"outage: late failures do not begin another", Config{Rate: 100}, func(t *testing.T, d *driver) {
			var late []Slot
			for range 30 {
				late = append(late, d.acquire())
			}
			d.Report(d.outage(), Answer{Kind: Proper})
			for i, s := range late {
				d.Report(s, transient(i))
			}
			d.wantHold(ReasonNone, 0)
		}},
		{"outage: a 429 ends it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			d.Report(d.wantNext(time.Second, true), retryAfter(3*time.Second))
			d.wantHold(ReasonThrottled, 3*time.Second)
			d.wantNext(3*time.Second, true)
			d.wantRate(10, 11)
		}},
		{"outage: a 401 ends it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Unauthorized})
			d.wantHold(ReasonUnauthorized, time.Second)
			d.wantRate(10, 10)
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Proper})
		}},

		{"probe: one at a time, for 20 s", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			lost := d.wantNext(time.Second, true)
			d.wantHold(ReasonOutage, 0)
			second := d.wantNext(20*time.Second, true)
			d.Report(lost, transient(0)) // too late to count
			d.wantHold(ReasonOutage, 0)
			d.Report(second, transient(0))
			d.wantHold(ReasonOutage, 2*time.Second)
		}},
		{"probe: an unused one goes to the next", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			first := d.wantNext(time.Second, true)
			var second Slot
			done := d.go_(func() { second = d.acquire() })
			time.Sleep(time.Second)
			start := time.Now()
			d.Report(first, Answer{Kind: Unused})
			<-done
			between(t, "the next waiter waited", time.Since(start), 0, eps)
			if !second.Probe() {
				t.Error("the next waiter's slot is no probe")
			}
		}},
		{"probe: an unused one of a long Retry-After too", Config{Rate: 100, GiveBack: 2 * time.Hour}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(time.Hour))
			d.Report(d.wantNext(15*time.Minute, true), Answer{Kind: Unused})
			d.wantNext(0, true)
			d.wantNext(15*time.Minute, true) // no answer came: not after 20 s
		}},
		{"probe: counts against the rate", Config{Rate: 0.1, GiveBackUnauthorized: time.Hour}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			start := time.Now()
			d.Report(d.acquire(), Answer{Kind: Proper})
			between(t, "the probe waited", time.Since(start), 10*time.Second, 10100*time.Millisecond)
		}},

		{"manual: until a time", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.holdFleet(time.Now().Add(time.Hour))
			d.holdFleet(time.Now().Add(time.Minute))
			d.wantHold(ReasonManual, time.Minute)
			d.wantNext(time.Minute, false)
			d.holdFleet(time.Now().Add(-time.Minute))
			d.wantHold(ReasonNone, 0)
		}},
		{"manual: for ever", Config{Rate: 100, GiveBack: 1000 * time.Hour}, func(t *testing.T, d *driver) {
			slots := []Slot{d.acquire(), d.acquire(), d.acquire()}
			d.holdFleet(time.Time{})
			d.Report(slots[0], Answer{Kind: Proper})
			d.Report(slots[1], Answer{Kind: Unauthorized})
			d.Report(slots[2], retryAfter(time.Second))
			d.ProbeNow()
			done := d.go_(func() { d.acquire() })
			time.Sleep(100 * time.Hour)
			d.wantHold(ReasonManual, 0)
			select {
			case <-done:
				t.Fatal("a slot was granted in a manual hold")
			default:
			}
			start := time.Now()
			d.release()
			d.wantHold(ReasonNone, 0)
			<-done
			between(t, "after the release the waiter waited", time.Since(start), 0, eps)
		}},
		{"release ends every hold", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(time.Hour))
			d.release()
			d.wantNext(0, false)
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			d.release()
			d.wantNext(0, false)
			d.outage()
			d.release()
			d.wantHold(ReasonNone, 0)
		}},

		{"gives back: unauthorized after 30 s", Config{Rate: 100}, func(t *testing.T, d *driver) {
			waiting := d.acquire()
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			probe := d.wantNext(time.Second, true)
			d.Report(probe, Answer{Kind: Unauthorized})
			d.Report(waiting, Answer{Kind: Unused})
			probe = d.wantNext(2*time.Second, true) // stays out: 20 s
			d.wantHeld(30*time.Second, 20*time.Second)
			_ = probe
		}},
		{"gives back: other holds after an hour", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.holdFleet(time.Time{})
			time.Sleep(10 * time.Hour) // counts from the Acquire
			d.wantHeld(time.Hour)
		}},
		{"gives back: counts from the hold's begin", Config{Rate: 0.01, GiveBack: time.Minute}, func(t *testing.T, d *driver) {
			d.times(1, Proper)
			done := d.go_(func() { d.wantHeld(90 * time.Second) })
			time.Sleep(30 * time.Second)
			d.holdFleet(time.Time{})
			<-done
		}},

		{"OnHold tells all in order", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), retryAfter(2*time.Second))
			time.Sleep(3 * time.Second)
			d.Report(d.acquire(), Answer{Kind: Unauthorized})
			d.holdFleet(time.Now().Add(10 * time.Second))
			time.Sleep(11 * time.Second)
			d.release()
			synctest.Wait()
			want := []Reason{ReasonThrottled, ReasonNone, ReasonUnauthorized, ReasonManual, ReasonUnauthorized, ReasonNone}
			if diff := cmp.Diff(want, d.heard()); diff != "" {
				t.Errorf("OnHold calls (-want +got):\n%s", diff)
			}
		}},
		{"OnHold runs once at a time", Config{Rate: 100}, func(t *testing.T, d *driver) {
			var mu sync.Mutex
			running := 0
			d.onHold = func(Hold) {
				mu.Lock()
				if running++; running > 1 {
					t.Error("two calls at once")
				}
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running--
				mu.Unlock()
			}
			first := d.go_(func() { d.holdFleet(time.Time{}) })
			synctest.Wait()
			start := time.Now()
			d.release()
			between(t, "a call beside a slow OnHold took", time.Since(start), 0, eps)
			<-first
			time.Sleep(time.Minute)
			if diff := cmp.Diff([]Reason{ReasonManual, ReasonNone}, d.heard()); diff != "" {
				t.Errorf("OnHold calls (-want +got):\n%s", diff)
			}
		}},
		{"OnHold may use the limiter", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.onHold = func(h Hold) {
				if h.Reason == ReasonManual {
					d.release()
					d.Status()
				}
			}
			d.holdFleet(time.Time{})
			synctest.Wait()
			d.wantHold(ReasonNone, 0)
			if diff := cmp.Diff([]Reason{ReasonManual, ReasonNone}, d.heard()); diff != "" {
				t.Errorf("OnHold calls (-want +got):\n%s", diff)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &driver{t: t, eps: eps}
				cfg := tt.cfg
				cfg.OnHold = d.hear
				d.Fleet = make(t, cfg)
				tt.test(t, d)
			})
		})
	}

	for _, rate := range []Rate{50, 500, 2000} {
		for _, burst := range []int{1, 10} {
			t.Run(fmt.Sprintf("window at %v, burst %d", rate, burst), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					testWindow(t, make(t, Config{Rate: rate, Burst: burst}), rate, burst)
				})
			})
		}
	}
	t.Run("outage simulation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { testOutageSimulation(t, make(t, Config{Rate: 200})) })
	})
	for _, rate := range throttled {
		for _, api := range []quota{
			&bucketQuota{rate: float64(rate), depth: float64(rate)},
			&bucketQuota{rate: float64(rate), depth: max(2, float64(rate)/10)},
			&secondQuota{rate: rate},
		} {
			for _, retryAfter := range []bool{false, true} {
				t.Run(fmt.Sprintf("throttled simulation at %d/s by %v, Retry-After %v", rate, api, retryAfter), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						testThrottledSimulation(t, make(t, Config{Rate: Rate(4 * rate)}), rate, api, retryAfter)
					})
				})
			}
		}
	}
}

// driver uses a limiter and checks what it does.
type driver struct {
	*Fleet
	t      *testing.T
	eps    time.Duration
	onHold func(Hold)

	hearing sync.Mutex
	reasons []Reason
}

func retryAfter(d time.Duration) Answer {
	return Answer{Kind: Throttled, RetryAfter: d, HasRetryAfter: true}
}

func transient(link int) Answer { return Answer{Kind: Transient, Link: fmt.Sprint("link ", link)} }

func (d *driver) hear(h Hold) {
	if (h.Reason == ReasonNone) != h.Since.IsZero() {
		d.t.Errorf("OnHold(%+v): since does not fit the reason", h)
	}
	d.hearing.Lock()
	d.reasons = append(d.reasons, h.Reason)
	d.hearing.Unlock()
	if d.onHold != nil {
		d.onHold(h)
	}
}

func (d *driver) heard() []Reason {
	d.hearing.Lock()
	defer d.hearing.Unlock()
	return d.reasons
}

func (d *driver) acquire() Slot {
	d.t.Helper()
	s, err := d.Acquire(context.Background())
	if err != nil {
		d.t.Errorf("acquire: %v", err)
	}
	if err == nil && s.Stale() {
		d.t.Error("acquired a stale slot")
	}
	return s
}

func (d *driver) times(n int, k Kind) {
	for range n {
		d.Report(d.acquire(), Answer{Kind: k})
	}
}

// outage begins one. It returns a slot granted before.
func (d *driver) outage() Slot {
	d.t.Helper()
	before := d.acquire()
	for i := range 20 {
		d.Report(d.acquire(), transient(i))
	}
	d.wantHold(ReasonOutage, time.Second)
	return before
}

// holdFleet holds the fleet until the given time, as the command line does.
func (d *driver) holdFleet(until time.Time) {
	d.t.Helper()
	if err := HoldFleet(context.Background(), d.cfg.Redis, until); err != nil {
		d.t.Error(err)
	}
	d.wake()
}

func (d *driver) release() {
	d.t.Helper()
	if err := ReleaseFleet(context.Background(), d.cfg.Redis); err != nil {
		d.t.Error(err)
	}
	d.wake()
}

// wake lets the process call the script, as the word of another process does.
func (d *driver) wake() {
	d.mu.Lock()
	d.told = true
	d.wakeRun(d.now())
	d.unlock()
}

// look lets the process learn what has changed, and returns its status.
func (d *driver) look() Status {
	d.wake()
	synctest.Wait()
	return d.Status()
}

func (d *driver) go_(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

// wantHold checks the present hold and how long it still lasts: 0 for not known.
func (d *driver) wantHold(reason Reason, lasts time.Duration) {
	d.t.Helper()
	h := d.look().Hold
	got := time.Duration(0)
	if !h.Until.IsZero() {
		got = time.Until(h.Until)
	}
	if h.Reason != reason || got < lasts-d.eps || got > lasts+d.eps {
		d.t.Errorf("hold %q for %v, want %q for %v", h.Reason, got, reason, lasts)
	}
}

// wantNext checks that the next slot comes after the given time, and what it is.
func (d *driver) wantNext(after time.Duration, probe bool) Slot {
	d.t.Helper()
	start := time.Now()
	s := d.acquire()
	if got := time.Since(start); got < after-d.eps || got > after+d.eps {
		d.t.Errorf("the next slot took %v, want %v", got, after)
	}
	if s.Probe() != probe {
		d.t.Errorf("the next slot: probe %v, want %v", s.Probe(), probe)
	}
	return s
}

// wantHeld checks that Acquire, called once for each time at once, returns
// ErrHeld after the first, and for the others a probe after theirs.
func (d *driver) wantHeld(held time.Duration, probes ...time.Duration) {
	d.t.Helper()
	var wg sync.WaitGroup
	start := time.Now()
	for _, after := range probes {
		wg.Go(func() { d.wantNext(after, true) })
		synctest.Wait()
	}
	_, err := d.Acquire(context.Background())
	if !errors.Is(err, ErrHeld) {
		d.t.Errorf("acquire in a long hold: %v, want ErrHeld", err)
	}
	between(d.t, "ErrHeld took", time.Since(start), held, held+d.eps)
	wg.Wait()
}

func (d *driver) wantRate(low, high Rate) Rate {
	d.t.Helper()
	got := d.look().Rate
	if got < low || got > high {
		d.t.Errorf("rate %v, want %v to %v", float64(got), float64(low), float64(high))
	}
	return got
}

func between(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s %v, want %v to %v", what, got, low, high)
	}
}

func testOrder(t *testing.T, d *driver) {
	const n = 5000
	var mu sync.Mutex
	var got, want []int
	var wg sync.WaitGroup
	d.acquire()
	for i := range n {
		ctx, cancel := context.WithCancel(t.Context())
		if i%7 == 3 { // some leave, from the middle too
			time.AfterFunc(time.Second, cancel)
		}
		wg.Go(func() {
			defer cancel()
			s, err := d.Acquire(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			got = append(got, i)
			mu.Unlock()
			d.Report(s, Answer{Kind: Proper})
		})
		synctest.Wait()         // it waits before the next comes
		if i%7 != 3 || i < 98 { // about 99 are served before the others leave
			want = append(want, i)
		}
	}
	wg.Wait()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
}

func testCancel(t *testing.T, d *driver) {
	d.times(1, Proper)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Acquire(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("acquire with an ended context: %v", err)
	}
	for _, hold := range []bool{false, true} {
		if hold {
			d.holdFleet(time.Time{})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		start := time.Now()
		_, err := d.Acquire(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 300*time.Millisecond {
			t.Errorf("acquire (hold %v): %v after %v", hold, err, time.Since(start))
		}
		cancel()
	}
	d.release()
	// Those who left took no slot with them.
	d.wantNext(400*time.Millisecond, false)
}

// testWindow lets jittery callers send for a minute, in which all stall for
// 3 s twice, and counts every window of a second and more.
func testWindow(t *testing.T, l *Fleet, rate Rate, burst int) {
	const length = 60 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var mu sync.Mutex
	var sent []time.Duration // when granted
	bunch := 0               // of those sent at a stall's end
	start := time.Now()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			for {
				s, err := l.Acquire(ctx)
				if err != nil {
					return
				}
				now := time.Since(start)
				// All stall between grant and sending.
				stalled := false
				for _, stall := range []time.Duration{20 * time.Second, 40 * time.Second} {
					if now >= stall && now < stall+3*time.Second {
						time.Sleep(stall + 3*time.Second - now)
						stalled = true
					}
				}
				if s.Stale() {
					l.Report(s, Answer{Kind: Unused})
					continue
				}
				mu.Lock()
				sent = append(sent, now)
				if stalled {
					bunch++
				}
				mu.Unlock()
				time.Sleep(rand.N(30 * time.Millisecond))
				l.Report(s, Answer{Kind: Proper})
				time.Sleep(rand.N(time.Millisecond))
			}
		})
	}
	wg.Wait()
	slices.Sort(sent)
	for _, window := range []time.Duration{time.Second, 1234567 * time.Microsecond, 2 * time.Second, 10 * time.Second, length} {
		// Rounded up: the window may begin just before a request.
		limit := int(math.Ceil(float64(rate)*window.Seconds())) + burst - 1
		most := fullest(sent, window)
		if most > limit {
			t.Errorf("%d requests in a window of %v, want at most %d", most, window, limit)
		}
		if window == time.Second {
			t.Logf("fullest second: %d", most)
		}
	}
	// Of a stall's slots only those of its last 50 ms may be used.
	if most := 2 * (int(float64(rate)*(staleAfter+catchUp).Seconds()) + burst); bunch > most {
		t.Errorf("%d requests in bunches after the stalls, want at most %d", bunch, most)
	}
	perSecond := float64(len(sent)) / (length - 6*time.Second).Seconds()
	t.Logf("%.1f/s on average outside the stalls", perSecond)
	if perSecond < 0.97*float64(rate) {
		t.Errorf("%.1f requests a second, want %v", perSecond, rate)
	}
}

// fullest returns how many of the ascending times lie in the fullest window.
func fullest(times []time.Duration, window time.Duration) int {
	most, first := 0, 0
	for i, at := range times {
		for times[first] <= at-window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// load keeps callers busy with send until ctx ends.
func load(ctx context.Context, l *Fleet, callers int, send func(link string) Answer) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for range callers {
		wg.Go(func() {
			for {
				s, err := l.Acquire(ctx)
				if err != nil {
					return
				}
				mu.Lock()
				n++
				link := fmt.Sprint(n)
				mu.Unlock()
				a := send(link)
				a.Link = link
				l.Report(s, a)
			}
		})
	}
	wg.Wait()
}

// testOutageSimulation: 200/s to an API that fails for 60 s.
func testOutageSimulation(t *testing.T, l *Fleet) {
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	start := time.Now()
	var mu sync.Mutex
	during, after := 0, 0
	full := time.Duration(0)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			s := l.Status()
			if time.Since(start) > 90*time.Second && full == 0 && s.Hold.Reason == ReasonNone && s.Rate == 200 {
				full = time.Since(start)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	load(ctx, l, 50, func(string) Answer {
		at := time.Since(start)
		down := at >= 30*time.Second && at < 90*time.Second
		mu.Lock()
		if down {
			during++
		} else if at >= 120*time.Second {
			after++
		}
		mu.Unlock()
		time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond))
		if down {
			return Answer{Kind: Transient}
		}
		return Answer{Kind: Proper}
	})
	<-watched
	t.Logf("%d requests in 60 s of outage; full rate %v after its end; then %.1f/s", during, full-90*time.Second, float64(after)/30)
	if during >= 100 {
		t.Errorf("%d requests in the outage, want fewer than 100", during)
	}
	if after < 30*195 {
		t.Errorf("%d requests in the 30 s from 30 s after the outage, want 6000", after)
	}
	if full == 0 || full > 120*time.Second {
		t.Errorf("full rate %v after the outage, want at most 30 s", full-90*time.Second)
	}
}

// quota is an API's own limit.
type quota interface {
	allow(since time.Duration) bool
	String() string
}

// bucketQuota is a token bucket of the given depth.
type bucketQuota struct {
	rate, depth, tokens float64
	last                time.Duration
}

func (q *bucketQuota) String() string { return fmt.Sprintf("a bucket of %v", q.depth) }

func (q *bucketQuota) allow(since time.Duration) bool {
	if since < q.last { // used anew
		q.tokens, q.last = q.depth, since
	}
	q.tokens = min(q.depth, q.tokens+(since-q.last).Seconds()*q.rate)
	q.last = since
	if q.tokens < 1 {
		return false
	}
	q.tokens--
	return true
}

// secondQuota counts the requests of each second of the clock.
type secondQuota struct {
	rate, used int
	second     time.Duration
}

func (q *secondQuota) String() string { return "the second" }

func (q *secondQuota) allow(since time.Duration) bool {
	if second := since / time.Second; second != q.second {
		q.used, q.second = 0, second
	}
	q.used++
	return q.used <= q.rate
}

// testThrottledSimulation: an API that allows rate requests a second, under a
// ceiling four times as high.
func testThrottledSimulation(t *testing.T, l *Fleet, rate int, api quota, withRetryAfter bool) {
	const settle, length = 10 * time.Second, 300 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), settle+length)
	defer cancel()
	start := time.Now()
	var mu sync.Mutex
	good, throttled := 0, 0
	load(ctx, l, max(50, rate/4), func(string) Answer {
		time.Sleep(20*time.Millisecond + rand.N(40*time.Millisecond))
		mu.Lock()
		since := time.Since(start)
		ok := api.allow(since)
		if since >= settle {
			if ok {
				good++
			} else {
				throttled++
			}
		}
		mu.Unlock()
		time.Sleep(20*time.Millisecond + rand.N(40*time.Millisecond))
		switch {
		case ok:
			return Answer{Kind: Proper}
		case withRetryAfter:
			return retryAfter(time.Second)
		}
		return Answer{Kind: Throttled}
	})
	share := float64(throttled) / float64(good+throttled)
	used := float64(good) / length.Seconds() / float64(rate)
	t.Logf("%.2f %% of the answers are 429; %.1f %% of the API's rate used", 100*share, 100*used)
	most, least := 0.02, 0.8
	if rate < 10 { // one 429 weighs more, and chance too
		most, least = 0.03, 0.7
	}
	if share >= most {
		t.Errorf("%.2f %% of the answers are 429, want less than %.0f %%", 100*share, 100*most)
	}
	if used < least {
		t.Errorf("%.1f %% of the API's rate used, want at least %.0f %%", 100*used, 100*least)
	}
}
