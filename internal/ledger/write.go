package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// importerGone is how long an importer may be silent before another import of
// the same id takes its place.
const importerGone = 30 * time.Second

// deletedQuiet is how long the id of a deleted batch is not used again: a
// request that was under way then would write its outcome to the new batch.
const deletedQuiet = 2 * time.Minute

// NewBatchID makes an id that sorts by time.
func NewBatchID(now time.Time) string {
	var b [3]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}

// Draft is a batch that is being written. It is not a batch for anyone else
// until Seal.
type Draft struct {
	l      *Ledger
	id     string
	token  string
	chunks int
	links  int64
	counts Counts
}

// DraftConfig describes a batch to be written.
type DraftConfig struct {
	ID      string
	Source  string
	Name    string
	Parent  string
	Canary  bool
	Created time.Time // zero: now
	Trace   string    // Batch.Trace
}

var createScript = redis.NewScript(`
-- Begins an import, or takes over one whose importer is gone.
-- KEYS[1] batch   ARGV token, busy ms, created ms (0: now), canary, 'v', format, field, value, …
-- Returns 'created', 'busy' (another importer is at work), 'sealed' or 'deleted'
-- (so lately that what was under way may still be written).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'state', 'beat', 'written', 'v')
if h[1] then
  if h[1] ~= 'importing' then return 'sealed' end
  if (tonumber(h[4] or 0) or 0) > tonumber(ARGV[6]) then return 'busy' end -- of a newer release
  if now - tonumber(h[2]) < tonumber(ARGV[2]) then return 'busy' end
  for n = 0, tonumber(h[3]) do
    redis.call('DEL', KEYS[1] .. ':m:' .. n, KEYS[1] .. ':r:' .. n)
  end
  for _, key in ipairs({'', ':e', ':s', ':k', ':c'}) do redis.call('DEL', KEYS[1] .. key) end
end
if redis.call('EXISTS', KEYS[1] .. ':gone') == 1 then return 'deleted' end
local created = tonumber(ARGV[3])
if created == 0 then created = now end
redis.call('HSET', KEYS[1], 'state', 'importing', 'token', ARGV[1], 'beat', now,
  'created', string.format('%.0f', created), 'canary', ARGV[4], 'written', 0, 'links', 0)
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], 172800) -- until it is sealed
return 'created'
`)

// Create begins a batch. ErrBusy: another importer with this id is at
// work. sealed is true, and the draft nil, if a batch of this id exists already.
func (l *Ledger) Create(ctx context.Context, cfg DraftConfig) (d *Draft, sealed bool, err error) {
	var token [8]byte
	rand.Read(token[:])
	d = &Draft{l: l, id: cfg.ID, token: hex.EncodeToString(token[:])}
	canary := "off"
	if cfg.Canary {
		canary = "on"
	}
	var created int64
	if !cfg.Created.IsZero() {
		created = cfg.Created.UnixMilli()
	}
	args := []any{d.token, importerGone.Milliseconds(), created, canary,
		"v", formatVersion, "source", cfg.Source, "name", cfg.Name, "parent", cfg.Parent}
	if cfg.Trace != "" {
		args = append(args, "trace", cfg.Trace)
	}
	reply, err := createScript.Run(ctx, l.rdb, []string{keyBatch(cfg.ID)}, args...).Text()
	if err != nil {
		return nil, false, fmt.Errorf("create batch %s: %w", cfg.ID, err)
	}
	switch reply {
	case "sealed":
		return nil, true, nil
	case "deleted":
		return nil, false, fmt.Errorf("create batch %s: %w: choose another id, or wait %v", cfg.ID, ErrDeleted, deletedQuiet)
	case "busy":
		return nil, false, fmt.Errorf("create batch %s: %w (one that crashed frees the id after %v)", cfg.ID, ErrBusy, importerGone)
	}
	// The hash stands before the lists name it, so whoever finds a name without
	// a hash may forget it. A crash between the two leaves a hash that expires.
	if err := d.list(ctx); err != nil {
		return nil, false, err
	}
	return d, false, nil
}

