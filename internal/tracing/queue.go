package tracing

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// lossInterval is how often lost spans are logged while more are lost.
const lossInterval = time.Minute

// queue limits the SDK's queue of ended spans and counts lost ones, because the SDK drops
// spans silently.
type queue struct {
	sdktrace.SpanProcessor // the SDK's
	exporter               sdktrace.SpanExporter
	most                   int64
	sendCtx                context.Context // ends exports
	log                    *slog.Logger

	ended, waiting, sent, lost atomic.Int64 // spans

	// Used by one export at a time.
	failing  bool
	logged   int64 // of lost
	loggedAt time.Time
}

func newQueue(e sdktrace.SpanExporter, most int64, sendCtx context.Context, log *slog.Logger) *queue {
	q := &queue{exporter: e, most: most, sendCtx: sendCtx, log: log}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(sender{q}) // its queue has the same size: see queueSize
	return q
}

// OnEnd queues a span, or drops it if the queue is full. It never blocks.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	q.ended.Add(1)
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.lost.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// end logs the number of lost spans, including those still queued.
func (q *queue) end() {
	sent := q.sent.Load()
	if lost := q.ended.Load() - sent; lost > 0 {
		q.log.Warn("spans were lost", "lost", lost, "sent", sent)
	}
}

// sender exports the spans of a queue.
type sender struct{ q *queue }

// ExportSpans always returns nil; failures have been logged.
func (s sender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	q := s.q
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.sendCtx, cancel)()
	err := q.exporter.ExportSpans(ctx, spans)
	n := int64(len(spans))
	if err != nil {
		q.lost.Add(n)
	} else {
		q.sent.Add(n)
	}
	q.waiting.Add(-n)
	q.report(err)
	return nil
}

// Shutdown shuts the exporter down.
func (s sender) Shutdown(ctx context.Context) error { return s.q.exporter.Shutdown(ctx) }

// report logs when sending starts to fail, when it works again, and lost spans.
func (q *queue) report(err error) {
	lost := q.lost.Load()
	switch {
	case q.sendCtx.Err() != nil: // Close logs it
		return
	case err != nil && !q.failing:
		q.failing = true
		q.log.Warn("traces cannot be sent", "error", line(err))
	case err == nil && q.failing:
		q.failing = false
		q.log.Info("traces are sent again", "lost", lost)
	case err == nil && lost > q.logged && time.Since(q.loggedAt) >= lossInterval:
		q.log.Warn("spans were lost: more are produced than the collector accepts", "lost", lost, "sent", q.sent.Load())
	default:
		return
	}
	q.logged, q.loggedAt = lost, time.Now()
}
