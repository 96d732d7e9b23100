package ledger

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/task"
)

// statusIndexLua finds or adds a link status and returns its index, or other if it does not fit.
const statusIndexLua = `
local function status_index(table_key, status, other)
  local i = redis.call('HGET', table_key, status)
  if i then return tonumber(i) end
  local n = redis.call('HLEN', table_key) + 1
  if n >= other then return other end
  redis.call('HSET', table_key, status, n)
  return n
end
`

var (
	//go:embed kinds.lua
	kindsLua string
	//go:embed canary.lua
	canaryLua string
	//go:embed stop.lua
	stopLua string
	//go:embed record.lua
	recordLua string

	recordScript = redis.NewScript(history.Lua + outcomesLua + statusIndexLua + failoverLua + kindsLua + canaryLua + stopLua + recordLua)
)

// Entry is the result of work on one link: its outcome or, with the outcome None, a note
// about a link that has none yet. The worker, the journal and Commit share it.
type Entry struct {
	Batch    string // Commit takes Batch and Chunk from the group
	Chunk    int
	Position int // in the chunk, from 0
	Link     string
	// Record is what to write. Commit fills in LinkStatus, After and Due.
	Record     Record
	LinkStatus string // as the API spells it, with an outcome
	Error      string
	// Kind names an answer that may not be the API's (plexy.Error.Kind). Plains counts these.
	Kind string
	// Proven means that the API itself has answered about this link. If the link got
	// answers of a kind before, that kind is contradicted for the whole batch.
	Proven bool
	// Payable means that the link can still be paid although the API refused to cancel it.
	Payable bool
	// Wait is how long the link of a note must not be sent again.
	Wait time.Duration
	// At is when the worker wrote the entry, for the journal. The ledger uses the time of Redis.
	At time.Time
}

// Group is the entries of one chunk.
type Group struct {
	Batch   string
	Chunk   int
	Entries []Entry
}

// CommitResult is the state of a link after its entry was written.
type CommitResult struct {
	Outcome Outcome
	Wrote   bool // this call wrote it, not an earlier one
}

// Committed is the result for one group.
type Committed struct {
	// Err may be ErrNoBatch, or ErrNewer for a newer format. Other errors may be retried.
	Err     error
	State   State
	Pending int64
	Results []CommitResult // in the order of Group.Entries, which Commit sorts
}

// Commit sorts and writes all groups in one round trip. It may be repeated.
func (l *Ledger) Commit(ctx context.Context, groups []Group) []Committed {
	calls := make([]*redis.Cmd, len(groups))
	pipe := l.rdb.Pipeline()
	for i, g := range groups {
		keys, args := recordCall(g)
		calls[i] = recordScript.EvalSha(ctx, pipe, keys, args...)
	}
	_, _ = pipe.Exec(ctx) // each call has its own error
	results := make([]Committed, len(groups))
	for i, g := range groups {
		if err := calls[i].Err(); err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
			keys, args := recordCall(g)
			calls[i] = recordScript.Eval(ctx, l.rdb, keys, args...)
		}
		results[i] = parseCommitted(g, calls[i])
	}
	return results
}

// sortEntries sorts entries by position. Most are in order already, which is cheap to check.
func sortEntries(entries []Entry) {
	for i := 1; i < len(entries); i++ {
		if entries[i].Position < entries[i-1].Position {
			slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Position, b.Position) })
			return
		}
	}
}

func recordCall(g Group) (keys []string, args []any) {
	sortEntries(g.Entries)
	packed := make([]byte, 0, 6*len(g.Entries))
	var words []any
	for i := range g.Entries {
		e := &g.Entries[i]
		head := e.Record.head(e.Proven, e.Payable)
		packed = binary.BigEndian.AppendUint16(packed, uint16(e.Position))
		packed = append(packed, head[:]...)
		if e.Error != "" || e.LinkStatus != "" || e.Kind != "" || e.Wait > 0 {
			wait := (max(0, e.Wait) + time.Millisecond - 1).Milliseconds()
			words = append(words, i+1, cutError(e.Error), cutStatus(e.LinkStatus), cutStatus(e.Kind), wait)
		}
	}
	keys = []string{
		keyBatch(g.Batch), keyRecords(g.Batch, g.Chunk), keyErrors(g.Batch), keyLinkStatus(g.Batch),
		keyKinds(g.Batch), keyRow(g.Batch), history.Key(g.Batch),
	}
	args = append([]any{g.Chunk * ChunkLinks, ChunkLinks, MaxErrors, maxLinkStatus, packed, task.MaxAhead, formatVersion}, words...)
	return keys, args
}

