// Package broker connects to Redis: to a server of its own by URL, or to one
// embedded in the process.
package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// DefaultURL is where Redis is looked for if nothing else is said.
const DefaultURL = "redis://127.0.0.1:6379/0"

// ErrURL: the URL of the Redis database is of no use.
var ErrURL = errors.New("unusable Redis URL")

// serverReadTimeout is how long a command of an asynq server waits for its reply.
const serverReadTimeout = 2 * time.Second

// Broker is the way to one Redis database.
type Broker struct {
	opt      *redis.Options
	name     string // for messages: without a password
	client   *redis.Client
	embedded *miniredis.Miniredis
}

// Config says where Redis is.
type Config struct {
	URL      string // redis:// or rediss://
	Password string // overrides that of the URL
	// Connections is how many calls run at once; default 10 a CPU.
	Connections int
}

// Open connects to a Redis server and checks that it can be used. Errors name
// the URL without its password and say what to do.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
	opt, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Password != "" {
		opt.Password = cfg.Password
	}
	opt.PoolSize = cfg.Connections
	b := newBroker(opt, safeURL(cfg.URL))
	if err := b.check(ctx); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// Embedded starts a Redis inside the process. It opens no port, and is gone
// with the process.
func Embedded() *Broker {
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true)
	opt := &redis.Options{
		Addr: "embedded",
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := server.Dial()
			if err != nil {
				return nil, err
			}
			return newBufferedConn(conn), nil
		},
	}
	b := newBroker(opt, "the embedded Redis")
	b.embedded = server
	return b
}

func newBroker(opt *redis.Options, name string) *Broker {
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opt.DisableIdentity = true
	opt.Protocol = 2
	opt.ContextTimeoutEnabled = true
	opt.DialerRetries = 1 // commands are tried again as a whole
	return &Broker{opt: opt, name: name, client: redis.NewClient(opt)}
}

// Client is the connection for everything but asynq's servers.
func (b *Broker) Client() redis.UniversalClient { return b.client }

// NewServerClient opens a connection for an asynq server: see ServerHook. The
// caller closes it.
func (b *Broker) NewServerClient(hook *ServerHook) redis.UniversalClient {
	opt := *b.opt
	// The hook repeats what has to be repeated; a command on a Redis that hangs
	// must not keep the process from ending.
	opt.MaxRetries = -1
	opt.ReadTimeout = serverReadTimeout
	client := redis.NewClient(&opt)
	client.AddHook(hook)
	return client
}

// String names the database without its password.
func (b *Broker) String() string { return b.name }

// Close ends the connections, and the embedded Redis with them.
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

// Warning tells what an operator should mend about the server, "" if nothing.
func (b *Broker) Warning(ctx context.Context) string {
	if b.embedded != nil {
		return ""
	}
	// INFO, not CONFIG: managed services refuse CONFIG.
	info, err := b.client.Info(ctx, "memory").Result()
	if err != nil {
		return ""
	}
	policy := infoField(info, "maxmemory_policy")
	if policy != "" && policy != "noeviction" && infoField(info, "maxmemory") != "0" {
		return fmt.Sprintf("Redis may evict links when memory is short (maxmemory-policy %s): set it to noeviction", policy)
	}
	return ""
}

func (b *Broker) check(ctx context.Context) error {
	info, err := b.client.Info(ctx, "server").Result()
	if err != nil && (strings.HasPrefix(err.Error(), "NOAUTH") || strings.HasPrefix(err.Error(), "WRONGPASS")) {
		return fmt.Errorf("Redis at %s wants another password: %w\nhint: set LINKCANCEL_REDIS_PASSWORD_FILE to a file that holds it, or LINKCANCEL_REDIS_URL to redis://USER:PASSWORD@HOST:PORT/DB",
			b.name, err)
	}
	if err != nil {
		return fmt.Errorf("Redis at %s does not answer: %w\nhint: start it, or name another with --redis-url or LINKCANCEL_REDIS_URL, such as %s",
			b.name, plain{err}, DefaultURL)
	}
	version := infoField(info, "redis_version")
	major, minor := versionOf(version)
	if major < 6 || major == 6 && minor < 2 {
		return fmt.Errorf("Redis at %s is version %s: 6.2 or later is needed", b.name, version)
	}
	return nil
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}

func versionOf(s string) (major, minor int) {
	parts := strings.SplitN(s, ".", 3)
	major, _ = strconv.Atoi(parts[0])
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major, minor
}

func parseURL(raw string) (*redis.Options, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error would show the URL, and the password with it.
		return nil, fmt.Errorf("%w: it cannot be read: give redis://HOST:PORT/DB", ErrURL)
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, fmt.Errorf("%w: it begins with %q: give redis://HOST:PORT/DB, or rediss:// for TLS", ErrURL, u.Scheme)
	}
	if u.Opaque != "" { // go-redis would take it for localhost
		return nil, fmt.Errorf("%w: the // behind %s: is missing: give redis://HOST:PORT/DB", ErrURL, u.Scheme)
	}
	if strayAt(u) {
		return nil, fmt.Errorf("%w: there is an @ behind its host: write / ? # @ in a password as %%2F %%3F %%23 %%40", ErrURL)
	}
	opt, err := redis.ParseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %s", ErrURL, safeURL(raw), strings.TrimPrefix(err.Error(), "redis: "))
	}
	opt.DialTimeout = 3 * time.Second
	return opt, nil
}

// strayAt says whether what stands behind the host may be the rest of a password
// that was not escaped.
func strayAt(u *url.URL) bool {
	return strings.Contains(u.Path+u.RawQuery+u.Fragment, "@")
}

// HasPassword says whether a Redis URL carries one.
func HasPassword(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return false
	}
	_, ok := u.User.Password()
	return ok
}

// safeURL is the URL without its user and password, and without parameters.
func safeURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || strayAt(u) {
		return "an unreadable URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
