package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var leaseScript = redis.NewScript(`
-- Takes or renews the feeder's lease.
-- KEYS[1] lease   ARGV token, ms. Returns 2 if it was taken, 1 if renewed, 0 if another has it.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return owner and 1 or 2
`)

// Lease takes or renews the feeder's lease for ttl. It returns the epoch of a
// lease newly taken (1 and up), 0 for one that was renewed, and ErrNotLeader
// if another process has it.
func (l *Ledger) Lease(ctx context.Context, token string, ttl time.Duration) (epoch int64, err error) {
	got, err := leaseScript.Run(ctx, l.rdb, []string{keyFeeder}, token, ttl.Milliseconds()).Int()
	switch {
	case err != nil:
		return 0, fmt.Errorf("take the feeder's lease: %w", err)
	case got == 0:
		return 0, ErrNotLeader
	case got == 1:
		return 0, nil
	}
	epoch, err = l.rdb.Incr(ctx, keyEpoch).Result()
	if err != nil {
		return 0, fmt.Errorf("count the feeder's epoch: %w", err)
	}
	return epoch, nil
}

// Unlease gives the lease back, so that another process leads at once.
func (l *Ledger) Unlease(ctx context.Context, token string) error {
	// A lease of 1 ms: the script gives it up only if it is ours.
	return leaseScript.Run(ctx, l.rdb, []string{keyFeeder}, token, 1).Err()
}

var startScript = redis.NewScript(`
-- Begins or goes on feeding a batch; fixes the slice size at the first time.
-- KEYS[1] batch   ARGV epoch, slice size
-- Returns state, slice size, cursor, low-water mark; or nothing for a leader
-- that was replaced.
local h = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not h[1] or h[1] == 'importing' then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[2]) > tonumber(ARGV[1]) then return {} end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('HSETNX', KEYS[1], 'slice', ARGV[2])
-- Its command may have paused the batch since the leader looked: it is begun all
-- the same, so that it runs when it is resumed.
if h[1] == 'ready' or h[1] == 'paused' then
  local t = redis.call('TIME')
  redis.call('HSETNX', KEYS[1], 'started', t[1] * 1000 + math.floor(t[2] / 1000))
end
if h[1] == 'ready' then redis.call('HSET', KEYS[1], 'state', 'running') end
return redis.call('HMGET', KEYS[1], 'state', 'slice', 'cursor', 'low')
`)

// Start begins to feed a batch, or goes on with it, and fixes the size of its
// slices at the first time. ErrNotLeader: a later leader has fed it.
func (l *Ledger) Start(ctx context.Context, b *Batch, epoch int64, slice int) error {
	reply, err := startScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, epoch, slice).StringSlice()
	if err != nil {
		return fmt.Errorf("start batch %s: %w", b.ID, scriptError(err))
	}
	if len(reply) == 0 {
		return ErrNotLeader
	}
	b.State = State(reply[0])
	b.Slice, b.Cursor, b.Low = int(number(reply[1])), number(reply[2]), number(reply[3])
	return nil
}

var advanceScript = redis.NewScript(`
-- Moves the cursor and the low-water mark forward.
-- KEYS[1] batch   ARGV epoch, cursor, low-water mark, when the batch was resumed
-- Returns 1, or 0 for a leader that was replaced.
local h = redis.call('HMGET', KEYS[1], 'epoch', 'cursor', 'low', 'resumed')
if not h[1] then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[1]) > tonumber(ARGV[1]) then return 0 end
if tonumber(ARGV[2]) > tonumber(h[2]) then redis.call('HSET', KEYS[1], 'cursor', ARGV[2]) end
-- A resume puts links back that had an outcome when the leader looked.
local seen = tonumber(h[4] or 0) == tonumber(ARGV[4])
if seen and tonumber(ARGV[3]) > tonumber(h[3]) then redis.call('HSET', KEYS[1], 'low', ARGV[3]) end
return 1
`)

// Advance moves the cursor and the low-water mark of a batch forward, in links
// from its beginning; either never moves back. b is the batch as it was when the
// leader looked for low: a resume since then may have put links before it back, and
// the mark stays where that has set it.
func (l *Ledger) Advance(ctx context.Context, b Batch, epoch, cursor, low int64) error {
	var resumed int64
	if !b.Resumed.IsZero() {
		resumed = b.Resumed.UnixMilli()
	}
	n, err := advanceScript.Run(ctx, l.rdb, []string{keyBatch(b.ID)}, epoch, cursor, low, resumed).Int()
	if err != nil {
		return fmt.Errorf("advance batch %s: %w", b.ID, scriptError(err))
	}
	if n == 0 {
		return ErrNotLeader
	}
	return nil
}

