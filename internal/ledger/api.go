package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// keyAPI is the hash of what the fleet shares: the API and a salt.
const keyAPI = "lc:api"

// claimValid is how long a claim without a heartbeat or a batch keeps others out.
const claimValid = 15 * time.Second

// ErrWorkersAlive means that the API cannot be replaced because a worker uses it.
var ErrWorkersAlive = errors.New("a worker is alive")

// OtherAPIError means that the fleet uses another API than this process.
type OtherAPIError struct {
	Has   string // base URL of the fleet
	Wants string // base URL of this process
}

func (e *OtherAPIError) Error() string {
	return fmt.Sprintf("this fleet works on %s, and this process is set to %s: use the same base URL, or stop all workers and run `linkcancel api set %s`",
		e.Has, e.Wants, e.Wants)
}

// API is the API that all workers and sweeps on this Redis use.
type API struct {
	URL    string    // base URL, normalized; "" if none is claimed yet
	Since  time.Time // when it was first claimed or set
	Proved time.Time // when it first gave positive evidence; zero if it has not
}

// API reads the API of the fleet. It is zero if none is claimed yet.
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

// ClaimAPI binds the fleet to a normalized base URL. The error is an *OtherAPIError if the
// fleet is bound to another one and a batch is open, a worker is alive, or the other claim
// is less than 15 s old.
//
// These checks are not atomic on a cluster, so a worker claims again after its first
// heartbeat. From then on nobody can replace its claim.
func (l *Ledger) ClaimAPI(ctx context.Context, url string, by history.By) error {
	has, err := l.writeAPI(ctx, "claim", url, by, "", 0)
	if err != nil || has == url {
		return err
	}
	idle, err := l.idle(ctx)
	if err != nil {
		return fmt.Errorf("claim the API of the fleet: %w", err)
	}
	if idle {
		if has, err = l.writeAPI(ctx, "claim", url, by, has, claimValid.Milliseconds()); err != nil || has == url {
			return err
		}
	}
	return &OtherAPIError{Has: has, Wants: url}
}

// idle reports whether no batch and no worker is bound to the API of the fleet.
func (l *Ledger) idle(ctx context.Context) (bool, error) {
	open, err := l.rdb.SCard(ctx, keyOpen).Result()
	if err != nil || open > 0 {
		return false, err
	}
	alive, _, err := l.Workers(ctx)
	return len(alive) == 0, err
}

// SetAPI replaces the API of the fleet by a normalized base URL, even if batches are open.
// The error is ErrWorkersAlive if a worker is alive or has just claimed the API.
func (l *Ledger) SetAPI(ctx context.Context, url string, by history.By) error {
	claimed, err := l.rdb.HGet(ctx, keyAPI, "claimed").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("set the API of the fleet: %w", err)
	}
	alive, _, err := l.Workers(ctx)
	if err != nil {
		return fmt.Errorf("set the API of the fleet: %w", err)
	}
	if len(alive) > 0 {
		return fmt.Errorf("cannot set the API of the fleet to %s while %w (%s)", url, ErrWorkersAlive, alive[0].ID)
	}
	has, err := l.writeAPI(ctx, "set", url, by, claimed)
	if err == nil && has != url {
		err = fmt.Errorf("set the API of the fleet to %s: %w: it has just claimed %s", url, ErrWorkersAlive, has)
	}
	return err
}

// ProveAPI stores that the base URL has given positive evidence. It costs one read if that
// is stored already. The error is an *OtherAPIError if the fleet uses another one by now.
func (l *Ledger) ProveAPI(ctx context.Context, url string) error {
	has, err := l.writeAPI(ctx, "prove", url, history.By{Actor: history.Self, Auto: true})
	if err == nil && has != url {
		err = &OtherAPIError{Has: has, Wants: url}
	}
	return err
}

var apiScript = redis.NewScript(history.Lua + `
-- KEYS[1] api  KEYS[2] its history   ARGV verb, URL, entry, …
-- claim: the URL to replace ('' for none), how long a claim keeps others out in ms
-- set: when the present URL was claimed last in ms ('' for never); refused if it was
--   claimed since
-- prove: the URL has given positive evidence
-- Returns the URL after the call.
local h = redis.call('HMGET', KEYS[1], 'url', 'claimed', 'proved')
local url, wanted = h[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[1] == 'claim' and url and url ~= wanted and
  (url ~= ARGV[4] or now - tonumber(h[2] or 0) < tonumber(ARGV[5])) then return url end
if ARGV[1] == 'set' and url and (h[2] or '') ~= ARGV[4] then return url end
if ARGV[1] == 'prove' and url and (url ~= wanted or h[3]) then return url end
if url ~= wanted then
  redis.call('HSET', KEYS[1], 'url', wanted, 'since', now)
  redis.call('HDEL', KEYS[1], 'proved')
  add_history(KEYS[2], now, cjson.decode(ARGV[3]))
end
if ARGV[1] == 'prove' then
  redis.call('HSETNX', KEYS[1], 'proved', now)
else
  redis.call('HSET', KEYS[1], 'claimed', now)
end
return wanted
`)

func (l *Ledger) writeAPI(ctx context.Context, verb, url string, by history.By, args ...any) (has string, err error) {
	args = append([]any{verb, url, by.Change(history.APISet, url)}, args...)
	has, err = apiScript.Run(ctx, l.rdb, []string{keyAPI, history.Key(history.API)}, args...).Text()
	if err != nil {
		return "", fmt.Errorf("%s the API of the fleet: %w", verb, err)
	}
	return has, nil
}

// Salt returns 16 random bytes that this Redis keeps forever, for hashes within the fleet.
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
