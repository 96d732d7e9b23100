package ratelimit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// book runs only the script, for one process and with a clock of its own.
type book struct {
	t      *testing.T
	rdb    redis.UniversalClient
	flag   Rate
	clock  time.Duration
	number uint64
	last   *reply
}

// eachBook runs a test with the script on the embedded Redis and on a real one.
func eachBook(t *testing.T, flag Rate, test func(b *book)) {
	t.Helper()
	eachRedis(t, func(t *testing.T, open func(*testing.T, Rate) *book) { test(open(t, flag)) })
}

// eachRedis is eachBook for a test of several cases.
func eachRedis(t *testing.T, test func(t *testing.T, open func(*testing.T, Rate) *book)) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, r *broker.Broker) { test(t, books(r)) })
}

// books returns a function that empties a Redis and opens a book on it.
func books(r *broker.Broker) func(*testing.T, Rate) *book {
	b := &book{rdb: r.Client()}
	b.rdb.AddHook(clockHook{func() time.Time { return time.UnixMicro(1e15).Add(b.clock) }, b.rdb})
	return func(t *testing.T, flag Rate) *book {
		*b = book{t: t, rdb: b.rdb, flag: flag}
		redistest.Flush(t, b.rdb)
		b.look()
		return b
	}
}

// call makes one call of the script. Slots are always due.
func (b *book) call(want int, events ...event) *reply {
	b.t.Helper()
	b.number++
	b.last = ask(b.t, b.rdb, request{
		process: "one", run: "a", number: b.number, rate: b.flag, burst: 1e6, usable: want, want: want, events: events,
	})
	return b.last
}

func (b *book) look() *reply {
	b.t.Helper()
	return b.call(0)
}

func (b *book) pass(d time.Duration) { b.clock += d }

// grant takes a slot, which must be granted now, and returns its number.
func (b *book) grant() uint64 {
	b.t.Helper()
	if r := b.call(1); r.n != 1 {
		b.t.Fatalf("no slot: %+v", r)
	}
	return b.last.first
}

func (b *book) good(seq uint64) *reply {
	b.t.Helper()
	return b.call(0, event{kind: "proper", seq: seq, count: 1})
}

// throttle reports 429s for two links.
func (b *book) throttle(seq uint64, wait time.Duration) *reply {
	b.t.Helper()
	b.throttled(seq, "a:429:0", wait)
	return b.throttled(seq, "b:429:0", wait)
}

// throttled reports a 429 for a suspect: link, status, and 1 for a repeat.
func (b *book) throttled(seq uint64, suspect string, wait time.Duration) *reply {
	b.t.Helper()
	return b.call(0, event{kind: "throttled", seq: seq, link: suspect, wait: microsOf(wait), text: suspect})
}

// answers reports so many good answers per second for almost the given time.
func (b *book) answers(length time.Duration, perSecond int) {
	b.t.Helper()
	for i := range int(length / (100 * time.Millisecond)) {
		if i > 0 {
			b.pass(100 * time.Millisecond)
		}
		if perSecond > 0 {
			b.call(0, event{kind: "proper", seq: b.grant(), count: perSecond / 10})
		}
	}
	b.pass(99 * time.Millisecond)
}

func (b *book) unused(seq uint64) *reply {
	b.t.Helper()
	return b.call(0, event{kind: "unused", seq: seq})
}

// set sets a field of the fleet's state.
func (b *book) set(field string, value any) {
	b.t.Helper()
	if err := b.rdb.HSet(b.t.Context(), fleetKey, field, value).Err(); err != nil {
		b.t.Fatal(err)
	}
}

// opens returns how long no slot may be granted.
func (b *book) opens() time.Duration {
	b.t.Helper()
	return (b.look().opens - b.last.now).duration()
}

func (b *book) wantRate(want, within float64) {
	b.t.Helper()
	if got := b.look().rate; math.Abs(got-want) > within {
		b.t.Errorf("after %v: rate %v, want %v", b.clock, got, want)
	}
}

// TestScriptCut reports good answers for two seconds, and then a 429.
func TestScriptCut(t *testing.T) {
	tests := []struct {
		name          string
		ceiling, rate float64
		good          int // per second
		want          float64
	}{
		{"to 0.85 of the good answers", 400, 200, 150, 127.5},
		{"at most to half", 400, 200, 40, 100},
		{"at least by a twentieth", 400, 200, 200, 170},
		{"at least by a twentieth though answers came fast", 400, 200, 300, 190},
		{"not below 0.1/s", 10, 0.15, 0, 0.1},
		{"not below a thousandth of the ceiling", 4000, 5, 0, 4},
		{"never up to the floor", 1, 0.05, 0, 0.05},
	}
	eachRedis(t, func(t *testing.T, open func(*testing.T, Rate) *book) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := open(t, Rate(tt.ceiling))
				b.answers(2*time.Second, tt.good)
				seq := b.grant()
				b.set("rate", tt.rate)
				b.throttle(seq, 0)
				b.wantRate(tt.want, 0.002*tt.want)
			})
		}
	})
}

