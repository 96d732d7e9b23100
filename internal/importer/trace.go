package importer

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/tracing"
)

// endBatch ends the span of MakeBatch.
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
