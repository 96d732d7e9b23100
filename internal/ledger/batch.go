package ledger

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
)

// State is the state of a batch.
type State string

// importing → ready → running ⇄ paused → done. Ready, running and paused batches can be aborted.
const (
	Importing    State = "importing" // not sealed yet
	Ready        State = "ready"
	Running      State = "running"
	Paused       State = "paused"
	Done         State = "done"
	AbortedState State = "aborted"
	// Newer is the state of a batch in a newer format, which this release leaves alone.
	Newer State = "newer"
)

// Batch is the hash of a batch.
type Batch struct {
	ID         string
	Source     string // import, run or sweep
	Name       string
	File       string // the files it was read from, or ""
	By         string // who made it; "" by an earlier release
	State      State
	Reason     string // why it is paused
	Canary     string // on, off or tripped; passed if an older release turned it off
	Parent     string
	Digest     string
	Total      int64
	Chunks     int
	Slice      int   // links per slice; 0 until it is fed
	Cursor     int64 // links handed to the queue, in manifest order
	Low        int64 // low-water mark: all links before it have outcomes
	Duplicates int64
	Invalid    int64
	Counts     Counts
	Created    time.Time
	Started    time.Time
	Finished   time.Time
	Resumed    time.Time
	Beat       time.Time // last heartbeat of the importer, while importing
	Trace      string    // W3C traceparent of what created it, or ""
	History    int64     // number of the latest entry of its history
	Indexed    int64     // number of the latest one in the index (history.go)
	Logged     int64     // number of the latest one that a leader has logged
	Notified   int64     // number of the latest one that is in the outbox, or needs not be
	Archived   time.Time // when its report was archived; zero if it was not
	Terms

	// Verifications are the ids of its verifications with spaces between them, the oldest first. Some
	// may be gone.
	Verifications string
	// Population is how many links of the parent could be verified. A verification of fewer links is a
	// sample.
	Population int64
}

// Verifies reports whether the links of the batch are only read.
func (b Batch) Verifies() bool { return b.Source == SourceVerify }

// HadNothingToVerify reports whether a verification was wanted and found no link.
func (b Batch) HadNothingToVerify() bool {
	return slices.Contains(strings.Fields(b.Verifications), NothingToVerify)
}

// Outcomes are the outcomes that links of the batch can have, in display order.
func (b Batch) Outcomes() []Outcome {
	if b.Verifies() {
		return Verdicts[:]
	}
	return Outcomes[:]
}

// Incarnation is the creation time in Unix ms. It tells the batch from a deleted one of its id.
func (b Batch) Incarnation() int64 { return b.Created.UnixMilli() }

// Pending is the number of links without an outcome.
func (b Batch) Pending() int64 { return b.Total - b.Counts.Sum() }

// Open reports whether the batch is sealed and not finished.
func (b Batch) Open() bool {
	return b.State == Ready || b.State == Running || b.State == Paused
}

// Ended says whether nothing more can happen to the links of the batch.
func (b Batch) Ended() bool {
	return (b.State == Done || b.State == AbortedState) && b.Pending() == 0
}

// ChunkLen is the number of links in chunk n.
func (b Batch) ChunkLen(n int) int { return chunkLen(b.Total, n) }

func parseBatch(id string, h map[string]string) (Batch, error) {
	if len(h) == 0 {
		return Batch{}, ErrNoBatch
	}
	if err := checkVersion(id, h["v"]); err != nil {
		return Batch{ID: id, State: Newer}, err
	}
	b := Batch{
		ID: id, Source: h["source"], Name: h["name"], File: h["file"], By: h["by"], State: State(h["state"]), Reason: h["reason"], Canary: h["canary"],
		Parent: h["parent"], Digest: h["digest"], Total: number(h["total"]), Chunks: int(number(h["chunks"])),
		Slice: int(number(h["slice"])), Cursor: number(h["cursor"]), Low: number(h["low"]),
		Duplicates: number(h["duplicates"]), Invalid: number(h["invalid"]),
		Created: millis(h["created"]), Started: millis(h["started"]), Finished: millis(h["finished"]),
		Resumed: millis(h["resumed"]), Beat: millis(h["beat"]), Trace: h["trace"],
		History: number(h["history"]), Indexed: number(h["indexed"]), Logged: number(h["logged"]), Notified: number(h["notified"]), Archived: millis(h["archived"]),
		Terms: parseTerms(h), Verifications: h["verifications"], Population: number(h["population"]),
	}
	for o := range b.Counts[1:] {
		b.Counts[o+1] = number(h[outcomeNames[o+1]])
	}
	return b, nil
}

