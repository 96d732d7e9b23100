package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

var leaseScript = redis.NewScript(`
-- KEYS[1] lease   ARGV token, ms
-- Returns 2 if the lease was taken, 1 if it was renewed, 0 if another process has it. A token is the
-- newest format that its process knows, a colon and a name; those of earlier releases are a name.
local function format(token) return tonumber(string.match(token, '^(%d+):') or 0) end
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] and format(owner) >= format(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return owner == ARGV[1] and 1 or 2
`)

// leaseToken is the token of a process. It takes the lease from one of an earlier release, which
// would not feed the batches of this one.
func leaseToken(process string) string { return strconv.Itoa(formatVersion) + ":" + process }

// Lease takes or renews the lease of the feeder. It returns the epoch (1 and up) of a new lease and
// 0 for a renewed one. The error is ErrNotLeader if another process of this release has the lease.
func (l *Ledger) Lease(ctx context.Context, process string, ttl time.Duration) (epoch int64, err error) {
	got, err := leaseScript.Run(ctx, l.rdb, []string{keyFeeder}, leaseToken(process), ttl.Milliseconds()).Int()
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

// Unlease gives the lease up, so that another process can lead at once.
func (l *Ledger) Unlease(ctx context.Context, process string) error {
	// A lease of 1 ms, because the script changes only our own lease.
	return leaseScript.Run(ctx, l.rdb, []string{keyFeeder}, leaseToken(process), 1).Err()
}

var startScript = redis.NewScript(history.Lua + `
-- KEYS[1] batch  KEYS[2] history   ARGV epoch, slice size, entry, stop condition, or ''
-- Returns state, slice size, cursor and low-water mark, or nothing if a later leader has
-- fed the batch.
local h = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not h[1] or h[1] == 'importing' then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[2]) > tonumber(ARGV[1]) then return {} end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('HSETNX', KEYS[1], 'slice', ARGV[2])
if ARGV[4] ~= '' then redis.call('HSETNX', KEYS[1], 'stop', ARGV[4]) end
-- A user may have paused the batch in the meantime. It is started anyway, so that it runs
-- after a resume.
if h[1] == 'ready' or h[1] == 'paused' then
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  if redis.call('HSETNX', KEYS[1], 'started', now) == 1 then
    redis.call('HSET', KEYS[1], 'history', add_history(KEYS[2], now, cjson.decode(ARGV[3])))
  end
end
if h[1] == 'ready' then redis.call('HSET', KEYS[1], 'state', 'running') end
return redis.call('HMGET', KEYS[1], 'state', 'slice', 'cursor', 'low')
`)

// Start starts or continues feeding. The first call fixes the slice size. leader is the process that
// feeds. The error may be ErrNotLeader.
func (l *Ledger) Start(ctx context.Context, b *Batch, epoch int64, slice int, leader string) error {
	by := history.By{Actor: leader, Auto: true}
	reply, err := startScript.Run(ctx, l.rdb, []string{keyBatch(b.ID), history.Key(b.ID)},
		epoch, slice, by.Change(history.Start, ""), b.PauseAbove).StringSlice()
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
-- KEYS[1] batch   ARGV epoch, cursor, low-water mark, when the batch was resumed
-- Returns 1, or 0 if a later leader has fed the batch.
local h = redis.call('HMGET', KEYS[1], 'epoch', 'cursor', 'low', 'resumed')
if not h[1] then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[1]) > tonumber(ARGV[1]) then return 0 end
if tonumber(ARGV[2]) > tonumber(h[2]) then redis.call('HSET', KEYS[1], 'cursor', ARGV[2]) end
-- A resume since then may have reopened links before the low-water mark.
local seen = tonumber(h[4] or 0) == tonumber(ARGV[4])
if seen and tonumber(ARGV[3]) > tonumber(h[3]) then redis.call('HSET', KEYS[1], 'low', ARGV[3]) end
return 1
`)

// Advance moves the cursor and the low-water mark of a batch forward, in links from its beginning.
// They never move back here. b is the batch as the leader read it before it determined low: if it
// was resumed since, its low-water mark stays where the resume set it.
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

// Redeliveries returns how often slices were enqueued again, by "<chunk>:<index>".
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
-- Stores how often a slice was enqueued again after a crash, as long as its batch
-- exists.
-- KEYS[1] batch  KEYS[2] repairs   ARGV slice, times
-- Returns 1, or 0 for a batch that is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
return 1
`)

