package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// keyAPI is the hash of what the workers of the fleet have in common: the API, and
// a salt.
const keyAPI = "lc:api"

// claimValid is how long a claim of the API keeps others out by itself: until its
// worker has sent a heartbeat, or its sweep has made a batch.
const claimValid = 15 * time.Second

// ErrWorkersAlive: the API is not replaced while a worker sends to it.
var ErrWorkersAlive = errors.New("a worker is alive")

// OtherAPIError says that the fleet works on another API than this process is set to.
type OtherAPIError struct {
	Has   string // base URL that the fleet works on
	Wants string // base URL of this process
}

func (e *OtherAPIError) Error() string {
	return fmt.Sprintf("this fleet works on %s, and this process is set to %s: use the same base URL, or stop all workers and run `linkcancel api set %s`",
		e.Has, e.Wants, e.Wants)
}

// API is the API that all workers and sweeps on this Redis send to.
type API struct {
	URL    string    // base URL, normalized; "" if none is claimed yet
	Since  time.Time // when it was first claimed or set
	Proved time.Time // when it first gave positive evidence; zero: not yet
}

// API reads which API the fleet works on; zero if none is claimed yet.
func (l *Ledger) API(ctx context.Context) (API, error) {
	fields, err := l.rdb.HMGet(ctx, keyAPI, "url", "since", "proved").Result()
	if err != nil {
		return API{}, fmt.Errorf("read the API of the fleet: %w", err)
	}
	url, _ := fields[0].(string)
	since, _ := fields[1].(string)
	proved, _ := fields[2].(string)
	return API{URL: url, Since: millis(since), Proved: millis(proved)}, nil
}

// ClaimAPI binds the fleet to the base URL of this process, which must be
// normalized. Another one stands as long as a batch is open, a worker gives signs of
// life, or it was claimed less than 15 s ago: then the error is an *OtherAPIError.
//
// What is looked at is not all on one server of a cluster, and may change meanwhile.
// A worker that claims once more after its first heartbeat can be sure: from then
// on nobody replaces what it has claimed.
func (l *Ledger) ClaimAPI(ctx context.Context, url string) error {
	has, err := l.writeAPI(ctx, "claim", url, "", 0)
	if err != nil || has == url {
		return err
	}
	idle, err := l.idle(ctx)
	if err != nil {
		return fmt.Errorf("claim the API of the fleet: %w", err)
	}
	if idle {
		if has, err = l.writeAPI(ctx, "claim", url, has, claimValid.Milliseconds()); err != nil || has == url {
			return err
		}
	}
	return &OtherAPIError{Has: has, Wants: url}
}

// idle says whether nothing is bound to the fleet's API.
func (l *Ledger) idle(ctx context.Context) (bool, error) {
	open, err := l.rdb.SCard(ctx, keyOpen).Result()
	if err != nil || open > 0 {
		return false, err
	}
	alive, _, err := l.Workers(ctx)
	return len(alive) == 0, err
}

// SetAPI replaces the API that the fleet works on, open batches or not. The URL must
// be normalized. ErrWorkersAlive: a worker sends heartbeats, or begins to.
func (l *Ledger) SetAPI(ctx context.Context, url string) error {
	claimed, err := l.rdb.HGet(ctx, keyAPI, "claimed").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("set the API of the fleet: %w", err)
	}
	alive, _, err := l.Workers(ctx)
	if err != nil {
		return fmt.Errorf("set the API of the fleet: %w", err)
	}
	if len(alive) > 0 {
		return fmt.Errorf("set the API of the fleet to %s: %w (%s): stop all workers first", url, ErrWorkersAlive, alive[0].ID)
	}
	has, err := l.writeAPI(ctx, "set", url, claimed)
	if err == nil && has != url {
		err = fmt.Errorf("set the API of the fleet to %s: %w: it has just claimed %s", url, ErrWorkersAlive, has)
	}
	return err
}

// ProveAPI remembers that the base URL has given positive evidence: it is the right
// one. It costs one read if that is known. *OtherAPIError: the fleet works on another
// one by now.
func (l *Ledger) ProveAPI(ctx context.Context, url string) error {
	has, err := l.writeAPI(ctx, "prove", url)
	if err == nil && has != url {
		err = &OtherAPIError{Has: has, Wants: url}
	}
	return err
}

var apiScript = redis.NewScript(`
-- The API that the whole fleet works on.
-- KEYS[1] api   ARGV verb, URL, …
-- claim: the URL that it may take the place of ('' for none), for how long a claim
--   keeps others out, ms
-- set: when the one before was claimed last, ms ('' for never): not if it has been
--   claimed since
-- prove: it has shown that it is the right one
-- Returns the URL that stands now.
local h = redis.call('HMGET', KEYS[1], 'url', 'claimed', 'proved')
local url, wanted = h[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[1] == 'claim' and url and url ~= wanted and
  (url ~= ARGV[3] or now - tonumber(h[2] or 0) < tonumber(ARGV[4])) then return url end
if ARGV[1] == 'set' and url and (h[2] or '') ~= ARGV[3] then return url end
if ARGV[1] == 'prove' and url and (url ~= wanted or h[3]) then return url end
if url ~= wanted then
  redis.call('HSET', KEYS[1], 'url', wanted, 'since', now)
  redis.call('HDEL', KEYS[1], 'proved') -- of the one before
end
if ARGV[1] == 'prove' then
  redis.call('HSETNX', KEYS[1], 'proved', now)
else
  redis.call('HSET', KEYS[1], 'claimed', now)
end
return wanted
`)

func (l *Ledger) writeAPI(ctx context.Context, verb, url string, args ...any) (has string, err error) {
	has, err = apiScript.Run(ctx, l.rdb, []string{keyAPI}, append([]any{verb, url}, args...)...).Text()
	if err != nil {
		return "", fmt.Errorf("%s the API of the fleet: %w", verb, err)
	}
	return has, nil
}

// Salt is 16 random bytes that this Redis keeps, the same for all workers and for
// good: what is hashed with them can be compared within the fleet, and nowhere else.
func (l *Ledger) Salt(ctx context.Context) ([]byte, error) {
	var fresh [16]byte
	rand.Read(fresh[:])
	pipe := l.rdb.Pipeline()
	pipe.HSetNX(ctx, keyAPI, "salt", hex.EncodeToString(fresh[:]))
	kept := pipe.HGet(ctx, keyAPI, "salt")
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read the fleet's salt: %w", err)
	}
	salt, err := hex.DecodeString(kept.Val())
	if err != nil || len(salt) != len(fresh) {
		return nil, fmt.Errorf("read the fleet's salt: the field salt of %s is damaged: delete it", keyAPI)
	}
	return salt, nil
}
