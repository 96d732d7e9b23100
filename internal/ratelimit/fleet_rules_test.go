package ratelimit

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/history"
)

// soon is how long the last process of a fleet takes to notice a change.
const soon = heartbeat + 10*time.Millisecond

// TestFleetRules tests rules that need more than one process.
func TestFleetRules(t *testing.T) {
	real := startRealRedis(t)
	for _, tt := range []struct {
		name  string
		rates []Rate // of the processes
		test  func(t *testing.T, m *model, d []*driver)
	}{
		{"429s of two links that two processes got hold all, and cut all", []Rate{100, 100, 100}, func(t *testing.T, m *model, d []*driver) {
			b := d[1].acquire()
			d[0].times(100, OK)
			a := d[0].acquire()
			d[0].Report(a, retryAfter(5*time.Second))
			d[1].Report(b, retryAfter(5*time.Second))
			cut := d[0].wantRate(75, 87)
			time.Sleep(soon)
			for _, d := range d {
				d.wantHold(ReasonThrottled, 5*time.Second-soon)
				d.wantRate(cut, cut)
			}
			first := d[2].wantNext(5*time.Second-soon, true)
			begin := make(chan time.Duration, 2)
			start := time.Now()
			for _, d := range d[:2] {
				go func() {
					d.acquire()
					begin <- time.Since(start)
				}()
			}
			time.Sleep(500 * time.Millisecond)
			d[2].Report(first, Answer{Kind: OK})
			for range d[:2] {
				between(t, "after the first good answer another process waited", <-begin, 500*time.Millisecond, 500*time.Millisecond+d[0].eps)
			}
		}},
		{"no request in a Retry-After but those reserved", []Rate{100, 100, 100, 100}, func(t *testing.T, m *model, d []*driver) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			var wg sync.WaitGroup
			for _, p := range m.processes[1:] {
				wg.Go(func() { m.drive(ctx, p, 10, 20*time.Millisecond, nil) })
			}
			time.Sleep(2 * time.Second)
			a, b := d[0].acquire(), d[0].acquire()
			at := time.Since(m.start)
			d[0].Report(a, retryAfter(5*time.Second))
			d[0].Report(b, retryAfter(5*time.Second))
			wg.Wait()
			cancel()
			late, last := 0, time.Duration(0)
			for _, sent := range m.sent {
				if sent > at {
					late, last = late+1, sent-at
				}
			}
			t.Logf("%d requests after the 429, the last after %v", late, last)
			if late > 1 || last > 10*time.Millisecond {
				t.Errorf("%d requests after the 429, the last after %v", late, last)
			}
		}},
		{"an outage shows over processes, and one probe ends it", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			for i := range 20 {
				d[i%2].Report(d[i%2].acquire(), transient(i))
				time.Sleep(failureDelay + time.Millisecond)
			}
			time.Sleep(soon)
			for _, d := range d {
				d.wantHold(ReasonOutage, time.Second-soon)
				d.wantCause("500 of link 19")
			}
			if s := show(t, m); s.Hold.Reason != ReasonOutage || s.Hold.Cause != "500 of link 19" {
				t.Errorf("shown: %+v", s.Hold)
			}
			// Both ask; one gets the probe.
			slots := make(chan Slot, 2)
			for _, d := range d {
				go func() {
					s := d.acquire()
					slots <- s
					time.Sleep(3 * time.Second) // a slow answer
					d.Report(s, Answer{Kind: OK})
				}()
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if !(<-slots).Probe() {
				t.Error("the slot in the outage is no probe")
			}
			if len(slots) != 0 {
				t.Error("a second slot in the outage while the probe is out")
			}
			time.Sleep(2*time.Second + soon)
			d[0].wantHold(ReasonNone, 0)
			d[1].wantHold(ReasonNone, 0)
			d[1].wantRate(10, 25)
			time.Sleep(10 * time.Second)
		}},
		{"the probe of a killed process goes to another after 20 s", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			d[0].outage()
			d[0].wantNext(time.Second, true)
			m.processes[0].cut.Store(true)
			d[1].Report(d[1].wantNext(20*time.Second, true), Answer{Kind: OK})
			d[1].wantHold(ReasonNone, 0)
		}},
		{"unauthorized is one process's own", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			d[0].HoldOwn(ReasonUnauthorized, "401")
			d[0].wantHold(ReasonUnauthorized, time.Second)
			d[1].wantHold(ReasonNone, 0)
			d[1].wantNext(0, false)
			s := show(t, m)
			if s.Hold.Reason != ReasonNone || s.Workers[0].Hold.Reason != ReasonUnauthorized || s.Workers[1].Hold.Reason != ReasonNone {
				t.Errorf("shown: %+v", s)
			}
			if err := ReleaseFleet(t.Context(), m.client, history.By{Actor: "ann"}); err != nil {
				t.Error(err)
			}
			time.Sleep(soon)
			d[0].wantHold(ReasonNone, 0)
		}},
		{"an outage of its own is one process's own", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			d[0].HoldOwn(ReasonOutage, "404 of the list")
			time.Sleep(soon)
			d[0].wantHold(ReasonOutage, time.Second-soon)
			d[1].wantHold(ReasonNone, 0)
			d[1].times(3, OK) // the answers of another process do not end it
			time.Sleep(soon)
			s := show(t, m)
			if s.Hold.Reason != ReasonNone || s.Workers[0].Hold.Reason != ReasonOutage || s.Workers[1].Hold.Reason != ReasonNone {
				t.Errorf("shown: %+v", s)
			}
		}},
		{"a control that fails holds nobody if another process has had a proper answer since", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			down := Answer{Kind: Down, Link: ControlLink, Cause: "404 of the list"}
			d[1].times(1, OK)
			for range 2 { // how long ago does not matter: it may have had nothing to send
				time.Sleep(time.Second)
				d[0].Report(d[0].acquire(), down)
				time.Sleep(100 * time.Millisecond)
				d[0].wantHold(ReasonNone, 0)
				d[1].wantHold(ReasonNone, 0)
			}
			d[0].times(1, OK)
			time.Sleep(100 * time.Millisecond)
			d[0].Report(d[0].acquire(), down)
			time.Sleep(soon)
			for _, d := range d {
				d.wantHold(ReasonOutage, time.Second-soon)
				d.wantCause("404 of the list")
			}
		}},
		{"a process's own proper answers do not speak against its control", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			d[0].times(1, OK)
			time.Sleep(100 * time.Millisecond)
			d[0].Report(d[0].acquire(), Answer{Kind: Down, Link: ControlLink})
			time.Sleep(soon)
			d[1].wantHold(ReasonOutage, time.Second-soon)
		}},
		{"unproven answers of another process do not show that the API lives", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			d[1].times(5, Unproven)
			time.Sleep(100 * time.Millisecond)
			d[0].Report(d[0].acquire(), Answer{Kind: Down, Link: ControlLink})
			time.Sleep(soon)
			d[1].wantHold(ReasonOutage, time.Second-soon)
		}},
		{"a manual hold and its release act within a second", []Rate{100, 100}, func(t *testing.T, m *model, d []*driver) {
			time.Sleep(time.Second)
			if err := HoldFleet(t.Context(), m.client, time.Now().Add(time.Minute), history.By{Actor: "ann"}); err != nil {
				t.Error(err)
			}
			time.Sleep(soon)
			d[0].wantHold(ReasonManual, time.Minute-soon)
			d[1].wantHold(ReasonManual, time.Minute-soon)
			if s := show(t, m); s.Hold.Reason != ReasonManual || s.Hold.Cause != "by ann" || time.Until(s.Hold.Until).Round(time.Second) != time.Minute-soon.Round(time.Second) {
				t.Errorf("shown: %+v", s.Hold)
			}
			if err := HoldFleet(t.Context(), m.client, time.Time{}, history.By{Actor: "ann"}); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute)
			d[1].wantHold(ReasonManual, 0)
			if err := ReleaseFleet(t.Context(), m.client, history.By{Actor: "ann"}); err != nil {
				t.Error(err)
			}
			start := time.Now()
			d[1].acquire()
			between(t, "after the release one waited", time.Since(start), 0, soon)
		}},
		{"the ceiling is the lowest flag of those alive", []Rate{100, 40}, func(t *testing.T, m *model, d []*driver) {
			time.Sleep(time.Second)
			d[0].wantRate(40, 40)
			m.processes[1].cut.Store(true)
			time.Sleep(14 * time.Second)
			d[0].wantRate(40, 40)
			time.Sleep(2*time.Second + heartbeat)
			d[0].wantRate(100, 100)
			s := show(t, m)
			s.Hold = Hold{}
			want := FleetStatus{Ceiling: 100, Rate: 100, Burst: 1, Workers: []FleetWorker{{ID: "process-0", Rate: 100}}}
			if diff := cmp.Diff(want, s); diff != "" {
				t.Errorf("shown (-want +got):\n%s", diff)
			}
		}},
		{"a rate that is set overrides flags, but no process exceeds its own", []Rate{400, 50}, func(t *testing.T, m *model, d []*driver) {
			if err := SetFleetRate(t.Context(), m.client, 200, history.By{Actor: "ann"}); err != nil {
				t.Error(err)
			}
			time.Sleep(soon)
			d[0].wantRate(200, 200)
			if s := show(t, m); s.Ceiling != 200 || !s.Override {
				t.Errorf("shown: %+v", s)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			for _, p := range m.processes {
				wg.Go(func() { m.drive(ctx, p, 20, 10*time.Millisecond, nil) })
			}
			wg.Wait()
			m.windows(200, 1, 0)
			t.Logf("%d and %d requests in 10 s", m.processes[0].sent.Load(), m.processes[1].sent.Load())
			if n := m.processes[1].sent.Load(); n > 501 || n < 350 {
				t.Errorf("%d requests in 10 s of the process with 50/s", n)
			}
			if err := SetFleetRate(t.Context(), m.client, 0, history.By{Actor: "ann"}); err != nil {
				t.Error(err)
			}
			time.Sleep(soon)
			d[0].wantRate(50, 50)
		}},
		{"an observer keeps to the fleet's limit and lowers it for nobody", []Rate{100}, func(t *testing.T, m *model, d []*driver) {
			observer := m.join(FleetConfig{Config: Config{Rate: 20}, Observer: true})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			for _, p := range m.processes {
				wg.Go(func() { m.drive(ctx, p, 20, 10*time.Millisecond, nil) })
			}
			wg.Wait()
			m.windows(100, 1, 0)
			if n := m.processes[0].sent.Load() + observer.sent.Load(); n < 980 {
				t.Errorf("%d requests in 10 s at 100/s", n)
			}
			if n := observer.sent.Load(); n > 201 || n < 150 {
				t.Errorf("%d requests in 10 s of the observer with 20/s", n)
			}
			if s := show(t, m); s.Ceiling != 100 || len(s.Workers) != 1 {
				t.Errorf("shown: %+v", s)
			}
			m.processes[0].cut.Store(true)
			time.Sleep(16 * time.Second)
			if s := show(t, m); s.Ceiling != 20 || len(s.Workers) != 0 {
				t.Errorf("shown without workers: %+v", s)
			}
		}},
		{"a process with a low rate of its own gets another slot for one that comes too late", []Rate{100}, func(t *testing.T, m *model, _ []*driver) {
			observer := m.join(FleetConfig{Config: Config{Rate: 1.0 / 60}, Observer: true})
			time.Sleep(soon)
			observer.latency.Store(int64(100 * time.Millisecond))
			for _, least := range []time.Duration{0, 58 * time.Second} {
				start := time.Now()
				if _, err := observer.Acquire(t.Context()); err != nil {
					t.Fatal(err)
				}
				between(t, "a request waited", time.Since(start), least, least+5*time.Second)
			}
		}},
		{"idle processes call seldom", []Rate{100}, func(t *testing.T, m *model, _ []*driver) {
			time.Sleep(time.Minute)
			if n := m.processes[0].calls.Load(); n > 130 { // two per second, and the first ones
				t.Errorf("%d calls in an idle minute", n)
			}
		}},
		{"while Redis is away few calls are made and nothing is sent", []Rate{100}, func(t *testing.T, m *model, d []*driver) {
			d[0].times(10, OK)
			m.server.away.Store(true)
			done := d[0].go_(func() { d[0].acquire() })
			time.Sleep(500 * time.Millisecond)
			before := m.processes[0].calls.Load()
			time.Sleep(time.Minute)
			if n := m.processes[0].calls.Load() - before; n > 180 {
				t.Errorf("%d calls in a minute without Redis", n)
			}
			start := time.Now()
			d[0].Report(Slot{seq: 10}, retryAfter(time.Second)) // does not wait
			between(t, "a report took", time.Since(start), 0, time.Millisecond)
			m.server.away.Store(false)
			<-done
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newModel(t, real)
				var drivers []*driver
				for _, rate := range tt.rates {
					drivers = append(drivers, &driver{t: t, eps: 50 * time.Millisecond, lazy: true, Fleet: m.add(Config{Rate: rate}).Fleet})
				}
				time.Sleep(soon)
				tt.test(t, m, drivers)
			})
		})
	}
}

func show(t *testing.T, m *model) FleetStatus {
	t.Helper()
	s, err := ShowFleet(t.Context(), m.client)
	if err != nil {
		t.Error(err)
	}
	return s
}