// SetRedeliveries writes how often a slice was enqueued again, unless the batch was deleted.
func (l *Ledger) SetRedeliveries(ctx context.Context, id, slice string, n int) error {
	if err := redeliveryScript.Run(ctx, l.rdb, []string{keyBatch(id), keyRedeliveries(id)}, slice, n).Err(); err != nil {
		return fmt.Errorf("note repair of batch %s: %w", id, err)
	}
	return nil
}

// WorkerBeat is a worker's heartbeat.
type WorkerBeat struct {
	ID     string    `json:"id"`
	Rate   float64   `json:"rate"`   // its own --rate, requests per second
	Unsent int       `json:"unsent"` // links in its slices that are not sent yet
	Slots  int       `json:"slots"`  // number of concurrent slices
	Hold   string    `json:"hold"`   // reason of its hold, "" if it sends
	Own    bool      `json:"own"`    // the hold is of this process only
	At     time.Time `json:"-"`

	// Empty in heartbeats of older releases.
	API         string `json:"api,omitempty"`        // base URL
	Version     string `json:"version,omitempty"`    // of linkcancel
	Key         string `json:"key,omitempty"`        // fingerprint of its API key
	KeySource   string `json:"key_source,omitempty"` // source of that key
	Cause       string `json:"cause,omitempty"`      // of its hold, or of slow progress
	InFlight    int    `json:"in_flight,omitempty"`  // requests in flight
	Concurrency int    `json:"concurrency,omitempty"`
	KeySince    int64  `json:"key_since,omitempty"` // when it got that key, Unix seconds
	TookMillis  int64  `json:"took_ms,omitempty"`   // recent latency of the API
}

// heartbeatTTL is how long a heartbeat is valid.
const heartbeatTTL = 15 * time.Second

var heartbeatScript = redis.NewScript(`
-- KEYS[1] workers   ARGV id, JSON
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

// Deregister removes a worker.
func (l *Ledger) Deregister(ctx context.Context, id string) error {
	return l.rdb.HDel(ctx, keyWorkers, id).Err()
}

var workersScript = redis.NewScript(`
-- KEYS[1] workers   Returns the time in µs, then ids and heartbeats in turn.
local t = redis.call('TIME')
local reply = redis.call('HGETALL', KEYS[1])
table.insert(reply, 1, string.format('%.0f', t[1] * 1000000 + t[2]))
return reply
`)

// Workers returns the valid heartbeats and deletes the others. now is the time of Redis.
func (l *Ledger) Workers(ctx context.Context) (alive []WorkerBeat, now time.Time, err error) {
	flat, err := workersScript.Run(ctx, l.rdb, []string{keyWorkers}).StringSlice()
	if err != nil {
		return nil, now, fmt.Errorf("read workers: %w", err)
	}
	now = time.UnixMicro(number(flat[0]))
	for i := 1; i+1 < len(flat); i += 2 {
		id, value := flat[i], flat[i+1]
		stamp, doc, _ := strings.Cut(value, " ")
		ms, _ := strconv.ParseInt(stamp, 10, 64)
		at := time.UnixMilli(ms)
		var b WorkerBeat
		if now.Sub(at) > heartbeatTTL || json.Unmarshal([]byte(doc), &b) != nil {
			l.rdb.HDel(ctx, keyWorkers, id)
			continue
		}
		b.At = at
		alive = append(alive, b)
	}
	return alive, now, nil
}
