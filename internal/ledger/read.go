package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
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

// Slice reads the state of a batch and the records of n links of a chunk, from
// the first on, in one round trip, or two with kinds. ErrNoBatch: deleted, expired or not sealed.
// ErrNewer: leave it to a newer release.
func (l *Ledger) Slice(ctx context.Context, id string, chunk, first, n int) (SliceView, error) {
	pipe := l.rdb.Pipeline()
	head := pipe.HMGet(ctx, keyBatch(id), "state", "created", "v")
	records := pipe.GetRange(ctx, keyRecords(id, chunk), int64(first*RecordSize), int64((first+n)*RecordSize-1))
	clock := pipe.Time(ctx)
	// Last: what comes from an old master while another succeeds it is whole.
	doubt := l.askSuspects(ctx, pipe, id)
	_, _ = pipe.Exec(ctx) // each command has its own error
	if err := head.Err(); err != nil {
		return SliceView{}, fmt.Errorf("read slice of batch %s: %w", id, err)
	}
	if err := records.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return SliceView{}, fmt.Errorf("read slice of batch %s: %w", id, err)
	}
	if err := clock.Err(); err != nil {
		return SliceView{}, fmt.Errorf("read slice of batch %s: %w", id, err)
	}
	state, _ := head.Val()[0].(string)
	created, _ := head.Val()[1].(string)
	version, _ := head.Val()[2].(string)
	if state == "" || State(state) == Importing {
		return SliceView{}, fmt.Errorf("batch %s: %w", id, ErrNoBatch)
	}
	if err := checkVersion(id, version); err != nil {
		return SliceView{}, err
	}
	view := SliceView{
		State: State(state), Incarnation: number(created), Created: millis(created), Now: clock.Val().UTC(),
		Records: decodeRecords([]byte(records.Val()), n),
	}
	before, news, err := l.suspectsBefore(ctx, doubt, id)
	if err != nil {
		return SliceView{}, err
	}
	view.FailedOver = news
	for i := range view.Records {
		if r := &view.Records[i]; r.Outcome == None && int64(chunk*ChunkLinks+first+i) < before {
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

// State reads the state of a batch; ErrNoBatch if it is gone.
func (l *Ledger) State(ctx context.Context, id string) (State, error) {
	state, err := l.rdb.HGet(ctx, keyBatch(id), "state").Result()
	if errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("batch %s: %w", id, ErrNoBatch)
	}
	if err != nil {
		return "", fmt.Errorf("read state of batch %s: %w", id, err)
	}
	return State(state), nil
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
	if s.statuses, err = l.LinkStatuses(ctx, b.ID); err != nil {
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
