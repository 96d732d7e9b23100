package ratelimit

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// dial connects to a bubble's Redis. wrap, if not nil, wraps each connection.
func (b *bubbleRedis) dial(t *testing.T, wrap func(net.Conn) net.Conn) redis.UniversalClient {
	client := redis.NewClient(&redis.Options{
		Addr: "embedded",
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := b.Dial()
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

// runFleet starts a limiter, which stops when the test ends.
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
	testLimiter(t, nil)
	if !redistest.Have(t) {
		testSimulations(t, nil, []int{20})
	}
}

// TestFleetOnRedis runs the script on a real Redis.
func TestFleetOnRedis(t *testing.T) {
	if real := startRealRedis(t); real != nil {
		testLimiter(t, real)
		testSimulations(t, real, []int{3, 40})
	}
}

// newLimiter starts a limiter in a bubble.
func newLimiter(t *testing.T, real *realRedis, cfg Config) *Fleet {
	client := newBubbleRedis(t, real).dial(t, nil)
	return runFleet(t, FleetConfig{Config: cfg, Redis: client, Process: "one", heartbeat: slowBeat})
}

// If the context ends at the instant of a grant, the probe is given back.
func TestFleetCancelAgainstGrant(t *testing.T) {
	for range 50 { // select picks at random
		synctest.Test(t, func(t *testing.T) {
			client := newBubbleRedis(t, nil).dial(t, nil) // not used
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
			f.slots.list = []slot{{due: f.now(), seq: 7, probe: true}}
			cancel()
			f.serve(f.now())
			f.mu.Unlock()
			s := <-got
			events := f.reserver.outbox.pending
			back := len(events) == 1 && events[0].kind == "unused" && events[0].seq == 7
			if used := s.Seq() == 7; used == back {
				t.Fatalf("slot %+v, events %+v: the probe is neither used nor given back, or both", s, events)
			}
		})
	}
}

// TestFleetConcurrent calls everything at once in real time, for the race detector.
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
					f.KeyChanged()
					f.Status()
				case n%90 == i:
					f.Report(s, retryAfter(time.Millisecond))
				default:
					f.Report(s, Answer{Kind: OK})
				}
			}
		})
	}
	wg.Wait()
}
