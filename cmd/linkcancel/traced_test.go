package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"linkcancel/internal/otlptest"
)

// collector [hang] starts a collector of traces for the length of the script; COLLECTOR is its URL.
func cmdCollector(ts *testscript.TestScript, neg bool, args []string) {
	hang := len(args) == 1 && args[0] == "hang"
	usage(ts, neg, len(args) == 0 || hang, "collector [hang]")
	s := of(ts)
	s.collector = otlptest.Start(s.t)
	if hang {
		s.collector.Hang()
	}
	ts.Setenv("COLLECTOR", s.collector.URL())
}

// traces FILE compares the spans that came in, a line each with the names of
// those that they are below, however many times, with a file; traces -none checks
// that nothing came in. No span may have the API key.
func cmdTraces(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "traces FILE|-none")
	c := of(ts).collector
	if c == nil {
		ts.Fatalf("there is no collector: start it first")
	}
	if strings.Contains(c.Raw(), apiKey) {
		ts.Fatalf("the collector has the API key")
	}
	if args[0] == "-none" {
		if n := c.Requests(); n != 0 {
			ts.Fatalf("%d requests came to the collector", n)
		}
		return
	}
	var got []string
	traces := map[string]bool{}
	docs, err := os.ReadFile(tracingDocs)
	ts.Check(err)
	for _, s := range c.Spans() {
		for _, name := range append(slices.Collect(maps.Keys(s.Attributes)), s.Name) {
			if !strings.Contains(string(docs), "`"+name+"`") {
				ts.Fatalf("%s does not tell of %s", tracingDocs, name)
			}
		}
	}
	for _, line := range paths(c.Spans()) {
		got = append(got, line.path)
		traces[line.trace] = true
	}
	slices.Sort(got)
	text := fmt.Sprintf("%d traces\n%s\n", len(traces), strings.Join(slices.Compact(got), "\n"))
	if diff := cmp.Diff(ts.ReadFile(args[0]), text); diff != "" {
		ts.Fatalf("traces: %s", diff)
	}
}

// tracingDocs tells of every span and attribute.
const tracingDocs = "../../docs/tracing.md"

type spanPath struct{ trace, path string }

// paths returns the path of each span in its trace. It names the process where that changes.
func paths(spans []otlptest.Span) (all []spanPath) {
	known := map[string]otlptest.Span{}
	for _, s := range spans {
		known[s.ID] = s
	}
	for _, s := range spans {
		path := s.Name
		for at := s; at.Parent != ""; {
			above, ok := known[at.Parent]
			if !ok {
				path = "(missing) > " + path
				break
			}
			sign := " > "
			if above.Resource["service.instance.id"] != at.Resource["service.instance.id"] {
				sign = " >> "
			}
			path = above.Name + sign + path
			at = above
		}
		for _, link := range s.Links {
			path += " -- " + known[link].Name
		}
		all = append(all, spanPath{s.Trace, path})
	}
	return all
}

// An API that shows the key in its answers, and the answers in the errors: it is
// in no span, while the rest of the text is.
func TestTracesHideKey(t *testing.T) {
	const key = "sk_live/k+ey that?nobody&may=see"
	headers := make(chan http.Header, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		key := r.Header.Get("Authorization")
		switch {
		case strings.HasSuffix(r.URL.Path, "/payment-links"): // the control
			_, _ = io.WriteString(w, `{"data":[]}`)
		case strings.HasSuffix(r.URL.Path, "/pl_1"):
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"code":3,"message":"you said '%s', that is %x","type":"validationError"}`, key, key)
		case r.Method == http.MethodGet:
			_, _ = io.WriteString(w, key)
		default:
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "key "+key)
		}
	}))
	defer server.Close()
	c := otlptest.Start(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL())
	t.Setenv("PLEXY_API_KEY", key)
	file := filepath.Join(t.TempDir(), "links.csv")
	if err := os.WriteFile(file, []byte("id\npl_1\npl_2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	args := []string{"run", file, "--yes", "--base-url", server.URL + "/v1", "--rate", "100/s", "--attempts", "1", "--log-level", "debug"}
	if code := Main(args, strings.NewReader(""), &out, &out); code != exitLinks {
		t.Fatalf("exit code %d\n%s", code, &out)
	}
	for _, form := range []string{key, "sk_live", "nobody", "sk_live%2F", fmt.Sprintf("%x", "sk_live")} {
		if strings.Contains(c.Raw(), form) {
			t.Errorf("the spans have %q", form)
		}
	}
	texts := map[string]string{}
	for _, s := range c.Spans() {
		if s.Error != "" {
			texts[s.Name+" "+s.Attributes["linkcancel.link"]] = s.Error
		}
	}
	want := map[string]string{
		"cancel link pl_1":            "code 3: you said '[redacted]', that is [redacted]",
		"cancel link pl_2":            "500, text/plain, “key [redacted]”", // not in the API's own form
		"GET /v1/payment-links/{id} ": "GET answered 200 (OK): the answer is not a payment link: [redacted]",
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("texts in spans: %s", diff)
	}
	// The API is none of ours: it learns of no trace.
	close(headers)
	n := 0
	for h := range headers {
		n++
		for _, name := range []string{"Traceparent", "Tracestate", "Baggage", "B3", "X-B3-Traceid"} {
			if h.Get(name) != "" {
				t.Errorf("the API got %s: %s", name, h.Get(name))
			}
		}
	}
	if n < 3 {
		t.Errorf("%d requests", n)
	}
}

// The attributes of a request's span follow the semantic conventions.
func TestRequestSpan(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		want   string // error.type
		text   bool
	}{{204, "", false}, {404, "404", false}, {500, "500", false}, {302, "unusable answer", true}, {0, "no answer", true}} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tt.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(tt.status)
			}))
			defer server.Close()
			host, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
			c := otlptest.Start(t)
			p := program{t: t, dir: t.TempDir(), env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL(), "PLEXY_API_KEY=" + apiKey}}
			file := p.write("links.csv", "id\npl_é\n", 0o600)
			p.run("run", file, "--yes", "--base-url", server.URL+"/v1/", "--rate", "100/s", "--attempts", "1")
			spans := c.Spans()
			i := slices.IndexFunc(spans, func(s otlptest.Span) bool { return s.Name == "DELETE /v1/payment-links/{id}" })
			if i < 0 {
				t.Fatal("no span")
			}
			s := spans[i]
			want := map[string]string{
				"http.request.method": "DELETE", "url.template": "/v1/payment-links/{id}", "url.full": server.URL + "/v1/payment-links/pl_%C3%A9",
				"server.address": host, "server.port": port,
			}
			if tt.status != 0 {
				want["http.response.status_code"] = fmt.Sprint(tt.status)
			}
			if tt.want != "" {
				want["error.type"] = tt.want
			}
			if diff := cmp.Diff(want, s.Attributes); diff != "" || s.Kind != "CLIENT" || s.Failed != (tt.want != "") || (s.Error != "") != tt.text {
				t.Errorf("%s%+v", diff, s)
			}
		})
	}
}
