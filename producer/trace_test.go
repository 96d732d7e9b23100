package producer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// tracer makes spans, and shows those that have ended.
func tracer(sampler sdktrace.Sampler) (trace.Tracer, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	return sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithSampler(sampler)).Tracer("test"), spans
}

// only is the one span of a name.
func only(t *testing.T, spans tracetest.SpanStubs, name string) tracetest.SpanStub {
	t.Helper()
	var found tracetest.SpanStubs
	for _, s := range spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %s", len(found), name)
	}
	return found[0]
}

func attributesOf(s tracetest.SpanStub) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[string(a.Key)] = a.Value.String()
	}
	return all
}

// headers are those of a task as asynq keeps it.
func (y *yard) headers(s task.Slice) map[string]string {
	y.t.Helper()
	info, err := y.i.GetTaskInfo(task.QueueCancel, s.ID())
	must(y.t, err)
	return info.Headers
}

// The trace of a batch goes with its first slices; each later slice has its own,
// linked with it.
func TestFeedTraced(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		tr, spans := tracer(sdktrace.AlwaysSample())
		ctx, root := tr.Start(t.Context(), "import")
		_, err := MakeBatch(ctx, y.l, &links{ids: some(1100)}, BatchConfig{ID: "b1", Source: SourceImport})
		must(t, err)
		root.End()
		made := only(t, spans.GetSpans(), "make batch")
		if made.Parent.SpanID() != root.SpanContext().SpanID() {
			t.Errorf("the batch is below %v", made.Parent)
		}
		want := map[string]string{"linkcancel.batch": "b1", "linkcancel.source": "import", "linkcancel.links": "1100"}
		if diff := cmp.Diff(want, attributesOf(made)); diff != "" {
			t.Error(diff)
		}

		f := NewFeeder(FeederConfig{Rate: 100, Log: slog.New(slog.DiscardHandler), Tracer: tr}, y.rdb, y.l)
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
				i := slices.IndexFunc(ended, func(sp tracetest.SpanStub) bool { return attributesOf(sp)["linkcancel.slice"] == s.Key() })
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
	bubble(t, func(t *testing.T, y *yard) {
		tr, spans := tracer(sdktrace.AlwaysSample())
		ctx, root := tr.Start(t.Context(), "import")
		_, err := MakeBatch(ctx, y.l, &links{ids: some(60)}, BatchConfig{ID: "b1", Source: SourceImport})
		must(t, err)
		root.End()
		made := only(t, spans.GetSpans(), "make batch").SpanContext
		f := NewFeeder(FeederConfig{Rate: 100, Log: slog.New(slog.DiscardHandler), Tracer: tr}, y.rdb, y.l)
		y.tick(f)
		orphan, ok := y.take(time.Now().Add(-time.Minute))
		lost, ok2 := y.take(time.Now().Add(time.Hour))
		if !ok || !ok2 {
			t.Fatal("two slices were to be fed")
		}
		y.drop(lost)
		spans.Reset()
		for range missingEvery/time.Second + 1 {
			pass(time.Second)
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
			if attributesOf(span)["linkcancel.again"] != "1" || span.Parent.SpanID() != made.SpanID() {
				t.Errorf("span %v below %v", attributesOf(span), span.Parent)
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
	bubble(t, func(t *testing.T, y *yard) {
		off, none := tracer(sdktrace.NeverSample())
		ctx, root := off.Start(t.Context(), "import")
		_, err := MakeBatch(ctx, y.l, &links{ids: some(1200)}, BatchConfig{ID: "b1", Source: SourceImport})
		must(t, err)
		root.End()
		on, spans := tracer(sdktrace.ParentBased(sdktrace.AlwaysSample()))
		f := NewFeeder(FeederConfig{Rate: 10_000, Log: slog.New(slog.DiscardHandler), Tracer: on}, y.rdb, y.l)
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
	bubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", SourceImport, 60)
		fields, err := y.rdb.HKeys(t.Context(), "lc:{b1}").Result()
		must(t, err)
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
	bubble(t, func(t *testing.T, y *yard) {
		tr, spans := tracer(sdktrace.AlwaysSample())
		ctx, root := tr.Start(t.Context(), "import")
		_, err := MakeBatch(ctx, y.l, &links{ids: some(10)}, BatchConfig{ID: "traced", Source: SourceImport})
		must(t, err)
		root.End()
		y.tick(y.feeder(100))
		s, ok := y.take(time.Now().Add(time.Minute))
		if !ok || len(y.headers(s)) != 0 {
			t.Errorf("slice %s has headers", s.ID())
		}
		y.settle(s)
		y.drop(s)
		must(t, y.rdb.Del(t.Context(), "lc:feeder").Err())

		y.batch("untraced", SourceImport, 10)
		y.batch("odd", SourceImport, 10)
		must(t, y.rdb.HSet(t.Context(), "lc:{odd}", "trace", "00-nonsense").Err())
		spans.Reset()
		y.tick(NewFeeder(FeederConfig{Rate: 100, Log: slog.New(slog.DiscardHandler), Tracer: tr}, y.rdb, y.l))
		for _, span := range spans.GetSpans() {
			if span.Parent.IsValid() || len(span.Links) != 0 {
				t.Errorf("span %v is below %v, linked with %v", attributesOf(span), span.Parent, span.Links)
			}
		}
		if n := len(spans.GetSpans()); n != 2 {
			t.Errorf("%d spans", n)
		}
	})
}

// An error's text may quote the user's file: it stays out of the span.
func TestMakeBatchTracedFails(t *testing.T) {
	bubble(t, func(t *testing.T, y *yard) {
		for want, err := range map[string]error{
			"input": &InputError{}, "interrupted": context.Canceled, "_OTHER": errors.New("something private"),
		} {
			tr, spans := tracer(sdktrace.AlwaysSample())
			ctx, root := tr.Start(t.Context(), "import")
			_, got := MakeBatch(ctx, y.l, &links{ids: some(10)}, BatchConfig{ID: "b1", Confirm: func(Stats) error { return err }})
			if !errors.Is(got, err) {
				t.Fatal(got)
			}
			root.End()
			span := only(t, spans.GetSpans(), "make batch")
			if span.Status != (sdktrace.Status{Code: codes.Error}) || !cmp.Equal(attributesOf(span), map[string]string{"error.type": want}) {
				t.Errorf("%v: %+v %v", err, span.Status, attributesOf(span))
			}
		}
	})
}

// A sweep by schedule is a trace of its own, down to its batch.
func TestSweepTraced(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		tr, spans := tracer(sdktrace.AlwaysSample())
		l := ledger.New(b.Client())
		schedule, err := ParseSchedule("@daily", "")
		must(t, err)
		s := NewSweeper(SweeperConfig{Schedule: schedule, Log: slog.New(slog.DiscardHandler), Tracer: tr}, b, l)
		s.stopping = t.Context()
		s.sweep = func(ctx context.Context, l *ledger.Ledger, cfg SweepConfig) (r SweepResult, err error) {
			r.Batch, err = MakeBatch(ctx, l, &links{ids: some(3)}, BatchConfig{ID: cfg.BatchID, Source: SourceSweep, Name: cfg.Name})
			return r, err
		}
		now, err := l.Now(t.Context())
		must(t, err)
		p := task.Sweep{Name: now.Format(time.DateOnly), Due: now, Selection: []byte(`{"expired":true}`)}
		tk, err := p.Task()
		must(t, err)
		must(t, s.ProcessTask(t.Context(), tk))
		root, made := only(t, spans.GetSpans(), "sweep"), only(t, spans.GetSpans(), "make batch")
		if root.Parent.IsValid() || made.Parent.SpanID() != root.SpanContext.SpanID() || root.Status.Code != codes.Unset {
			t.Errorf("the sweep is below %v, its batch below %v", root.Parent, made.Parent)
		}
		if got := attributesOf(root)["linkcancel.sweep"]; got != p.Name {
			t.Errorf("the sweep is called %q", got)
		}
		batch, err := l.Get(t.Context(), attributesOf(made)["linkcancel.batch"])
		must(t, err)
		if sc := tracing.SpanContext(batch.Trace); sc.SpanID() != made.SpanContext.SpanID() {
			t.Errorf("the batch has the trace %q", batch.Trace)
		}
	})
}
