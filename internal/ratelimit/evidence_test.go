package ratelimit

import (
	"context"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// TestScriptEvidence plays answers and checks whether they hold the fleet. A word is a link that
// gets a 429, with ! if it had one before, and with /503 for another status. control is the control
// request. + is a good answer to a new grant, ok a good answer to the control request, ? an
// unproven answer, < a grant, > the good answer to it, and a number is how many milliseconds pass.
func TestScriptEvidence(t *testing.T) {
	tests := []struct {
		name  string
		flag  Rate
		plays string
		holds bool
	}{
		{"one link", 50, "a", false},
		{"one link again and again", 50, "a 300 a! 300 a! + 300 a! a! 1000 a!", false},
		{"one link that is always new", 50, "a a a + a a", false},
		{"two links", 50, "a b", true},
		{"two links within a second", 50, "a 990 b", true},
		{"two links after more", 50, "a 1100 b", false},
		{"two links, a good answer in between", 50, "a + b", false},
		{"two links, a late good answer in between", 50, "< a > b", true},
		{"two links, an unproven answer in between", 50, "a ? b", true},
		{"two links of other statuses", 50, "a b/503", false},
		{"two links, 503", 50, "a/503 b/503", true},
		{"two links that both had it", 50, "a! b! 100 a! b!", false},
		{"a new link after one that had it", 50, "a! b", true},
		{"a link that had it after a new one", 50, "a b!", true},
		{"three links between good answers", 50, "a + 600 b + 600 c", true},
		{"three links within more than 2 s", 50, "a + 1100 b + 1100 c", false},
		{"three links, one had it", 50, "a + b! + c", false},
		{"three links, the last had it", 50, "a + b + c!", false},
		{"three links of two statuses", 50, "a + b/503 + c", false},
		{"three answers, two links", 50, "a + b + a", false},
		{"a link, then the control request", 50, "a + control", true},
		{"a link that had it, then the control request", 50, "a! + 1000 control", true},
		{"the control request alone", 50, "control control", false},
		{"the control request too late", 50, "a + 2100 control", false},
		{"the control request, of another status", 50, "a/503 + control", false},
		{"the control request was answered well", 50, "a ok control", false},
		{"a link after the control request", 50, "control a", true},
		{"two links at a low rate", 0.5, "a 7900 b", true},
		{"two links at a low rate, too late", 0.5, "a 8100 b", false},
		{"three links at a low rate", 0.5, "a + 18000 b + 18000 c", true},
		{"three links at a low rate, too late", 0.5, "a + 20500 b + 20500 c", false},
	}
	eachRedis(t, func(t *testing.T, open func(*testing.T, Rate) *book) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := open(t, tt.flag)
				b.play(tt.plays)
				r := b.look()
				if held := r.throttleUntil > r.now; held != tt.holds {
					t.Errorf("held: %v", held)
				}
				if cut := r.rate < float64(tt.flag); cut != tt.holds {
					t.Errorf("rate %v of %v", r.rate, tt.flag)
				}
				if (r.cause != "") != tt.holds {
					t.Errorf("cause %q", r.cause)
				}
			})
		}
	})
}

func (b *book) play(words string) {
	b.t.Helper()
	var flying uint64
	for _, word := range strings.Fields(words) {
		ms, err := strconv.Atoi(word)
		switch {
		case err == nil:
			b.pass(time.Duration(ms) * time.Millisecond)
		case word == "<":
			flying = b.grant()
		case word == ">":
			b.good(flying)
		case word == "+":
			b.good(b.grant())
		case word == "ok":
			b.call(0, event{kind: "proper", seq: b.grant(), count: 1, text: ControlLink})
		case word == "?":
			b.call(0, event{kind: "unproven", seq: b.grant(), count: 1})
		default:
			b.throttled(b.grant(), suspectOf(word), time.Second)
		}
	}
}

// suspectOf reads "link", "link!" and "link/503".
func suspectOf(word string) string {
	a := Answer{Status: 429}
	word, a.Repeat = strings.CutSuffix(word, "!")
	link, status, found := strings.Cut(word, "/")
	if found {
		a.Status, _ = strconv.Atoi(status)
	}
	a.Link = link
	return suspectText(a)
}

// At a high rate "many links" means a part of the good answers.
func TestScriptEvidenceAtAHighRate(t *testing.T) {
	eachBook(t, 2000, func(b *book) {
		b.answers(2*time.Second, 800)
		links := 0
		for ; b.last.throttleUntil <= b.last.now && links < 50; links++ {
			if links > 0 {
				b.good(b.grant())
			}
			b.play(fmt.Sprint("link", links))
		}
		if links < 16 || links > 17 { // 1% of 1,600 in 2 s, and of those in between
			t.Errorf("held after %d links", links)
		}
	})
}

