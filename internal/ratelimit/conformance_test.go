package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/history"
)

// testLimiter checks what one process does. Each test runs in a bubble of its own.
func testLimiter(t *testing.T, real *realRedis) {
	// "At once" may take this long, because a slot is due a little later and a call of
	// the script takes time.
	const eps = 50 * time.Millisecond

	for _, tt := range []struct {
		name string
		cfg  Config
		test func(t *testing.T, d *driver)
	}{
		{"sends at the rate", Config{Rate: 50}, func(t *testing.T, d *driver) {
			start := time.Now()
			d.times(501, OK)
			// 500 intervals of 20 ms, and the limiter's margin.
			between(t, "501 requests at 50/s took", time.Since(start), 10*time.Second, 10200*time.Millisecond)
		}},
		{"burst after a quiet time", Config{Rate: 10, Burst: 5}, func(t *testing.T, d *driver) {
			for range 2 {
				start := time.Now()
				d.times(5, OK)
				between(t, "the burst took", time.Since(start), 0, eps)
				d.times(1, OK)
				between(t, "one more took", time.Since(start), 95*time.Millisecond, 120*time.Millisecond)
				time.Sleep(2 * time.Second)
			}
		}},
		{"serves in order", Config{Rate: 100}, testOrder},
		{"an ended context ends the wait", Config{Rate: 1}, testCancel},
		{"a slot grows stale", Config{Rate: 100}, func(t *testing.T, d *driver) {
			s := d.acquire()
			time.Sleep(5 * time.Millisecond)
			if s.Stale() {
				t.Error("stale after 5 ms")
			}
			time.Sleep(time.Millisecond)
			if !s.Stale() {
				t.Error("not stale after 6 ms")
			}
			if !(Slot{}).Stale() {
				t.Error("the zero slot is not stale")
			}
			// With 100/s the next slot comes 10 ms later.
			p := Permit{Report: d.Report, Acquire: func() (Slot, error) { return d.acquire(), nil }}
			if p.Begin(s); !p.Good() {
				t.Error("late after 6 ms")
			}
			time.Sleep(5 * time.Millisecond)
			if p.Good() {
				t.Error("not late after 11 ms")
			}
			s.probe = true
			if p.Begin(s); !p.Good() {
				t.Error("a probe is late")
			}
			if err := p.Renew(); err != nil || p.Slot.Stale() || p.Slot.Seq() <= s.Seq() || !p.Since.Equal(time.Now()) {
				t.Errorf("another slot: %+v, %v", p, err)
			}
			d.Report(p.Slot, Answer{Kind: Unused})
		}},
		{"an unused slot is not sent later", Config{Rate: 10}, func(t *testing.T, d *driver) {
			d.times(1, Unused)
			start := time.Now()
			d.times(1, OK)
			between(t, "the next took", time.Since(start), 95*time.Millisecond, 120*time.Millisecond)
		}},

		{"throttled: Retry-After", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.throttle(5 * time.Second)
			d.wantHold(ReasonThrottled, 5*time.Second)
			first := d.wantNext(5*time.Second, true)
			d.wantHold(ReasonNone, 0)
			d.Report(first, Answer{Kind: OK})
			d.wantNext(0, false)
		}},
		{"throttled: after it one request at a time until one is answered", Config{Rate: 100}, func(t *testing.T, d *driver) {
			for _, k := range []Kind{OK, Unproven, Unauthorized} {
				d.throttle(5 * time.Second)
				d.wantNext(5*time.Second, true) // hangs
				d.wantNext(time.Second, true)   // hangs too
				d.Report(d.wantNext(time.Second, true), retryAfter(2*time.Second))
				d.Report(d.wantNext(2*time.Second, true), Answer{Kind: Unused})
				d.Report(d.wantNext(0, true), transient(1)) // it may be overloaded still
				d.Report(d.wantNext(0, true), Answer{Kind: k})
				d.Report(d.wantNext(0, false), Answer{Kind: OK})
			}
		}},
		{"throttled: the longer end stands", Config{Rate: 100}, func(t *testing.T, d *driver) {
			a, b := d.acquire(), d.acquire()
			d.throttle(5 * time.Second)
			time.Sleep(time.Second)
			d.Report(a, retryAfter(time.Second))
			d.wantHold(ReasonThrottled, 4*time.Second)
			d.Report(b, retryAfter(10*time.Second))
			d.wantHold(ReasonThrottled, 10*time.Second)
		}},
		{"throttled: no Retry-After doubles to 30 s", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.throttle(0)
			for _, s := range []int{1, 2, 4, 8, 16, 30, 30} {
				d.wantHold(ReasonThrottled, time.Duration(s)*time.Second)
				d.Report(d.wantNext(time.Duration(s)*time.Second, true), Answer{Kind: Throttled})
			}
			d.Report(d.wantNext(30*time.Second, true), Answer{Kind: OK}) // resets the doubling
			d.throttle(0)
			d.wantHold(ReasonThrottled, time.Second)
		}},
		{"throttled: 429s of one time count once", Config{Rate: 100}, func(t *testing.T, d *driver) {
			slots := []Slot{d.acquire(), d.acquire(), d.acquire()}
			before := d.look().Rate
			d.throttle(0)
			cut := d.look().Rate
			if cut >= before {
				t.Errorf("rate %v after 429s, was %v", cut, before)
			}
			for i, s := range slots {
				d.Report(s, Answer{Kind: Throttled, Link: fmt.Sprint("late ", i), Status: 429})
			}
			d.wantHold(ReasonThrottled, time.Second)
			if got := d.look().Rate; got != cut {
				t.Errorf("rate %v after 429s to requests from before the cut to %v", got, cut)
			}
		}},
		{"throttled: a past Retry-After is none", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.throttle(-time.Hour)
			d.wantHold(ReasonThrottled, time.Second)
		}},
		{"throttled: a long Retry-After is probed every 15 min", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.throttle(2 * time.Hour)
			d.wantHold(ReasonThrottled, 2*time.Hour)
			d.Report(d.wantNext(15*time.Minute, true), Answer{Kind: Transient})
			d.wantHold(ReasonThrottled, 105*time.Minute)
			d.Report(d.wantNext(15*time.Minute, true), retryAfter(time.Hour))
			d.wantHold(ReasonThrottled, 90*time.Minute)
			d.Report(d.wantNext(15*time.Minute, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
			d.wantNext(0, false)
		}},
		{"throttled: late good answers do not end it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			late := d.acquire()
			d.throttle(5 * time.Second)
			d.Report(late, Answer{Kind: OK})
			d.wantHold(ReasonThrottled, 5*time.Second)
		}},
		{"throttled: the cut rate climbs back", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.times(300, OK)
			d.throttle(time.Second)
			rate := d.wantRate(80, 87) // 0.85 × 99.5
			time.Sleep(time.Second)
			d.wantRate(rate, rate+0.01) // not in the hold
			d.times(1, OK)
			time.Sleep(20 * time.Second)
			d.wantRate(rate+4.9, rate+5.1) // 0.25 per second
			time.Sleep(10 * time.Second)
			d.wantRate(rate+9.9, rate+10.1) // 0.5 per second
			time.Sleep(10 * time.Second)
			d.wantRate(rate+14.9, 100)
			time.Sleep(5 * time.Second)
			d.wantRate(100, 100) // 1 per second
		}},

		{"unauthorized: 401s alone hold nothing", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.times(50, Unauthorized)
			d.wantHold(ReasonNone, 0)
			d.wantRate(100, 100)
		}},
		{"unauthorized: probes", Config{Rate: 100, giveUpOwn: time.Hour}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonUnauthorized, "401 of the control")
			for i, s := range []int{1, 2, 4, 8, 16, 30, 30} {
				d.wantHold(ReasonUnauthorized, time.Duration(s)*time.Second)
				cause := "401 of the control"
				if i > 0 {
					cause = fmt.Sprint("401 number ", i)
				}
				d.wantCause(cause)
				d.Report(d.wantNext(time.Duration(s)*time.Second, true), Answer{Kind: Unauthorized, Cause: fmt.Sprint("401 number ", i+1)})
			}
			d.Report(d.wantNext(30*time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
			d.wantRate(100, 100)
			d.wantNext(0, false)
		}},
		{"unauthorized: a second HoldOwn changes the cause alone", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonUnauthorized, "first")
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Unauthorized})
			d.HoldOwn(ReasonUnauthorized, "second")
			d.wantHold(ReasonUnauthorized, 2*time.Second)
			d.wantCause("second")
		}},
		{"unauthorized: answers from before the hold do not end it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			late := d.acquire()
			d.HoldOwn(ReasonUnauthorized, "")
			d.Report(late, Answer{Kind: OK})
			d.wantHold(ReasonUnauthorized, time.Second)
			d.Report(d.wantNext(time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
		}},
		{"unauthorized: answers to an old key do not end it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonUnauthorized, "")
			old := d.wantNext(time.Second, true)
			d.KeyChanged()
			d.Report(old, Answer{Kind: OK})
			d.wantHold(ReasonUnauthorized, 0)
			present := d.wantNext(0, true)
			if old.key != 0 || present.key != 1 || present.Seq() <= old.Seq() {
				t.Errorf("slots %d of key %d and %d of key %d", old.Seq(), old.key, present.Seq(), present.key)
			}
			d.Report(present, Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
		}},
		{"unauthorized: KeyChanged", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.KeyChanged() // nothing to probe
			d.HoldOwn(ReasonUnauthorized, "")
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Unauthorized})
			d.KeyChanged()
			s := d.wantNext(0, true)
			d.KeyChanged() // the key changed again while the probe is out
			d.Report(s, Answer{Kind: Unauthorized})
			d.Report(d.wantNext(0, true), Answer{Kind: Unauthorized})
			d.wantHold(ReasonUnauthorized, 2*time.Second)
		}},
		{"unauthorized: other answers to a probe tell nothing of the key", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonUnauthorized, "")
			for range 3 {
				for _, a := range []Answer{{Kind: Unproven}, transient(1), {Kind: Throttled, Link: "one", Status: 429}} {
					d.Report(d.wantNext(time.Second, true), a)
					d.wantHold(ReasonUnauthorized, time.Second)
				}
			}
			d.Report(d.wantNext(time.Second, true), Answer{Kind: OK})
			d.wantNext(0, false)
		}},
		{"unauthorized: a throttled hold beside it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.throttle(10 * time.Second)
			d.HoldOwn(ReasonUnauthorized, "")
			d.wantHold(ReasonThrottled, 10*time.Second)
			d.Report(d.wantNext(10*time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
			d.wantNext(0, false)
		}},

		{"own outage: probes", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonOutage, "404 of the list")
			for i, s := range []int{1, 2, 4, 8, 10, 10} {
				d.wantHold(ReasonOutage, time.Duration(s)*time.Second)
				cause := "404 of the list"
				if i > 0 {
					cause = fmt.Sprint("404 number ", i)
				}
				d.wantCause(cause)
				if !d.look().Hold.Own {
					t.Error("the hold is not the process's own")
				}
				kind := []Kind{Unproven, Transient}[i%2]
				d.Report(d.wantNext(time.Duration(s)*time.Second, true), Answer{Kind: kind, Link: fmt.Sprint(i), Cause: fmt.Sprint("404 number ", i+1)})
			}
			d.Report(d.wantNext(10*time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
			d.wantRate(100, 100)
			d.wantNext(0, false)
		}},
		{"own outage: only a proper answer from within it ends it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			late := d.acquire()
			d.HoldOwn(ReasonOutage, "")
			d.Report(late, Answer{Kind: OK})
			d.wantHold(ReasonOutage, time.Second)
			for range 3 {
				d.Report(d.wantNext(time.Second, true), Answer{Kind: Unauthorized})
				d.wantHold(ReasonOutage, time.Second)
			}
			d.Report(d.wantNext(time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
		}},
		{"own outage: another key does not end it, and sends no probe", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonOutage, "")
			old := d.wantNext(time.Second, true)
			d.KeyChanged()
			d.Report(old, Answer{Kind: Unproven})
			d.wantHold(ReasonOutage, 2*time.Second)
			d.KeyChanged()
			d.wantHold(ReasonOutage, 2*time.Second)
			d.Report(d.wantNext(2*time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
		}},
		{"own outage: a second reason changes the cause alone", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonOutage, "first")
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Down, Link: ControlLink})
			d.HoldOwn(ReasonUnauthorized, "second")
			d.wantHold(ReasonOutage, 2*time.Second)
			d.wantCause("second")
		}},
		{"own outage: AcquireFirst gets the probe", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.HoldOwn(ReasonOutage, "")
			waiting := d.go_(func() { d.acquire() })
			synctest.Wait()
			s, err := d.AcquireFirst(context.Background())
			if err != nil || !s.Probe() {
				t.Errorf("AcquireFirst: %v, probe %v", err, s.Probe())
			}
			d.Report(s, Answer{Kind: OK, Link: ControlLink})
			<-waiting
			d.wantHold(ReasonNone, 0)
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
		{"outage: a proper answer in between prevents it, as does a first 429", Config{Rate: 1000}, func(t *testing.T, d *driver) {
			for _, a := range []Answer{{Kind: OK}, retryAfter(time.Second)} {
				for i := range 19 {
					d.Report(d.acquire(), transient(i))
				}
				d.Report(d.acquire(), a)
			}
			for i := range 19 {
				d.Report(d.acquire(), transient(i))
			}
			d.wantHold(ReasonNone, 0)
		}},
		{"outage: no other answer prevents it", Config{Rate: 1000}, func(t *testing.T, d *driver) {
			again := retryAfter(time.Second)
			again.Repeat = true
			for i := range 19 {
				d.Report(d.acquire(), transient(i))
				for _, a := range []Answer{{Kind: Unproven}, {Kind: Unauthorized}, again, {Kind: Unused}} {
					d.Report(d.acquire(), a)
				}
			}
			d.wantHold(ReasonNone, 0)
			d.Report(d.acquire(), transient(19))
			d.wantHold(ReasonOutage, time.Second)
		}},
		{"outage: not with a hundred unproven answers in between", Config{Rate: 1000}, func(t *testing.T, d *driver) {
			for i := range 19 {
				d.Report(d.acquire(), transient(i))
			}
			d.times(100, Unproven)
			for i := range 19 {
				d.Report(d.acquire(), transient(i))
			}
			d.times(99, Unproven)
			d.wantHold(ReasonNone, 0)
			d.Report(d.acquire(), transient(19))
			d.wantHold(ReasonOutage, time.Second)
		}},
		{"outage: at once if the control request fails", Config{Rate: 100}, func(t *testing.T, d *driver) {
			late := d.acquire()
			d.Report(d.acquire(), Answer{Kind: Down, Link: ControlLink, Cause: "502, text/html"})
			for _, s := range []int{1, 2, 4, 8, 10, 10} {
				d.wantHold(ReasonOutage, time.Duration(s)*time.Second)
				d.wantCause("502, text/html")
				d.Report(d.wantNext(time.Duration(s)*time.Second, true), Answer{Kind: Down, Link: ControlLink, Cause: "502, text/html"})
			}
			d.Report(late, Answer{Kind: Down, Cause: "503"}) // no probe
			d.wantHold(ReasonOutage, 10*time.Second)
			d.wantCause("503")
			d.Report(d.wantNext(10*time.Second, true), Answer{Kind: OK, Link: ControlLink})
			d.wantHold(ReasonNone, 0)
			d.Report(late, Answer{Kind: Down}) // of the earlier outage
			d.wantHold(ReasonNone, 0)
		}},
		{"outage: unproven answers neither end it nor begin it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.times(50, Unproven)
			d.wantHold(ReasonNone, 0)
			inFlight := d.outage()
			d.Report(inFlight, Answer{Kind: Unproven, Cause: "late"})
			d.wantHold(ReasonOutage, time.Second)
			for i := range 3 {
				d.Report(d.wantNext(time.Second<<i, true), Answer{Kind: Unproven, Cause: "404, text/html"})
				d.wantHold(ReasonOutage, time.Second<<(i+1))
				d.wantCause("404, text/html")
			}
			d.Report(d.wantNext(8*time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
		}},
		{"outage: another process soon probes after one with a bad key", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			for i := range 4 {
				d.Report(d.wantNext(time.Second<<i, true), Answer{Kind: Unproven})
			}
			wait := 10 * time.Second
			for range 3 {
				d.Report(d.wantNext(wait, true), Answer{Kind: Unauthorized, Cause: "401"})
				wait = time.Second
				d.wantHold(ReasonOutage, wait)
				d.wantCause("401")
			}
			d.Report(d.wantNext(wait, true), Answer{Kind: OK})
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
			d.Report(d.wantNext(10*time.Second, true), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
			d.wantRate(10, 10)
			time.Sleep(7 * time.Second)
			d.wantRate(50, 60)
			time.Sleep(8 * time.Second)
			d.wantRate(100, 100)
		}},
		{"outage: a late good answer ends it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.Report(d.outage(), Answer{Kind: OK})
			d.wantHold(ReasonNone, 0)
			d.wantRate(10, 10)
		}},
		{"outage: late failures do not begin another", Config{Rate: 100}, func(t *testing.T, d *driver) {
			var late []Slot
			for range 30 {
				late = append(late, d.acquire())
			}
			d.Report(d.outage(), Answer{Kind: OK})
			for i, s := range late {
				d.Report(s, transient(i))
			}
			d.wantHold(ReasonNone, 0)
		}},
		{"outage: a first 429 ends it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			d.Report(d.wantNext(time.Second, true), retryAfter(3*time.Second))
			d.wantHold(ReasonNone, 0)
			d.wantRate(10, 11)
			d.Report(d.wantNext(100*time.Millisecond, false), retryAfter(3*time.Second))
			d.wantHold(ReasonThrottled, 3*time.Second)
			d.wantRate(10.3, 11) // it has grown: the end of the outage counts as a cut
		}},
		{"outage: the 429 that a link always gets does not end it", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.outage()
			d.Report(d.wantNext(time.Second, true), Answer{Kind: Throttled, Link: "one", Status: 429, Repeat: true})
			d.wantHold(ReasonOutage, 2*time.Second)
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
		{"probe: an unused one of a long Retry-After too", Config{Rate: 100, giveUp: 2 * time.Hour}, func(t *testing.T, d *driver) {
			d.throttle(time.Hour)
			d.Report(d.wantNext(15*time.Minute, true), Answer{Kind: Unused})
			d.wantNext(0, true)
			d.wantNext(15*time.Minute, true) // without an answer, not after 20 s
		}},
		{"probe: counts against the rate", Config{Rate: 0.1, giveUpOwn: time.Hour}, func(t *testing.T, d *driver) {
			d.Report(d.acquire(), Answer{Kind: OK})
			d.HoldOwn(ReasonUnauthorized, "")
			start := time.Now()
			d.Report(d.acquire(), Answer{Kind: OK})
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
		{"manual: for ever", Config{Rate: 100, giveUp: 1000 * time.Hour}, func(t *testing.T, d *driver) {
			slots := []Slot{d.acquire(), d.acquire(), d.acquire()}
			d.holdFleet(time.Time{})
			d.Report(slots[0], Answer{Kind: OK})
			d.Report(slots[1], retryAfter(time.Second))
			d.Report(slots[2], retryAfter(time.Second))
			d.HoldOwn(ReasonUnauthorized, "")
			d.KeyChanged()
			done := d.go_(func() { d.acquire() })
			time.Sleep(20 * time.Hour)
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
			d.throttle(time.Hour)
			d.release()
			d.wantNext(0, false)
			d.HoldOwn(ReasonUnauthorized, "")
			d.release()
			d.wantNext(0, false)
			d.outage()
			d.release()
			d.wantHold(ReasonNone, 0)
		}},

		{"AcquireFirst goes ahead of all, in its own order", Config{Rate: 10}, func(t *testing.T, d *driver) {
			d.times(1, OK)
			var mu sync.Mutex
			var order []string
			var wg sync.WaitGroup
			for _, name := range []string{"a", "b", "first", "c", "second"} {
				acquire := d.Acquire
				if len(name) > 1 {
					acquire = d.AcquireFirst
				}
				wg.Go(func() {
					s, err := acquire(t.Context())
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
					d.Report(s, Answer{Kind: OK})
				})
				synctest.Wait()
			}
			wg.Wait()
			if diff := cmp.Diff([]string{"first", "second", "a", "b", "c"}, order); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
		}},
		{"AcquireFirst gets the next probe", Config{Rate: 100}, func(t *testing.T, d *driver) {
			for range 2 {
				d.outage()
				ctx, cancel := context.WithCancel(t.Context())
				others := d.go_(func() {
					if _, err := d.Acquire(ctx); err == nil {
						t.Error("another got the probe")
					}
				})
				synctest.Wait()
				s, err := d.AcquireFirst(t.Context())
				if err != nil || !s.Probe() {
					t.Errorf("probe %v, %v", s.Probe(), err)
				}
				cancel()
				<-others
				d.Report(s, Answer{Kind: OK, Link: ControlLink})
				d.wantHold(ReasonNone, 0)
			}
		}},
		{"AcquireFirst waits no longer than others", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.holdFleet(time.Time{})
			synctest.Wait()
			first := d.go_(func() {
				time.Sleep(30 * time.Minute)
				start := time.Now()
				if _, err := d.AcquireFirst(t.Context()); !errors.Is(err, ErrHeld) {
					t.Error(err)
				}
				between(t, "ErrHeld took", time.Since(start), time.Hour, time.Hour+eps)
			})
			d.wantHeld(time.Hour)
			<-first
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := d.AcquireFirst(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}},
		{"AwaitHold", Config{Rate: 100}, func(t *testing.T, d *driver) {
			await := func(reason Reason, within time.Duration, want bool, took time.Duration) {
				t.Helper()
				start := time.Now()
				if got := d.AwaitHold(t.Context(), reason, within); got != want || time.Since(start) != took {
					t.Errorf("a hold %q: %v after %v, want %v after %v", reason, got, time.Since(start), want, took)
				}
			}
			await(ReasonThrottled, time.Second, false, time.Second)
			await(ReasonThrottled, 0, false, 0)
			time.AfterFunc(600*time.Millisecond, func() { d.HoldOwn(ReasonUnauthorized, "") })
			await(ReasonThrottled, time.Second, false, time.Second)
			await(ReasonUnauthorized, time.Second, true, 0)
			d.Report(d.acquire(), Answer{Kind: OK})
			time.AfterFunc(600*time.Millisecond, func() { d.HoldOwn(ReasonUnauthorized, "") })
			await(ReasonUnauthorized, time.Second, true, 600*time.Millisecond)
			d.holdFleet(time.Now().Add(time.Second)) // it hides the other
			synctest.Wait()
			await(ReasonUnauthorized, time.Second/2, false, time.Second/2)
			await(ReasonUnauthorized, time.Second/2, true, time.Second/2)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if start := time.Now(); d.AwaitHold(ctx, ReasonOutage, time.Second) || time.Since(start) != 300*time.Millisecond {
				t.Errorf("a hold after the end of the context, %v", time.Since(start))
			}
		}},

		{"gives back: unauthorized after 30 s", Config{Rate: 100}, func(t *testing.T, d *driver) {
			waiting := d.acquire()
			d.HoldOwn(ReasonUnauthorized, "")
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
		{"gives back: counts from the hold's begin", Config{Rate: 0.01, giveUp: time.Minute}, func(t *testing.T, d *driver) {
			d.times(1, OK)
			done := d.go_(func() { d.wantHeld(90 * time.Second) })
			time.Sleep(30 * time.Second)
			d.holdFleet(time.Time{})
			<-done
		}},

		{"OnHold tells all in order", Config{Rate: 100}, func(t *testing.T, d *driver) {
			d.throttle(2 * time.Second)
			time.Sleep(3 * time.Second)
			d.Report(d.acquire(), Answer{Kind: OK})
			d.HoldOwn(ReasonUnauthorized, "")
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
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := &driver{t: t, eps: eps}
				cfg := tt.cfg
				cfg.OnHold = d.hear
				d.Fleet = newLimiter(t, real, cfg)
				tt.test(t, d)
			})
		})
	}
}

// testSimulations runs fleets of one process for minutes. throttled are the rates per
// second of the APIs that answer 429.
func testSimulations(t *testing.T, real *realRedis, throttled []int) {
	for _, rate := range []Rate{50, 500, 2000} {
		for _, burst := range []int{1, 10} {
			t.Run(fmt.Sprintf("window at %v, burst %d", rate, burst), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					testWindow(t, newLimiter(t, real, Config{Rate: rate, Burst: burst}), rate, burst)
				})
			})
		}
	}
	t.Run("outage", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { testOutageSimulation(t, newLimiter(t, real, Config{Rate: 200})) })
	})
	for _, rate := range throttled {
		for _, retryAfter := range []bool{false, true} {
			for _, api := range []quota{
				&bucketQuota{rate: float64(rate), depth: float64(rate)},
				&bucketQuota{rate: float64(rate), depth: max(2, float64(rate)/10)},
				&secondQuota{rate: rate},
				&slidingQuota{rate: rate},
			} {
				t.Run(fmt.Sprintf("throttled at %d/s by %v, Retry-After %v", rate, api, retryAfter), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						testThrottledSimulation(t, newLimiter(t, real, Config{Rate: Rate(4 * rate)}), rate, api, retryAfter)
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
	// lazy: changes are noticed only as they are outside of tests.
	lazy bool

	hearing sync.Mutex
	reasons []Reason
}

// retryAfter is a 429 for a link that had none before.
func retryAfter(d time.Duration) Answer {
	return Answer{
		Kind: Throttled, Link: rand.Text(), Status: 429, Cause: "429 of a link",
		RetryAfter: d, HasRetryAfter: true,
	}
}

// throttle answers 429 for two links. wait is the Retry-After, or 0 for none.
func (d *driver) throttle(wait time.Duration) {
	d.t.Helper()
	a, b := d.acquire(), d.acquire()
	for _, s := range []Slot{a, b} {
		answer := retryAfter(wait)
		answer.HasRetryAfter = wait != 0
		d.Report(s, answer)
	}
	d.wantCause("429 of a link")
}

func transient(link int) Answer {
	return Answer{Kind: Transient, Link: fmt.Sprint("link ", link), Status: 500, Cause: fmt.Sprint("500 of link ", link)}
}

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

// outage begins an outage. It returns a slot granted before.
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
	if err := HoldFleet(context.Background(), d.cfg.Redis, until, history.By{Actor: "ann"}); err != nil {
		d.t.Error(err)
	}
	d.wake()
}

func (d *driver) release() {
	d.t.Helper()
	if err := ReleaseFleet(context.Background(), d.cfg.Redis, history.By{Actor: "ann"}); err != nil {
		d.t.Error(err)
	}
	d.wake()
}

// wake makes the process call the script, as a message of another process does.
func (d *driver) wake() {
	d.mu.Lock()
	d.reserver.changed = true
	d.reserver.wake(d.now())
	d.unlock()
}

// look makes the process notice changes, and returns its status.
func (d *driver) look() Status {
	if !d.lazy {
		d.wake()
	}
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

// wantHold checks the present hold and how long it still lasts, or 0 if that is unknown.
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

func (d *driver) wantCause(want string) {
	d.t.Helper()
	if got := d.look().Hold.Cause; got != want {
		d.t.Errorf("cause %q, want %q", got, want)
	}
}

// wantNext checks when the next slot comes, and whether it is a probe.
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

// wantHeld makes several calls of Acquire at once. It checks that one returns ErrHeld
// after the first time, and that each of the others gets a probe after its time.
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
			d.Report(s, Answer{Kind: OK})
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
	d.times(1, OK)
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

// testWindow sends for a minute with jitter and two stalls of 3 s, and counts the
// requests in every window of a second or more.
func testWindow(t *testing.T, l *Fleet, rate Rate, burst int) {
	const length = 60 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var mu sync.Mutex
	var sent []time.Duration // when granted
	bunch := 0               // sent at the end of a stall
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
				time.Sleep(mathrand.N(30 * time.Millisecond))
				l.Report(s, Answer{Kind: OK})
				time.Sleep(mathrand.N(time.Millisecond))
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
	// After a stall only the slots of its last 10 ms may be used.
	if most := 2 * (int(float64(rate)*(staleAfter+maxLateness).Seconds()) + burst); bunch > most {
		t.Errorf("%d requests in bunches after the stalls, want at most %d", bunch, most)
	}
	perSecond := float64(len(sent)) / (length - 6*time.Second).Seconds()
	t.Logf("%.1f/s on average outside the stalls", perSecond)
	if perSecond < 0.97*float64(rate) {
		t.Errorf("%.1f requests a second, want %v", perSecond, rate)
	}
}

// fullest returns the highest number of times in a window. times ascend.
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
				if a.Link == "" {
					a.Link = link
				}
				l.Report(s, a)
			}
		})
	}
	wg.Wait()
}

