package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
)

// importerTimeout is how old an importer's heartbeat may be before another takes over.
const importerTimeout = 30 * time.Second

// idReuseDelay is how long the id of a deleted batch cannot be used again. A request that
// was in flight at the deletion would write its outcome to the new batch.
const idReuseDelay = 2 * time.Minute

// NewBatchID returns an id that sorts by time.
func NewBatchID(now time.Time) string {
	var b [3]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}

// Draft is a batch that is being written. Nobody works on it before Seal.
type Draft struct {
	l      *Ledger
	id     string
	token  string
	chunks int
	links  int64
	counts Counts
	cfg    DraftConfig
}

// DraftConfig describes a new batch.
type DraftConfig struct {
	ID      string
	Source  string
	Name    string
	File    string // see Batch.File
	Parent  string
	By      history.By
	Canary  bool
	Created time.Time // now if zero
	Trace   string    // see Batch.Trace
	Terms   Terms
	// Population: see Batch.Population.
	Population int64
}

// format is the format of the batch before its first chunk: the oldest that has all that it needs.
func (cfg DraftConfig) format() int {
	if stops := cfg.Terms.PauseAbove != "" && cfg.Terms.PauseAbove != "off"; cfg.Source == SourceVerify || stops || !cfg.Terms.NotBefore.IsZero() {
		return termsFormat
	}
	return plainFormat
}

// sealed is the entry of the batch's history.
func (cfg DraftConfig) sealed(links int64) history.Change {
	action, detail := history.Import, humanize.Plural(links, "link")
	switch {
	case cfg.Source == SourceVerify:
		action, detail = history.Verify, detail+" of "+cfg.Parent
	case cfg.Parent != "":
		action, detail = history.Retry, detail+" of "+cfg.Parent
	case cfg.Source == "sweep":
		action = history.Swept
	case cfg.File != "":
		detail += " of " + cfg.File
	}
	return cfg.By.Change(action, detail)
}

const dropLua = `
-- Deletes the keys of an unsealed batch. written is its number of chunks.
local function drop(batch, written)
  for n = 0, written do redis.call('UNLINK', batch .. ':m:' .. n, batch .. ':r:' .. n) end
  for _, key in ipairs({'', ':e', ':s', ':k', ':c'}) do redis.call('UNLINK', batch .. key) end
end
`

var createScript = redis.NewScript(dropLua + `
-- Begins an import, or takes over one whose importer is dead.
-- KEYS[1] batch   ARGV token, importer timeout ms, created ms (0: now), canary, the newest format that this
-- release knows, field, value, …
-- Returns 'created', 'busy' (another importer is alive), 'sealed' or 'deleted' (too
-- recently: requests in flight may still be recorded).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'state', 'beat', 'written', 'v')
if h[1] then
  if h[1] ~= 'importing' then return 'sealed' end
  if (tonumber(h[4] or 0) or 0) > tonumber(ARGV[5]) then return 'busy' end -- of a newer release
  if now - tonumber(h[2]) < tonumber(ARGV[2]) then return 'busy' end
  drop(KEYS[1], tonumber(h[3]))
end
if redis.call('EXISTS', KEYS[1] .. ':gone') == 1 then return 'deleted' end
local created = tonumber(ARGV[3])
if created == 0 then created = now end
redis.call('HSET', KEYS[1], 'state', 'importing', 'token', ARGV[1], 'beat', now,
  'created', string.format('%.0f', created), 'canary', ARGV[4], 'written', 0, 'links', 0)
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], 172800) -- until it is sealed
return 'created'
`)

// Create begins a batch. If a sealed batch has this id, it returns sealed and no draft. The error
// is ErrBusy if another importer is alive, and ErrDeleted if the id was just deleted.
func (l *Ledger) Create(ctx context.Context, cfg DraftConfig) (d *Draft, sealed bool, err error) {
	var token [8]byte
	rand.Read(token[:])
	d = &Draft{l: l, id: cfg.ID, token: hex.EncodeToString(token[:]), cfg: cfg}
	canary := "off"
	if cfg.Canary {
		canary = "on"
	}
	var created int64
	if !cfg.Created.IsZero() {
		created = cfg.Created.UnixMilli()
	}
	args := []any{d.token, importerTimeout.Milliseconds(), created, canary, formatVersion,
		"v", cfg.format(), "source", cfg.Source, "name", cfg.Name, "parent", cfg.Parent, "by", cfg.By.Actor, "file", cfg.File}
	if cfg.Trace != "" {
		args = append(args, "trace", cfg.Trace)
	}
	args = append(args, cfg.Terms.fields()...)
	if cfg.Population > 0 {
		args = append(args, "population", cfg.Population)
	}
	reply, err := createScript.Run(ctx, l.rdb, []string{keyBatch(cfg.ID)}, args...).Text()
	if err != nil {
		return nil, false, fmt.Errorf("create batch %s: %w", cfg.ID, err)
	}
	switch reply {
	case "sealed":
		return nil, true, nil
	case "deleted":
		return nil, false, fmt.Errorf("create batch %s: %w: choose another id, or wait %v", cfg.ID, ErrDeleted, idReuseDelay)
	case "busy":
		return nil, false, fmt.Errorf("create batch %s: %w (if it crashed, the id is free after %v)", cfg.ID, ErrBusy, importerTimeout)
	}
	// Hash first: a listed id without a hash can be dropped, and a hash alone expires.
	if err := d.l.list(ctx, d.id); err != nil {
		return nil, false, err
	}
	return d, false, nil
}

