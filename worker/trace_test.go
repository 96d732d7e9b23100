package worker

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
	"linkcancel/producer/feeder"
)

// tracer makes spans, and shows those that have ended.
func tracer(sampler sdktrace.Sampler) (trace.Tracer, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	return sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithSampler(sampler)).Tracer("test"), spans
}

func attributesOf(s tracetest.SpanStub) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[string(a.Key)] = a.Value.String()
	}
	return all
}

// From the batch over the queue to the request: one trace, each span below the
// one that caused it, a run that comes later too.
func TestTrace(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		f := newFleet(t, b)
		tr, spans := tracer(sdktrace.AlwaysSample())
		api := sandbox.New(sandbox.Config{IDs: names(3)})
		t.Cleanup(api.Close)
		api.SetStatus("pl_000001", "paid")
		api.Script("pl_000002", sandbox.Answer{Status: 500})
		var mu sync.Mutex
		requests := map[trace.SpanID][]string{} // by the span that they are below
		ask := through{memory{api}, func(ctx context.Context, method, id string) error {
			mu.Lock()
			defer mu.Unlock()
			above := trace.SpanContextFromContext(ctx).SpanID()
			requests[above] = append(requests[above], method+" "+id)
			return nil
		}}
		ctx, root := tr.Start(t.Context(), "import")
		_, err := importer.MakeBatch(ctx, f.l, &ids{links: names(3)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport})
		must(t, err)
		root.End()
		f.work(Config{Tracer: tr}, ask, nil)
		f.feedTraced(tr)
		f.done("b1")
		f.until("the spans of two runs", func() bool {
			runs := slices.DeleteFunc(spans.GetSpans(), func(s tracetest.SpanStub) bool { return s.Name != "cancel slice" })
			return len(runs) == 2
		})

		all := map[trace.SpanID]tracetest.SpanStub{}
		for _, s := range spans.GetSpans() {
			all[s.SpanContext.SpanID()] = s
		}
		var got []string
		for id, s := range all {
			if s.SpanContext.TraceID() != root.SpanContext().TraceID() {
				t.Errorf("span %s has left the trace", s.Name)
			}
			path := s.Name
			for at := s; at.Parent.IsValid(); {
				at = all[at.Parent.SpanID()]
				path = at.Name + " > " + path
			}
			if s.Name != "cancel link" {
				got = append(got, path)
				continue
			}
			a := attributesOf(s)
			got = append(got, fmt.Sprintf("%s %s %s %s %v %v %q", path, a["linkcancel.link"], a["linkcancel.outcome"], a["linkcancel.link_status"],
				requests[id], s.Status.Code, s.Status.Description))
		}
		slices.Sort(got)
		slice := "import > make batch > feed slice > cancel slice"
		want := []string{
			"import", "import > make batch", "import > make batch > feed slice", slice, slice,
			slice + ` > cancel link pl_000000 cancelled  [DELETE pl_000000 GET pl_000000] Unset ""`, // the first 204s are looked into
			slice + ` > cancel link pl_000001 not_cancellable paid [DELETE pl_000001 GET pl_000001] Unset ""`,
			slice + ` > cancel link pl_000002 cancelled  [DELETE pl_000002 GET pl_000002] Unset ""`,
			slice + ` > cancel link pl_000002 pending  [DELETE pl_000002] Error "500, empty"`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for _, s := range all {
			if s.Name != "cancel slice" {
				continue
			}
			a := attributesOf(s)
			again := a["linkcancel.links"] == "1"
			delete(a, "linkcancel.links")
			want := map[string]string{
				"linkcancel.batch": "b1", "linkcancel.slice": "0:0", "linkcancel.again": "0", "messaging.system": "asynq",
				"messaging.destination.name": "cancel", "messaging.operation.type": "process", "messaging.message.id": a["messaging.message.id"],
			}
			if !again {
				want["linkcancel.later"] = "1 links to be tried again"
			}
			if diff := cmp.Diff(want, a); diff != "" || s.SpanKind != trace.SpanKindConsumer || s.Status.Code != codes.Unset {
				t.Errorf("%s%v %v", diff, s.SpanKind, s.Status)
			}
		}
	})
}

// feedTraced starts a feeder that makes spans.
func (f *fleet) feedTraced(tr trace.Tracer) {
	feeder := feeder.New(feeder.Config{Limit: limitOf(100), Keep: time.Hour, Log: f.log, Tracer: tr}, f.b.Client(), f.l)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		feeder.Run(ctx)
	}()
	f.t.Cleanup(func() { cancel(); <-ended })
}

