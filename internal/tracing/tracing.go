// Package tracing makes OpenTelemetry traces if the standard OTEL_* variables
// ask for them, and carries them from one process to another.
//
// Without such a variable there is no tracer: callers keep a nil one, look at
// that alone, and pay nothing.
package tracing

import (
	"context"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// scope names the maker of our spans.
const scope = "linkcancel"

// flushTimeout is what Close takes at most: a command must not wait for a
// collector that hangs, nor a worker outlive its stop grace.
const flushTimeout = 3 * time.Second

// Config says who makes the traces. All fields are required.
type Config struct {
	Version string    // of this program
	Process string    // names this process in the fleet
	Console io.Writer // where OTEL_TRACES_EXPORTER=console writes
	Log     *slog.Logger
}

// Traces are the traces of this process. A nil *Traces is one without any.
type Traces struct {
	provider *sdktrace.TracerProvider
	queues   []*queue
	cut      context.CancelFunc // ends what is being sent
	timeout  time.Duration
	log      *slog.Logger
}

// Open returns nil unless the environment asks for traces. What is wrong there is
// warned of and leaves the traces out: they must never keep links from being
// cancelled.
func Open(cfg Config) *Traces {
	names := wanted(cfg.Log)
	if len(names) == 0 {
		return nil
	}
	// The SDK's own two loggers are global, and would write to stderr past ours.
	otel.SetLogger(logr.New(sink{cfg.Log}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		cfg.Log.Warn("traces", "error", line(err))
	}))
	res, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("linkcancel"), semconv.ServiceVersion(cfg.Version), semconv.ServiceInstanceID(cfg.Process)),
		resource.WithFromEnv(), // over ours; what else the SDK knows of a process has its command line
	)
	if err != nil {
		cfg.Log.Warn("OTEL_RESOURCE_ATTRIBUTES cannot be read as a whole", "error", line(err))
	}
	t := &Traces{timeout: flushTimeout, log: cfg.Log}
	ending, cut := context.WithCancel(context.Background())
	t.cut = cut
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	for _, name := range names {
		var e sdktrace.SpanExporter
		var err error
		switch name {
		case exporterOTLP:
			var o []otlptracehttp.Option
			if endpoint() == "" { // the exporter's own default is https
				o = append(o, otlptracehttp.WithEndpointURL(defaultEndpoint))
			}
			e, err = otlptracehttp.New(context.Background(), o...)
		case exporterConsole:
			e, err = stdouttrace.New(stdouttrace.WithWriter(cfg.Console))
		}
		if err != nil {
			cfg.Log.Warn("traces cannot be sent", "exporter", name, "error", line(err))
			continue
		}
		q := newQueue(e, queueSize(), ending, cfg.Log)
		t.queues = append(t.queues, q)
		options = append(options, sdktrace.WithSpanProcessor(q))
	}
	if len(t.queues) == 0 {
		cut()
		return nil
	}
	t.provider = sdktrace.NewTracerProvider(options...) // sampler and limits are those of the environment
	return t
}

// Tracer makes spans; nil without traces.
func (t *Traces) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer(scope)
}

// Close sends what is left, within 3 s, and tells what was lost.
func (t *Traces) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // each queue tells what became of its spans
	t.cut()
	for _, q := range t.queues {
		q.end()
	}
}

// The exporters that OTEL_TRACES_EXPORTER may name, and "none".
const (
	exporterOTLP    = "otlp"
	exporterConsole = "console"
)

// wanted names the exporters that the environment asks for.
func wanted(log *slog.Logger) (names []string) {
	list := env("OTEL_TRACES_EXPORTER")
	if list == "" && endpoint() != "" {
		list = exporterOTLP
	}
	if list == "" || strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "none", "":
		case exporterOTLP:
			if problem := otlpProblem(); problem != "" {
				log.Warn("there are no traces", "reason", problem)
				continue
			}
			names = append(names, name)
		case exporterConsole:
			names = append(names, name)
		default:
			log.Warn("there are no traces of this kind: use otlp, console or none", "OTEL_TRACES_EXPORTER", name)
		}
	}
	return names
}

// otlpProblem says what keeps traces from being sent by OTLP.
func otlpProblem() string {
	protocol := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	switch protocol {
	case "", "http/protobuf", "http/json":
	default:
		return "this program sends them over HTTP only: set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf (port 4318 of most collectors)"
	}
	// The exporter would take its default instead, or no host at all.
	if raw := endpoint(); raw != "" {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return "OTEL_EXPORTER_OTLP_ENDPOINT is no URL such as http://collector:4318"
		}
	}
	return ""
}

// defaultEndpoint is where OpenTelemetry expects a collector that nobody named.
const defaultEndpoint = "http://localhost:4318/v1/traces"

// endpoint is that of traces, or the one of everything; "" without either.
func endpoint() string {
	return first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
}

func env(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// first is the value of the first variable that has one.
func first(names ...string) string {
	for _, name := range names {
		if value := env(name); value != "" {
			return value
		}
	}
	return ""
}

// queueSize is how many spans may wait to be sent.
func queueSize() int64 {
	if n, err := strconv.ParseInt(env("OTEL_BSP_MAX_QUEUE_SIZE"), 10, 32); err == nil && n > 0 {
		return n
	}
	return sdktrace.DefaultMaxQueueSize
}

// lineMost is how much of a collector's answer is logged, in bytes.
const lineMost = 300

// line is an error in one short line.
func line(err error) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "")), " ")
	if len(text) > lineMost {
		text = strings.ToValidUTF8(text[:lineMost], "") + "…"
	}
	return text
}

// sink is the SDK's log. It quotes the variables it cannot read, which may hold a
// password or a token (OTEL_EXPORTER_OTLP_HEADERS): only what it says of them is
// kept.
type sink struct{ log *slog.Logger }

func (s sink) Init(logr.RuntimeInfo)          {}
func (s sink) Enabled(int) bool               { return false } // errors come all the same
func (s sink) Info(int, string, ...any)       {}
func (s sink) WithValues(...any) logr.LogSink { return s }
func (s sink) WithName(string) logr.LogSink   { return s }
func (s sink) Error(_ error, text string, _ ...any) {
	s.log.Warn("an OTEL_* variable cannot be read", "problem", text)
}