// testOutageSimulation sends 200/s to an API that fails for 60 s.
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
		time.Sleep(50*time.Millisecond + mathrand.N(100*time.Millisecond))
		if down {
			return Answer{Kind: Transient}
		}
		return Answer{Kind: OK}
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

// slidingQuota counts the requests of the last second.
type slidingQuota struct {
	rate  int
	taken []time.Duration // when, of the last second
}

func (q *slidingQuota) String() string { return "the last second" }

func (q *slidingQuota) allow(since time.Duration) bool {
	for len(q.taken) > 0 && q.taken[0] <= since-time.Second {
		q.taken = q.taken[1:]
	}
	if len(q.taken) >= q.rate {
		return false
	}
	q.taken = append(q.taken, since)
	return true
}

// postponed are links that got a 429 and are sent again later.
type postponed struct {
	links []string
	due   []time.Duration
	times map[string]int
}

// next returns a link that is due, or the new one.
func (p *postponed) next(since time.Duration, fresh string) string {
	for i, due := range p.due {
		if due <= since {
			link := p.links[i]
			p.links, p.due = slices.Delete(p.links, i, i+1), slices.Delete(p.due, i, i+1)
			return link
		}
	}
	return fresh
}

// add postpones a link, longer each time, and returns whether it was postponed before.
func (p *postponed) add(since time.Duration, link string) (repeat bool) {
	n := p.times[link]
	p.times[link]++
	p.links = append(p.links, link)
	p.due = append(p.due, since+min(time.Minute, time.Second<<n)+mathrand.N(time.Second))
	return n > 0
}

