package worker

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// trace runs the slice within a span, in the trace that the task's headers name.
func (r *sliceRun) trace(headers map[string]string, redeliveries int) (err error) {
	s := r.slice
	r.gate.ctx, r.span = r.w.cfg.Tracer.Start(tracing.Parent(r.gate.ctx, headers), "cancel slice",
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(
			tracing.Batch.String(s.Batch), tracing.Slice.String(s.Key()), tracing.Links.Int(len(r.links)), tracing.Again.Int(redeliveries),
			semconv.MessagingSystemKey.String("asynq"), semconv.MessagingDestinationName(r.slice.Queue()),
			semconv.MessagingMessageID(s.ID()), semconv.MessagingOperationTypeProcess,
		))
	// In a function: otherwise End would write the text of a panic into the span.
	defer func() { r.endSpan(err) }()
	return r.run(redeliveries)
}

func (r *sliceRun) endSpan(err error) {
	var later *task.Later
	switch {
	case errors.As(err, &later):
		r.span.SetAttributes(tracing.Later.String(later.Why))
	case err != nil:
		r.span.SetStatus(codes.Error, err.Error())
	case r.panicked != nil:
		r.span.SetStatus(codes.Error, "panic")
	}
	r.span.End()
}

// startLink begins a link's span. Requests outlive the slice's context, so only the span is kept.
func (r *sliceRun) startLink(l *link) (context.Context, trace.Span) {
	return r.w.cfg.Tracer.Start(trace.ContextWithSpan(r.w.callCtx, r.span), "cancel link",
		trace.WithAttributes(tracing.Batch.String(r.slice.Batch), tracing.Link.String(l.id)))
}

// endLink ends the span of a link. plexy has removed the API key from the texts.
func endLink(span trace.Span, l *link) {
	if span.IsRecording() {
		span.SetAttributes(tracing.Outcome.String(l.record.Outcome.String()), tracing.Attempts.Int(int(l.record.Attempts)),
			tracing.Ambiguous.Bool(l.record.Ambiguous))
		if l.status != "" {
			span.SetAttributes(tracing.LinkStatus.String(l.status))
		}
		switch o := l.record.Outcome; {
		case o == ledger.Failed, o == ledger.Rejected, o == ledger.None && l.text != "" && !l.back:
			span.SetStatus(codes.Error, l.text)
		}
	}
	span.End()
}
