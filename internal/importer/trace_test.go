package importer

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/otlptest"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

// An error's text may quote the user's file: it stays out of the span.
func TestMakeBatchTracedFails(t *testing.T) {
	redistest.Bubble(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		for want, err := range map[string]error{
			"input": &InputError{}, "interrupted": context.Canceled, "_OTHER": errors.New("something private"),
		} {
			tr, spans := otlptest.Tracer(sdktrace.AlwaysSample())
			ctx, root := tr.Start(t.Context(), "import")
			_, got := MakeBatch(ctx, l, &links{ids: testutil.LinkIDs(10)}, BatchConfig{ID: "b1", Confirm: func(Stats) error { return err }})
			if !errors.Is(got, err) {
				t.Fatal(got)
			}
			root.End()
			span := otlptest.Only(t, spans.GetSpans(), "make batch")
			if span.Status != (sdktrace.Status{Code: codes.Error}) || !cmp.Equal(otlptest.Attributes(span), map[string]string{"error.type": want}) {
				t.Errorf("%v: %+v %v", err, span.Status, otlptest.Attributes(span))
			}
		}
	})
}
