package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"linkcancel/internal/task"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// SliceView is a slice as a worker finds it before it begins.
type SliceView struct {
	State       State
	Incarnation int64     // when the batch was made, ms
	Created     time.Time // the same
	Now         time.Time // Redis' clock; of a cluster that of any server
	// Records, ambiguous also where a failover of Redis may have forgotten that
	// the link was sent.
	Records []Record
	// Kinds are the batch's kinds of answers, by the index that records with Plains
	// name; nil if there is no such record. One that is missing is not to be trusted.
	Kinds map[int]Kind
	// FailedOver: this call was the first to find such a failover.
	FailedOver bool
}

var sliceScript = redis.NewScript(failoverLua + `
-- KEYS[1] batch  KEYS[2] records   ARGV first byte, last byte, links sent ahead at most
-- Returns state, created, format, the time, the records, and what suspect_end returns.
local h = redis.call('HMGET', KEYS[1], 'state', 'created', 'v')
local suspect, news = suspect_end(KEYS[1], tonumber(ARGV[3]))
local t = redis.call('TIME')
return {h[1], h[2], h[3], t[1] * 1000000 + t[2], redis.call('GETRANGE', KEYS[2], ARGV[1], ARGV[2]), suspect, news}
`)

// Slice reads the state of a batch and the records of n links of a chunk, starting with
// first. It takes one round trip, or two if a record names a kind of answers. The error
// is ErrNoBatch if the batch is deleted, expired or not sealed, and ErrNewer if a newer
// release must handle it.
func (l *Ledger) Slice(ctx context.Context, id string, chunk, first, n int) (SliceView, error) {
	reply, err := sliceScript.Run(ctx, l.rdb, []string{keyBatch(id), keyRecords(id, chunk)},
		first*RecordSize, (first+n)*RecordSize-1, task.MaxAhead).Slice()
	if err != nil {
		return SliceView{}, fmt.Errorf("read slice of batch %s: %w", id, err)
	}
	state, _ := reply[0].(string)
	created, _ := reply[1].(string)
	version, _ := reply[2].(string)
	now, _ := reply[3].(int64)
	records, _ := reply[4].(string)
	suspectEnd, _ := reply[5].(int64)
	news, _ := reply[6].(int64)
	if state == "" || State(state) == Importing {
		return SliceView{}, fmt.Errorf("batch %s: %w", id, ErrNoBatch)
	}
	if err := checkVersion(id, version); err != nil {
		return SliceView{}, err
	}
	view := SliceView{
		State: State(state), Incarnation: number(created), Created: millis(created), Now: time.UnixMicro(now).UTC(),
		Records: decodeRecords([]byte(records), n), FailedOver: news == 1,
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

// ErrorText reads the error text kept for a link, "" if there is none.
func (l *Ledger) ErrorText(ctx context.Context, id string, chunk, position int) (string, error) {
	text, err := l.rdb.HGet(ctx, keyErrors(id), strconv.Itoa(chunk*ChunkLinks+position)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("read error texts of batch %s: %w", id, err)
	}
	return text, nil
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
	return strings.Split(s, "\n"), nil
}

// LinkRecord is a link with all that the ledger knows of it.
type LinkRecord struct {
	Link       string
	Record     Record
	LinkStatus string
	Error      string
}

// Walk reads a whole batch in the order of its manifest: a snapshot of all
// records, and the links a chunk at a time.
func (l *Ledger) Walk(ctx context.Context, b Batch) iter.Seq2[LinkRecord, error] {
	return func(yield func(LinkRecord, error) bool) {
		s, err := l.Snapshot(ctx, b)
		if err != nil {
			yield(LinkRecord{}, err)
			return
		}
		place := 0
		for link, err := range l.AllLinks(ctx, b) {
			if err != nil {
				yield(LinkRecord{}, err)
				return
			}
			lr := s.At(place)
			lr.Link = link
			if !yield(lr, nil) {
				return
			}
			place++
		}
	}
}

// AllLinks reads the ids of a whole batch, in the order of its manifest.
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

// Snapshot is what the ledger knows of all links of a batch, by their place in
// the manifest: RecordSize bytes a link, and the texts of those that have one.
type Snapshot struct {
	records  []byte
	statuses map[int]string
	texts    map[string]string
}

// snapshotChunks is how many chunks' records are read in one round trip: 400 kB.
const snapshotChunks = 50

// Snapshot reads all records of a batch.
func (l *Ledger) Snapshot(ctx context.Context, b Batch) (*Snapshot, error) {
	s := &Snapshot{records: make([]byte, b.Total*RecordSize)}
	var err error
	if s.statuses, err = l.linkStatuses(ctx, b.ID); err != nil {
		return nil, err
	}
	if s.texts, err = l.rdb.HGetAll(ctx, keyErrors(b.ID)).Result(); err != nil {
		return nil, fmt.Errorf("read error texts of batch %s: %w", b.ID, err)
	}
	for first := 0; first < b.Chunks; first += snapshotChunks {
		chunks := make([]*redis.StringCmd, min(snapshotChunks, b.Chunks-first))
		pipe := l.rdb.Pipeline()
		for i := range chunks {
			chunks[i] = pipe.Get(ctx, keyRecords(b.ID, first+i))
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("read records of batch %s: %w", b.ID, err)
		}
		for i, chunk := range chunks {
			if err := chunk.Err(); err != nil && !errors.Is(err, redis.Nil) {
				return nil, fmt.Errorf("read records of batch %s: %w", b.ID, err)
			}
			copy(s.records[(first+i)*ChunkLinks*RecordSize:], chunk.Val())
		}
	}
	return s, nil
}

// Record is the record of the link at a place of the manifest, counted from 0.
func (s *Snapshot) Record(place int) Record { return DecodeRecord(s.records[place*RecordSize:]) }

// LinkStatus is the link status that a record of the batch names.
func (s *Snapshot) LinkStatus(r Record) string {
	if r.Plains > 0 {
		return "" // it names a kind of answers
	}
	return s.statuses[r.LinkStatus]
}

// At is what is known of the link at a place of the manifest, counted from 0;
// the Link itself is left out.
func (s *Snapshot) At(place int) LinkRecord {
	r := s.Record(place)
	lr := LinkRecord{Record: r, LinkStatus: s.LinkStatus(r)}
	if len(s.texts) > 0 {
		lr.Error = s.texts[strconv.Itoa(place)]
	}
	return lr
}