var chunkScript = redis.NewScript(`
-- Writes one chunk of an unsealed batch. Chunks come in order, and one that is there is
-- left alone, so the call may be repeated. The batch never has an older format than its chunks, so a
-- release that cannot read them leaves it alone.
-- KEYS[1] batch  KEYS[2] chunk   ARGV token, n, links, chunk, the oldest format that has it
local h = redis.call('HMGET', KEYS[1], 'token', 'written', 'state', 'v')
if h[1] ~= ARGV[1] or h[3] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
local n = tonumber(ARGV[2])
if n < tonumber(h[2]) then return 0 end
if n > tonumber(h[2]) then return redis.error_reply('GAP a chunk is missing') end
local t = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'written', n + 1, 'beat', t[1] * 1000 + math.floor(t[2] / 1000),
  'v', math.max(tonumber(h[4]), tonumber(ARGV[5])))
redis.call('HINCRBY', KEYS[1], 'links', ARGV[3])
return 1
`)

// Write adds the next chunks in one round trip. All chunks but the batch's last have
// ChunkLinks links. The error is ErrTaken if another import took over.
func (d *Draft) Write(ctx context.Context, chunks ...[]string) error {
	pipe := d.l.rdb.Pipeline()
	if err := chunkScript.Load(ctx, d.l.rdb).Err(); err != nil {
		return fmt.Errorf("write batch %s: %w", d.id, err)
	}
	for i, links := range chunks {
		n := d.chunks + i
		chunk, format := encodeChunk(links)
		chunkScript.EvalSha(ctx, pipe, []string{keyBatch(d.id), keyChunk(d.id, n)}, d.token, n, len(links), chunk, format)
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
-- Writes earlier records of one chunk of an unsealed batch.
-- KEYS[1] batch  KEYS[2] records  KEYS[3] error texts   ARGV token, records, position, text, …
local h = redis.call('HMGET', KEYS[1], 'token', 'state')
if h[1] ~= ARGV[1] or h[2] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
local t = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'beat', t[1] * 1000 + math.floor(t[2] / 1000))
return 1
`)

// Restore writes earlier records of one chunk before the seal: outcomes of an interrupted
// run, or the ambiguous marks of a parent. records holds one record for each link of the
// chunk, and texts error texts by position in the chunk. Kinds of answers are not restored:
// pending links count them anew. The error is ErrTaken if another import took over.
func (d *Draft) Restore(ctx context.Context, chunk int, records []Record, texts map[int]string) error {
	var b []byte
	known := len(texts) > 0
	for pos, r := range records {
		if r.Plains > 0 { // an index into the table of another batch
			r.Plains, r.LinkStatus = 0, 0
		}
		if texts[pos] != "" && r == (Record{}) {
			r.Due = 1 // as in record.lua: a link with a text must not look untouched
		}
		b = r.Append(b)
		known = known || r != Record{}
	}
	if known { // a missing string reads as never touched
		args := []any{d.token, b}
		for pos, text := range texts {
			args = append(args, chunk*ChunkLinks+pos, cutError(text))
		}
		keys := []string{keyBatch(d.id), keyRecords(d.id, chunk), keyErrors(d.id)}
		if err := restoreScript.Run(ctx, d.l.rdb, keys, args...).Err(); err != nil {
			return fmt.Errorf("restore records of batch %s: %w", d.id, scriptError(err))
		}
	}
	for _, r := range records { // at the end, because a failed call may be repeated
		d.counts[r.Outcome]++
	}
	return nil
}

var describeScript = redis.NewScript(`
-- Names an unsealed batch.
-- KEYS[1] batch   ARGV token, name
local h = redis.call('HMGET', KEYS[1], 'token', 'state')
if h[1] ~= ARGV[1] or h[2] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
redis.call('HSET', KEYS[1], 'name', ARGV[2])
return 1
`)

// Describe sets the name of the batch and the reason for it before the seal. The error is ErrTaken if
// another import took over.
func (d *Draft) Describe(ctx context.Context, name, reason string) error {
	if err := describeScript.Run(ctx, d.l.rdb, []string{keyBatch(d.id)}, d.token, name).Err(); err != nil {
		return fmt.Errorf("name batch %s: %w", d.id, scriptError(err))
	}
	d.cfg.Name, d.cfg.By.Reason = name, reason
	return nil
}

var sealScript = redis.NewScript(history.Lua + failoverLua + outcomesLua + `
-- Seals a batch: its links may be sent from now on.
-- KEYS[1] batch  KEYS[2] history
-- ARGV token, total, chunks, digest, duplicates, invalid, entry, links by outcome
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
  redis.call('HSET', KEYS[1], name, ARGV[7 + i])
  sum = sum + tonumber(ARGV[7 + i])
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if sum == tonumber(ARGV[2]) then
  state = 'done'
  redis.call('HSET', KEYS[1], 'finished', now)
end
redis.call('HSET', KEYS[1], 'state', state, 'total', ARGV[2], 'chunks', ARGV[3], 'digest', ARGV[4],
  'duplicates', ARGV[5], 'invalid', ARGV[6], 'cursor', 0, 'low', 0, 'epoch', 0, 'line', replication_id() or '',
  'history', add_history(KEYS[2], now, cjson.decode(ARGV[7])))
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[2]) -- it may be that of a deleted batch
redis.call('HDEL', KEYS[1], 'token', 'beat', 'written', 'links')
return state
`)

// Seal makes the batch ready. digest identifies its links in order; duplicates and invalid count
// skipped rows. It may be repeated. The error is ErrTaken if another import took over.
func (d *Draft) Seal(ctx context.Context, digest string, duplicates, invalid int64) error {
	// Listed again: an earlier import of this id may have been deleted after Create.
	if err := d.l.list(ctx, d.id); err != nil {
		return err
	}
	args := []any{d.token, d.links, d.chunks, digest, duplicates, invalid, d.cfg.sealed(d.links)}
	for _, links := range d.counts[1:] {
		args = append(args, links)
	}
	if err := sealScript.Run(ctx, d.l.rdb, []string{keyBatch(d.id), history.Key(d.id)}, args...).Err(); err != nil {
		return fmt.Errorf("seal batch %s: %w", d.id, scriptError(err))
	}
	d.l.awaitReplica(ctx, d.id)
	return nil
}

var discardScript = redis.NewScript(dropLua + `
-- Deletes an unsealed batch of one importer, or, if the token is empty, of a dead one.
-- KEYS[1] batch   ARGV token, how old the last heartbeat of a dead importer is at least, ms
-- Returns 1 if it was deleted.
local h = redis.call('HMGET', KEYS[1], 'state', 'token', 'beat', 'written')
if h[1] ~= 'importing' then return 0 end
if ARGV[1] ~= '' then
  if h[2] ~= ARGV[1] then return 0 end
