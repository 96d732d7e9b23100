package ratelimit

import (
	"context"
	_ "embed"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
)

// The script of an earlier release, which reads all fields in each call.
var (
	//go:embed testdata/earlier_rules.lua
	earlierRulesLua string
	//go:embed testdata/earlier_reserve.lua
	earlierReserveLua string
)

// driveAll drives all processes of a model for a time.
func (m *model) driveAll(length time.Duration, callers int) {
	ctx, cancel := context.WithTimeout(m.t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range m.processes {
		wg.Go(func() { m.drive(ctx, p, callers, 10*time.Millisecond, nil) })
	}
	wg.Wait()
	synctest.Wait() // what timers of the test have written can be read
}

// sentBetween counts the requests between two times.
func (m *model) sentBetween(from, to time.Duration) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, at := range m.sent {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

// A process alone makes about one call a second, whatever the rate. In a large fleet each makes about one.
func TestCallsAreFew(t *testing.T) {
	real := startRealRedis(t)
	for _, tt := range []struct {
		processes int
		rate      Rate
		most      float64 // calls a second
	}{{1, 10, 1.5}, {1, 50, 1.5}, {1, 200, 1.5}, {1, 1000, 1.5}, {100, 200, 150}} {
		t.Run(fmt.Sprintf("%d at %v", tt.processes, tt.rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newModel(t, real)
				for range tt.processes {
					m.add(Config{Rate: tt.rate})
				}
				const warm, length = 3 * time.Second, 8 * time.Second
				calls := func() (n int64) {
					for _, p := range m.processes {
						n += p.calls.Load()
					}
					return n
				}
				var before int64
				time.AfterFunc(warm, func() { before = calls() })
				m.driveAll(warm+length, 30)
				m.windows(tt.rate, 1, 0)
				perSecond := float64(calls()-before) / length.Seconds()
				used := m.achieved(tt.rate, warm, warm+length)
				t.Logf("%.2f calls a second, %.1f%% of the limit", perSecond, 100*used)
				if perSecond > tt.most || used < 0.98 {
					t.Errorf("%.2f calls a second, %.1f%% of the limit; want at most %v, and 98%%", perSecond, 100*used, tt.most)
				}
			})
		})
	}
}

// A lower rate acts at once, though slots are in hand: one that is set, and that of a process that joins.
// A higher one acts within a second, and is not exceeded meanwhile.
func TestRateChangesAmongSlots(t *testing.T) {
	real := startRealRedis(t)
	for _, processes := range []int{1, 4} {
		for _, join := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d processes, join %v", processes, join), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					m := newModel(t, real)
					for range processes {
						m.add(Config{Rate: 200})
					}
					change := func(r Rate) {
						if err := SetFleetRate(t.Context(), m.client, r, ann); err != nil {
							t.Error(err)
						}
					}
					var low, high time.Duration
					time.AfterFunc(4*time.Second, func() {
						low = time.Since(m.start)
						if join {
							m.join(FleetConfig{Config: Config{Rate: 20}})
						} else {
							change(20)
						}
					})
					time.AfterFunc(8*time.Second, func() {
						high = time.Since(m.start)
						change(100)
					})
					m.driveAll(12*time.Second, 20)
					for from := low + 20*time.Millisecond; from < high-time.Second; from += 50 * time.Millisecond {
						if n := m.sentBetween(from, from+time.Second); n > 21 {
							t.Fatalf("%d requests in the second from %v after 20/s began", n, from-low)
						}
					}
					for from := low + 20*time.Millisecond; from < high+3*time.Second; from += 10 * time.Millisecond {
						if n := m.sentBetween(from, from+time.Second); n > 101 {
							t.Fatalf("%d requests in the second from %v after 100/s began", n, from-high)
						}
					}
					if n := m.sentBetween(high+time.Second, high+3*time.Second); n < 190 {
						t.Errorf("%d requests in two seconds at 100/s", n)
					}
				})
			})
		}
	}
}

// A process that joins a busy one soon has its share.
func TestNewcomerGetsItsShare(t *testing.T) {
	real := startRealRedis(t)
	for _, rate := range []Rate{10, 100, 1000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newModel(t, real)
				first, second := m.add(Config{Rate: rate}), m.add(Config{Rate: rate})
				ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
				defer cancel()
				var wg sync.WaitGroup
				wg.Go(func() { m.drive(ctx, first, 20, 10*time.Millisecond, nil) })
				time.Sleep(3 * time.Second)
				begin := time.Now()
				wg.Go(func() { m.drive(ctx, second, 20, 10*time.Millisecond, nil) })
				for second.sent.Load() == 0 {
					time.Sleep(time.Millisecond)
				}
				between(t, "the first request waited", time.Since(begin), 0, 1200*time.Millisecond)
				wg.Wait()
				share := float64(second.sent.Load()) / 6 / float64(rate)
				if share < 0.35 || share > 0.55 {
					t.Errorf("the newcomer had %.0f%% of the limit", 100*share)
				}
				m.windows(rate, 1, 0)
			})
		})
	}
}

