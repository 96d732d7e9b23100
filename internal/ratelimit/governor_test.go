package ratelimit

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, math.Abs(b)) }

func TestClimbed(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want float64 // steps
	}{
		{0, 0},
		{time.Second, 1},
		{20 * time.Second, 20},
		{21 * time.Second, 22},
		{40 * time.Second, 60},
		{50 * time.Second, 100},
		{60 * time.Second, 140},
	} {
		if got := climbed(tt.d); !near(got, tt.want) {
			t.Errorf("climbed(%v) = %v, want %v", tt.d, got, tt.want)
		}
	}
	if got := climbed(never); got < 1e6 || math.IsInf(got, 0) || math.IsNaN(got) {
		t.Errorf("climbed(never) = %v, want a large number", got)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	at := time.Duration(0)
	for range 100 { // 20 a second for 5 s
		at += 50 * time.Millisecond
		m.add(at)
	}
	if got := m.rate(at + 49*time.Millisecond); got < 19 || got > 21 {
		t.Errorf("rate after 5 s of 20/s: %v", got)
	}
	if got := m.rate(at + 550*time.Millisecond); got < 8 || got > 11 {
		t.Errorf("rate half a second later: %v", got)
	}
	if got := m.rate(at + time.Second); got != 0 {
		t.Errorf("rate a second later: %v", got)
	}
	if got := m.rate(at + time.Hour); got != 0 {
		t.Errorf("rate an hour later: %v", got)
	}

	m = meter{}
	for i := range 30 {
		m.add(time.Duration(i) * 10 * time.Millisecond)
	}
	if got := m.rate(300 * time.Millisecond); got < 95 || got > 105 {
		t.Errorf("rate after the first 0.3 s of 100/s: %v", got)
	}
}

// TestGovernorCut gives a governor good answers for two seconds and then a 429.
func TestGovernorCut(t *testing.T) {
	for _, tt := range []struct {
		name          string
		ceiling, rate float64
		good          int // a second
		want          float64
	}{
		{"to 0.85 of the good answers", 400, 200, 150, 127.5},
		{"at most to half", 400, 200, 40, 100},
		{"at least by a twentieth", 400, 200, 200, 170},
		{"at least by a twentieth though answers came fast", 400, 200, 300, 190},
		{"not below 0.1/s", 10, 0.15, 0, 0.1},
		{"not below a thousandth of the ceiling", 4000, 5, 0, 4},
		{"never up to the floor", 1, 0.05, 0, 0.05},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGovernor(tt.ceiling)
			now := instant(0)
			var seq uint64
			for i := range 2 * tt.good {
				now = time.Duration(i) * time.Second / time.Duration(tt.good)
				seq = g.grant(now, false)
				g.answer(now, seq, Answer{Kind: Proper})
			}
			now = 2*time.Second - 1
			seq = g.grant(now, false)
			g.rate = tt.rate
			g.answer(now, seq, Answer{Kind: Throttled})
			if !near(g.rate, tt.want) {
				t.Errorf("rate %v, want %v", g.rate, tt.want)
			}
		})
	}
}

func TestGovernorCutsOnceASecond(t *testing.T) {
	g := newGovernor(100)
	for i, tt := range []struct {
		at   instant
		want float64
	}{
		{0, 50},
		{400 * time.Millisecond, 50},
		{999 * time.Millisecond, 50},
		{1000 * time.Millisecond, 25},
		{1500 * time.Millisecond, 25},
		{2000 * time.Millisecond, 12.5},
	} {
		g.proving = false
		// Each to a request of its own, after the last cut.
		g.answer(tt.at, g.grant(tt.at, false), retryAfter(time.Millisecond))
		if math.Abs(g.rate-tt.want) > 0.5 { // it climbs a little in between
			t.Errorf("rate after 429 number %d: %v, want %v", i+1, g.rate, tt.want)
		}
	}
	before := g.seq
	now := 5 * time.Second
	g.answer(now, before, retryAfter(time.Millisecond))
	rate := g.rate
	if rate < 12 {
		t.Errorf("rate %v: cut for a request from before the last cut", rate)
	}
}

func TestGovernorNeverCutsToNothing(t *testing.T) {
	g := newGovernor(20)
	for i := range 40 {
		now := instant(i) * 2 * time.Second
		g.proving = false
		g.answer(now, g.grant(now, false), retryAfter(2*time.Second-1))
	}
	if g.rate < floor || g.rate > 2*floor {
		t.Errorf("rate %v after 40 cuts, want %v", g.rate, floor)
	}
}