else
  local t = redis.call('TIME')
  if t[1] * 1000 + math.floor(t[2] / 1000) - tonumber(h[3]) < tonumber(ARGV[2]) then return 0 end
end
drop(KEYS[1], tonumber(h[4]))
return 1
`)

// Discard deletes the unsealed batch unless another importer took it over.
func (d *Draft) Discard(ctx context.Context) error {
	_, err := d.l.discard(ctx, d.id, d.token, 0)
	return err
}

// DiscardDead deletes an unfinished import whose last heartbeat is older than age. It reports whether
// it did.
func (l *Ledger) DiscardDead(ctx context.Context, id string, age time.Duration) (bool, error) {
	return l.discard(ctx, id, "", age)
}

func (l *Ledger) discard(ctx context.Context, id, token string, age time.Duration) (bool, error) {
	deleted, err := discardScript.Run(ctx, l.rdb, []string{keyBatch(id)}, token, age.Milliseconds()).Bool()
	if err == nil && (deleted || token != "") {
		err = l.unlist(ctx, id) // again, if the answer of an earlier call was lost
	}
	if err != nil {
		return false, fmt.Errorf("discard import %s: %w", id, err)
	}
	return deleted, nil
}

// cutError shortens an error text to MaxErrorBytes.
func cutError(text string) string {
	if len(text) > MaxErrorBytes {
		text = text[:MaxErrorBytes]
	}
	return strings.ToValidUTF8(text, "")
}