// Slots that a hold takes from a process are not lost: after it sending goes on at once.
func TestSlotsAreGivenBack(t *testing.T) {
	real := startRealRedis(t)
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, real)
		p := m.add(Config{Rate: 100})
		m.driveAll(3*time.Second, 20)
		if err := HoldFleet(t.Context(), m.client, time.Time{}, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if err := ReleaseFleet(t.Context(), m.client, ann); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := p.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		between(t, "after the release a request waited", time.Since(start), 0, 50*time.Millisecond)
	})
}

// When one process alone gets no answers, the others first report theirs: there is no outage.
func TestOthersReportBeforeAnOutage(t *testing.T) {
	real := startRealRedis(t)
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, real)
		good, bad := m.add(Config{Rate: 100}), m.add(Config{Rate: 100})
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { m.drive(ctx, good, 20, 10*time.Millisecond, nil) })
		time.Sleep(2 * time.Second)
		wg.Go(func() {
			load(ctx, bad.Fleet, 20, func(string) Answer {
				time.Sleep(5 * time.Millisecond)
				return Answer{Kind: Transient}
			})
		})
		for ctx.Err() == nil {
			if h := good.Status().Hold; h.Reason != ReasonNone {
				t.Fatalf("%+v", h)
			}
			time.Sleep(10 * time.Millisecond)
		}
		wg.Wait()
	})
}

func TestSlotKeeps(t *testing.T) {
	for _, tt := range []struct {
		had, has micros
		want     int // of 1,000 slots in a row
	}{{10, 10, 1000}, {10, 5, 1000}, {10, 20, 500}, {10, 30, 333}, {10, 10.5, 952}, {10, 1e6, 0}} {
		kept, row := 0, 0
		for seq := range uint64(1000) {
			one := slot{seq: 10_000 + seq, spacing: tt.had}
			if one.keeps(tt.has) {
				kept, row = kept+1, row+1
			} else {
				row = 0
			}
			if tt.has >= 2*tt.had && row > 1 {
				t.Errorf("two in a row at a spacing of %v in place of %v", tt.has, tt.had)
			}
		}
		if kept < tt.want-1 || kept > tt.want+1 {
			t.Errorf("%d of 1,000 slots remain at a spacing of %v in place of %v, want %d", kept, tt.has, tt.had, tt.want)
		}
	}
	if !(slot{seq: 1, spacing: 1, probe: true}).keeps(1e9) {
		t.Error("a probe is given up")
	}
}

// Processes of the release before and of this one share a fleet during an upgrade.
func TestEarlierScriptBesideThisOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, r *broker.Broker) {
		rdb := r.Client()
		at := time.UnixMicro(1e15)
		earlier := scriptByClock(earlierRulesLua + earlierReserveLua)
		run := func(script *redis.Script, req request) *reply {
			t.Helper()
			args := append(req.args(0), at.UnixMicro()/1e6, at.UnixMicro()%1e6)
			both, err := script.Run(t.Context(), rdb, []string{fleetKey, history.Key(history.Rate)}, args...).Slice()
			if err != nil {
				t.Fatal(err)
			}
			var words []string
			for _, word := range both[0].([]any) {
				words = append(words, word.(string))
			}
			if script != byClock {
				words[0] += " single 0" // not in its reply
			}
			got, err := parseReply(words)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		var due []float64
		numbers := map[string]uint64{}
		call := func(script *redis.Script, process string, rate Rate, want int) *reply {
			t.Helper()
			numbers[process]++
			got := run(script, request{process: process, run: "r", number: numbers[process], rate: rate, burst: 1, usable: want, want: want})
			for j := range got.n {
				due = append(due, float64(max(got.from, got.base+micros(j)*got.spacing)))
			}
			return got
		}
		for i := range 200 {
			at = at.Add(50 * time.Millisecond)
			was := call(earlier, "earlier", 100, 3)
			is := call(byClock, "this", 100, 3)
			if i > 6 && (was.active != 2 || is.active != 2) {
				t.Fatalf("step %d: the earlier release sees %d processes, this one %d", i, was.active, is.active)
			}
		}
		wantApart(t, due, 10050)
		// A lower rate of a process of the earlier release acts at once, and ends when it is silent.
		if got := call(earlier, "slow", 10, 0); got.ceiling != 10 {
			t.Errorf("ceiling %v", got.ceiling)
		}
		due = nil
		for range 40 {
			at = at.Add(50 * time.Millisecond)
			if got := call(byClock, "this", 100, 3); got.ceiling != 10 || got.rate != 10 {
				t.Fatalf("ceiling %v, rate %v beside an earlier release with 10/s", got.ceiling, got.rate)
			}
			call(earlier, "earlier", 100, 3)
		}
		wantApart(t, due, 100502)
		for range 60 {
			at = at.Add(300 * time.Millisecond)
			call(byClock, "this", 100, 3)
		}
		if got := call(earlier, "earlier", 100, 0); got.ceiling != 100 {
			t.Errorf("ceiling %v after the process of 10/s has gone", got.ceiling)
		}
	})
}

// wantApart checks that slots are in order and not closer than a spacing in µs.
func wantApart(t *testing.T, due []float64, spacing float64) {
	t.Helper()
	if len(due) < 10 {
		t.Errorf("only %d slots", len(due))
	}
	for i := 1; i < len(due); i++ {
		if due[i]-due[i-1] < spacing-1 {
			t.Fatalf("slots %v µs apart, want %v", due[i]-due[i-1], spacing)
		}
	}
}
