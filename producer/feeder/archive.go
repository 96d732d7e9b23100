package feeder

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"linkcancel/internal/archive"
	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
)

const (
	// archiveRetry is how long the archiver waits after a failure.
	archiveRetry = time.Minute
	// archiveSearch is how often retired batches without an archive are looked for: those of a
	// leader without a folder.
	archiveSearch = time.Hour
)

// archiver writes the archives of finished batches, one at a time and beside the rounds of the
// leader: a report of a million links takes seconds.
type archiver struct {
	cfg     *Config
	ledger  *ledger.Ledger
	trouble broker.Trouble
	running sync.WaitGroup

	mu   sync.Mutex
	busy bool
	next time.Time // no attempt before
}

// wants reports whether a batch must be archived before it is retired.
func (a *archiver) wants(b ledger.Batch) bool {
	return a.cfg.ArchiveDir != "" && b.Archived.IsZero() && b.Ended()
}

// begin archives some batches, unless the archiver is at work or has just failed.
func (a *archiver) begin(ctx context.Context, archive func(context.Context, ledger.Batch) error, batches ...ledger.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy || time.Now().Before(a.next) {
		return
	}
	a.busy = true
	a.running.Go(func() {
		var err error
		for _, b := range batches {
			if err = archive(ctx, b); err != nil {
				break
			}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.busy = false
		if err != nil && ctx.Err() == nil {
			a.next = time.Now().Add(archiveRetry)
			folder, _ := filepath.Abs(a.cfg.ArchiveDir) // the working directory is there
			a.trouble.Begin("cannot archive finished batches: they are kept until it works", err, "folder", folder,
				"next", "make room, or the folder again; it is tried again each minute")
		} else if err == nil {
			a.trouble.End("finished batches are archived again")
		}
	})
}

func (a *archiver) archive(ctx context.Context, b ledger.Batch) error {
	name, sum, err := archive.Write(ctx, a.ledger, a.cfg.ArchiveDir, b)
	if err == nil {
		by := history.By{Actor: a.cfg.Process, Auto: true}
		err = a.ledger.MarkArchived(ctx, b.ID, by, archive.Where(name, sum))
	}
	if ctx.Err() == nil && a.cfg.Observer != nil {
		a.cfg.Observer.Archived(err == nil)
	}
	return err
}

// archiveLate archives a batch that is retired. The rounds of the leader no longer see its history.
func (a *archiver) archiveLate(ctx context.Context, b ledger.Batch) error {
	err := a.archive(ctx, b)
	if err == nil {
		b, err = a.ledger.Get(ctx, b.ID)
	}
	if err == nil {
		err = a.ledger.IndexBatch(ctx, b)
	}
	if err == nil {
		err = a.ledger.LogBatch(ctx, b, func(e history.Entry) error { logEntry(a.cfg.Log, e); return nil })
	}
	if errors.Is(err, ledger.ErrNoBatch) {
		return nil // it has expired
	}
	return err
}

// archiveRetired archives batches that were retired without it.
func (r *repairer) archiveRetired(ctx context.Context, batches []*batch) error {
	if r.cfg.ArchiveDir == "" {
		return nil
	}
	unfinished := map[string]bool{}
	for _, b := range batches {
		unfinished[b.ID] = true
	}
	all, err := r.ledger.List(ctx)
	if err != nil {
		return err
	}
	var missing []ledger.Batch
	for _, b := range all {
		if r.archiver.wants(b) && !unfinished[b.ID] {
			missing = append(missing, b)
		}
	}
	if len(missing) > 0 {
		r.archiver.begin(ctx, r.archiver.archiveLate, missing...)
	}
	return nil
}
