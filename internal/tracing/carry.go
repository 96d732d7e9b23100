package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Between our own processes a trace always uses the W3C format.
var w3c propagation.TraceContext

const traceparent = "traceparent"

// Carry returns the span context in ctx as headers for a task, or nil.
func Carry(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	headers := propagation.MapCarrier{}
	w3c.Inject(ctx, headers)
	return headers
}

// Parent returns ctx with the remote span context from the headers of a task, if any.
func Parent(ctx context.Context, headers map[string]string) context.Context {
	if headers[traceparent] == "" {
		return ctx
	}
	return w3c.Extract(ctx, propagation.MapCarrier(headers))
}

// Traceparent returns the span context in ctx as a W3C traceparent for the hash of a batch, or "".
func Traceparent(ctx context.Context) string { return Carry(ctx)[traceparent] }

// SpanContext parses a traceparent. The result is invalid if that fails.
func SpanContext(word string) trace.SpanContext {
	if word == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), propagation.MapCarrier{traceparent: word}))
}

// Start starts a child of the span in ctx. Without one it returns a no-op span.
func Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	above := trace.SpanFromContext(ctx)
	if !above.SpanContext().IsValid() {
		return ctx, above
	}
	return above.TracerProvider().Tracer(scope).Start(ctx, name, options...)
}

// Without removes the span from ctx, so nothing below is traced.
func Without(ctx context.Context) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.SpanContext{})
}
