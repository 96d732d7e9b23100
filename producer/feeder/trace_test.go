package feeder

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/otlptest"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
	"linkcancel/internal/tracing"
)

// headers are those of a task as asynq keeps it.
func (y *yard) headers(s task.Slice) map[string]string {
	y.t.Helper()
	info, err := y.i.GetTaskInfo(task.QueueCancel, s.ID())
	testutil.Must(y.t, err)
	return info.Headers
}

// The trace of a batch goes with its first slices; each later slice has its own, linked with it.
func TestFeedTraced(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		tr, spans := otlptest.Tracer(sdktrace.AlwaysSample())
		ctx, root := tr.Start(t.Context(), "import")
		_, err := importer.MakeBatch(ctx, y.l, &importer.Links{IDs: testutil.LinkIDs(1100)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport})
		testutil.Must(t, err)
		root.End()
		made := otlptest.Only(t, spans.GetSpans(), "make batch")
		if made.Parent.SpanID() != root.SpanContext().SpanID() {
			t.Errorf("the batch is below %v", made.Parent)
		}
		want := map[string]string{"linkcancel.batch": "b1", "linkcancel.source": "import", "linkcancel.links": "1100"}
		if diff := cmp.Diff(want, otlptest.Attributes(made)); diff != "" {
			t.Error(diff)
		}

		f := New(Config{Limit: y.limit(100), Log: slog.New(slog.DiscardHandler), Tracer: tr}, y.rdb, y.l)
		fed := map[string]bool{} // traces of later slices
		for y.get("b1").Cursor < 1100 {
			spans.Reset()
			y.tick(f)
			ended := spans.GetSpans()
			for {
				s, ok := y.take(time.Now().Add(time.Minute))
				if !ok {
					break
				}
				i := slices.IndexFunc(ended, func(sp tracetest.SpanStub) bool { return otlptest.Attributes(sp)["linkcancel.slice"] == s.Key() })
				if i < 0 {
					t.Fatalf("no span of slice %s", s.Key())
				}
				span := ended[i]
				carried := trace.SpanContextFromContext(tracing.Parent(context.Background(), y.headers(s)))
				if span.Name != "feed slice" || span.SpanKind != trace.SpanKindProducer ||
					carried.SpanID() != span.SpanContext.SpanID() || carried.TraceID() != span.SpanContext.TraceID() {
					t.Errorf("slice %s carries %v of span %+v", s.Key(), carried, span)
				}
				id := span.SpanContext.TraceID().String()
				switch own := id != made.SpanContext.TraceID().String(); {
				case own != (s.Chunk > 0):
					t.Errorf("slice %s has a trace of its own: %v", s.Key(), own)
				case own && (span.Parent.IsValid() || len(span.Links) != 1 || span.Links[0].SpanContext.SpanID() != made.SpanContext.SpanID() || fed[id]):
					t.Errorf("slice %s is below %v, and linked with %v", s.Key(), span.Parent, span.Links)
				case own:
					fed[id] = true
				case span.Parent.SpanID() != made.SpanContext.SpanID() || len(span.Links) != 0:
					t.Errorf("slice %s is below %v, and linked with %v", s.Key(), span.Parent, span.Links)
				}
				y.settle(s)
				y.drop(s)
			}
		}
		if len(fed) != 2 {
			t.Errorf("%d slices have a trace of their own", len(fed))
		}
	})
}

// A slice that is enqueued again stays in its trace.
func TestRepairTraced(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		tr, spans := otlptest.Tracer(sdktrace.AlwaysSample())
		ctx, root := tr.Start(t.Context(), "import")
		_, err := importer.MakeBatch(ctx, y.l, &importer.Links{IDs: testutil.LinkIDs(60)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport})
		testutil.Must(t, err)
		root.End()
		made := otlptest.Only(t, spans.GetSpans(), "make batch").SpanContext
		f := New(Config{Limit: y.limit(100), Log: slog.New(slog.DiscardHandler), Tracer: tr}, y.rdb, y.l)
		y.tick(f)
		orphan, ok := y.take(time.Now().Add(-time.Minute))
		lost, ok2 := y.take(time.Now().Add(time.Hour))
		if !ok || !ok2 {
			t.Fatal("two slices were to be fed")
		}
		y.drop(lost)
		spans.Reset()
		for range missingInterval/time.Second + 1 {
			testutil.Advance(time.Second)
			y.tick(f)
		}
		orphan.Redeliveries, lost.Redeliveries = 1, 1
		for _, s := range []task.Slice{orphan, lost} {
			carried := trace.SpanContextFromContext(tracing.Parent(context.Background(), y.headers(s)))
			if carried.TraceID() != made.TraceID() {
				t.Errorf("slice %s has left its trace for %v", s.ID(), carried)
			}
		}
		for _, span := range spans.GetSpans() {
			if otlptest.Attributes(span)["linkcancel.again"] != "1" || span.Parent.SpanID() != made.SpanID() {
				t.Errorf("span %v below %v", otlptest.Attributes(span), span.Parent)
			}
		}
		if n := len(spans.GetSpans()); n != 2 {
			t.Errorf("%d spans", n)
		}
	})
}

