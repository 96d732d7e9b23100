package ratelimit

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// dial connects to a Redis that lives in the test's bubble and goes by its
// clock. wrap, if not nil, wraps each connection.
func dial(t *testing.T, server *miniredis.Miniredis, wrap func(net.Conn) net.Conn) redis.UniversalClient {
	client := redis.NewClient(&redis.Options{
		Addr: "embedded",
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := server.Dial()
			if err != nil || wrap == nil {
				return conn, err
			}
			return wrap(conn), nil
		},
		Protocol:                 2,
		DisableIdentity:          true,
		ContextTimeoutEnabled:    true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// runFleet starts a limiter, which the test's end stops.
func runFleet(t *testing.T, cfg FleetConfig) *Fleet {
	t.Helper()
	f, err := NewFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return f
}

// slowBeat is the heartbeat in tests that last for days.
const slowBeat = 5 * time.Minute

func TestFleet(t *testing.T) {
	// The embedded Redis takes its time to run scripts: the simulation of 429s is
	// left to the real one, where there is one.
	var throttled []int
	if !redistest.Have(t) {
		throttled = []int{20}
	}
	testLimiter(t, throttled, func(t *testing.T, cfg Config) *Fleet {
		server := miniredis.NewMiniRedis()
		t.Cleanup(server.Close)
		client := dial(t, server, nil)
		return runFleet(t, FleetConfig{Config: cfg, Redis: client, Process: "one", heartbeat: slowBeat})
	})
}

// TestFleetOnRedis has the script run by a real Redis, by the bubble's clock.
// All else, such as channels, is the embedded one's.
func TestFleetOnRedis(t *testing.T) {
	if !redistest.Have(t) {
		return
	}
	url := redistest.Start(t)
	opt, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	testLimiter(t, []int{3, 100}, func(t *testing.T, cfg Config) *Fleet {
		server := miniredis.NewMiniRedis()
		t.Cleanup(server.Close)
		client := dial(t, server, nil)
		real := redis.NewClient(opt)
		t.Cleanup(func() { _ = real.Close() })
		if err := real.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		client.AddHook(clockHook{time.Now, real})
		return runFleet(t, FleetConfig{Config: cfg, Redis: client, Process: "one", heartbeat: slowBeat})
	})
}

// A context may end at the instant of a grant: the probe is then given back.
func TestFleetCancelAgainstGrant(t *testing.T) {
	for range 50 { // select picks at random
		synctest.Test(t, func(t *testing.T) {
			client := dial(t, miniredis.NewMiniRedis(), nil) // nothing is asked of it
			f, err := NewFleet(FleetConfig{Config: Config{Rate: 1}, Redis: client, Process: "one"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan Slot, 1)
			go func() {
				s, _ := f.Acquire(ctx)
				got <- s
			}()
			synctest.Wait()
			f.mu.Lock()
			f.slots = []slot{{due: f.now(), seq: 7, probe: true}}
			cancel()
			f.serve(f.now())
			f.mu.Unlock()
			s := <-got
			back := len(f.events) == 1 && f.events[0].kind == "unused" && f.events[0].seq == 7
			if used := s.Seq() == 7; used == back {
				t.Fatalf("slot %+v, events %+v: the probe is neither used nor given back, or both", s, f.events)
			}
		})
	}
}

// TestFleetConcurrent is for the race detector: real time, everything at once.
func TestFleetConcurrent(t *testing.T) {
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	f := runFleet(t, FleetConfig{
		Config: Config{Rate: 20000, Burst: 10, OnHold: func(Hold) {}}, Redis: b.Client(), Process: "one",
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for n := 0; ; n++ {
				callCtx, end := context.WithTimeout(ctx, time.Duration(1+n%5)*time.Millisecond)
				s, err := f.Acquire(callCtx)
				end()
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
				case n%50 == i:
					f.Report(s, Answer{Kind: Unauthorized})
					f.ProbeNow()
					f.Status()
				case n%90 == i:
					f.Report(s, retryAfter(time.Millisecond))
				default:
					f.Report(s, Answer{Kind: Proper})
				}
			}
		})
	}
	wg.Wait()
}