// Redeliveries returns how often slices of a batch were enqueued again after a crash,
// by "<chunk>:<index>".
func (l *Ledger) Redeliveries(ctx context.Context, id string) (map[string]int, error) {
	h, err := l.rdb.HGetAll(ctx, keyRedeliveries(id)).Result()
	if err != nil {
		return nil, fmt.Errorf("read repairs of batch %s: %w", id, err)
	}
	counts := make(map[string]int, len(h))
	for slice, n := range h {
		counts[slice] = int(number(n))
	}
	return counts, nil
}

var redeliveryScript = redis.NewScript(`
-- Remembers how often a slice was enqueued after crashes, as long as its batch
-- is kept.
-- KEYS[1] batch  KEYS[2] repairs   ARGV slice, times
-- Returns 1, or 0 for a batch that is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
return 1
`)

// SetRedeliveries writes how often a slice was enqueued again after a crash. It does
// nothing if the batch was deleted.
func (l *Ledger) SetRedeliveries(ctx context.Context, id, slice string, n int) error {
	if err := redeliveryScript.Run(ctx, l.rdb, []string{keyBatch(id), keyRedeliveries(id)}, slice, n).Err(); err != nil {
		return fmt.Errorf("note repair of batch %s: %w", id, err)
	}
	return nil
}

// WorkerBeat is a worker's heartbeat.
type WorkerBeat struct {
	ID     string    `json:"id"`
	Rate   float64   `json:"rate"`   // its own --rate, requests a second
	Unsent int       `json:"unsent"` // links in its hands that are not sent yet
	Slots  int       `json:"slots"`  // slices it works on at once
	Hold   string    `json:"hold"`   // the reason of its hold, "" if it sends
	Own    bool      `json:"own"`    // the hold is this process's alone
	At     time.Time `json:"-"`

	// What an older release does not tell is empty.
	API         string `json:"api,omitempty"`        // base URL
	Version     string `json:"version,omitempty"`    // of linkcancel
	Key         string `json:"key,omitempty"`        // fingerprint of its API key
	KeySource   string `json:"key_source,omitempty"` // where that came from
	Cause       string `json:"cause,omitempty"`      // of its hold, or of slow progress
	InFlight    int    `json:"in_flight,omitempty"`  // requests without an answer
	Concurrency int    `json:"concurrency,omitempty"`
	KeySince    int64  `json:"key_since,omitempty"` // when it got that key, in Unix seconds
	TookMillis  int64  `json:"took_ms,omitempty"`   // how long an answer takes of late
}

// beatValid is how long a heartbeat counts.
const beatValid = 15 * time.Second

var heartbeatScript = redis.NewScript(`
-- Writes a worker's heartbeat, stamped with Redis' time.
-- KEYS[1] workers   ARGV id, document
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)) .. ' ' .. ARGV[2])
return 1
`)

// Heartbeat writes a worker's heartbeat.
func (l *Ledger) Heartbeat(ctx context.Context, b WorkerBeat) error {
	doc, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	if err := heartbeatScript.Run(ctx, l.rdb, []string{keyWorkers}, b.ID, doc).Err(); err != nil {
		return fmt.Errorf("write heartbeat: %w", err)
	}
	return nil
}

// Deregister takes a worker off the list.
func (l *Ledger) Deregister(ctx context.Context, id string) error {
	return l.rdb.HDel(ctx, keyWorkers, id).Err()
}

// Workers reads the heartbeats that still count, and forgets the others. now
// is Redis' time, by which they are stamped.
func (l *Ledger) Workers(ctx context.Context) (alive []WorkerBeat, now time.Time, err error) {
	h, err := l.rdb.HGetAll(ctx, keyWorkers).Result()
	if err != nil {
		return nil, now, fmt.Errorf("read workers: %w", err)
	}
	if now, err = l.Now(ctx); err != nil {
		return nil, now, fmt.Errorf("read workers: %w", err)
	}
	for id, value := range h {
		stamp, doc, _ := strings.Cut(value, " ")
		ms, _ := strconv.ParseInt(stamp, 10, 64)
		at := time.UnixMilli(ms)
		var b WorkerBeat
		if now.Sub(at) > beatValid || json.Unmarshal([]byte(doc), &b) != nil {
			l.rdb.HDel(ctx, keyWorkers, id)
			continue
		}
		b.At = at
		alive = append(alive, b)
	}
	return alive, now, nil
}
