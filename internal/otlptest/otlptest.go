// Package otlptest is a minimal collector of OpenTelemetry traces for tests: OTLP over HTTP
// with protobuf bodies.
package otlptest

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a received span.
type Span struct {
	Trace, ID, Parent string // in hex; Parent is "" for a root
	Name              string
	Kind              string            // INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER
	Attributes        map[string]string // of all types
	Resource          map[string]string
	Failed            bool   // its status
	Error             string // the text of its status
	Links             []string
	Took              uint64 // ns
}

// Collector receives spans.
type Collector struct {
	server *httptest.Server
	hang   chan struct{} // closed by Release

	mu       sync.Mutex
	status   int // to answer with, 0 to accept spans
	requests int
	hanging  int // requests
	raw      bytes.Buffer
	spans    []Span
}

// Start starts a collector for the length of the test.
func Start(t testing.TB) *Collector {
	c := &Collector{}
	c.server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(func() {
		c.Release()
		c.server.Close()
	})
	return c
}

// URL is the value for OTEL_EXPORTER_OTLP_ENDPOINT.
func (c *Collector) URL() string { return c.server.URL }

// Answer makes the collector answer with an HTTP status and drop the spans. 0 ends it.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// Hang makes requests wait until Release, or until their sender gives up.
func (c *Collector) Hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hang = make(chan struct{})
}

// Release ends Hang.
func (c *Collector) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hang != nil {
		close(c.hang)
		c.hang = nil
	}
}

// Requests returns the number of requests.
func (c *Collector) Requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// Hanging returns the number of waiting requests.
func (c *Collector) Hanging() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hanging
}

// Raw returns all received headers and bodies.
func (c *Collector) Raw() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// Spans returns the received spans in order.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

func (c *Collector) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	if hang := c.hang; hang != nil {
		c.hanging++
		c.mu.Unlock()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		c.mu.Lock()
		c.hanging--
		if r.Context().Err() != nil {
			return
		}
	}
	if c.status != 0 {
		http.Error(w, "the collector says no", c.status)
		return
	}
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); r.URL.Path != "/v1/traces" || err != nil {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	_ = r.Header.Write(&c.raw)
	c.raw.Write(body)
	for _, resource := range request.ResourceSpans {
		of := attributes(resource.Resource.GetAttributes())
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, span(s, of))
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func span(s *trace.Span, resource map[string]string) Span {
	span := Span{
		Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		Name: s.Name, Kind: s.Kind.String()[len("SPAN_KIND_"):], Attributes: attributes(s.Attributes), Resource: resource,
		Failed: s.Status.GetCode() == trace.Status_STATUS_CODE_ERROR, Error: s.Status.GetMessage(),
		Took: s.EndTimeUnixNano - s.StartTimeUnixNano,
	}
	for _, link := range s.Links {
		span.Links = append(span.Links, hex.EncodeToString(link.SpanId))
	}
	return span
}

func attributes(all []*common.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		switch v := a.Value.GetValue().(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = strconv.FormatInt(v.IntValue, 10)
		case *common.AnyValue_BoolValue:
			m[a.Key] = strconv.FormatBool(v.BoolValue)
		default:
			m[a.Key] = a.Value.String()
		}
	}
	return m
}