// Links that had no 429 before decide how long the hold is.
func TestScriptHoldsForNewLinks(t *testing.T) {
	eachRedis(t, func(t *testing.T, open func(*testing.T, Rate) *book) {
		for _, tt := range []struct {
			first, second string
			want          time.Duration
		}{
			{"a:429:0", "b:429:0", 20 * time.Second},
			{"a:429:0", "b:429:1", 5 * time.Second},
			{"a:429:1", "b:429:0", 20 * time.Second},
		} {
			b := open(t, 50)
			b.throttled(b.grant(), tt.first, 5*time.Second)
			b.throttled(b.grant(), tt.second, 20*time.Second)
			if got := b.opens(); got != tt.want {
				t.Errorf("%s, %s: held for %v, want %v", tt.first, tt.second, got, tt.want)
			}
		}
	})
}

// A link that had a 429 before extends a hold by a second at most, and does not begin another.
func TestScriptRepeatInAHold(t *testing.T) {
	eachBook(t, 50, func(b *book) {
		late := b.grant()
		b.throttle(b.grant(), 3*time.Second)
		b.throttled(late, "c:429:1", time.Minute)
		if got := b.opens(); got != 3*time.Second {
			t.Errorf("held for %v, want 3 s", got)
		}
		b.pass(2500 * time.Millisecond)
		b.throttled(late, "c:429:1", time.Minute)
		if got := b.opens(); got != time.Second {
			t.Errorf("held for %v, want 1 s", got)
		}
		b.pass(time.Second)
		for range 3 {
			b.throttled(b.grant(), "c:429:1", time.Minute)
			if b.last.throttleUntil > b.last.now {
				t.Fatal("the hold has begun anew")
			}
			if got := b.opens(); got != time.Second {
				t.Errorf("the next request may go after %v, want 1 s", got)
			}
			b.pass(time.Second)
		}
		b.good(b.grant())
		if got := b.opens(); got != 0 {
			t.Errorf("the next request may go after %v, want 0", got)
		}
	})
}

// A suspect resets the growth of the climb, unless it had a 429 before.
func TestScriptSuspectsSlowTheClimb(t *testing.T) {
	eachRedis(t, func(t *testing.T, open func(*testing.T, Rate) *book) {
		for suspect, steps := range map[string]float64{"z:429:0": 70, "z:429:1": 100} {
			b := open(t, 1000)
			b.throttle(b.grant(), time.Second)
			b.pass(time.Second)
			b.good(b.grant())
			b.set("rate", 100)
			b.pass(40 * time.Second) // 60 steps; the next 10 s have 40
			b.throttled(b.grant(), suspect, 0)
			b.pass(10 * time.Second)
			b.wantRate(100+2.5*steps, 1e-6)
		}
	})
}

func TestScriptUnprovenAnswersCountForTheRate(t *testing.T) {
	eachBook(t, 400, func(b *book) {
		for i := range 20 {
			if i > 0 {
				b.pass(100 * time.Millisecond)
			}
			b.call(0, event{kind: "unproven", seq: b.grant(), count: 20})
		}
		b.pass(99 * time.Millisecond)
		b.throttle(b.grant(), 0)
		b.wantRate(200, 1) // half, as 0.85 of 200 is less
	})
}

func TestAnswerCause(t *testing.T) {
	for _, tt := range []struct{ cause, want string }{
		{"", ""},
		{"429", "429"},
		{"a\xffb", "a\uFFFDb"},
		{strings.Repeat("x", 200), strings.Repeat("x", 200)},
		{strings.Repeat("x", 201), strings.Repeat("x", 200)},
		{strings.Repeat("x", 199) + "é", strings.Repeat("x", 199)},
	} {
		if got := (Answer{Cause: tt.cause}).cause(); got != tt.want || !utf8.ValidString(got) {
			t.Errorf("of %q is kept %q, want %q", tt.cause, got, tt.want)
		}
	}
}

func TestKindString(t *testing.T) {
	for k := Unused; k <= Down; k++ {
		if got := k.String(); got == "" || strings.HasPrefix(got, "kind") {
			t.Errorf("kind %d has no name", k)
		}
	}
	if got := Kind(99).String(); got != "kind 99" {
		t.Errorf("kind 99 is %q", got)
	}
}