func parseCommitted(g Group, call *redis.Cmd) Committed {
	reply, err := call.Slice()
	if err != nil {
		return Committed{Err: fmt.Errorf("record outcomes of batch %s: %w", g.Batch, scriptError(err))}
	}
	state, _ := reply[0].(string)
	pending, _ := reply[1].(int64)
	results, _ := reply[2].(string)
	if len(results) != len(g.Entries) {
		return Committed{Err: fmt.Errorf("record outcomes of batch %s: an answer for %d of %d links", g.Batch, len(results), len(g.Entries))}
	}
	c := Committed{State: State(state), Pending: pending, Results: make([]CommitResult, len(results))}
	for i := range len(results) {
		c.Results[i] = CommitResult{Outcome: Outcome(results[i] & 0x0f), Wrote: results[i]&0x10 != 0}
	}
	return c
}

// fillLinks is how many links one call marks as aborted. Other clients of Redis wait meanwhile.
const fillLinks = 200

// FillAborted gives all pending links of an aborted batch that outcome. It may be repeated.
func (l *Ledger) FillAborted(ctx context.Context, b Batch) error {
	for n := range b.Chunks {
		records, err := l.Records(ctx, b.ID, n, 0, b.ChunkLen(n))
		if err != nil {
			return err
		}
		var open []Entry
		for pos, r := range records {
			if r.Outcome == None {
				open = append(open, Entry{Position: pos, Record: Record{Outcome: Aborted}})
			}
		}
		var groups []Group
		for part := range slices.Chunk(open, fillLinks) {
			groups = append(groups, Group{Batch: b.ID, Chunk: n, Entries: part})
		}
		for _, c := range l.Commit(ctx, groups) {
			if c.Err != nil {
				return c.Err
			}
		}
	}
	return nil
}

var linkStatusScript = redis.NewScript(statusIndexLua + `
-- KEYS[1] table   ARGV status, largest index
return status_index(KEYS[1], ARGV[1], tonumber(ARGV[2]))
`)

// LinkStatus returns the index of a link status for Record.LinkStatus, 0 for "".
func (l *Ledger) LinkStatus(ctx context.Context, id, status string) (int, error) {
	if status == "" {
		return 0, nil
	}
	n, err := linkStatusScript.Run(ctx, l.rdb, []string{keyLinkStatus(id)}, cutStatus(status), maxLinkStatus).Int()
	if err != nil {
		return 0, fmt.Errorf("write link status of batch %s: %w", id, err)
	}
	return n, nil
}

func cutStatus(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), 64)], "")
}

// linkStatuses reads a batch's link statuses by index.
func (l *Ledger) linkStatuses(ctx context.Context, id string) (map[int]string, error) {
	h, err := l.rdb.HGetAll(ctx, keyLinkStatus(id)).Result()
	if err != nil {
		return nil, fmt.Errorf("read link statuses of batch %s: %w", id, err)
	}
	table := map[int]string{maxLinkStatus: "other"}
	for status, i := range h {
		table[int(number(i))] = status
	}
	return table, nil
}

// Records reads the records of n links of a chunk from first on. Untouched links have a zero one.
func (l *Ledger) Records(ctx context.Context, id string, chunk, first, n int) ([]Record, error) {
	b, err := l.rdb.GetRange(ctx, keyRecords(id, chunk), int64(first*RecordSize), int64((first+n)*RecordSize-1)).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read records of batch %s: %w", id, err)
	}
	return decodeRecords(b, n), nil
}

func decodeRecords(b []byte, n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = DecodeRecord(b[min(len(b), i*RecordSize):])
	}
	return records
}