// testThrottledSimulation sends to an API that allows rate requests per second, with a
// ceiling four times as high.
func testThrottledSimulation(t *testing.T, l *Fleet, rate int, api quota, withRetryAfter bool) {
	const settle = 10 * time.Second
	length := 150 * time.Second
	if rate < 10 {
		length = 5 * time.Minute // few requests: a share of them varies by chance
	}
	ctx, cancel := context.WithTimeout(t.Context(), settle+length)
	defer cancel()
	start := time.Now()
	var mu sync.Mutex
	good, throttled := 0, 0
	later := postponed{times: map[string]int{}}
	load(ctx, l, max(50, rate/4), func(link string) Answer {
		mu.Lock()
		link = later.next(time.Since(start), link)
		mu.Unlock()
		time.Sleep(20*time.Millisecond + mathrand.N(40*time.Millisecond))
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
		time.Sleep(20*time.Millisecond + mathrand.N(40*time.Millisecond))
		if ok {
			return Answer{Kind: OK}
		}
		mu.Lock()
		defer mu.Unlock()
		return Answer{
			Kind: Throttled, Link: link, Status: 429, Repeat: later.add(time.Since(start), link),
			RetryAfter: time.Second, HasRetryAfter: withRetryAfter,
		}
	})
	share := float64(throttled) / float64(good+throttled)
	used := float64(good) / length.Seconds() / float64(rate)
	t.Logf("%.2f %% of the answers are 429; %.1f %% of the API's rate used", 100*share, 100*used)
	most, least := 0.02, 0.8
	if rate < 10 { // it takes three 429s to see that the links are not the reason
		most, least = 0.1, 0.7
	}
	if share >= most {
		t.Errorf("%.2f %% of the answers are 429, want less than %.0f %%", 100*share, 100*most)
	}
	if used < least {
		t.Errorf("%.1f %% of the API's rate used, want at least %.0f %%", 100*used, 100*least)
	}
}
