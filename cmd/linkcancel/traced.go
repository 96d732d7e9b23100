package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/plexy"
	"linkcancel/internal/tracing"
	"linkcancel/producer/sweep"
	"linkcancel/worker"
)

// runTraced runs a command, with traces if it may have some and the environment
// asks for them, and returns its exit code.
func (a *app) runTraced(k *kong.Context) int {
	name := strings.TrimPrefix(k.Selected().Path(), k.Model.Name+" ")
	var traces *tracing.Traces
	switch name {
	case "demo", "run", "import", "sweep", "batch retry", "worker":
		traces = tracing.Open(tracing.Config{Version: version, Process: a.id, Console: a.stderr, Log: a.log})
	}
	defer traces.Close()
	a.tracer = traces.Tracer()
	if a.tracer == nil || name == "worker" { // it begins no trace itself: it lives for months
		return a.report(k.Run(a))
	}
	ctx, span := a.tracer.Start(a.ctx, name)
	defer span.End()
	a.ctx = ctx
	code := a.report(k.Run(a))
	span.SetAttributes(semconv.ProcessExitCode(code))
	if code != exitFine {
		span.SetStatus(codes.Error, "") // an error's text may quote the user's file
		span.SetAttributes(semconv.ErrorTypeKey.String("exit " + strconv.Itoa(code)))
	}
	return code
}

// api is what commands call of the API.
type api interface {
	worker.Canceler
	sweep.Lister
}

// traced is the API with a span for each request that is sent within another
// span. The request does not know of it: no header tells the API, which is none
// of ours, of a trace, and no header of its own gets into one.
type traced struct {
	api    api
	tracer trace.Tracer
	links  string // the URL of all payment links
	route  string // its path
	server []attribute.KeyValue
}

// traced puts spans around the requests to the API, if there are traces. The
// base URL is one that plexy has taken.
func (a *app) traced(inner api, baseURL string) api {
	if a.tracer == nil {
		return inner
	}
	base, err := url.Parse(baseURL)
	if err != nil {
		return inner
	}
	const path = "/payment-links"
	t := traced{
		api: inner, tracer: a.tracer,
		links: strings.TrimRight(base.String(), "/") + path, route: strings.TrimRight(base.EscapedPath(), "/") + path,
		server: []attribute.KeyValue{semconv.ServerAddress(base.Hostname())},
	}
	port, err := strconv.Atoi(base.Port())
	if err != nil {
		port = map[string]int{"http": 80, "https": 443}[base.Scheme]
	}
	t.server = append(t.server, semconv.ServerPort(port))
	return t
}

// Cancel is part of worker.Canceler.
func (t traced) Cancel(ctx context.Context, id string) (status int, err error) {
	span := t.start(ctx, http.MethodDelete, id)
	status, err = t.api.Cancel(ctx, id)
	endRequest(span, status, err)
	return status, err
}

// Get is part of worker.Canceler.
func (t traced) Get(ctx context.Context, id string) (plexy.Link, error) {
	span := t.start(ctx, http.MethodGet, id)
	link, err := t.api.Get(ctx, id)
	endRequest(span, http.StatusOK, err)
	return link, err
}

// List is part of sweep.Lister.
func (t traced) List(ctx context.Context, page, size int) (plexy.Page, error) {
	span := t.start(ctx, http.MethodGet, "")
	span.SetAttributes(tracing.Page.Int(page))
	p, err := t.api.List(ctx, page, size)
	endRequest(span, http.StatusOK, err)
	return p, err
}

// start starts the span of a request for a link, or for the list if id is empty.
func (t traced) start(ctx context.Context, method, id string) trace.Span {
	above := trace.SpanFromContext(ctx)
	if !above.IsRecording() {
		return above // of which nothing is kept, whatever is done to it
	}
	route, address := t.route, t.links
	if id != "" {
		route, address = route+"/{id}", address+"/"+url.PathEscape(id)
	}
	_, span := t.tracer.Start(ctx, method+" "+route, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(t.server...),
		trace.WithAttributes(semconv.HTTPRequestMethodKey.String(method), semconv.URLTemplate(route), semconv.URLFull(address)))
	return span
}

// endRequest ends the span of a request; status is that of an answer without an
// error. plexy has taken the key out of all texts.
func endRequest(span trace.Span, status int, err error) {
	var answered *plexy.Error
	var broken *plexy.TransportError
	kind, text := "", ""
	switch {
	case err == nil:
	case errors.As(err, &answered) && answered.Status/100 >= 4:
		status = answered.Status
		kind = strconv.Itoa(status)
	case errors.As(err, &answered):
		status, kind, text = answered.Status, "unusable answer", err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		status, kind, text = 0, "timeout", err.Error()
	case errors.As(err, &broken) && !broken.Sent:
		status, kind, text = 0, "not sent", err.Error()
	default:
		status, kind, text = 0, "no answer", err.Error()
	}
	if status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
	if kind != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(kind))
		span.SetStatus(codes.Error, text)
	}
	span.End()
}
