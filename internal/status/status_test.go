package status

import (
	"testing"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// march is a batch of 100 links, some of them cancelled.
func march(state ledger.State, cancelled int64) ledger.Batch {
	b := ledger.Batch{ID: "march", State: state, Total: 100}
	b.Counts[ledger.Cancelled] = cancelled
	return b
}

func paused(reason string) ledger.Batch {
	return ledger.Batch{ID: "march", State: ledger.Paused, Reason: reason, Total: 100}
}

func TestMovement(t *testing.T) {
	key := ratelimit.Hold{Reason: ratelimit.ReasonUnauthorized}
	fleet := func(ceiling, rate ratelimit.Rate, workers ...ratelimit.Hold) ratelimit.FleetStatus {
		s := ratelimit.FleetStatus{Ceiling: ceiling, Rate: rate}
		for _, h := range workers {
			s.Workers = append(s.Workers, ratelimit.FleetWorker{Hold: h})
		}
		return s
	}
	held := fleet(50, 50, ratelimit.Hold{})
	held.Hold.Reason = ratelimit.ReasonManual
	none := ratelimit.Hold{}
	for _, tt := range []struct {
		batch ledger.Batch
		fleet ratelimit.FleetStatus
		want  Movement
	}{
		{march("running", 1), fleet(50, 50, none, none), Movement{Beside: "limit 50/s"}},
		{march("running", 1), fleet(50, 49.9, none), Movement{Beside: "limit 50/s"}},
		{march("running", 1), fleet(50, 21.25, none), Movement{Beside: "limit 21/s of 50/s"}},
		{march("ready", 1), fleet(0.5, 0.5, none), Movement{Beside: "limit 30/m"}},
		{march("running", 1), fleet(50, 50, none, key), Movement{Beside: "1 of 2 workers on hold: unauthorized"}},
		{march("running", 1), fleet(50, 50, key), Movement{Stopped: "1 of 1 worker on hold: unauthorized"}},
		{march("running", 1), fleet(50, 50), Movement{Stopped: "no worker is running"}},
		{march("running", 1), held, Movement{Stopped: "on hold: manual"}},
		{paused("by command"), held, Movement{Stopped: "paused (by command)"}},
		{paused(""), fleet(50, 50), Movement{Stopped: "paused"}},
	} {
		if got := (Batch{Batch: tt.batch, Fleet: Fleet{FleetStatus: tt.fleet}}).Movement(); got != tt.want {
			t.Errorf("%s, %+v: %+v, want %+v", tt.batch.State, tt.fleet, got, tt.want)
		}
	}
}

func TestPace(t *testing.T) {
	at := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name    string
		seconds int
		done    func(second int) int64
		want    float64
	}{
		{"steady", 100, func(s int) int64 { return int64(s) * 7 }, 7},
		{"of late", 100, func(s int) int64 { return int64(s*s) / 2 }, 95},
		{"one a minute, over a longer time", 3600, func(s int) int64 { return int64(s / 60) }, 1.0 / 60},
		{"nothing any more", 3600, func(s int) int64 { return int64(min(s, 100)) }, 0},
		{"nothing at all", 5, func(int) int64 { return 3 }, 0},
	} {
		var p Pace
		for s := range tt.seconds {
			p.Add(at.Add(time.Duration(s)*time.Second), tt.done(s))
		}
		rate, known := p.Rate()
		if !known || rate < tt.want*0.95 || rate > tt.want*1.05 {
			t.Errorf("%s: %v, %v, want %v", tt.name, rate, known, tt.want)
		}
		if n := len(p.samples); n > 602 {
			t.Errorf("%s: keeps %d samples", tt.name, n)
		}
	}
	var p Pace
	p.Add(at, 0)
	p.Add(at.Add(399*time.Millisecond), 50)
	if _, known := p.Rate(); known {
		t.Error("a rate is known at once")
	}
}

func TestTimeLeft(t *testing.T) {
	if got := TimeLeft(march("running", 40), 2); got != 30*time.Second {
		t.Error(got)
	}
	if got := TimeLeft(march("running", 40), 1e-12); got != maxLeft {
		t.Error(got)
	}
}