// Links that always get a 429, a 503 with Retry-After or a 401 do not slow the others.
func TestFleetPoisonedLinks(t *testing.T) {
	t.Parallel()
	real := startRealRedis(t)
	const links, rate = 600, 50
	synctest.Test(t, func(t *testing.T) {
		client := newBubbleRedis(t, real).dial(t, nil)
		start := time.Now()
		var mu sync.Mutex
		var holds []Hold
		done, next, finished := 0, 0, time.Duration(0)
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for _, id := range []string{"one", "two"} {
			f := runFleet(t, FleetConfig{Redis: client, Process: id, Config: Config{Rate: rate, OnHold: func(h Hold) {
				mu.Lock()
				holds = append(holds, h)
				mu.Unlock()
			}}})
			poisoned := make(chan Answer, 4)
			if id == "one" {
				poisoned <- Answer{Kind: Throttled, Link: "429", Status: 429, RetryAfter: 2 * time.Second, HasRetryAfter: true}
				poisoned <- Answer{Kind: Throttled, Link: "503", Status: 503, RetryAfter: 2 * time.Second, HasRetryAfter: true}
				poisoned <- Answer{Kind: Unauthorized, Link: "401", Status: 401}
				poisoned <- Answer{Kind: Unproven, Link: "403", Status: 403}
			}
			for range 20 {
				wg.Go(func() {
					for {
						s, err := f.Acquire(ctx)
						if err != nil {
							return
						}
						var a Answer
						select {
						case a = <-poisoned:
						default:
							mu.Lock()
							a = Answer{Kind: OK, Link: strconv.Itoa(next)}
							next++
							mu.Unlock()
						}
						time.Sleep(20*time.Millisecond + mathrand.N(60*time.Millisecond))
						f.Report(s, a)
						if a.Kind != OK {
							a.Repeat = true
							time.AfterFunc(2*time.Second, func() { poisoned <- a })
							continue
						}
						mu.Lock()
						if done++; done == links {
							finished = time.Since(start)
						}
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		time.Sleep(5 * time.Second)
		t.Logf("%d links in %v", links, finished)
		if finished == 0 || finished > 1100*time.Millisecond*links/rate {
			t.Errorf("%d of %d links; all after %v, want %v", done, links, finished, time.Second*links/rate)
		}
		if len(holds) > 0 {
			t.Errorf("holds: %+v", holds)
		}
		if s, err := ShowFleet(t.Context(), client); err != nil || s.Rate != rate {
			t.Errorf("the rate is %v (%v), want %d", s.Rate, err, rate)
		}
	})
}

// TestFleetRecovers answers at random, and checks that the full rate is reached when the API works.
func TestFleetRecovers(t *testing.T) {
	real := startRealRedis(t)
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testRecovers(t, real, seed) })
		})
	}
}

func testRecovers(t *testing.T, real *realRedis, seed uint64) {
	const rate, trouble, recovery, after = 40, 60 * time.Second, 4 * time.Minute, 10 * time.Second
	m := newModel(t, real)
	start := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	rng := mathrand.New(mathrand.NewPCG(7, seed))
	kinds := []Kind{Unused, OK, Unproven, Throttled, Unauthorized, Transient, Down}
	weights := make([]int, len(kinds)) // of the answers
	for i := range weights {
		weights[i] = rng.IntN(20)
	}
	answer := func() (a Answer, lost bool, takes time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		takes = time.Duration(rng.Int64N(int64(200 * time.Millisecond)))
		if time.Since(start) >= trouble {
			return Answer{Kind: OK}, false, takes
		}
		a = Answer{
			Kind: pick(rng, kinds, weights), Link: strconv.Itoa(rng.IntN(40)), Status: 429 + 74*rng.IntN(2),
			Repeat: rng.IntN(2) == 0, HasRetryAfter: rng.IntN(2) == 0,
			RetryAfter: time.Duration(math.Exp(rng.Float64()*4)) * time.Second, // up to 54 s
			Cause:      "trouble",
		}
		if a.Kind == Down {
			a.Link = ControlLink
		}
		return a, rng.IntN(100) == 0, takes
	}
	var wg sync.WaitGroup
	for range 2 {
		p := m.add(Config{Rate: rate})
		for i := range 15 {
			wg.Go(func() {
				for ctx.Err() == nil {
					acquire := p.Acquire
					if i == 0 {
						acquire = p.AcquireFirst
					}
					s, err := acquire(ctx)
					if err != nil {
						continue // or ErrHeld
					}
					m.mu.Lock()
					m.sent = append(m.sent, time.Since(m.start))
					m.mu.Unlock()
					a, lost, takes := answer()
					time.Sleep(takes)
					if lost {
						continue
					}
					p.Report(s, a)
					if a.Kind == Unauthorized && time.Since(start) < trouble {
						p.HoldOwn(ReasonUnauthorized, "refused")
					}
				}
			})
		}
	}
	time.Sleep(trouble)
	full := func(p *process) bool {
		s := p.Status()
		return s.Rate == rate && s.Hold.Reason == ReasonNone
	}
	for !full(m.processes[0]) || !full(m.processes[1]) {
		if time.Since(start) > trouble+recovery {
			t.Fatalf("after %v: %+v, %+v", recovery, m.processes[0].Status(), m.processes[1].Status())
		}
		time.Sleep(time.Second)
	}
	recovered := time.Since(start)
	time.Sleep(after)
	cancel()
	wg.Wait()
	used := m.achieved(rate, recovered, recovered+after)
	t.Logf("weights %v: at the full rate after %v", weights, recovered-trouble)
	if used < 0.97 {
		t.Errorf("%.1f %% of the rate is used in the end", 100*used)
	}
}

// pick returns a random kind.
func pick(rng *mathrand.Rand, kinds []Kind, weights []int) Kind {
	sum := 1
	for _, w := range weights {
		sum += w
	}
	n := rng.IntN(sum)
	for i, w := range weights {
		if n < w {
			return kinds[i]
		}
		n -= w
	}
	return OK
}
