package feeder

import (
	"context"
	"fmt"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/notify"
)

// notifyBatches puts what is new in the histories of the unfinished batches into the outbox. A batch
// is not retired before.
func (r *repairer) notifyBatches(ctx context.Context, batches []*batch) error {
	if r.notifier == nil {
		return nil
	}
	if err := r.notifier.Lead(ctx, time.Now()); err != nil {
		return err
	}
	for _, b := range batches {
		if b.History <= b.Notified {
			continue
		}
		now, err := r.ledger.Now(ctx)
		if err != nil {
			return fmt.Errorf("ask Redis for the time: %w", err)
		}
		var events []notify.Event
		err = r.ledger.NotifyBatch(ctx, b.Batch, func(e history.Entry) error {
			event, known, err := notify.OfBatch(ctx, r.ledger, b.Batch, e, now, r.cfg.PageURL)
			if known {
				events = append(events, event)
			}
			return err
		}, func() error { return r.notifier.Put(ctx, events) })
		if err != nil {
			return err
		}
	}
	return nil
}

// notifyFleet does the same for the sweeps.
func (r *repairer) notifyFleet(ctx context.Context, _ []*batch) error {
	if r.notifier == nil {
		return nil
	}
	return r.ledger.NotifySweeps(ctx, func(entries []history.Entry) error {
		now, err := r.ledger.Now(ctx)
		if err != nil {
			return fmt.Errorf("ask Redis for the time: %w", err)
		}
		sweeps, err := r.ledger.Sweeps(ctx)
		if err != nil {
			return err
		}
		var events []notify.Event
		for _, e := range entries {
			if event, known := notify.OfSweep(sweeps, e, now, r.cfg.PageURL); known {
				events = append(events, event)
			}
		}
		return r.notifier.Put(ctx, events)
	})
}
