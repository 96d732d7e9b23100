package app

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/plexy"
	"linkcancel/internal/tracing"
	"linkcancel/worker"
)

// observed is the API with a count of the requests in flight and, within a span, a span for each.
type observed struct {
	api      worker.Canceler
	inFlight func(delta int)
	tracer   trace.Tracer // nil: no traces, so no span is recorded around a request
	links    string       // the URL of all payment links
	route    string       // its path
	server   []attribute.KeyValue
}

// Observe returns the API with traces, if tracer is not nil. inFlight is called with 1
// before and -1 after each request. The base URL is one that plexy accepted.
func Observe(api worker.Canceler, baseURL string, tracer trace.Tracer, inFlight func(delta int)) worker.Canceler {
	base, err := url.Parse(baseURL)
	if err != nil {
		base = &url.URL{}
	}
	port, err := strconv.Atoi(base.Port())
	if err != nil {
		port = map[string]int{"http": 80, "https": 443}[base.Scheme]
	}
	const path = "/payment-links"
	return observed{
		api: api, inFlight: inFlight, tracer: tracer,
		links: strings.TrimRight(base.String(), "/") + path, route: strings.TrimRight(base.EscapedPath(), "/") + path,
		server: []attribute.KeyValue{semconv.ServerAddress(base.Hostname()), semconv.ServerPort(port)},
	}
}

// Cancel is part of worker.Canceler.
func (o observed) Cancel(ctx context.Context, id string) (status int, err error) {
	span := o.start(ctx, http.MethodDelete, id)
	status, err = o.api.Cancel(ctx, id)
	o.end(span, status, err)
	return status, err
}

// Get is part of worker.Canceler.
func (o observed) Get(ctx context.Context, id string) (plexy.Link, error) {
	span := o.start(ctx, http.MethodGet, id)
	link, err := o.api.Get(ctx, id)
	o.end(span, http.StatusOK, err)
	return link, err
}

// List is part of worker.Canceler.
func (o observed) List(ctx context.Context, page, size int) (plexy.Page, error) {
	span := o.start(ctx, http.MethodGet, "")
	span.SetAttributes(tracing.Page.Int(page))
	p, err := o.api.List(ctx, page, size)
	o.end(span, http.StatusOK, err)
	return p, err
}

// start counts a request for a link, or for the list if id is empty, and starts its span.
func (o observed) start(ctx context.Context, method, id string) trace.Span {
	o.inFlight(1)
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return parent // its methods do nothing
	}
	route, address := o.route, o.links
	if id != "" {
		route, address = route+"/{id}", address+"/"+url.PathEscape(id)
	}
	_, span := o.tracer.Start(ctx, method+" "+route, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(o.server...),
		trace.WithAttributes(semconv.HTTPRequestMethodKey.String(method), semconv.URLTemplate(route), semconv.URLFull(address)))
	return span
}

// end ends the span of a request. status is that of a good answer. The texts have no key.
func (o observed) end(span trace.Span, status int, err error) {
	o.inFlight(-1)
	if !span.IsRecording() {
		return
	}
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
