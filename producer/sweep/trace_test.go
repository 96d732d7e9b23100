package sweep

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/otlptest"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
	"linkcancel/internal/tracing"
)

// A sweep by schedule is a trace of its own, down to its batch.
func TestSweepTraced(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		tr, spans := otlptest.Tracer(sdktrace.AlwaysSample())
		l := ledger.New(b.Client())
		schedule, err := ParseSchedule("@daily", "")
		testutil.Must(t, err)
		s := NewSweeper(SweeperConfig{Schedule: schedule, Log: slog.New(slog.DiscardHandler), Tracer: tr}, b, l)
		s.runCtx = t.Context()
		s.sweep = func(ctx context.Context, l *ledger.Ledger, cfg Config) (r Result, err error) {
			r.Batch, err = importer.MakeBatch(ctx, l, &importer.Links{IDs: testutil.LinkIDs(3)}, importer.BatchConfig{ID: cfg.BatchID, Source: importer.SourceSweep, Name: cfg.Name})
			return r, err
		}
		now, err := l.Now(t.Context())
		testutil.Must(t, err)
		p := task.Sweep{Name: now.Format(time.DateOnly), Due: now, Selection: []byte(`{"expired":true}`)}
		tk, err := p.Task()
		testutil.Must(t, err)
		testutil.Must(t, s.ProcessTask(t.Context(), tk))
		root, made := otlptest.Only(t, spans.GetSpans(), "sweep"), otlptest.Only(t, spans.GetSpans(), "make batch")
		if root.Parent.IsValid() || made.Parent.SpanID() != root.SpanContext.SpanID() || root.Status.Code != codes.Unset {
			t.Errorf("the sweep is below %v, its batch below %v", root.Parent, made.Parent)
		}
		if got := otlptest.Attributes(root)["linkcancel.sweep"]; got != p.Name {
			t.Errorf("the sweep is called %q", got)
		}
		batch, err := l.Get(t.Context(), otlptest.Attributes(made)["linkcancel.batch"])
		testutil.Must(t, err)
		if sc := tracing.SpanContext(batch.Trace); sc.SpanID() != made.SpanContext.SpanID() {
			t.Errorf("the batch has the trace %q", batch.Trace)
		}
	})
}
