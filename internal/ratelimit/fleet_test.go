package ratelimit

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
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

func TestFleet(t *testing.T) {
	// One rate only: the embedded Redis takes its time to run scripts.
	testLimiter(t, []int{20}, func(t *testing.T, cfg Config) limiter {
		server := miniredis.NewMiniRedis()
		t.Cleanup(server.Close)
		client := dial(t, server, nil)
		// The heartbeat is slow as some of the tests last for days.
		return runFleet(t, FleetConfig{Config: cfg, Redis: client, Process: "one", heartbeat: 5 * time.Minute})
	})
}
