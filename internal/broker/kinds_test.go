package broker_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// A URL for the wrong kind of Redis gives an error that names the right kind.
func TestKindsOfRedis(t *testing.T) {
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	t.Parallel()
	host := func(raw string) string {
		_, rest, _ := strings.Cut(raw, "://")
		rest, _, _ = strings.Cut(rest, "/")
		first, _, _ := strings.Cut(rest, ",")
		return first
	}
	single := host(redistest.Start(t))
	sentinels := redistest.StartSentinel(t, 0)
	sentinel := host(sentinels.URL())
	cluster := redistest.StartCluster(t, 3, false)
	node := host(cluster.URL())
	for raw, want := range map[string]string{
		"redis://" + single:                      "",
		"redis-sentinel://" + sentinel + "/main": "",
		sentinels.URL():                          "",
		"redis-cluster://" + node:                "",
		cluster.URL():                            "",

		"redis://" + sentinel:                   " is a Sentinel",
		"redis://" + node:                       " is part of a cluster",
		"redis-sentinel://" + single + "/main":  "the servers at redis-sentinel://" + single + "/main are not Sentinels: ERR unknown command",
		"redis-sentinel://" + sentinel + "/top": `does not answer: the Sentinels know no master "top"`,
		"redis-cluster://" + single:             " is not a cluster: ERR This instance has cluster support disabled",
		"redis-cluster://" + sentinel:           " is not a cluster: ERR unknown command",
	} {
		b, err := broker.Open(t.Context(), broker.Config{URL: raw})
		switch {
		case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", raw, err, want)
		case err == nil && want != "":
			t.Errorf("%s: no error, want %q", raw, want)
		}
		if err != nil {
			continue
		}
		u, err := url.Parse("redis://" + host(raw))
		if err != nil || !strings.Contains(b.String(), u.Host) {
			t.Errorf("%s is named %s", raw, b)
		}
		if got := b.Warning(t.Context()); got != "" {
			t.Errorf("%s: %s", raw, got)
		}
		if err := b.Client().Get(t.Context(), "key").Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("%s: %v", raw, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

// The Sentinels have a password of their own.
func TestPasswordOfTheSentinels(t *testing.T) {
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	t.Parallel()
	s := redistest.StartSentinel(t, 0)
	if err := redistest.Open(t, s.URL()).Client().ConfigSet(t.Context(), "requirepass", "s3cret-of-redis").Err(); err != nil {
		t.Fatal(err)
	}
	hosts, _, _ := strings.Cut(strings.TrimPrefix(s.URL(), "redis-sentinel://"), "/")
	for _, addr := range strings.Split(hosts, ",") {
		c := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, DisableIdentity: true})
		if err := c.Do(t.Context(), "acl", "setuser", "default", "resetpass", ">s3cret-of-sentinels").Err(); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	for _, tt := range []struct{ password, sentinel, want string }{
		{"s3cret-of-redis", "s3cret-of-sentinels", ""},
		{"s3cret-of-redis", "", "the Sentinels at " + s.URL() + " want another password: NOAUTH"},
		{"s3cret-of-redis", "s3cret-wrong", "the Sentinels at " + s.URL() + " want another password: WRONGPASS"},
		{"", "s3cret-of-sentinels", "Redis at " + s.URL() + " wants another password: NOAUTH"},
		{"s3cret-wrong", "s3cret-of-sentinels", "Redis at " + s.URL() + " wants another password: WRONGPASS"},
	} {
		b, err := broker.Open(t.Context(), broker.Config{URL: s.URL(), Password: tt.password, SentinelPassword: tt.sentinel})
		switch {
		case err == nil && tt.want != "":
			t.Errorf("%+v: no error", tt)
		case err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret")):
			t.Errorf("%+v: %v", tt, err)
		}
		if err == nil {
			_ = b.Close()
		}
	}
}
