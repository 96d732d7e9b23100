package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/task"
)

// SliceView is a slice as a worker finds it before it starts.
type SliceView struct {
	State       State
	Incarnation int64 // see Batch.Incarnation
	Created     time.Time
	Now         time.Time // time of Redis; on a cluster that of any server
	// Records of the slice's links. Suspect ones are ambiguous: see failover.go.
	Records []Record
	// Kinds are the batch's kinds of answers by Record.LinkStatus of records with Plains. It
	// is nil if there is no such record. A missing kind must not be trusted.
	Kinds map[int]Kind
	// FailedOver means that this call was the first to see a failover.
	FailedOver bool
	// Suspect: links of the slice may have been sent before a failover that forgot it. Another worker may
	// still have the slice.
	Suspect  bool
	Verifies bool // see Batch.Verifies
}

// Slice reads the state of a batch and the records of n links of a chunk, starting with first. It
// takes one round trip, or two if a record names a kind of answers. The error is ErrNoBatch if the
// batch is deleted, expired or not sealed, and ErrNewer if a newer release must handle it.
func (l *Ledger) Slice(ctx context.Context, id string, chunk, first, n int) (SliceView, error) {
	pipe := l.rdb.Pipeline()
	head := pipe.HMGet(ctx, keyBatch(id), "state", "created", "v", "source")
	records := pipe.GetRange(ctx, keyRecords(id, chunk), int64(first*RecordSize), int64((first+n)*RecordSize-1))
	clock := pipe.Time(ctx)
	suspects := l.readSuspects(ctx, pipe, id)
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, err := range []error{head.Err(), records.Err(), clock.Err()} {
		if err != nil && !errors.Is(err, redis.Nil) {
			return SliceView{}, fmt.Errorf("read slice of batch %s: %w", id, err)
		}
	}
	state, _ := head.Val()[0].(string)
	created, _ := head.Val()[1].(string)
	version, _ := head.Val()[2].(string)
	source, _ := head.Val()[3].(string)
	if state == "" || State(state) == Importing {
		return SliceView{}, fmt.Errorf("batch %s: %w", id, ErrNoBatch)
	}
	if err := checkVersion(id, version); err != nil {
		return SliceView{}, err
	}
	suspectEnd, news, err := suspects()
	if err != nil {
		return SliceView{}, err
	}
	view := SliceView{
		State: State(state), Incarnation: number(created), Created: millis(created), Now: clock.Val().UTC(),
		Records: decodeRecords([]byte(records.Val()), n), FailedOver: news,
		Suspect: int64(chunk*ChunkLinks+first) < suspectEnd, Verifies: source == SourceVerify,
	}
	for i := range view.Records {
		if r := &view.Records[i]; r.Outcome == None && int64(chunk*ChunkLinks+first+i) < suspectEnd {
			r.Ambiguous = true
		}
	}
	if slices.ContainsFunc(view.Records, func(r Record) bool { return r.Plains > 0 }) {
		if view.Kinds, err = l.kinds(ctx, id); err != nil {
			return SliceView{}, err
		}
	}
	return view, nil
}

// Head is the part of a batch that workers read often.
type Head struct {
	State   State
	Source  string
	Created time.Time
}

// Head reads the head of a batch. The error is ErrNoBatch if the batch is deleted.
func (l *Ledger) Head(ctx context.Context, id string) (Head, error) {
	fields, err := l.rdb.HMGet(ctx, keyBatch(id), "state", "source", "created").Result()
	if err != nil {
		return Head{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	state, ok := fields[0].(string)
	if !ok {
		return Head{}, fmt.Errorf("batch %s: %w", id, ErrNoBatch)
	}
	source, _ := fields[1].(string)
	created, _ := fields[2].(string)
	return Head{State: State(state), Source: source, Created: millis(created)}, nil
}

// ErrorTexts reads the error texts of links of a chunk, "" for one that has none.
func (l *Ledger) ErrorTexts(ctx context.Context, id string, chunk int, positions []int) ([]string, error) {
	if len(positions) == 0 {
		return nil, nil
	}
	fields := make([]string, len(positions))
	for i, position := range positions {
		fields[i] = strconv.Itoa(chunk*ChunkLinks + position)
	}
	values, err := l.rdb.HMGet(ctx, keyErrors(id), fields...).Result()
	if err != nil {
		return nil, fmt.Errorf("read error texts of batch %s: %w", id, err)
	}
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i], _ = value.(string)
	}
	return texts, nil
}

// Links reads the ids of one chunk.
func (l *Ledger) Links(ctx context.Context, id string, chunk int) ([]string, error) {
	s, err := l.rdb.Get(ctx, keyChunk(id, chunk)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("chunk %d of batch %s: %w", chunk, id, ErrNoBatch)
	}
	if err != nil {
		return nil, fmt.Errorf("read chunk %d of batch %s: %w", chunk, id, err)
	}
	links, err := decodeChunk(s)
	if err != nil {
		return nil, fmt.Errorf("read chunk %d of batch %s: %w", chunk, id, err)
	}
	return links, nil
}

