package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

func TestBrokerIsOneDatabase(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		ctx := t.Context()
		if err := b.Client().Set(ctx, "key", "value", 0).Err(); err != nil {
			t.Fatal(err)
		}
		other := b.NewServerClient(&broker.ServerHook{})
		defer other.Close()
		if got, err := other.Get(ctx, "key").Result(); got != "value" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if got := b.Warning(ctx); got != "" {
			t.Error(got)
		}
		name, cluster := b.String(), strings.HasPrefix(b.String(), "redis-cluster://127.0.0.1:")
		if name != "the embedded Redis" && !cluster && !strings.HasPrefix(name, "redis://127.0.0.1:") {
			t.Error(name)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Client().Get(ctx, "key").Err(); !errors.Is(err, redis.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := b.Close(); !errors.Is(err, redis.ErrClosed) && !cluster {
			t.Errorf("closed again: %v", err)
		}
	})
}

func TestEmbeddedOnesAreApart(t *testing.T) {
	a, b := broker.Embedded(), broker.Embedded()
	defer a.Close()
	defer b.Close()
	if err := a.Client().Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Client().Exists(t.Context(), "key").Result(); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestEvictionIsWarnedOf(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	for _, tt := range []struct {
		name, memory, policy, want string
	}{
		{"no limit", "0", "allkeys-lru", ""},
		{"no eviction", "100mb", "noeviction", ""},
		{"eviction", "100mb", "allkeys-lru", "Redis may evict links when memory is short (maxmemory-policy allkeys-lru): set it to noeviction"},
		{"eviction of what expires", "100mb", "volatile-ttl", "Redis may evict links when memory is short (maxmemory-policy volatile-ttl): set it to noeviction"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := redistest.Open(t, redistest.Start(t, "--maxmemory", tt.memory, "--maxmemory-policy", tt.policy))
			if got := b.Warning(t.Context()); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestClosedPortIsNamed(t *testing.T) {
	addr := testutil.ClosedAddr(t)
	_, err := broker.Open(t.Context(), broker.Config{URL: "redis://user:s3cret@" + addr + "/0", Password: "s3cret-too"})
	if err == nil {
		t.Fatal("opened")
	}
	want := fmt.Sprintf("Redis at redis://%s/0 does not answer: dial tcp %s: connect: connection refused", addr, addr)
	if diff := cmp.Diff(want, err.Error()); diff != "" || !errors.Is(err, broker.ErrNoAnswer) {
		t.Error(err, diff)
	}
}

func TestOpenRefusesAnUnusableURL(t *testing.T) {
	for _, raw := range []string{"", "http://host", "redis://user:s3/cret@host", "redis:host"} {
		if _, err := broker.Open(t.Context(), broker.Config{URL: raw}); !errors.Is(err, broker.ErrURL) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestEndedContextEndsOpen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := broker.Open(ctx, broker.Config{URL: broker.DefaultURL}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// pretend is a Redis of some version that wants a password.
func pretend(t *testing.T, info, password string) (url string) {
	t.Helper()
	s, err := server.NewServer("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for name, cmd := range map[string]server.Cmd{
		"HELLO": func(c *server.Peer, _ string, _ []string) { c.WriteError("ERR unknown command 'HELLO'") },
		"AUTH": func(c *server.Peer, _ string, args []string) {
			if args[len(args)-1] != password {
				c.WriteError("WRONGPASS invalid username-password pair or user is disabled.")
				return
			}
			c.WriteOK()
		},
		"SELECT": func(c *server.Peer, _ string, _ []string) { c.WriteOK() },
		"INFO":   func(c *server.Peer, _ string, _ []string) { c.WriteBulk(info) },
	} {
		if err := s.Register(name, cmd); err != nil {
			t.Fatal(err)
		}
	}
	return "redis://:" + password + "@" + s.Addr().String() + "/1"
}

func TestOldRedisIsRefused(t *testing.T) {
	for version, old := range map[string]bool{
		"2.8.24": true, "5.0.14": true, "6.0.20": true, "6.1.999": true, "": true,
		"6.2.0": false, "6.2": false, "6.10.1": false, "7.0.15": false, "8.0-rc1": false, "255.255.255": false,
	} {
		url := pretend(t, "# Server\r\nredis_version:"+version+"\r\nredis_mode:standalone\r\n", "s3cret")
		b, err := broker.Open(t.Context(), broker.Config{URL: url})
		if !old {
			if err != nil {
				t.Errorf("%s: %v", version, err)
				continue
			}
			b.Close()
			continue
		}
		want := fmt.Sprintf("Redis at %s is version %s: 6.2 or later is needed", strings.Replace(url, ":s3cret@", "", 1), version)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", version, err, want)
		}
	}
}

func TestPasswordOfTheConfigOverridesThatOfTheURL(t *testing.T) {
	url := pretend(t, "redis_version:7.0.0\r\n", "s3cret")
	for _, tt := range []struct {
		url, password string
		good          bool
	}{
		{url, "", true},
		{strings.Replace(url, "s3cret", "wrong-1", 1), "s3cret", true},
		{strings.Replace(url, ":s3cret@", "", 1), "s3cret", true},
		{url, "wrong-2", false},
	} {
		b, err := broker.Open(t.Context(), broker.Config{URL: tt.url, Password: tt.password})
		if err == nil {
			b.Close()
		}
		if (err == nil) != tt.good {
			t.Errorf("%+v: %v", tt, err)
		}
		if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "wrong") || !strings.Contains(err.Error(), "WRONGPASS")) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestWrongPasswordIsNoAbsentRedis(t *testing.T) {
	url := pretend(t, "redis_version:7.0.0\r\n", "s3cret")
	_, err := broker.Open(t.Context(), broker.Config{URL: url, Password: "wrong"})
	if !errors.Is(err, broker.ErrPassword) {
		t.Error(err)
	}
}

func TestLogOfAsynqIsDetailAndComplainsOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := broker.NewAsynqLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})))
		log.Debug("a", 1)
		log.Info("b")
		log.Warn("c: ", errors.New("why"))
		log.Error("d")
		<-time.After(10 * time.Second)
		log.Error("e")
		log.Warn("f")
		<-time.After(10 * time.Second)
		log.Fatal("g") // the process continues
		<-time.After(10 * time.Second)
		log.Error("subscribe: NOPERM this user has no permissions to access one of the channels used as arguments")
		const want = `level=DEBUG msg=asynq detail=a1
level=DEBUG msg=asynq detail=b
level=DEBUG msg=asynq detail="c: why"
level=DEBUG msg=asynq detail=d
level=DEBUG msg=asynq detail=e
level=DEBUG msg=asynq detail=f
level=DEBUG msg=asynq detail=g
level=ERROR msg=asynq detail="subscribe: NOPERM this user has no permissions to access one of the channels used as arguments" hint="SUBSCRIBE: grant &asynq:cancel &lc:queue &lc:rate; \"Permissions\" in deploy/README.md lists all of them"
`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Error(diff)
		}
	})
}
