package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Between our own processes a trace always travels in the W3C's form.
var w3c propagation.TraceContext

const traceparent = "traceparent"

// Carry is the place in its trace of the span in ctx, for the headers of a task;
// nil without a span.
func Carry(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	headers := propagation.MapCarrier{}
	w3c.Inject(ctx, headers)
	return headers
}

// Parent returns a context below the span that the headers of a task name; ctx
// itself if they name none.
func Parent(ctx context.Context, headers map[string]string) context.Context {
	if headers[traceparent] == "" {
		return ctx
	}
	return w3c.Extract(ctx, propagation.MapCarrier(headers))
}

// Traceparent is Carry as one word, for the hash of a batch; "" without a span.
func Traceparent(ctx context.Context) string { return Carry(ctx)[traceparent] }

// SpanContext reads what Traceparent wrote; it is not valid if that cannot be
// read.
func SpanContext(word string) trace.SpanContext {
	if word == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), propagation.MapCarrier{traceparent: word}))
}

// Start starts a span below the one in ctx. Without one there is nothing to do,
// and the span does nothing.
func Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	above := trace.SpanFromContext(ctx)
	if !above.SpanContext().IsValid() {
		return ctx, above
	}
	return above.TracerProvider().Tracer(scope).Start(ctx, name, options...)
}

// Without hides the span in ctx: nothing is traced below.
func Without(ctx context.Context) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.SpanContext{})
}