// LinkRecord is a link with everything that the ledger has about it.
type LinkRecord struct {
	Link       string
	Record     Record
	LinkStatus string
	Error      string
}

// Walk reads a batch in manifest order: a snapshot of all records, then the links.
func (l *Ledger) Walk(ctx context.Context, b Batch) iter.Seq2[LinkRecord, error] {
	return func(yield func(LinkRecord, error) bool) {
		s, err := l.Snapshot(ctx, b)
		if err != nil {
			yield(LinkRecord{}, err)
			return
		}
		position := 0
		for link, err := range l.AllLinks(ctx, b) {
			if err != nil {
				yield(LinkRecord{}, err)
				return
			}
			lr := s.At(position)
			lr.Link = link
			if !yield(lr, nil) {
				return
			}
			position++
		}
	}
}

// AllLinks reads the ids of a whole batch in manifest order.
func (l *Ledger) AllLinks(ctx context.Context, b Batch) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for n := range b.Chunks {
			links, err := l.Links(ctx, b.ID, n)
			if err != nil {
				yield("", err)
				return
			}
			for _, link := range links {
				if !yield(link, nil) {
					return
				}
			}
		}
	}
}

// Snapshot holds the records of a batch by position: RecordSize bytes per link, and the texts.
type Snapshot struct {
	records  []byte
	statuses map[int]string
	texts    map[string]string
}

// stringsScript is MGET, which the ACLs of earlier releases do not grant.
var stringsScript = redis.NewScript(`
-- Returns the strings at KEYS, '' for a missing one.
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('GET', key) or '' end
return found
`)

// snapshotChunks is how many chunks are read in one round trip, 400 kB of records.
const snapshotChunks = 50

// Snapshot reads all records of a batch.
func (l *Ledger) Snapshot(ctx context.Context, b Batch) (*Snapshot, error) {
	return l.SnapshotSince(ctx, b, Batch{}, nil)
}

// SnapshotSince is Snapshot with the help of an earlier one, of the batch as it was then: only the
// records that may have changed are read. b must be running, or else all are read.
func (l *Ledger) SnapshotSince(ctx context.Context, b, then Batch, earlier *Snapshot) (*Snapshot, error) {
	s := &Snapshot{records: make([]byte, b.Total*RecordSize)}
	var err error
	if s.statuses, err = l.linkStatuses(ctx, b.ID); err != nil {
		return nil, err
	}
	if s.texts, err = l.rdb.HGetAll(ctx, keyErrors(b.ID)).Result(); err != nil {
		return nil, fmt.Errorf("read error texts of batch %s: %w", b.ID, err)
	}
	from, to := 0, b.Chunks
	// A resume may make links pending again.
	if earlier != nil && b.State == Running && then.State == Running && b.Incarnation() == then.Incarnation() && b.Resumed.Equal(then.Resumed) {
		copy(s.records, earlier.records)
		from = int(then.Low / ChunkLinks)
		to = min(to, int((b.Cursor+task.MaxAhead)/ChunkLinks)+1)
	}
	for first := from; first < to; first += snapshotChunks {
		keys := make([]string, min(snapshotChunks, to-first))
		for i := range keys {
			keys[i] = keyRecords(b.ID, first+i)
		}
		chunks, err := stringsScript.Run(ctx, l.rdb, keys).StringSlice()
		if err != nil {
			return nil, fmt.Errorf("read records of batch %s: %w", b.ID, err)
		}
		for i, chunk := range chunks {
			copy(s.records[(first+i)*ChunkLinks*RecordSize:], chunk)
		}
	}
	return s, nil
}

// Record returns the record of the link at a position of the manifest, from 0.
func (s *Snapshot) Record(position int) Record { return DecodeRecord(s.records[position*RecordSize:]) }

// LinkStatus returns the link status of a record of the batch, "" if unknown.
func (s *Snapshot) LinkStatus(r Record) string {
	if r.Plains > 0 {
		return "" // LinkStatus is the index of a kind
	}
	return s.statuses[r.LinkStatus]
}

// ASCII reports whether all texts of the links are ASCII.
func (s *Snapshot) ASCII() bool {
	texts := slices.AppendSeq(slices.Collect(maps.Values(s.texts)), maps.Values(s.statuses))
	return !slices.ContainsFunc(texts, func(text string) bool {
		return strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0
	})
}

// At returns everything about the link at a position of the manifest, from 0, except its id.
func (s *Snapshot) At(position int) LinkRecord {
	r := s.Record(position)
	lr := LinkRecord{Record: r, LinkStatus: s.LinkStatus(r)}
	if len(s.texts) > 0 {
		lr.Error = s.texts[strconv.Itoa(position)]
	}
	return lr
}