// What was decided for the batch holds for its first slices; later ones are
// decided upon by themselves.
func TestFeedSampled(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		off, none := otlptest.Tracer(sdktrace.NeverSample())
		ctx, root := off.Start(t.Context(), "import")
		_, err := importer.MakeBatch(ctx, y.l, &importer.Links{IDs: testutil.LinkIDs(1200)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport})
		testutil.Must(t, err)
		root.End()
		on, spans := otlptest.Tracer(sdktrace.ParentBased(sdktrace.AlwaysSample()))
		f := New(Config{Limit: y.limit(10_000), Log: slog.New(slog.DiscardHandler), Tracer: on}, y.rdb, y.l)
		y.tick(f)
		for {
			s, ok := y.take(time.Now().Add(time.Minute))
			if !ok {
				break
			}
			word := y.headers(s)["traceparent"]
			if want := map[bool]string{false: "-00", true: "-01"}[s.Chunk > 0]; !strings.HasSuffix(word, want) {
				t.Errorf("slice %s carries %q", s.Key(), word)
			}
		}
		if n := len(spans.GetSpans()); n != 2 || len(none.GetSpans()) != 0 {
			t.Errorf("%d spans", n)
		}
	})
}

// Without traces the ledger and the queue are what they always were.
func TestFeedUntraced(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 60)
		fields, err := y.rdb.HKeys(t.Context(), "lc:{b1}").Result()
		testutil.Must(t, err)
		if slices.Contains(fields, "trace") {
			t.Errorf("the batch has the fields %v", fields)
		}
		y.tick(y.feeder(100))
		n := 0
		for ; ; n++ {
			s, ok := y.take(time.Now().Add(time.Minute))
			if !ok {
				break
			}
			if h := y.headers(s); len(h) != 0 {
				t.Errorf("slice %s has the headers %v", s.Key(), h)
			}
		}
		if n != 2 {
			t.Errorf("%d slices were fed", n)
		}
	})
}

// A process without traces feeds a batch that has one; one with traces feeds a
// batch that has none, or whose place in a trace cannot be read.
func TestFeedHalfTraced(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		tr, spans := otlptest.Tracer(sdktrace.AlwaysSample())
		ctx, root := tr.Start(t.Context(), "import")
		_, err := importer.MakeBatch(ctx, y.l, &importer.Links{IDs: testutil.LinkIDs(10)}, importer.BatchConfig{ID: "traced", Source: importer.SourceImport})
		testutil.Must(t, err)
		root.End()
		y.tick(y.feeder(100))
		s, ok := y.take(time.Now().Add(time.Minute))
		if !ok || len(y.headers(s)) != 0 {
			t.Errorf("slice %s has headers", s.ID())
		}
		y.settle(s)
		y.drop(s)
		testutil.Must(t, y.rdb.Del(t.Context(), "lc:feeder").Err())

		y.batch("untraced", importer.SourceImport, 10)
		y.batch("odd", importer.SourceImport, 10)
		testutil.Must(t, y.rdb.HSet(t.Context(), "lc:{odd}", "trace", "00-nonsense").Err())
		spans.Reset()
		y.tick(New(Config{Limit: y.limit(100), Log: slog.New(slog.DiscardHandler), Tracer: tr}, y.rdb, y.l))
		for _, span := range spans.GetSpans() {
			if span.Parent.IsValid() || len(span.Links) != 0 {
				t.Errorf("span %v is below %v, linked with %v", otlptest.Attributes(span), span.Parent, span.Links)
			}
		}
		if n := len(spans.GetSpans()); n != 2 {
			t.Errorf("%d spans", n)
		}
	})
}
