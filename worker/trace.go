package worker

import (
	"errors"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// workTraced works within a span, in the trace that the task's headers name.
func (r *sliceRun) workTraced(headers map[string]string, crashes int) (err error) {
	s := r.slice
	ctx, span := r.w.cfg.Tracer.Start(tracing.Parent(r.ctx, headers), "cancel slice",
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(
			tracing.Batch.String(s.Batch), tracing.Slice.String(s.Key()), tracing.Links.Int(len(r.links)), tracing.Again.Int(crashes),
			semconv.MessagingSystemKey.String("asynq"), semconv.MessagingDestinationName(task.QueueCancel),
			semconv.MessagingMessageID(s.ID()), semconv.MessagingOperationTypeProcess,
		))
	r.ctx, r.span = ctx, span
	// In a function: End itself would write the text of a panic into the span.
	defer func() { r.endSpan(err) }()
	return r.work(crashes)
}

func (r *sliceRun) endSpan(err error) {
	var later *laterError
	switch {
	case errors.As(err, &later):
		r.span.SetAttributes(tracing.Later.String(later.why))
	case err != nil:
		r.span.SetStatus(codes.Error, err.Error())
	case r.panicky != nil:
		r.span.SetStatus(codes.Error, "panic")
	}
	r.span.End()
}

// cancelTraced takes a link further within a span.
func (r *sliceRun) cancelTraced(l *link, slot ratelimit.Slot) {
	// Of the slice's contexts only the span: requests outlive its waits.
	calls, span := r.w.cfg.Tracer.Start(trace.ContextWithSpan(r.w.calls, r.span), "cancel link",
		trace.WithAttributes(tracing.Batch.String(r.slice.Batch), tracing.Link.String(l.id)))
	defer func() { endLink(span, l) }() // in a function: as in workTraced
	c := r.canceler(calls)
	c.run(l, slot)
}

// endLink ends the span of a link with what this run found out. Its texts are
// those of the report: plexy has taken the key out of them.
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
