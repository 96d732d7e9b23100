// Package tracing creates OpenTelemetry traces if the standard OTEL_* variables ask for
// them, and carries them between processes.
//
// Without such a variable the tracer is nil. Callers check only that, so tracing that is
// off costs nothing.
package tracing

import (
	"context"
	"io"
	"log/slog"
	"net/url"
	"os"
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
	"golang.org/x/time/rate"
)

// scope is the name of our tracer.
const scope = "linkcancel"

// flushTimeout keeps a hanging collector from delaying the end of a command or worker.
const flushTimeout = 3 * time.Second

// Config describes the process. All fields are required.
type Config struct {
	Version string    // of this program
	Process string    // id of this process in the fleet
	Console io.Writer // where OTEL_TRACES_EXPORTER=console writes
	Log     *slog.Logger
}

// Traces are the traces of this process. A nil *Traces means that tracing is off.
type Traces struct {
	provider *sdktrace.TracerProvider
	timeout  time.Duration
	log      *slog.Logger
}

// Open returns nil unless the environment asks for traces. Problems are logged and turn
// tracing off, because traces must never keep links from being cancelled.
func Open(cfg Config) *Traces {
	names := wanted(cfg.Log)
	if len(names) == 0 {
		return nil
	}
	// The SDK's two loggers are global and write to stderr by default.
	otel.SetLogger(logr.New(sink{cfg.Log}))
	sometimes := rate.Sometimes{First: 10, Interval: time.Minute} // each failed export is an error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		sometimes.Do(func() { cfg.Log.Warn("traces cannot be sent", "error", line(err)) })
	}))
	res, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("linkcancel"), semconv.ServiceVersion(cfg.Version), semconv.ServiceInstanceID(cfg.Process)),
		resource.WithFromEnv(), // overrides ours; other detectors would add the command line
	)
	if err != nil {
		cfg.Log.Warn("OTEL_RESOURCE_ATTRIBUTES cannot be read as a whole", "error", line(err))
	}
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
		options = append(options, sdktrace.WithBatcher(e))
	}
	if len(options) == 1 {
		return nil
	}
	// It reads the sampler and the limits from the environment.
	return &Traces{sdktrace.NewTracerProvider(options...), flushTimeout, cfg.Log}
}

// Tracer returns the tracer, nil if tracing is off.
func (t *Traces) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer(scope)
}

// Close sends the remaining spans, for at most 3 s.
func (t *Traces) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last traces cannot be sent", "error", line(err))
	}
}

// Values of OTEL_TRACES_EXPORTER besides "none".
const (
	exporterOTLP    = "otlp"
	exporterConsole = "console"
)

// wanted returns the exporters that the environment asks for.
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
				log.Warn("traces are off", "reason", problem)
				continue
			}
			names = append(names, name)
		case exporterConsole:
			names = append(names, name)
		default:
			log.Warn("unknown traces exporter: use otlp, console or none", "OTEL_TRACES_EXPORTER", name)
		}
	}
	return names
}

// otlpProblem returns why spans cannot be sent by OTLP, or "".
func otlpProblem() string {
	protocol := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	switch protocol {
	case "", "http/protobuf", "http/json":
	default:
		return "this program sends traces over HTTP only: set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf (port 4318 of most collectors)"
	}
	// The exporter would use its default URL or no host.
	if raw := endpoint(); raw != "" {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL such as http://collector:4318"
		}
	}
	return ""
}

// defaultEndpoint is OpenTelemetry's default address of a collector.
const defaultEndpoint = "http://localhost:4318/v1/traces"

// endpoint returns the endpoint for traces, or the general one, or "".
func endpoint() string {
	return first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
}

func env(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// first returns the value of the first variable that is set.
func first(names ...string) string {
	for _, name := range names {
		if value := env(name); value != "" {
			return value
		}
	}
	return ""
}

// maxLine is how many bytes of an error are logged.
const maxLine = 300

// line shortens an error to one line.
func line(err error) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "")), " ")
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "…"
	}
	return text
}

// sink receives the SDK's log without values, which may contain a password or a token.
type sink struct{ log *slog.Logger }

func (s sink) Init(logr.RuntimeInfo)          {}
func (s sink) Enabled(int) bool               { return false } // errors are logged anyway
func (s sink) Info(int, string, ...any)       {}
func (s sink) WithValues(...any) logr.LogSink { return s }
func (s sink) WithName(string) logr.LogSink   { return s }
func (s sink) Error(_ error, text string, _ ...any) {
	s.log.Warn("an OTEL_* variable cannot be read", "problem", text)
}