// checkVersion returns ErrNewer for a format that this release does not know.
func checkVersion(id, v string) error {
	if n := number(v); n >= 1 && n <= formatVersion {
		return nil
	}
	return fmt.Errorf("batch %s has format %d, this linkcancel knows 1 to %d: %w", id, number(v), formatVersion, ErrNewer)
}

// number parses a field that a script wrote. A missing field is 0.
func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

func millis(s string) time.Time {
	if n := number(s); n > 0 {
		return time.UnixMilli(n).UTC()
	}
	return time.Time{}
}

// Get reads a batch. The error is ErrNoBatch or ErrNewer.
func (l *Ledger) Get(ctx context.Context, id string) (Batch, error) {
	h, err := l.rdb.HGetAll(ctx, keyBatch(id)).Result()
	if err != nil {
		return Batch{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	b, err := parseBatch(id, h)
	if errors.Is(err, ErrNoBatch) {
		return b, fmt.Errorf("batch %s: %w", id, err)
	}
	return b, err
}

// List reads all batches, newest first.
func (l *Ledger) List(ctx context.Context) ([]Batch, error) {
	ids, err := l.rdb.ZRevRange(ctx, keyBatches, 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", err)
	}
	return l.read(ctx, ids)
}

// Unfinished reads all batches that are not retired. If these are the known ones, it takes one round trip.
func (l *Ledger) Unfinished(ctx context.Context, known ...string) ([]Batch, error) {
	pipe := l.rdb.Pipeline()
	open := pipe.SMembers(ctx, keyOpen)
	replies := make(map[string]*redis.MapStringStringCmd, len(known))
	for _, id := range known[:min(len(known), readAtOnce)] {
		replies[id] = pipe.HGetAll(ctx, keyBatch(id))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("list unfinished batches: %w", err)
	}
	ids := open.Val()
	var batches []Batch
	var others []string
	for _, id := range ids {
		if replies[id] == nil {
			others = append(others, id)
		} else if b, err := parseBatch(id, replies[id].Val()); !errors.Is(err, ErrNoBatch) {
			batches = append(batches, b) // one in a newer format, too
		}
	}
	more, err := l.read(ctx, others)
	if err != nil {
		return nil, err
	}
	batches = append(batches, more...)
	if len(batches) < len(ids) { // some are deleted or expired
		read := make(map[string]bool, len(batches))
		for _, b := range batches {
			read[b.ID] = true
		}
		for _, id := range ids {
			if !read[id] {
				if err := l.close(ctx, id); err != nil {
					return nil, fmt.Errorf("list unfinished batches: %w", err)
				}
			}
		}
	}
	return batches, nil
}

// readAtOnce is how many batches are read in one round trip.
const readAtOnce = 500

func (l *Ledger) read(ctx context.Context, ids []string) ([]Batch, error) {
	var batches []Batch
	for part := range slices.Chunk(ids, readAtOnce) {
		pipe := l.rdb.Pipeline()
		replies := make([]*redis.MapStringStringCmd, len(part))
		for i, id := range part {
			replies[i] = pipe.HGetAll(ctx, keyBatch(id))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, fmt.Errorf("read batches: %w", err)
		}
		for i, id := range part {
			b, err := parseBatch(id, replies[i].Val())
			if errors.Is(err, ErrNoBatch) {
				continue // expired
			}
			// A batch in a newer format has an error too, but is listed.
			batches = append(batches, b)
		}
	}
	return batches, nil
}

// Resolve finds a batch by its id, by a prefix that only one batch has, or by "latest".
func (l *Ledger) Resolve(ctx context.Context, name string) (Batch, error) {
	if name == "latest" {
		ids, err := l.rdb.ZRevRange(ctx, keyBatches, 0, -1).Result()
		if err != nil {
			return Batch{}, fmt.Errorf("find the latest batch: %w", err)
		}
		for _, id := range ids {
			b, err := l.Get(ctx, id)
			if errors.Is(err, ErrNoBatch) {
				continue
			}
			return b, err
		}
		return Batch{}, fmt.Errorf("%w: there is none yet", ErrNoBatch)
	}
	if CheckBatchID(name) == nil {
		b, err := l.Get(ctx, name)
		if !errors.Is(err, ErrNoBatch) {
			return b, err
		}
	}
	all, err := l.List(ctx)
	if err != nil {
		return Batch{}, err
	}
	var found []Batch
	for _, b := range all {
		if strings.HasPrefix(b.ID, name) && name != "" {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return Batch{}, fmt.Errorf("%w: %q", ErrNoBatch, name)
	case 1:
		return l.Get(ctx, found[0].ID) // with an error for one of a newer release
	case 2:
		return Batch{}, fmt.Errorf("%q could be %s or %s: give more of the id", name, found[0].ID, found[1].ID)
	}
	return Batch{}, fmt.Errorf("%q could be %s, %s or %d more: give more of the id", name, found[0].ID, found[1].ID, len(found)-2)
}

var (
	//go:embed state.lua
	stateLua    string
	stateScript = redis.NewScript(history.Lua + outcomesLua + stateLua)
)

// Pause stops a batch until Resume. It returns the state and whether the call changed it.
func (l *Ledger) Pause(ctx context.Context, id string, by history.By) (State, bool, error) {
	reason := by.String()
	if by.Auto {
		reason = by.Reason
	}
	return l.change(ctx, id, history.Pause, by, reason)
}

// Resume continues a paused batch without its canary, whose row becomes pending again.
func (l *Ledger) Resume(ctx context.Context, id string, by history.By) (State, bool, error) {
	return l.change(ctx, id, history.Resume, by, "")
}

// ResumeWith is Resume with another stop condition: see Terms.PauseAbove. "" keeps the present one.
func (l *Ledger) ResumeWith(ctx context.Context, id, pauseAbove string, by history.By) (State, bool, error) {
	return l.change(ctx, id, history.Resume, by, pauseAbove)
}

var priorityScript = redis.NewScript(history.Lua + `
-- Changes the priority of an open batch.
-- KEYS[1] batch  KEYS[2] history   ARGV priority, entry
-- Returns the state, and 1 if this call changed it.
local h = redis.call('HMGET', KEYS[1], 'state', 'priority')
if not h[1] then return redis.error_reply('NOBATCH no such batch') end
local open = h[1] == 'ready' or h[1] == 'running' or h[1] == 'paused'
if not open or (h[2] or 'normal') == ARGV[1] then return {h[1], 0} end
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], 'priority', ARGV[1])
redis.call('HSET', KEYS[1], 'history', add_history(KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000), cjson.decode(ARGV[2])))
return {h[1], 1}
`)

// SetPriority changes the priority of an open batch. It returns the state and whether the call changed
// the priority.
func (l *Ledger) SetPriority(ctx context.Context, id string, p Priority, by history.By) (State, bool, error) {
	reply, err := priorityScript.Run(ctx, l.rdb, []string{keyBatch(id), history.Key(id)}, string(p), by.Change(history.SetPriority, string(p))).Slice()
	if err != nil {
		return "", false, fmt.Errorf("set the priority of batch %s: %w", id, scriptError(err))
	}
	state, _ := reply[0].(string)
	changed, _ := reply[1].(int64)
	return State(state), changed == 1, nil
}

// Abort ends a batch. FillAborted then fills its records.
func (l *Ledger) Abort(ctx context.Context, id string, by history.By) (State, bool, error) {
	return l.change(ctx, id, history.Abort, by, "")
}

// fillTimeout is how long AbortNow fills records at most. Afterwards the leader does.
const fillTimeout = 10 * time.Minute

// AbortNow is Abort with FillAborted, also if ctx ends meanwhile. The leader would fill the records
// too, but who aborts a batch wants to see its end.
func (l *Ledger) AbortNow(ctx context.Context, b Batch, by history.By) (State, bool, error) {
	state, changed, err := l.Abort(ctx, b.ID, by)
	if err == nil && state == AbortedState {
		b.State = state
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fillTimeout)
		defer cancel()
		err = l.FillAborted(ctx, b)
	}
	return state, changed, err
}

// change changes the state of a batch. word is the reason that is shown while it is paused, or the new
// stop condition after a resume.
func (l *Ledger) change(ctx context.Context, id string, action history.Action, by history.By, word string) (State, bool, error) {
	reply, err := stateScript.Run(ctx, l.rdb, []string{keyBatch(id), history.Key(id)},
		string(action), word, ChunkLinks, by.Change(action, "")).Slice()
	if err != nil {
		return "", false, fmt.Errorf("%s batch %s: %w", action, id, scriptError(err))
	}
	state, _ := reply[0].(string)
	changed, _ := reply[1].(int64)
	l.awaitReplica(ctx, id)
	return State(state), changed == 1, nil
}

// Prune removes expired batches from the list of all batches.
func (l *Ledger) Prune(ctx context.Context) error {
	now, err := l.Now(ctx)
	if err != nil {
		return fmt.Errorf("prune batches: %w", err)
	}
	// Only old ones, because an import lists its batch a moment after it created it.
	ids, err := l.rdb.ZRangeByScore(ctx, keyBatches, &redis.ZRangeBy{
		Min: "-inf", Max: strconv.FormatInt(now.Add(-24*time.Hour).UnixMilli(), 10),
	}).Result()
	if err != nil {
		return fmt.Errorf("prune batches: %w", err)
	}
	for _, id := range ids {
		n, err := l.rdb.Exists(ctx, keyBatch(id)).Result()
		if err == nil && n == 0 {
			err = l.unlist(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("prune batches: %w", err)
		}
	}
	return nil
}

// Retire removes a finished batch from the unfinished ones. All its keys expire after keep.
func (l *Ledger) Retire(ctx context.Context, b Batch, keep time.Duration) error {
	err := l.end(ctx, b, append([]string{history.Key(b.ID)}, batchKeys(b)...), keep)
	if err == nil {
		err = l.close(ctx, b.ID)
	}
	if err != nil {
		return fmt.Errorf("retire batch %s: %w", b.ID, err)
	}
	return nil
}

var endScript = redis.NewScript(`
-- Deletes keys of a batch, or lets them expire, unless the id belongs to another batch by now.
-- KEYS[1] batch  KEYS[2…] keys of it   ARGV when it was created, ms; seconds until they expire, 0: now
if tonumber(redis.call('HGET', KEYS[1], 'created')) ~= tonumber(ARGV[1]) then return 0 end
for i = 2, #KEYS do
  if ARGV[2] == '0' then redis.call('UNLINK', KEYS[i]) else redis.call('EXPIRE', KEYS[i], ARGV[2]) end
end
return 1
`)

// endAtOnce is how many keys one call of endScript handles. Other clients wait for it.
const endAtOnce = 200

// end lets keys of a batch expire after ttl. 0 deletes them.
func (l *Ledger) end(ctx context.Context, b Batch, keys []string, ttl time.Duration) error {
	for some := range slices.Chunk(keys, endAtOnce) {
		err := endScript.Run(ctx, l.rdb, append([]string{keyBatch(b.ID)}, some...), b.Incarnation(), int64(ttl/time.Second)).Err()
		if err != nil {
			return err
		}
	}
	return nil
}

// leftoverTTL is when the leftovers of an interrupted deletion expire.
const leftoverTTL = time.Hour

var deleteScript = redis.NewScript(history.Lua + `
-- Marks a batch as deleted. Its other keys may be deleted from now on.
-- KEYS[1] tombstone  KEYS[2] history   ARGV how long the id cannot be used, ms; how long the history
-- is kept, ms; entry
local t = redis.call('TIME')
if redis.call('EXISTS', KEYS[1]) == 0 then
  add_history(KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000), cjson.decode(ARGV[3]))
end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
`)

// Delete deletes a batch that is done, or aborted and filled. Otherwise the error is
// ErrUnfinished. After an interruption call it again; the leftovers also expire. Its history is
// kept for another keep.
func (l *Ledger) Delete(ctx context.Context, b Batch, by history.By, keep time.Duration) error {
	if b.State != Done && b.State != AbortedState || b.Pending() > 0 {
		return fmt.Errorf("delete batch %s: %w", b.ID, ErrUnfinished)
	}
	// First, because a batch without a hash is not found in any other list.
	err := l.rdb.ZAdd(ctx, keyDeleted, redis.Z{Score: float64(time.Now().UnixMilli()), Member: b.ID}).Err()
	if err == nil {
		err = deleteScript.Run(ctx, l.rdb, []string{keyTombstone(b.ID), history.Key(b.ID)},
			idReuseDelay.Milliseconds(), keep.Milliseconds(), by.Change(history.Delete, humanize.Plural(b.Total, "link"))).Err()
	}
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", b.ID, err)
	}
	// What a late answer writes from here on expires too.
	err = l.end(ctx, b, batchKeys(b), leftoverTTL)
	if err == nil {
		err = l.end(ctx, b, batchKeys(b), 0)
	}
	if err == nil {
		err = l.unlist(ctx, b.ID)
	}
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", b.ID, err)
	}
	return nil
}

// Deleted reports whether a batch of this id was deleted too recently to use the id.
func (l *Ledger) Deleted(ctx context.Context, id string) (bool, error) {
	n, err := l.rdb.Exists(ctx, keyTombstone(id)).Result()
	if err != nil {
		return false, fmt.Errorf("check the deletion of batch %s: %w", id, err)
	}
	return n > 0, nil
}

// batchKeys returns all keys of a batch, its hash last: it lets a deletion be repeated.
func batchKeys(b Batch) []string {
	var keys []string
	for n := range b.Chunks {
		keys = append(keys, keyChunk(b.ID, n), keyRecords(b.ID, n))
	}
	return append(keys, keyErrors(b.ID), keyLinkStatus(b.ID), keyRedeliveries(b.ID), keyKinds(b.ID), keyRow(b.ID), keyBatch(b.ID))
}
