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
	reply, err := l.create.Run(ctx, l.rdb, []string{keyBatch(cfg.ID)}, args...).Text()
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

// Write adds the next chunks, in one round trip; every one but the batch's
// last has ChunkLinks links.
func (d *Draft) Write(ctx context.Context, chunks ...[]string) error {
	pipe := d.l.rdb.Pipeline()
	if err := d.l.chunk.Load(ctx, d.l.rdb).Err(); err != nil {
		return fmt.Errorf("write batch %s: %w", d.id, err)
	}
	for i, links := range chunks {
		n := d.chunks + i
		d.l.chunk.EvalSha(ctx, pipe, []string{keyBatch(d.id), keyChunk(d.id, n)},
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
		if err := d.l.restore.Run(ctx, d.l.rdb, keys, args...).Err(); err != nil {
			return fmt.Errorf("restore records of batch %s: %w", d.id, scriptError(err))
		}
	}
	for _, r := range records { // only now: a call that failed may be repeated
		d.counts[r.Outcome]++
	}
	return nil
}

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
	if err := d.l.seal.Run(ctx, d.l.rdb, []string{keyBatch(d.id)}, args...).Err(); err != nil {
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
