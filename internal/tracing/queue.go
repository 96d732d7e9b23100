package tracing

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// tellEvery is how often lost spans are told of, while more are lost.
const tellEvery = time.Minute

// queue is what ended spans wait in until they are sent. It stands around the
// SDK's own, which drops what is too much and tells nobody.
type queue struct {
	sdktrace.SpanProcessor // the SDK's
	exporter               sdktrace.SpanExporter
	most                   int64
	ending                 context.Context // ends what is being sent
	log                    *slog.Logger

	ended, waiting, sent, lost atomic.Int64 // spans

	// One batch is sent at a time.
	failing bool
	told    int64 // of lost
	toldAt  time.Time
}

func newQueue(e sdktrace.SpanExporter, most int64, ending context.Context, log *slog.Logger) *queue {
	q := &queue{exporter: e, most: most, ending: ending, log: log}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(sender{q}) // its queue has the same size: see queueSize
	return q
}

// OnEnd takes in a span, or drops it if too many wait. It never waits itself.
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

// end tells what was lost in all, with what still waits.
func (q *queue) end() {
	sent := q.sent.Load()
	if lost := q.ended.Load() - sent; lost > 0 {
		q.log.Warn("spans were lost", "lost", lost, "sent", sent)
	}
}

// sender sends the spans of a queue.
type sender struct{ q *queue }

// ExportSpans sends spans. Its error is always nil: it was told of already.
func (s sender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	q := s.q
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.ending, cancel)()
	err := q.exporter.ExportSpans(ctx, spans)
	n := int64(len(spans))
	if err != nil {
		q.lost.Add(n)
	} else {
		q.sent.Add(n)
	}
	q.waiting.Add(-n)
	q.tell(err)
	return nil
}

// Shutdown ends the exporter.
func (s sender) Shutdown(ctx context.Context) error { return s.q.exporter.Shutdown(ctx) }

// tell tells when sending fails and when it works again, and of lost spans.
func (q *queue) tell(err error) {
	lost := q.lost.Load()
	switch {
	case q.ending.Err() != nil: // Close tells
		return
	case err != nil && !q.failing:
		q.failing = true
		q.log.Warn("traces cannot be sent", "error", line(err))
	case err == nil && q.failing:
		q.failing = false
		q.log.Info("traces are sent again", "lost", lost)
	case err == nil && lost > q.told && time.Since(q.toldAt) >= tellEvery:
		q.log.Warn("spans were lost: more come than the collector takes", "lost", lost, "sent", q.sent.Load())
	default:
		return
	}
	q.told, q.toldAt = lost, time.Now()
}
