// Package broker connects to Redis: to a server by URL, or to one embedded in the process.
package broker

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
)

// Broker is a connection to one Redis database.
type Broker struct {
	to       target
	name     string // without the password, for messages
	client   redis.UniversalClient
	embedded *miniredis.Miniredis
	errors   errorHook
	unseen   string // what Redis hides by refusing INFO, "" if nothing
}

// Config configures a connection.
type Config struct {
	URL      string // as Forms
	Password string // of the Redis servers, overrides the URL
	// SentinelPassword is the password of the Sentinels. It overrides the URL.
	SentinelPassword string
	// Secrets, if not nil, gets all passwords, including those of the URL.
	Secrets *clean.Secrets
}

// Open connects to Redis and checks it. Errors hide the password and say what to do.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
	to, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	cfg.Secrets = cmp.Or(cfg.Secrets, &clean.Secrets{})
	to.configure(cfg)
	b := newBroker(to, safeURL(cfg.URL), cfg.Secrets)
	if err := b.check(ctx); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// Embedded starts a Redis inside the process. It opens no port and ends with the process.
func Embedded() *Broker {
	server := miniredis.NewMiniRedis()
	ttls := &ttlClock{server: server, at: time.Now()}
	opt := &redis.Options{
		Addr: "embedded",
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := server.Dial()
			if err != nil {
				return nil, err
			}
			return newBufferedConn(conn, ttls.advance), nil
		},
	}
	b := newBroker(target{single: opt}, "the embedded Redis", &clean.Secrets{})
	b.embedded = server
	return b
}

// Why a Redis cannot be used.
var (
	ErrIsSentinel       = errors.New("is a Sentinel")
	ErrIsCluster        = errors.New("is part of a cluster")
	ErrNotCluster       = errors.New("is not a cluster")
	ErrNotSentinels     = errors.New("are not Sentinels")
	ErrPassword         = errors.New("wants another password")
	ErrSentinelPassword = errors.New("want another password")
	ErrInfoRefused      = errors.New("refuses INFO, without which linkcancel cannot see a failover")
	ErrCertificate      = errors.New("shows a certificate that cannot be trusted")
	ErrNoAnswer         = errors.New("does not answer")
)

func newBroker(to target, name string, passwords *clean.Secrets) *Broker {
	to.adapt()
	b := &Broker{to: to, name: name, client: to.client(), errors: errorHook{passwords: passwords}}
	b.client.AddHook(b.errors)
	return b
}

// Client returns the client for everything except asynq servers.
func (b *Broker) Client() redis.UniversalClient { return b.client }

// NewServerClient opens a client for an asynq server: see ServerHook. The caller closes it.
func (b *Broker) NewServerClient(hook *ServerHook) redis.UniversalClient {
	client := b.to.forServer().client()
	client.AddHook(b.errors)
	client.AddHook(hook)
	return client
}

// String returns the URL of the database without its password.
func (b *Broker) String() string { return b.name }

// Close closes the connections and the embedded Redis.
func (b *Broker) Close() error {
	err := b.client.Close()
	if b.embedded != nil {
		b.embedded.Close()
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", b.name, err)
	}
	return nil
}

// Version returns the version of Redis, or "unknown" if it hides that.
func (b *Broker) Version(ctx context.Context) (string, error) {
	version, _, err := b.identify(ctx)
	if err != nil {
		return "", b.unusable(err)
	}
	return cmp.Or(version, "unknown"), nil
}

// scratchKey is the key that CheckPermissions uses.
const scratchKey = "lc:{check}"