// list makes the batch known to batch list and to the feeder.
func (d *Draft) list(ctx context.Context) error {
	now, err := d.l.Now(ctx)
	if err == nil {
		err = d.l.rdb.ZAddNX(ctx, keyBatches, redis.Z{Score: float64(now.UnixMilli()), Member: d.id}).Err()
	}
	if err == nil {
		err = d.l.rdb.SAdd(ctx, keyOpen, d.id).Err()
	}
	if err != nil {
		return fmt.Errorf("list batch %s: %w", d.id, err)
	}
	return nil
}

// ID is the batch's id.
func (d *Draft) ID() string { return d.id }

var chunkScript = redis.NewScript(`
-- Writes one chunk of an unsealed batch; chunks come in order, and a chunk
-- that was written before is left alone, so that the call may be repeated.
-- KEYS[1] batch  KEYS[2] chunk   ARGV token, n, links, ids
local h = redis.call('HMGET', KEYS[1], 'token', 'written', 'state')
if h[1] ~= ARGV[1] or h[3] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
local n = tonumber(ARGV[2])
if n < tonumber(h[2]) then return 0 end
if n > tonumber(h[2]) then return redis.error_reply('GAP a chunk is missing') end
local t = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'written', n + 1, 'beat', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('HINCRBY', KEYS[1], 'links', ARGV[3])
return 1
`)

// Write adds the next chunks, in one round trip; every one but the batch's
// last has ChunkLinks links.
func (d *Draft) Write(ctx context.Context, chunks ...[]string) error {
	pipe := d.l.rdb.Pipeline()
	if err := chunkScript.Load(ctx, d.l.rdb).Err(); err != nil {
		return fmt.Errorf("write batch %s: %w", d.id, err)
	}
	for i, links := range chunks {
		n := d.chunks + i
		chunkScript.EvalSha(ctx, pipe, []string{keyBatch(d.id), keyChunk(d.id, n)},
			d.token, n, len(links), strings.Join(links, "\n"))
	}
	replies, err := pipe.Exec(ctx)
	for _, r := range replies {
		if r.Err() != nil {
			return fmt.Errorf("write batch %s: %w", d.id, scriptError(r.Err()))
		}
	}
	if err != nil {
		return fmt.Errorf("write batch %s: %w", d.id, err)
	}
	for _, links := range chunks {
		d.links += int64(len(links))
	}
	d.chunks += len(chunks)
	return nil
}

var restoreScript = redis.NewScript(`
-- Writes what is known from before of the links of one chunk of an unsealed
-- batch. May be repeated.
-- KEYS[1] batch  KEYS[2] records  KEYS[3] error texts   ARGV token, records, place, text, …
local h = redis.call('HMGET', KEYS[1], 'token', 'state')
if h[1] ~= ARGV[1] or h[2] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
local t = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'beat', t[1] * 1000 + math.floor(t[2] / 1000))
return 1
`)

// Restore writes what is known of the links of one chunk from before, ahead of
// the seal: outcomes of an interrupted run, or the ambiguous marks of a
// parent. records holds one record a link of the chunk; texts are by position
// in the chunk. What was known of kinds of answers is not restored: pending links
// begin to count them again. ErrTaken: another import has this id now.
func (d *Draft) Restore(ctx context.Context, chunk int, records []Record, texts map[int]string) error {
	var b []byte
	known := len(texts) > 0
	for pos, r := range records {
		if r.Plains > 0 { // an index into another batch's table
			r.Plains, r.LinkStatus = 0, 0
		}
		if texts[pos] != "" && r == (Record{}) {
			r.Due = 1 // as record.lua does: it must not look untouched
		}
		b = r.Append(b)
		known = known || r != Record{}
	}
	if known { // what is missing reads as never touched
		args := []any{d.token, b}
		for pos, text := range texts {
			args = append(args, chunk*ChunkLinks+pos, cutError(text))
		}
		keys := []string{keyBatch(d.id), keyRecords(d.id, chunk), keyErrors(d.id)}
		if err := restoreScript.Run(ctx, d.l.rdb, keys, args...).Err(); err != nil {
			return fmt.Errorf("restore records of batch %s: %w", d.id, scriptError(err))
		}
	}
	for _, r := range records { // only now: a call that failed may be repeated
		d.counts[r.Outcome]++
	}
	return nil
}