// A task without headers begins a trace; a run that has nothing to send makes
// none. A panic is told without its text.
func TestTraceOfItsOwn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		tr, spans := tracer(sdktrace.AlwaysSample())
		api := sandbox.New(sandbox.Config{IDs: names(1)})
		t.Cleanup(api.Close)
		b := f.batch("b1", names(1)...)
		f.start(&b, 1)
		first := true
		f.work(Config{Tracer: tr}, through{memory{api}, func(context.Context, string, string) error {
			if first {
				first = false
				panic("something private")
			}
			return nil
		}}, nil)
		s := task.Slice{Batch: "b1", Incarnation: b.Incarnation(), Links: names(1)}
		f.enqueue(s)
		f.done("b1")
		f.queueEmpty()
		n := len(spans.GetSpans())
		f.enqueue(s)
		f.queueEmpty()
		var got []string
		for _, span := range spans.GetSpans() {
			got = append(got, fmt.Sprintf("%s %v %s %q events %d", span.Name, span.Parent.IsValid(), span.Status.Code, span.Status.Description, len(span.Events)))
		}
		want := []string{
			`cancel link true Unset "" events 0`, `cancel slice false Error "panic" events 0`,
			`cancel link true Unset "" events 0`, `cancel slice false Unset "" events 0`,
		}
		if diff := cmp.Diff(want, got); diff != "" || n != 4 {
			t.Errorf("%d spans: %s", n, diff)
		}
	})
}

// Without traces nothing is made for a link, and its request is in no trace.
func TestUntraced(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(2)})
		t.Cleanup(api.Close)
		b := f.batch("b1", names(2)...)
		f.start(&b, 2)
		asked := make(chan bool, 2)
		f.work(Config{}, through{memory{api}, func(ctx context.Context, method, _ string) error {
			if method == "DELETE" { // the GET that looks into the first 204 goes on a new connection
				asked <- !trace.SpanContextFromContext(ctx).IsValid()
			}
			return nil
		}}, nil)
		f.enqueue(task.Slice{
			Batch: "b1", Incarnation: b.Incarnation(), Links: names(2),
			Headers: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		})
		f.done("b1")
		for range 2 {
			if !<-asked {
				t.Error("a request is in a trace")
			}
		}
	})
}

// instant is an API that cancels everything at once.
type instant struct{}

func (instant) Cancel(context.Context, string) (int, error)        { return http.StatusNoContent, nil }
func (instant) List(context.Context, int, int) (plexy.Page, error) { return plexy.Page{}, nil }

func (instant) Get(context.Context, string) (plexy.Link, error) {
	return plexy.Link{Status: "active"}, nil
}

// takeOne advances a link again and again, without requests and without a ledger.
func takeOne(t testing.TB, tr trace.Tracer) (r *sliceRun, one func()) {
	b := broker.Embedded()
	limiter, err := ratelimit.NewFleet(ratelimit.FleetConfig{ // not run: it only takes in answers
		Config: ratelimit.Config{Rate: 1e6}, Redis: b.Client(), Process: "w1",
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(Config{ID: "w1", Log: slog.New(slog.DiscardHandler), Tracer: tr}, b, ledger.New(b.Client()), instant{}, limiter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	r = newSliceRun(t.Context(), w, task.Slice{Batch: "b1", Links: names(1)}, ledger.SliceView{Records: make([]ledger.Record, 1)}, time.Now(), false)
	r.proof.first.ok.Store(true)
	if tr != nil {
		_, r.span = tr.Start(t.Context(), "cancel slice")
	}
	return r, func() {
		l := *r.links[0]
		r.cancel(&l, ratelimit.Slot{})
		r.conclude(&l)
		r.written()
	}
}

// written ends the wait for the recorder, which does not run.
func (r *sliceRun) written() {
	for _, c := range r.w.recorder.take() {
		c.finish(nil)
	}
}

// Without traces a link costs what it would if they had never been thought of.
func TestUntracedIsFree(t *testing.T) {
	r, one := takeOne(t, nil)
	never := testing.AllocsPerRun(1000, func() {
		l := *r.links[0]
		c := r.canceler(r.w.callCtx)
		c.run(&l, ratelimit.Slot{})
		r.record(&l)
		r.written()
	})
	if off := testing.AllocsPerRun(1000, one); off != never {
		t.Errorf("%v allocations, without the question whether there are traces %v", off, never)
	}
}

// BenchmarkLink is what a worker does for a link besides the request and the writing: without
// traces, in one that the sampler leaves out, and in one that is kept.
func BenchmarkLink(b *testing.B) {
	left, _ := tracer(sdktrace.NeverSample())
	kept := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample())).Tracer("test")
	for name, tr := range map[string]trace.Tracer{"off": nil, "left out": left, "kept": kept} {
		b.Run(name, func(b *testing.B) {
			_, one := takeOne(b, tr)
			b.ReportAllocs()
			for b.Loop() {
				one()
			}
		})
	}
}
