package producer

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// tracedChunks is how many chunks of a batch are in its own trace. Each later
// slice has a trace of its own, linked with the batch's and sampled by itself: a
// trace of a million links is of no use to anyone, and few stores would take it.
const tracedChunks = 1

// endBatch ends the span of the making of a batch.
func endBatch(span trace.Span, b ledger.Batch, err error) {
	if span.IsRecording() {
		if err != nil {
			// Without its text: it may quote the user's file.
			span.SetStatus(codes.Error, "")
			span.SetAttributes(semconv.ErrorTypeKey.String(batchErrorType(err)))
		} else {
			span.SetAttributes(tracing.Batch.String(b.ID), tracing.Source.String(b.Source), tracing.Links.Int64(b.Total))
		}
	}
	span.End()
}

func batchErrorType(err error) string {
	switch {
	case errors.As(err, new(*InputError)):
		return "input"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return "_OTHER"
}

// putTraced puts a slice into the queue within a span, whose place in the trace
// goes with it.
func (f *Feeder) putTraced(ctx context.Context, s task.Slice) error {
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(append(sliceAttributes(s), semconv.MessagingOperationTypeSend)...),
	}
	batch := tracing.SpanContext(f.traces[s.Batch])
	// It is fed for the sake of its batch, whatever this process does besides.
	spanCtx := trace.ContextWithRemoteSpanContext(ctx, batch)
	if s.Chunk >= tracedChunks && batch.IsValid() {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: batch}))
	}
	spanCtx, span := f.cfg.Tracer.Start(spanCtx, "feed slice", options...)
	s.Headers = tracing.Carry(spanCtx)
	err := f.put(ctx, s)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
	return err
}

func sliceAttributes(s task.Slice) []attribute.KeyValue {
	return []attribute.KeyValue{
		tracing.Batch.String(s.Batch), tracing.Slice.String(s.Key()), tracing.Links.Int(len(s.Links)), tracing.Again.Int(s.Redeliveries),
		semconv.MessagingSystemKey.String("asynq"), semconv.MessagingDestinationName(task.QueueCancel), semconv.MessagingMessageID(s.ID()),
	}
}

// runTraced runs a sweep in a trace of its own.
func (r *sweepRun) runTraced(ctx context.Context) error {
	ctx, span := r.s.cfg.Tracer.Start(ctx, "sweep", trace.WithNewRoot(), trace.WithAttributes(tracing.Sweep.String(r.p.Name)))
	err := r.run(ctx)
	if err != nil {
		span.SetStatus(codes.Error, explain(err))
	}
	span.End()
	return err
}