// What proves that a hold is over says nothing about the rate when it fails.
func TestGovernorProofDoesNotCut(t *testing.T) {
	g := newGovernor(100)
	now := instant(0)
	g.answer(now, g.grant(now, false), retryAfter(time.Second))
	cut := g.rate
	for range 40 {
		now += time.Second
		g.answer(now, g.grant(now, true), retryAfter(time.Second))
	}
	if g.rate != cut {
		t.Errorf("rate %v after 40 failed proofs, was %v", g.rate, cut)
	}
}

// A probe that is given back is not replaced by another in a hold that began
// meanwhile.
func TestGovernorUnusedProbe(t *testing.T) {
	g := newGovernor(100)
	first, late := g.grant(0, false), g.grant(0, false)
	g.answer(0, first, retryAfter(time.Second))
	probe := g.grant(time.Second, true)
	now := time.Second + 100*time.Millisecond
	g.answer(now, late, retryAfter(5*time.Second))
	g.answer(now, probe, Answer{Kind: Unused})
	if at, _ := g.open(now); at < now+5*time.Second {
		t.Errorf("a request may go %v into a hold of 5 s", at-now)
	}
}

// TestGovernorRandom plays random events and checks what always holds.
func TestGovernorRandom(t *testing.T) {
	type flight struct {
		seq   uint64
		probe bool
		at    instant
	}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(1, seed))
		ceiling := []float64{0.5, 10, 2000}[seed%3]
		g := newGovernor(ceiling)
		now := instant(0)
		var out []flight
		for range 3000 {
			now += time.Duration(math.Exp(rng.Float64()*30)) - 1 // up to 3 h
			if rng.IntN(3) > 0 {
				now -= min(now-g.now, time.Duration(rng.Int64N(int64(now-g.now+1))))
			}
			kind := Kind(rng.IntN(5))
			if seed%2 == 0 && rng.IntN(4) > 0 {
				kind = Transient // so that outages happen
			}
			switch n := rng.IntN(100); {
			case n < 50:
				at, probe := g.open(now)
				h := g.hold(now)
				if at < now {
					t.Fatalf("seed %d: open at %v, before now, %v", seed, at, now)
				}
				if at > now {
					if h.reason == ReasonNone && !(g.proving && at <= now+proofExpires) {
						t.Fatalf("seed %d: closed without a hold", seed)
					}
					break
				}
				if probe != (h.reason != ReasonNone || g.proving) || h.reason == ReasonManual {
					t.Fatalf("seed %d: in hold %q a grant with probe %v", seed, h.reason, probe)
				}
				for _, f := range out {
					if probe && f.probe && f.seq == g.probe && now-f.at < proofExpires {
						t.Fatalf("seed %d: a second probe %v after the first", seed, now-f.at)
					}
				}
				out = append(out, flight{g.grant(now, probe), probe, now})
			case n < 92 && len(out) > 0:
				i := rng.IntN(len(out))
				before := g.rate
				if g.tick(now); g.rate < before {
					t.Fatalf("seed %d: the rate fell by time alone", seed)
				}
				g.answer(now, out[i].seq, Answer{
					Kind: kind, Link: strconv.Itoa(rng.IntN(30)),
					HasRetryAfter: rng.IntN(2) == 0, RetryAfter: time.Duration(rng.Int64N(int64(time.Hour))) - time.Minute,
				})
				out = append(out[:i], out[i+1:]...)
			case n < 94:
				g.holdManual(now, now+time.Duration(rng.Int64N(int64(time.Hour))))
			case n < 95:
				g.holdManual(now, never)
			case n < 98:
				g.release(now)
				if h := g.hold(now); h.reason != ReasonNone {
					t.Fatalf("seed %d: hold %q after a release", seed, h.reason)
				}
			default:
				g.probeNow(now)
			}
			if !(g.rate > 0 && g.rate <= ceiling) || g.rate < min(ceiling*recoverFrom, floor) {
				t.Fatalf("seed %d: rate %v under a ceiling of %v", seed, g.rate, ceiling)
			}
			h := g.hold(now)
			if h.reason != ReasonNone && (h.until <= now || h.since > now) {
				t.Fatalf("seed %d: at %v hold %+v", seed, now, h)
			}
			if c := g.change(now); c <= now {
				t.Fatalf("seed %d: change at %v, not after now, %v", seed, c, now)
			}
		}
		// Left alone, an API that works is soon used at the full rate.
		g.release(now)
		now += time.Hour
		if g.tick(now); g.rate != ceiling {
			t.Fatalf("seed %d: rate %v after an hour without trouble, want %v", seed, g.rate, ceiling)
		}
	}
}
