package feeder

import (
	"context"
	"time"

	"linkcancel/internal/ledger"
)

// deadImport is how long an import may be without a heartbeat before it is deleted.
const deadImport = 24 * time.Hour

// retire retires finished batches, completes aborted ones, and deletes dead imports.
func (r *repairer) retire(ctx context.Context, batches []*batch) error {
	for _, b := range batches {
		var err error
		switch b.State {
		case ledger.Importing:
			err = r.deleteIfDead(ctx, b)
		case ledger.Done, ledger.AbortedState:
			err = r.finish(ctx, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *repairer) finish(ctx context.Context, b *batch) error {
	if b.Pending() > 0 { // aborted, and the command that aborted it has died
		return r.ledger.FillAborted(ctx, b.Batch)
	}
	if made, err := r.verifier.made(ctx, b.Batch); err != nil || !made {
		return err
	}
	if r.notifier != nil && b.Notified < b.History {
		return nil // its end is not in the outbox yet
	}
	if r.archiver.wants(b.Batch) {
		r.archiver.begin(ctx, r.archiver.archive, b.Batch)
		return nil // it is retired in the round that sees the archive
	}
	return r.ledger.Retire(ctx, b.Batch, r.cfg.Keep)
}

func (r *repairer) deleteIfDead(ctx context.Context, b *batch) error {
	deleted, err := r.ledger.DiscardDead(ctx, b.ID, deadImport)
	if deleted {
		r.log.Warn("dead import deleted", "batch", b.ID)
	}
	return err
}

// relist restores batches that the lists of batches have lost in a failover.
func (r *repairer) relist(ctx context.Context, _ []*batch) error {
	found, err := r.ledger.Relist(ctx)
	for _, id := range found {
		r.log.Warn("batch put back into the lists of batches", "batch", id)
	}
	return err
}
