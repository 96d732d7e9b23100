package broker_test

import (
	"context"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// A Redis that refuses INFO works; what it does not show is warned of.
func TestInfoRefused(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	const unseen = "whether maxmemory-policy is noeviction, or whether a replica took over and forgot outcomes: allow it, by +info in an ACL"
	for _, tt := range []struct {
		name string
		args []string
		acl  []any
		want string
	}{
		{"ACL", nil, []any{"-@dangerous"}, "Redis refuses INFO, so linkcancel cannot see " + unseen},
		{"renamed", []string{"--rename-command", "INFO", ""}, nil, "Redis refuses INFO, so linkcancel cannot see " + unseen},
		{"HELLO too", []string{"--rename-command", "INFO", "", "--rename-command", "HELLO", ""}, nil,
			"Redis refuses INFO, so linkcancel cannot see whether its version is 6.2 or later, " + unseen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := redistest.Start(t, tt.args...)
			if tt.acl != nil {
				allow(t, redistest.Open(t, url).Client(), tt.acl...)
			}
			if got := redistest.Open(t, url).Warning(t.Context()); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// On a cluster failovers are expected, and only INFO shows them.
func TestInfoRefusedOnCluster(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	url := redistest.StartCluster(t, 1, false).URL()
	rdb := redistest.Open(t, url).Client()
	allow(t, rdb, "-info")
	_, err := broker.Open(t.Context(), broker.Config{URL: url})
	for _, part := range []string{"refuses INFO, without which linkcancel cannot see a failover: NOPERM ", "grant +info; "} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
	}
	allow(t, rdb, "-cluster")
	_, err = broker.Open(t.Context(), broker.Config{URL: url})
	if err == nil || !strings.Contains(err.Error(), "refuses a command: NOPERM ") || !strings.Contains(err.Error(), "grant +cluster|slots; ") {
		t.Error(err)
	}
}

// allow changes the rules of the default user.
func allow(t *testing.T, rdb redis.UniversalClient, rules ...any) {
	t.Helper()
	if err := rdb.Do(t.Context(), append([]any{"ACL", "SETUSER", "default"}, rules...)...).Err(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is refused, the error says what to grant.
func TestRefusalSaysWhatToGrant(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	const see = `; "Permissions" in deploy/README.md lists all of them)`
	b := redistest.Open(t, redistest.Start(t))
	rdb := b.Client()
	other := b.NewServerClient(&broker.ServerHook{})
	defer other.Close()
	allow(t, rdb, "resetkeys", "~lc:*", "resetchannels", "-hget")
	for _, tt := range []struct {
		send func(context.Context, redis.Cmdable) error
		want string
	}{
		{func(ctx context.Context, c redis.Cmdable) error { return c.HGet(ctx, "lc:api", "url").Err() }, " (grant +hget" + see},
		{func(ctx context.Context, c redis.Cmdable) error { return c.Get(ctx, "asynq:queues").Err() },
			" (GET on asynq:queues: grant ~lc:* ~asynq:*" + see},
		{func(ctx context.Context, c redis.Cmdable) error { return c.Publish(ctx, "lc:rate", "").Err() },
			" (PUBLISH on lc:rate: grant &asynq:cancel &lc:queue &lc:rate" + see},
		{func(ctx context.Context, c redis.Cmdable) error {
			return c.Eval(ctx, "return 1", []string{"lc:a", "asynq:b"}, "arg").Err()
		}, " (EVAL on lc:a asynq:b: grant ~lc:* ~asynq:*" + see},
		{func(ctx context.Context, c redis.Cmdable) error {
			return c.Eval(ctx, "return redis.call('GET', 'asynq:b')", []string{"lc:a"}).Err()
		}, " (EVAL on lc:a: grant ~lc:* ~asynq:*" + see},
		{func(ctx context.Context, c redis.Cmdable) error {
			return c.Eval(ctx, "return redis.call('HGET', KEYS[1], 'a')", []string{"lc:a"}).Err()
		}, see},
		{func(ctx context.Context, c redis.Cmdable) error {
			var got *redis.StringCmd
			_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
				p.Get(ctx, "lc:a")
				got = p.HGet(ctx, "lc:a", "b")
				return nil
			})
			if text := got.Err().Error(); !strings.HasSuffix(text, see) {
				t.Errorf("in a pipeline: %s", text)
			}
			return err
		}, "redis: nil"}, // of the first command
	} {
		for _, c := range []redis.Cmdable{rdb, other} {
			if err := tt.send(t.Context(), c); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		}
	}
	if err := rdb.HGet(t.Context(), "lc:a", "b").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("not known as an answer of Redis: %v", err)
	}
}
