package feeder

import (
	"context"
	"log/slog"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

// lateEntry is how old an entry is whose line has its time.
const lateEntry = 10 * time.Second

// messages are the lines of the log by action. Sweeps that end have lines of their own.
var messages = map[history.Action]string{
	history.Import: "batch queued", history.Swept: "batch queued", history.Retry: "batch queued", history.Verify: "verification queued",
	history.Start: "batch started", history.Pause: "batch paused", history.Resume: "batch resumed", history.Abort: "batch aborted", history.SetPriority: "priority set",
	history.Delete: "batch deleted", history.Archive: "batch archived",
	history.RateSet: "limit set", history.RateHold: "sending held", history.RateRelease: "sending released", history.RateWindow: "window set", history.APISet: "API set",
}

// logBatches logs what is new in the histories of the unfinished batches, and adds it to the index.
func (r *repairer) logBatches(ctx context.Context, batches []*batch) error {
	for _, b := range batches {
		if err := r.logBatch(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (r *repairer) logBatch(ctx context.Context, b *batch) error {
	if err := r.ledger.IndexBatch(ctx, b.Batch); err != nil {
		return err
	}
	return r.ledger.LogBatch(ctx, b.Batch, func(e history.Entry) error {
		if e.Action == history.Finish {
			return r.logEnd(ctx, b.Batch)
		}
		logEntry(r.log, e)
		return nil
	})
}

// logFleet does the same for limit, API, sweeps and deleted batches.
func (r *repairer) logFleet(ctx context.Context, _ []*batch) error {
	return r.ledger.LogFleet(ctx, func(e history.Entry) { logEntry(r.log, e) })
}

func logEntry(log *slog.Logger, e history.Entry) {
	message, known := messages[e.Action]
	if !known || e.Action == history.Swept && e.Auto {
		return
	}
	var attrs []any
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, key, value)
		}
	}
	add("batch", e.Batch())
	if e.Auto && e.Actor != history.Self {
		add("worker", e.Actor)
	} else {
		add("by", e.Actor)
	}
	add("detail", e.Detail)
	add("reason", status.ReasonOf(e.Reason))
	if e.Action == history.Pause && e.Auto {
		add("next", "linkcancel batch show "+e.Batch())
	}
	if time.Since(e.Time) > lateEntry { // no worker was there
		attrs = append(attrs, "at", e.Time)
	}
	level := slog.LevelInfo
	if e.Action == history.Pause && e.Auto {
		level = slog.LevelWarn // it waits for a person
	}
	log.Log(context.Background(), level, message, attrs...)
}

// logEnd logs how a batch ended, as a warning if links may still be payable.
func (r *repairer) logEnd(ctx context.Context, b ledger.Batch) error {
	result, err := status.ReadResult(ctx, r.ledger, b)
	if err != nil {
		return err
	}
	attrs := []any{"batch", b.ID, "state", string(b.State), "links", b.Total}
	for _, o := range b.Outcomes() {
		if n := b.Counts[o]; n > 0 {
			attrs = append(attrs, o.String(), n)
		}
	}
	if took := b.Finished.Sub(b.Started); !b.Started.IsZero() {
		round := time.Second
		if took < 10*time.Second {
			round = time.Millisecond
		}
		attrs = append(attrs, "took", took.Round(round).String())
		if sent := b.Counts.Sum() - b.Counts[ledger.Aborted]; took >= 100*time.Millisecond {
			attrs = append(attrs, "rate", float64(int64(float64(sent)/took.Seconds()*10))/10)
		}
	}
	level := slog.LevelInfo
	if result.Payable > 0 {
		level = slog.LevelWarn
	}
	attrs = append(attrs, "may_be_payable", result.Payable)
	r.log.Log(context.Background(), level, "batch finished", attrs...)
	return nil
}
