package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/otlptest"
	"linkcancel/internal/testutil"
)

// record is a log and a console, to be read while it is written.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// open opens the traces of an environment, which holds no OTEL_* variable but the given ones.
func open(t *testing.T, variables map[string]string) (traces *Traces, log, console *record) {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range variables {
		t.Setenv(name, value)
	}
	log, console = &record{}, &record{}
	traces = Open(Config{
		Version: "1.2.3", Process: "host-1", Console: console,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	return traces, log, console
}

const endpointVar = "OTEL_EXPORTER_OTLP_ENDPOINT"

func TestOff(t *testing.T) {
	const url = "http://127.0.0.1:1"
	for name, tt := range map[string]struct {
		variables map[string]string
		log       string // "": nothing
	}{
		"without variables":             {nil, ""},
		"only a name":                   {map[string]string{"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, ""},
		"empty ones":                    {map[string]string{endpointVar: "", "OTEL_TRACES_EXPORTER": " "}, ""},
		"none":                          {map[string]string{endpointVar: url, "OTEL_TRACES_EXPORTER": "none"}, ""},
		"None":                          {map[string]string{endpointVar: url, "OTEL_TRACES_EXPORTER": "None"}, ""},
		"disabled":                      {map[string]string{endpointVar: url, "OTEL_SDK_DISABLED": "true"}, ""},
		"disabled, though asked for":    {map[string]string{"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "TRUE"}, ""},
		"metrics are not traces":        {map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": url}, ""},
		"an exporter that is not known": {map[string]string{"OTEL_TRACES_EXPORTER": "zipkin", endpointVar: url}, "use otlp, console or none"},
		"grpc":                          {map[string]string{endpointVar: url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf"},
		"grpc for traces":               {map[string]string{endpointVar: url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "over HTTP only"},
		"no URL":                        {map[string]string{endpointVar: "collector:4318"}, "is not a URL such as"},
		"no URL of its own":             {map[string]string{endpointVar: url, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://me:password@x:y/"}, "is not a URL such as"},
	} {
		t.Run(name, func(t *testing.T) {
			traces, log, console := open(t, tt.variables)
			if traces != nil {
				t.Error("there are traces")
			}
			if traces.Tracer() != nil {
				t.Error("there is a tracer")
			}
			traces.Close()
			if tt.log == "" && log.String() != "" || !strings.Contains(log.String(), tt.log) || strings.Contains(log.String(), "password") {
				t.Errorf("the log says %q", log)
			}
			if console.String() != "" {
				t.Errorf("the console says %q", console)
			}
		})
	}
}

func TestSends(t *testing.T) {
	c := otlptest.Start(t)
	for name, tt := range map[string]struct {
		variables map[string]string
		resource  map[string]string // beside what is always there
	}{
		"an endpoint": {map[string]string{endpointVar: c.URL()}, nil},
		"an endpoint for traces": {map[string]string{
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.URL() + "/v1/traces", endpointVar: "http://127.0.0.1:1",
		}, nil},
		"an exporter": {map[string]string{"OTEL_TRACES_EXPORTER": "otlp", endpointVar: c.URL(), "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, nil},
		"a name":      {map[string]string{endpointVar: c.URL(), "OTEL_SERVICE_NAME": "refunds"}, map[string]string{"service.name": "refunds"}},
		"attributes": {
			map[string]string{endpointVar: c.URL(), "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.instance.id=mine"},
			map[string]string{"deployment.environment.name": "test", "service.instance.id": "mine"},
		},
		"attributes that cannot be read": {map[string]string{endpointVar: c.URL(), "OTEL_RESOURCE_ATTRIBUTES": "nothing"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(c.Spans())
			traces, log, _ := open(t, tt.variables)
			ctx, root := traces.Tracer().Start(t.Context(), "root")
			_, child := Start(ctx, "child")
			child.End()
			root.End()
			traces.Close()
			got := c.Spans()[before:]
			if len(got) != 2 || got[0].Name != "child" || got[1].Name != "root" || got[0].Parent != got[1].ID || got[1].Parent != "" {
				t.Fatalf("spans %+v, log %s", got, log)
			}
			want := map[string]string{
				"service.name": "linkcancel", "service.version": "1.2.3", "service.instance.id": "host-1",
				"telemetry.sdk.language": "go", "telemetry.sdk.name": "opentelemetry", "telemetry.sdk.version": got[0].Resource["telemetry.sdk.version"],
			}
			for key, value := range tt.resource {
				want[key] = value
			}
			if diff := cmp.Diff(want, got[0].Resource); diff != "" {
				t.Errorf("resource: %s", diff)
			}
		})
	}
}

func TestConsole(t *testing.T) {
	traces, _, console := open(t, map[string]string{"OTEL_TRACES_EXPORTER": "console"})
	_, span := traces.Tracer().Start(t.Context(), "alone")
	span.End()
	traces.Close()
	if !strings.HasPrefix(console.String(), `{"Name":"alone",`) {
		t.Errorf("the console says %q", console)
	}
}

func TestSampler(t *testing.T) {
	c := otlptest.Start(t)
	traces, _, _ := open(t, map[string]string{endpointVar: c.URL(), "OTEL_TRACES_SAMPLER": "parentbased_always_off"})
	ctx, span := traces.Tracer().Start(t.Context(), "left out")
	if !strings.HasSuffix(Traceparent(ctx), "-00") {
		t.Errorf("%q does not tell that the trace is left out", Traceparent(ctx))
	}
	span.End()
	// Another process has decided otherwise.
	for _, sampled := range []string{"00", "01"} {
		above := Parent(t.Context(), map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + sampled})
		_, span := traces.Tracer().Start(above, "below "+sampled)
		span.End()
	}
	traces.Close()
	if got := c.Spans(); len(got) != 1 || got[0].Name != "below 01" || got[0].Parent != "b7ad6b7169203331" {
		t.Errorf("spans %+v", got)
	}
}

// A collector that hangs blocks neither those who end spans nor the end of the process.
func TestCollectorHangs(t *testing.T) {
	c := otlptest.Start(t)
	c.Hang()
	defer c.Release()
	traces, log, _ := open(t, map[string]string{endpointVar: c.URL(), "OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"})
	traces.timeout = 50 * time.Millisecond
	for range 100 {
		_, span := traces.Tracer().Start(t.Context(), "span")
		span.End()
	}
	testutil.Until(t, "a request", func() bool { return c.Hanging() == 1 })
	traces.Close() // returns although the collector still hangs
	if n := len(c.Spans()); n != 0 {
		t.Errorf("%d spans arrived", n)
	}
	if !strings.Contains(log.String(), `msg="the last traces cannot be sent"`) {
		t.Errorf("the log says\n%s", log)
	}
}

// An outage of the collector is logged, but not for each export.
func TestCollectorAway(t *testing.T) {
	c := otlptest.Start(t)
	c.Answer(400)
	traces, log, _ := open(t, map[string]string{endpointVar: c.URL(), "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"})
	spans := func(n int) {
		for range n {
			_, span := traces.Tracer().Start(t.Context(), "span")
			span.End()
		}
		_ = traces.provider.ForceFlush(t.Context())
	}
	spans(30)
	c.Answer(0)
	spans(5)
	traces.Close()
	if n := strings.Count(log.String(), `msg="traces cannot be sent"`); n == 0 || n > 10 || !strings.Contains(log.String(), "400 Bad Request") {
		t.Errorf("the log says\n%s", log)
	}
	if n := len(c.Spans()); n != 5 {
		t.Errorf("%d spans arrived", n)
	}
}

// The SDK quotes what it cannot read; we do not.
func TestSecretsOfVariables(t *testing.T) {
	c := otlptest.Start(t)
	traces, log, _ := open(t, map[string]string{
		endpointVar:                   strings.Replace(c.URL(), "http://", "http://me:hidden-1@", 1),
		"OTEL_EXPORTER_OTLP_HEADERS":  "Bearer hidden-2,x-token=%zzhidden-3,authorization=hidden-4",
		"OTEL_TRACES_SAMPLER":         "nonsense",
		"OTEL_EXPORTER_OTLP_TIMEOUT":  "hidden-5",
		"OTEL_BSP_MAX_QUEUE_SIZE":     "hidden-6",
		"OTEL_RESOURCE_ATTRIBUTES":    "broken",
		"OTEL_TRACES_EXPORTER":        "otlp",
		"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
	})
	_, span := traces.Tracer().Start(t.Context(), "span")
	span.End()
	c.Answer(403)
	traces.Close()
	text := log.String()
	if strings.Contains(text, "hidden") {
		t.Errorf("the log shows a secret:\n%s", text)
	}
	for _, want := range []string{"parse headers", "escape header value", "parse duration", "unsupported sampler", "OTEL_RESOURCE_ATTRIBUTES", "403"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q:\n%s", want, text)
		}
	}
}

func TestCarry(t *testing.T) {
	c := otlptest.Start(t)
	traces, _, _ := open(t, map[string]string{endpointVar: c.URL()})
	defer traces.Close()
	ctx, span := traces.Tracer().Start(t.Context(), "span")
	defer span.End()
	headers := Carry(ctx)
	if len(headers) != 1 || headers["traceparent"] != Traceparent(ctx) {
		t.Errorf("headers %v", headers)
	}
	want := span.SpanContext()
	for name, got := range map[string]trace.SpanContext{
		"headers": trace.SpanContextFromContext(Parent(t.Context(), headers)), "word": SpanContext(Traceparent(ctx)),
	} {
		if got.TraceID() != want.TraceID() || got.SpanID() != want.SpanID() || !got.IsSampled() || !got.IsRemote() {
			t.Errorf("by %s: %+v", name, got)
		}
	}
	for _, bad := range []string{"", "x", "00-0-0-00", "00-00000000000000000000000000000000-b7ad6b7169203331-01", strings.Repeat("0", 1<<16)} {
		if SpanContext(bad).IsValid() || trace.SpanContextFromContext(Parent(t.Context(), map[string]string{"traceparent": bad})).IsValid() {
			t.Errorf("%.60q is taken for a trace", bad)
		}
	}
	if _, below := Start(Without(ctx), "hidden"); below.SpanContext().IsValid() {
		t.Error("there is a span where there must be none")
	}
}

// Without traces nothing is made, not even garbage.
func TestFreeWhenOff(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	traces := Open(Config{})
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, 1)
	if n := testing.AllocsPerRun(100, func() {
		if traces.Tracer() != nil {
			t.Error("there is a tracer")
		}
		below, span := Start(ctx, "nothing")
		if span.IsRecording() || below != ctx || Carry(below) != nil || Traceparent(below) != "" || Parent(below, nil) != ctx || SpanContext("").IsValid() {
			t.Error("something was made")
		}
		span.End()
		traces.Close()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
