package metrics

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/testutil"
)

// scrape is the answer to a scrape.
func scrape(t testing.TB, m *Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.handler(ServerConfig{Log: slog.New(slog.DiscardHandler)}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("a scrape is answered %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// serve starts a server for the length of the test, and returns its address.
func serve(t *testing.T, cfg ServerConfig) (addr string) {
	t.Helper()
	var out strings.Builder
	cfg.Addr, cfg.Log = "127.0.0.1:0", slog.New(slog.NewTextHandler(&out, nil))
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
	})
	testutil.Must(t, New("v1").Serve(ctx, cfg))
	_, addr, ok := strings.Cut(out.String(), "addr=")
	if !ok {
		t.Fatalf("the log does not tell the address: %s", out.String())
	}
	return strings.TrimSpace(addr)
}

func get(t *testing.T, url string, header ...string) (status int, kind, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	testutil.Must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	testutil.Must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	testutil.Must(t, err)
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(text)
}

func TestServer(t *testing.T) {
	var why error
	url := "http://" + serve(t, ServerConfig{Ready: func(context.Context) error { return why }})
	status, kind, body := get(t, url+"/metrics")
	if status != 200 || !strings.HasPrefix(kind, "text/plain") {
		t.Errorf("/metrics: %d %s", status, kind)
	}
	for _, line := range []string{
		`linkcancel_outcomes_total{outcome="cancelled",source="import"} 0`, `linkcancel_build_info{goversion="go`,
		"go_goroutines ", "go_memory_classes_heap_objects_bytes ", "process_start_time_seconds ",
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("/metrics has no line %s", line)
		}
	}
	status, kind, body = get(t, url+"/metrics", "Accept", "application/openmetrics-text;version=1.0.0")
	if status != 200 || !strings.HasPrefix(kind, "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(body, "\n# EOF\n") {
		t.Errorf("/metrics for OpenMetrics: %d %s", status, kind)
	}
	if status, kind, _ = get(t, url+"/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"); status != 200 || !strings.HasPrefix(kind, "application/vnd.google.protobuf") {
		t.Errorf("/metrics for native histograms: %d %s", status, kind)
	}

	answers := func(path string, status int, want map[string]string) {
		t.Helper()
		got, kind, body := get(t, url+path)
		var reply map[string]string
		if err := json.Unmarshal([]byte(body), &reply); err != nil || got != status || kind != "application/json" {
			t.Errorf("%s: %d %s %s, want %d", path, got, kind, body, status)
		}
		if diff := cmp.Diff(want, reply); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	answers("/healthz", 200, map[string]string{"status": "ok"})
	answers("/readyz", 200, map[string]string{"status": "ok"})
	why = errors.New("no Redis")
	answers("/healthz", 200, map[string]string{"status": "ok"})
	answers("/readyz", 503, map[string]string{"status": "unavailable", "reason": "no Redis"})

	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/profile", "/debug/vars"} {
		if status, _, _ := get(t, url+path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	resp, err := http.Post(url+"/metrics", "text/plain", nil)
	testutil.Must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != 405 {
		t.Errorf("POST /metrics: %d", resp.StatusCode)
	}
}

// ServerConfig says that Ready may be nil.
func TestAlwaysReady(t *testing.T) {
	if status, _, body := get(t, "http://"+serve(t, ServerConfig{})+"/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

func TestPprof(t *testing.T) {
	url := "http://" + serve(t, ServerConfig{Pprof: true})
	for _, path := range []string{"heap", "goroutine", "allocs", "block", "mutex"} {
		if status, _, body := get(t, url+"/debug/pprof/"+path); status != 200 || body == "" {
			t.Errorf("%s: %d", path, status)
		}
	}
	// The command line may name files that are nobody's business.
	for _, path := range []string{"", "cmdline", "heap/cmdline", "symbol", "trace"} {
		if status, _, _ := get(t, url+"/debug/pprof/"+path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestBusyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	defer l.Close()
	log := slog.New(slog.DiscardHandler)
	err = New("v1").Serve(t.Context(), ServerConfig{Addr: l.Addr().String(), Log: log})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is in use") || !errors.Is(err, ErrListen) {
		t.Errorf("a busy address: %v", err)
	}
	for _, addr := range []string{"nonsense", "127.0.0.1:99999", "192.0.2.1:80"} {
		err := New("v1").Serve(t.Context(), ServerConfig{Addr: addr, Log: log})
		if !errors.Is(err, ErrListen) {
			t.Errorf("address %s: %v", addr, err)
		}
	}
}

// The server ends with its context, also under a client that keeps its connection.
func TestServerEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var out strings.Builder
	testutil.Must(t, New("v1").Serve(ctx, ServerConfig{Addr: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&out, nil))}))
	_, addr, _ := strings.Cut(out.String(), "addr=")
	conn, err := net.Dial("tcp", strings.TrimSpace(addr))
	testutil.Must(t, err)
	defer conn.Close()
	cancel()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is open after the end: %v", err)
	}
}

// Large requests are refused.
func TestRequestsAreBounded(t *testing.T) {
	conn, err := net.Dial("tcp", serve(t, ServerConfig{}))
	testutil.Must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		_, _ = fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n")
		for range 64 {
			if _, err := fmt.Fprintf(conn, "X: %s\r\n", strings.Repeat("x", 1024)); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	testutil.Must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 kB of header: %s", resp.Status)
	}
}

// Slow clients are cut off.
func TestSlowClientsAreCut(t *testing.T) {
	s := newServer(nil, slog.New(slog.DiscardHandler))
	if s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.ReadTimeout > 10*time.Second || s.WriteTimeout > 30*time.Second {
		t.Errorf("timeouts: read %v, write %v", s.ReadTimeout, s.WriteTimeout)
	}
	s.ReadTimeout = 20 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	defer served.Wait()
	defer s.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	testutil.Must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, err = fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\n")
	testutil.Must(t, err)
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the server does not end the connection: %v", err)
	}
}

// Clients that hold connections, with half a request, with none, or after an answer, keep
// nobody else out.
func TestSlowClientsHoldNothing(t *testing.T) {
	addr := serve(t, ServerConfig{})
	for _, said := range []string{"", "G", "GET /metrics HTTP/1.1\r\nHost: x\r\nX: ", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"} {
		conns := make([]net.Conn, 200)
		for i := range conns {
			conn, err := net.Dial("tcp", addr)
			testutil.Must(t, err)
			_, err = fmt.Fprint(conn, said)
			testutil.Must(t, err)
			conns[i] = conn
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
		resp, err := client.Get("http://" + addr + "/metrics")
		testutil.Must(t, err)
		body, err := io.ReadAll(resp.Body)
		testutil.Must(t, err)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(body), "linkcancel_build_info") {
			t.Errorf("%q: %s", said, resp.Status)
		}
		for _, conn := range conns {
			testutil.Must(t, conn.Close())
		}
	}
}

// A connection ends with its answer.
func TestConnectionsAreNotKept(t *testing.T) {
	conn, err := net.Dial("tcp", serve(t, ServerConfig{}))
	testutil.Must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, err = fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	testutil.Must(t, err)
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "Connection: close") {
		t.Errorf("%q, %v", answer, err)
	}
}
