package importer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/tracing"
)

// Sources of batches.
const (
	SourceImport = "import"
	SourceRun    = "run"
	SourceSweep  = "sweep"
)

// ErrOtherLinks: a batch with the given id has other links.
var ErrOtherLinks = errors.New("a batch with this id and different links already exists")

// Source yields the links of a batch, each once.
type Source interface {
	Next() (link string, err error) // io.EOF at the end
	Stats() Stats
}

// Links is a Source of links in memory.
type Links struct {
	IDs    []string
	Counts Stats
	next   int
}

// Next is part of Source.
func (s *Links) Next() (string, error) {
	if s.next == len(s.IDs) {
		return "", io.EOF
	}
	s.next++
	return s.IDs[s.next-1], nil
}

// Stats is part of Source.
func (s *Links) Stats() Stats { return s.Counts }

// BatchConfig configures a batch.
type BatchConfig struct {
	ID      string // "": chosen
	Source  string
	Name    string
	File    string // the files that it is read from, or ""
	Parent  string // the batch that is retried, or ""
	By      history.By
	Canary  bool
	Created time.Time // zero: now
	Terms   ledger.Terms
	// Population: see ledger.Batch.Population.
	Population int64
	// Confirm, if not nil, is called after reading, before the seal. Its error discards the batch.
	Confirm func(Stats) error
	// Late, if not nil, is called after reading, and says what only the end of the input tells: the name
	// of the batch and the reason for it.
	Late func() (name, reason string)
	// Restore, if not nil, returns the earlier records and error texts of a chunk before the seal.
	Restore func(chunk, links int) (records []ledger.Record, texts map[int]string, err error)
}

// pipelined is how many chunks go to Redis in one round trip.
const pipelined = 8

// MakeBatch reads the whole source, writes its links as a batch and seals it. If anything
// fails, there is no batch. If a batch with the same id and the same links exists, it is
// returned. With other links, the error is ErrOtherLinks.
//
// If ctx has a span, the batch gets a span of its own.
func MakeBatch(ctx context.Context, l *ledger.Ledger, src Source, cfg BatchConfig) (ledger.Batch, error) {
	ctx, span := tracing.Start(ctx, "make batch")
	b, err := makeBatch(ctx, l, src, cfg)
	endBatch(span, b, err)
	return b, err
}

func makeBatch(ctx context.Context, l *ledger.Ledger, src Source, cfg BatchConfig) (ledger.Batch, error) {
	if cfg.ID == "" {
		now, err := l.Now(ctx)
		if err != nil {
			return ledger.Batch{}, fmt.Errorf("ask Redis for the time: %w", err)
		}
		cfg.ID = ledger.NewBatchID(now)
	}
	draft, sealed, err := l.Create(ctx, ledger.DraftConfig{
		ID: cfg.ID, Source: cfg.Source, Name: cfg.Name, File: cfg.File, Parent: cfg.Parent, By: cfg.By, Canary: cfg.Canary, Created: cfg.Created,
		Trace: tracing.Traceparent(ctx), Terms: cfg.Terms, Population: cfg.Population,
	})
	if err != nil {
		return ledger.Batch{}, err
	}
	if sealed {
		return compare(ctx, l, src, cfg.ID)
	}
	if err := write(ctx, draft, src, cfg); err != nil {
		// The input was refused, the user declined, or Redis failed: leave nothing behind.
		discard, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if !errors.Is(err, ledger.ErrTaken) {
			_ = draft.Discard(discard) // otherwise the feeder deletes it a day later
		}
		return ledger.Batch{}, err
	}
	return l.Get(ctx, cfg.ID)
}

// write streams the source into the draft. One goroutine reads while another writes.
func write(ctx context.Context, draft *ledger.Draft, src Source, cfg BatchConfig) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	digest := newDigest()
	chunks := make(chan []string, pipelined)
	go func() {
		defer close(chunks)
		if err := readChunks(ctx, src, digest, chunks); err != nil {
			cancel(err)
		}
	}()
	var sizes []int
	var group [][]string
	flush := func() error {
		err := draft.Write(ctx, group...)
		group = group[:0]
		return err
	}
	for c := range chunks {
		sizes = append(sizes, len(c))
		group = append(group, c)
		if len(group) == pipelined || len(chunks) == 0 {
			if err := flush(); err != nil {
				cancel(err)
				for range chunks { // let the reader end
				}
				return context.Cause(ctx) // of the reader, if that failed first
			}
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	stats := src.Stats()
	if cfg.Confirm != nil {
		if err := cfg.Confirm(stats); err != nil {
			return err
		}
	}
	if cfg.Restore != nil {
		for n, links := range sizes {
			records, texts, err := cfg.Restore(n, links)
			if err == nil {
				err = draft.Restore(ctx, n, records, texts)
			}
			if err != nil {
				return err
			}
		}
	}
	if cfg.Late != nil {
		name, reason := cfg.Late()
		if err := draft.Describe(ctx, name, reason); err != nil {
			return err
		}
	}
	return draft.Seal(ctx, digest.String(), stats.Duplicates, stats.Invalid)
}

func readChunks(ctx context.Context, src Source, digest *digest, to chan<- []string) error {
	send := func(c []string) error {
		select {
		case to <- c:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c := make([]string, 0, ledger.ChunkLinks)
	for {
		link, err := src.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		digest.add(link)
		if c = append(c, link); len(c) == ledger.ChunkLinks {
			if err := send(c); err != nil {
				return err
			}
			c = make([]string, 0, ledger.ChunkLinks)
		}
	}
	if len(c) > 0 {
		return send(c)
	}
	return nil
}

// compare returns the existing batch if the source has the same links.
func compare(ctx context.Context, l *ledger.Ledger, src Source, id string) (ledger.Batch, error) {
	digest, err := Digest(ctx, src)
	if err != nil {
		return ledger.Batch{}, err
	}
	b, err := l.Get(ctx, id)
	if err != nil {
		return ledger.Batch{}, err
	}
	if b.Digest != digest {
		return ledger.Batch{}, fmt.Errorf("batch %s: %w", id, ErrOtherLinks)
	}
	return b, nil
}

// Digest reads a whole source and returns the SHA-256 of its links, in order, in hex.
func Digest(ctx context.Context, src Source) (string, error) {
	d := newDigest()
	for n := 0; ; n++ {
		if n%ledger.ChunkLinks == 0 && ctx.Err() != nil {
			return "", ctx.Err()
		}
		link, err := src.Next()
		if errors.Is(err, io.EOF) {
			return d.String(), nil
		}
		if err != nil {
			return "", err
		}
		d.add(link)
	}
}

type digest struct {
	h   hash.Hash
	buf []byte
}

func newDigest() *digest { return &digest{h: sha256.New()} }

func (d *digest) add(link string) {
	d.buf = append(append(d.buf[:0], link...), '\n')
	d.h.Write(d.buf)
}

func (d *digest) String() string { return hex.EncodeToString(d.h.Sum(nil)) }