var sealScript = redis.NewScript(failoverLua + outcomesLua + `
-- Seals a batch: from here on it is to be cancelled. May be repeated.
-- KEYS[1] batch   ARGV token, total, chunks, digest, duplicates, invalid, cancelled, …, aborted
local h = redis.call('HMGET', KEYS[1], 'state', 'token', 'written', 'links', 'digest')
if not h[1] then return redis.error_reply('TAKEN the batch is gone') end
if h[1] ~= 'importing' then
  if h[5] == ARGV[4] then return h[1] end
  return redis.error_reply('TAKEN the import was taken over')
end
if h[2] ~= ARGV[1] then return redis.error_reply('TAKEN the import was taken over') end
if h[3] ~= ARGV[3] or h[4] ~= ARGV[2] then return redis.error_reply('GAP the manifest is not whole') end
local state, sum = 'ready', 0
for i, name in ipairs(outcome_names) do
  redis.call('HSET', KEYS[1], name, ARGV[6 + i])
  sum = sum + tonumber(ARGV[6 + i])
end
if sum == tonumber(ARGV[2]) then
  local t = redis.call('TIME')
  state = 'done'
  redis.call('HSET', KEYS[1], 'finished', t[1] * 1000 + math.floor(t[2] / 1000))
end
redis.call('HSET', KEYS[1], 'state', state, 'total', ARGV[2], 'chunks', ARGV[3], 'digest', ARGV[4],
  'duplicates', ARGV[5], 'invalid', ARGV[6], 'cursor', 0, 'low', 0, 'epoch', 0, 'line', replication_id() or '')
redis.call('PERSIST', KEYS[1])
redis.call('HDEL', KEYS[1], 'token', 'beat', 'written', 'links')
return state
`)

// Seal makes the batch ready to be cancelled. The digest names its links:
// the same links in the same order have the same digest.
func (d *Draft) Seal(ctx context.Context, digest string, duplicates, invalid int64) error {
	// Once more: the deletion of an earlier import of this id may have come between.
	if err := d.list(ctx); err != nil {
		return err
	}
	args := []any{d.token, d.links, d.chunks, digest, duplicates, invalid}
	for _, o := range Outcomes {
		args = append(args, d.counts[o])
	}
	if err := sealScript.Run(ctx, d.l.rdb, []string{keyBatch(d.id)}, args...).Err(); err != nil {
		return fmt.Errorf("seal batch %s: %w", d.id, scriptError(err))
	}
	d.l.awaitReplica(ctx, d.id)
	return nil
}

// Discard deletes the unsealed batch, unless another importer took it over.
func (d *Draft) Discard(ctx context.Context) error {
	token, err := d.l.rdb.HGet(ctx, keyBatch(d.id), "token").Result()
	if err != nil && err != redis.Nil {
		return fmt.Errorf("discard import %s: %w", d.id, err)
	}
	if err == nil && token != d.token {
		return nil
	}
	return d.l.DiscardUnsealed(ctx, d.id, d.chunks)
}

// DiscardUnsealed deletes an import that will never be sealed: its hash first,
// so that no late chunk can still be written to it.
func (l *Ledger) DiscardUnsealed(ctx context.Context, id string, chunks int) error {
	state, err := l.rdb.HGet(ctx, keyBatch(id), "state").Result()
	if err != nil && err != redis.Nil {
		return fmt.Errorf("discard import %s: %w", id, err)
	}
	if err == nil && State(state) != Importing {
		return nil
	}
	written, err := l.rdb.HGet(ctx, keyBatch(id), "written").Int()
	if err == nil {
		chunks = max(chunks, written)
	}
	keys := batchKeys(Batch{ID: id, Chunks: chunks + 1})
	pipe := l.rdb.Pipeline()
	pipe.Del(ctx, keyBatch(id))
	for _, key := range keys {
		pipe.Unlink(ctx, key)
	}
	pipe.SRem(ctx, keyOpen, id)
	pipe.ZRem(ctx, keyBatches, id)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("discard import %s: %w", id, err)
	}
	return nil
}

// cutError makes an error text fit for keeping.
func cutError(text string) string {
	if len(text) > MaxErrorBytes {
		text = text[:MaxErrorBytes]
	}
	return strings.ToValidUTF8(text, "")
}