func TestScriptCutsOnceASecond(t *testing.T) {
	eachBook(t, 100, func(b *book) {
		for i, tt := range []struct {
			at   time.Duration
			want float64
		}{
			{0, 50},
			{400 * time.Millisecond, 50},
			{999 * time.Millisecond, 50},
			{1000 * time.Millisecond, 25},
			{1500 * time.Millisecond, 25},
			{2000 * time.Millisecond, 12.5},
		} {
			b.clock = tt.at
			// The request of each was sent after the last cut.
			b.set("proving", 0)
			seq := b.grant()
			b.throttle(seq, time.Millisecond)
			if got := b.last.rate; math.Abs(got-tt.want) > 0.5 { // it climbs a little in between
				t.Errorf("rate after 429 number %d: %v, want %v", i+1, got, tt.want)
			}
		}
		before := b.last.seq
		b.clock = 5 * time.Second
		b.throttle(before, time.Millisecond)
		if b.last.rate < 12 {
			t.Errorf("rate %v: cut for a request from before the last cut", b.last.rate)
		}
	})
}

func TestScriptNeverCutsToNothing(t *testing.T) {
	eachBook(t, 20, func(b *book) {
		for range 40 {
			b.pass(2 * time.Second)
			b.set("proving", 0)
			b.throttle(b.grant(), 2*time.Second-time.Microsecond)
		}
		if b.last.rate < 0.1 || b.last.rate > 0.2 {
			t.Errorf("rate %v after 40 cuts, want 0.1", b.last.rate)
		}
	})
}

// A 429 to the request that follows a hold does not cut the rate.
func TestScriptProofDoesNotCut(t *testing.T) {
	eachBook(t, 100, func(b *book) {
		cut := b.throttle(b.grant(), time.Second).rate
		for range 40 {
			b.pass(time.Second)
			b.throttled(b.grant(), "c:429:0", time.Second)
		}
		if b.last.rate != cut {
			t.Errorf("rate %v after 40 failed proofs, was %v", b.last.rate, cut)
		}
	})
}

// After a cut the rate climbs by steps of 0.25% of the ceiling: one per second for 20 s,
// then two, then four.
func TestScriptClimbs(t *testing.T) {
	eachBook(t, 1000, func(b *book) {
		b.throttle(b.grant(), time.Second)
		b.pass(time.Second)
		b.good(b.grant())
		b.set("rate", 100)
		start := b.clock
		for _, tt := range []struct {
			after time.Duration
			steps float64
		}{
			{0, 0},
			{time.Second, 1},
			{20 * time.Second, 20},
			{21 * time.Second, 22},
			{40 * time.Second, 60},
			{50 * time.Second, 100},
			{60 * time.Second, 140},
			{70 * time.Second, 220},
			{100 * time.Second, 360}, // the ceiling
			{1e6 * time.Second, 360},
		} {
			b.clock = start + tt.after
			b.wantRate(100+2.5*tt.steps, 1e-6)
		}
	})
}

// A cut counts the good answers of the last second.
func TestScriptMeter(t *testing.T) {
	eachRedis(t, func(t *testing.T, open func(*testing.T, Rate) *book) {
		for _, tt := range []struct {
			quiet time.Duration
			want  float64 // the rate, after 1,000 good answers per second and a quiet time
		}{
			{0, 850},
			{500 * time.Millisecond, 500}, // a cut is to half at most
			{time.Hour, 500},
		} {
			b := open(t, 1000)
			b.answers(5*time.Second, 1000)
			b.pass(tt.quiet)
			if got := b.throttle(b.grant(), 0).rate; math.Abs(got-tt.want) > 1 {
				t.Errorf("%v after 1,000 good answers per second a cut to %v, want %v", tt.quiet, got, tt.want)
			}
		}
	})
}

// A probe that is given back is not replaced if another hold has begun.
func TestScriptUnusedProbe(t *testing.T) {
	eachBook(t, 100, func(b *book) {
		first, late := b.grant(), b.grant()
		b.throttle(first, time.Second)
		b.pass(time.Second)
		probe := b.grant()
		b.pass(100 * time.Millisecond)
		b.throttle(late, 5*time.Second)
		b.unused(probe)
		if opens := b.opens(); opens < 5*time.Second {
			t.Errorf("a request may go %v into a hold of 5 s", opens)
		}
	})
}

