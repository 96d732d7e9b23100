package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialTimeout = 3 * time.Second

	// serverReadTimeout is how long a command of an asynq server waits for its reply.
	serverReadTimeout = 2 * time.Second

	// clusterRefresh is how often a cluster client reads the slots, since a server may be gone.
	clusterRefresh = time.Second
)

// target is a parsed URL. One of its three fields is set.
type target struct {
	single   *redis.Options
	sentinel *redis.FailoverOptions // the master according to the Sentinels
	cluster  *redis.ClusterOptions
}

// configure applies the rest of the configuration, and adds all passwords to its secrets.
func (to target) configure(cfg Config) {
	switch {
	case to.single != nil:
		to.single.Password, to.single.DialTimeout = cmp.Or(cfg.Password, to.single.Password), dialTimeout
		cfg.Secrets.Add(to.single.Password)
	case to.sentinel != nil:
		to.sentinel.Password, to.sentinel.DialTimeout = cmp.Or(cfg.Password, to.sentinel.Password), dialTimeout
		to.sentinel.SentinelPassword = cmp.Or(cfg.SentinelPassword, to.sentinel.SentinelPassword)
		cfg.Secrets.Add(to.sentinel.Password)
		cfg.Secrets.Add(to.sentinel.SentinelPassword)
	case to.cluster != nil:
		to.cluster.Password, to.cluster.DialTimeout = cmp.Or(cfg.Password, to.cluster.Password), dialTimeout
		cfg.Secrets.Add(to.cluster.Password)
	}
}

// adapt sets the options that our use of go-redis needs.
func (to target) adapt() {
	switch {
	case to.single != nil:
		o := to.single
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		o.DisableIdentity, o.Protocol, o.ContextTimeoutEnabled = true, 2, true
		o.DialerRetries = 1 // commands are retried as a whole
	case to.sentinel != nil:
		o := to.sentinel
		o.DisableIdentity, o.Protocol, o.ContextTimeoutEnabled, o.DialerRetries = true, 2, true, 1
	case to.cluster != nil:
		o := to.cluster
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		o.DisableIdentity, o.Protocol, o.ContextTimeoutEnabled, o.DialerRetries = true, 2, true, 1
		o.ClusterStateReloadInterval = clusterRefresh
	}
}

// forServer returns the target for an asynq server. The hook does the retries, and the end of the
// process must not wait for a hanging Redis.
func (to target) forServer() target {
	switch {
	case to.single != nil:
		o := *to.single
		o.MaxRetries, o.ReadTimeout = -1, serverReadTimeout
		return target{single: &o}
	case to.sentinel != nil:
		o := *to.sentinel
		o.MaxRetries, o.ReadTimeout = -1, serverReadTimeout
		return target{sentinel: &o}
	}
	o := *to.cluster
	o.MaxRedirects = 2 // a slot may be on two servers while it moves
	o.ReadTimeout = serverReadTimeout
	return target{cluster: &o}
}

func (to target) client() redis.UniversalClient {
	switch {
	case to.single != nil:
		return redis.NewClient(to.single) // copies the options, unlike the others
	case to.sentinel != nil:
		o := *to.sentinel
		client := redis.NewFailoverClient(&o)
		client.AddHook(noMaster{name: o.MasterName})
		return client
	}
	o := *to.cluster
	return redis.NewClusterClient(&o)
}

// noMaster replaces the error of go-redis when the Sentinels do not know the master.
type noMaster struct {
	passThrough
	name string
}

// DialHook implements redis.Hook.
func (n noMaster) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("the Sentinels know no master %q", n.name)
		}
		return conn, err
	}
}