// CheckPermissions returns an error if Redis refuses a command, a key or a channel that every command
// of linkcancel needs. It writes a key that expires within a second.
func (b *Broker) CheckPermissions(ctx context.Context) error {
	script := redis.NewScript(`redis.call('HSET', KEYS[1], 'a', '1') redis.call('PEXPIRE', KEYS[1], 1000) return redis.call('TIME')`)
	for _, do := range []func() error{
		func() error { return script.Run(ctx, b.client, []string{scratchKey}).Err() },
		func() error { return b.client.HGetAll(ctx, scratchKey).Err() },
		func() error { return b.client.ZAdd(ctx, scratchKey+":z", redis.Z{Member: "a"}).Err() },
		func() error { return b.client.SAdd(ctx, scratchKey+":s", "a").Err() },
		func() error { return b.client.Set(ctx, scratchKey+":t", "a", time.Second).Err() },
		func() error { return b.client.GetRange(ctx, scratchKey+":t", 0, 0).Err() },
		func() error {
			return b.client.Del(ctx, scratchKey, scratchKey+":z", scratchKey+":s", scratchKey+":t").Err()
		},
	} {
		if err := do(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}

// Warning returns what an operator should fix about the server, or "".
func (b *Broker) Warning(ctx context.Context) string {
	if b.embedded != nil {
		return ""
	}
	if b.unseen != "" {
		return fmt.Sprintf("Redis refuses INFO, so linkcancel cannot see %s: allow it, by +info in an ACL", b.unseen)
	}
	var mu sync.Mutex
	warning := ""
	// INFO, because managed services refuse CONFIG. Errors are ignored.
	look := func(ctx context.Context, server *redis.Client) error {
		info, err := server.Info(ctx, "memory").Result()
		policy := infoField(info, "maxmemory_policy")
		if err == nil && policy != "" && policy != "noeviction" && infoField(info, "maxmemory") != "0" {
			mu.Lock()
			defer mu.Unlock()
			warning = fmt.Sprintf("Redis may evict links when memory is short (maxmemory-policy %s): set it to noeviction", policy)
		}
		return err
	}
	switch client := b.client.(type) {
	case *redis.ClusterClient:
		_ = client.ForEachMaster(ctx, look)
	case *redis.Client:
		_ = look(ctx, client)
	}
	return warning
}

func (b *Broker) check(ctx context.Context) error {
	version, mode, err := b.identify(ctx)
	if err != nil {
		return b.unusable(err)
	}
	switch {
	case mode == "sentinel":
		return fmt.Errorf("Redis at %s %w", b.name, ErrIsSentinel)
	case mode == "cluster" && b.to.cluster == nil:
		return fmt.Errorf("Redis at %s %w", b.name, ErrIsCluster)
	case version == "" && b.unseen != "":
		b.unseen = "whether its version is 6.2 or later, " + b.unseen
		return nil
	}
	var major, minor int
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
	if major < 6 || major == 6 && minor < 2 {
		return fmt.Errorf("Redis at %s is version %s: 6.2 or later is needed", b.name, version)
	}
	return nil
}

// identify returns the version and the mode of a server by INFO or, if that is refused, by
// HELLO, which access control cannot refuse. Values that neither shows are "".
func (b *Broker) identify(ctx context.Context) (version, mode string, err error) {
	info, err := b.client.Info(ctx, "server").Result()
	if !infoRefused(err) {
		return infoField(info, "redis_version"), infoField(info, "redis_mode"), err
	}
	if b.to.single == nil { // failovers are possible, and only INFO shows them
		return "", "", err
	}
	b.unseen = "whether maxmemory-policy is noeviction, or whether a replica took over and forgot outcomes"
	reply, err := b.client.Do(ctx, "hello").Slice()
	if _, refused := errors.AsType[redis.Error](err); err != nil && !refused {
		return "", "", err
	}
	for i := 0; i+1 < len(reply); i += 2 { // pairs of name and value
		switch value, _ := reply[i+1].(string); reply[i] {
		case "version":
			version = value
		case "mode":
			mode = value
		}
	}
	return version, mode, nil
}

// unusable says why a server cannot be used.
func (b *Broker) unusable(err error) error {
	why, shown := ErrNoAnswer, error(plain{err})
	_, untrusted := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case passwordRefused(err) && strings.Contains(err.Error(), "sentinel"): // go-redis names them
		return fmt.Errorf("the Sentinels at %s %w: %w", b.name, ErrSentinelPassword, shown)
	case passwordRefused(err):
		why = ErrPassword
	case infoRefused(err):
		why, shown = ErrInfoRefused, answer(err)
	case permissionRefused(err):
		return fmt.Errorf("Redis at %s refuses a command: %w", b.name, shown)
	case b.to.cluster != nil && (strings.Contains(err.Error(), "cluster support disabled") || unknownCommand(err)):
		why, shown = ErrNotCluster, answer(err)
	case b.to.sentinel != nil && unknownCommand(err):
		return fmt.Errorf("the servers at %s %w: %w", b.name, ErrNotSentinels, answer(err))
	case untrusted:
		why = ErrCertificate
	}
	return fmt.Errorf("Redis at %s %w: %w", b.name, why, shown)
}

func unknownCommand(err error) bool {
	return strings.HasPrefix(answer(err).Error(), "ERR unknown command")
}

// answer returns the error that the server sent, without what go-redis adds.
func answer(err error) error {
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return reply
	}
	return err
}

func passwordRefused(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && (strings.HasPrefix(reply.Error(), "NOAUTH") || strings.HasPrefix(reply.Error(), "WRONGPASS"))
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}