// TestScriptRandom plays random events and checks invariants. It needs a fast Redis.
func TestScriptRandom(t *testing.T) {
	t.Parallel()
	seeds := uint64(9)
	var r *broker.Broker
	if redistest.Have(t) {
		r = redistest.Open(t, redistest.Start(t))
	} else {
		r, seeds = broker.Embedded(), 3
		t.Cleanup(func() { _ = r.Close() })
	}
	open := books(r)
	for seed := range seeds {
		p := &play{book: open(t, []Rate{0.5, 10, 2000}[seed%3]), rng: rand.New(rand.NewPCG(1, seed)), seed: seed}
		for range 300 {
			p.step()
		}
		p.recovers()
	}
}

// play is a random sequence of what can happen.
type play struct {
	*book
	rng  *rand.Rand
	seed uint64
	out  []flight
}

// flight is a request without an answer so far.
type flight struct {
	seq   uint64
	probe bool
	at    time.Duration
}

func (p *play) step() {
	before := p.last.rate
	if p.rng.IntN(3) == 0 {
		p.pass(time.Duration(math.Exp(p.rng.Float64() * 30))) // up to 3 h
	}
	switch n := p.rng.IntN(100); {
	case n < 50:
		p.ask()
	case n < 92 && len(p.out) > 0:
		i := p.rng.IntN(len(p.out))
		p.call(0, p.answer(p.out[i].seq))
		p.out = append(p.out[:i], p.out[i+1:]...)
	case n < 94:
		p.call(0, event{kind: "hold", wait: micros(p.rng.Int64N(3600e6))})
	case n < 95:
		p.call(0, event{kind: "hold", wait: neverMicros})
	case n < 98:
		if p.call(0, event{kind: "release"}); p.holds() {
			p.t.Fatalf("seed %d: a hold after a release: %+v", p.seed, p.last)
		}
	default:
		if p.look().rate < before {
			p.t.Fatalf("seed %d: the rate fell by time alone", p.seed)
		}
	}
	p.check()
}

// ask asks for a slot.
func (p *play) ask() {
	proving := p.field("proving") == "1"
	r := p.call(1)
	if r.n == 0 {
		if !p.holds() && !(proving && r.opens <= r.now+microsOf(time.Second)) {
			p.t.Fatalf("seed %d: closed without a hold: %+v", p.seed, r)
		}
		return
	}
	if r.probe != (p.holds() || proving) || r.manualUntil > r.now {
		p.t.Fatalf("seed %d: a grant with probe %v: %+v", p.seed, r.probe, r)
	}
	for _, f := range p.out {
		if r.probe && f.probe && p.clock-f.at < time.Second {
			p.t.Fatalf("seed %d: a second probe %v after the first", p.seed, p.clock-f.at)
		}
	}
	p.out = append(p.out, flight{r.first, r.probe, p.clock})
}

func (p *play) holds() bool {
	return p.last.manualUntil > p.last.now || p.last.throttleUntil > p.last.now || p.last.outage
}

func (p *play) field(name string) string {
	return p.rdb.HGet(p.t.Context(), fleetKey, name).Val()
}

// answer returns a random answer to a grant.
func (p *play) answer(seq uint64) event {
	e := event{kind: []string{"unused", "proper", "unproven", "throttled", "down", "transient", "refused"}[p.rng.IntN(7)], seq: seq, count: 1}
	if p.seed%2 == 0 && p.rng.IntN(4) > 0 {
		e.kind = "transient" // so that outages happen
	}
	e.link = linkHash(fmt.Sprint(p.rng.IntN(30)))
	if e.kind == "throttled" {
		e.link = suspectText(Answer{Link: e.link, Status: 429, Repeat: p.rng.IntN(3) == 0})
	}
	if p.rng.IntN(2) == 0 {
		e.wait = micros(p.rng.Int64N(3600e6))
	}
	return e
}

func (p *play) check() {
	r := p.look()
	if ceiling := float64(p.flag); !(r.rate > 0 && r.rate <= ceiling) || r.rate < min(ceiling*0.1, 0.1) {
		p.t.Fatalf("seed %d: rate %v under a ceiling of %v", p.seed, r.rate, ceiling)
	}
	if r.opens < r.now || r.opens >= neverMicros && r.manualUntil < neverMicros {
		p.t.Fatalf("seed %d: at %v open at %v", p.seed, r.now, r.opens)
	}
}

// recovers checks that the full rate is reached when the API works and there is no manual hold.
func (p *play) recovers() {
	p.call(0, event{kind: "hold", wait: 0})
	until := p.clock + time.Hour + 30*time.Minute // the longest hold of this play, and some probes
	for p.look(); p.last.rate < p.last.ceiling || p.holds(); p.look() {
		if p.clock > until {
			p.t.Fatalf("seed %d: never at the full rate again: %+v", p.seed, p.last)
		}
		p.pass(max((p.last.opens - p.last.now).duration(), time.Second))
		if r := p.call(1); r.n == 1 {
			p.good(r.first)
		}
	}
}
