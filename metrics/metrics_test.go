package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
)

func TestMain(m *testing.M) {
	broker.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m,
		// go-redis looks every second whether a server is back, and so sees only
		// then that its pool was closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	)
}

// series reads all values of linkcancel's own, by name and labels.
func series(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "linkcancel_") {
			continue
		}
		for _, s := range f.GetMetric() {
			name := f.GetName()
			for _, l := range s.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[name] = s.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				all[name] = s.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				all[name] = float64(s.GetHistogram().GetSampleCount())
			default:
				t.Errorf("%s is a %v", name, f.GetType())
			}
		}
	}
	return all
}

// fresh is what stands from the beginning.
func fresh() map[string]float64 {
	all := map[string]float64{
		"linkcancel_build_info version=v1":                      1,
		"linkcancel_links_in_flight":                            0,
		"linkcancel_attempts_total":                             0,
		"linkcancel_ambiguous_attempts_total":                   0,
		"linkcancel_ledger_repairs_total reason=orphaned":       0,
		"linkcancel_ledger_repairs_total reason=missing":        0,
		"linkcancel_api_request_duration_seconds method=DELETE": 0,
		"linkcancel_api_request_duration_seconds method=GET":    0,
		"linkcancel_outcomes_total outcome=cancelled":           0,
		"linkcancel_outcomes_total outcome=already_cancelled":   0,
		"linkcancel_outcomes_total outcome=not_found":           0,
		"linkcancel_outcomes_total outcome=not_cancellable":     0,
		"linkcancel_outcomes_total outcome=rejected":            0,
		"linkcancel_outcomes_total outcome=failed":              0,
		"linkcancel_outcomes_total outcome=aborted":             0,
		"linkcancel_rate_limit_ceiling":                         0,
		"linkcancel_rate_limit_present":                         0,
		"linkcancel_hold reason=throttled":                      0,
		"linkcancel_hold reason=unauthorized":                   0,
		"linkcancel_hold reason=outage":                         0,
		"linkcancel_hold reason=manual":                         0,
		"linkcancel_redis_up":                                   1,
		"linkcancel_workers":                                    0,
		"linkcancel_queue_slices state=pending":                 0,
		"linkcancel_queue_slices state=active":                  0,
		"linkcancel_queue_slices state=retry":                   0,
		"linkcancel_queue_slices state=archived":                0,
		"linkcancel_open_batches state=importing":               0,
		"linkcancel_open_batches state=ready":                   0,
		"linkcancel_open_batches state=running":                 0,
		"linkcancel_open_batches state=paused":                  0,
		"linkcancel_pending_links state=importing":              0,
		"linkcancel_pending_links state=ready":                  0,
		"linkcancel_pending_links state=running":                0,
		"linkcancel_pending_links state=paused":                 0,
	}
	for _, method := range []string{"DELETE", "GET"} {
		for _, class := range []string{"2xx", "3xx", "4xx", "5xx", "none"} {
			all["linkcancel_api_requests_total class="+class+" method="+method] = 0
		}
	}
	return all
}

func TestSeries(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		m := New("v1")
		var status ratelimit.Status
		m.WatchLimit(func() ratelimit.Status { return status })
		l := ledger.New(b.Client())
		m.WatchFleet(l, asynq.NewInspectorFromRedisClient(b.Client()))
		want := fresh()
		if diff := cmp.Diff(want, series(t, m)); diff != "" {
			t.Errorf("from the beginning: %s", diff)
		}
		problems, err := testutil.GatherAndLint(m.registry)
		if err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}

		// What happens is counted, and no series is added by it.
		for _, status := range []int{200, 204, 302, 404, 422, 500, 599, 0, 101, 999} {
			m.Request("DELETE", status, 20*time.Millisecond)
		}
		m.Request("GET", 200, time.Second)
		for _, o := range ledger.Outcomes {
			m.Outcome(o)
		}
		m.Outcome(ledger.Failed)
		m.Attempt(true)
		m.Attempt(false)
		m.InFlight(3)
		m.InFlight(-1)
		m.Repaired("missing", 2)
		m.Repaired("orphaned", 1)
		status = ratelimit.Status{Ceiling: 10, Rate: 8.5, Hold: ratelimit.Hold{Reason: ratelimit.ReasonOutage}}
		for name, v := range map[string]float64{
			"linkcancel_api_requests_total class=2xx method=DELETE": 2, "linkcancel_api_requests_total class=3xx method=DELETE": 1,
			"linkcancel_api_requests_total class=4xx method=DELETE": 2, "linkcancel_api_requests_total class=5xx method=DELETE": 2,
			"linkcancel_api_requests_total class=none method=DELETE": 3, "linkcancel_api_requests_total class=2xx method=GET": 1,
			"linkcancel_api_request_duration_seconds method=DELETE": 10, "linkcancel_api_request_duration_seconds method=GET": 1,
			"linkcancel_attempts_total": 2, "linkcancel_ambiguous_attempts_total": 1, "linkcancel_links_in_flight": 2,
			"linkcancel_ledger_repairs_total reason=orphaned": 1, "linkcancel_ledger_repairs_total reason=missing": 2,
			"linkcancel_rate_limit_ceiling": 10, "linkcancel_rate_limit_present": 8.5, "linkcancel_hold reason=outage": 1,
		} {
			want[name] = v
		}
		for _, o := range ledger.Outcomes {
			want["linkcancel_outcomes_total outcome="+o.String()] = 1
		}
		want["linkcancel_outcomes_total outcome=failed"] = 2
		if diff := cmp.Diff(want, series(t, m)); diff != "" {
			t.Errorf("after some work: %s", diff)
		}
	})
}

// make3 makes a batch of three links.
func make3(t *testing.T, l *ledger.Ledger, id string) *ledger.Batch {
	t.Helper()
	d, _, err := l.Create(t.Context(), ledger.DraftConfig{ID: id})
	if err == nil {
		err = d.Write(t.Context(), []string{"a", "b", "c"})
	}
	if err == nil {
		err = d.Seal(t.Context(), "digest", 0, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &ledger.Batch{ID: id}
}

func TestFleetSeries(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		make3(t, l, "ready")
		must(l.Start(t.Context(), make3(t, l, "running"), 1, 50))
		must(l.Commit(t.Context(), []ledger.Group{{Batch: "running", Entries: []ledger.Entry{{Record: ledger.Record{Outcome: ledger.Cancelled}}}}})[0].Err)
		make3(t, l, "paused")
		_, _, err := l.Pause(t.Context(), "paused", "")
		must(err)
		make3(t, l, "paused2")
		_, _, err = l.Pause(t.Context(), "paused2", "")
		must(err)
		_, _, err = l.Create(t.Context(), ledger.DraftConfig{ID: "importing"})
		must(err)
		must(l.Beat(t.Context(), ledger.WorkerBeat{ID: "w1"}))
		must(l.Beat(t.Context(), ledger.WorkerBeat{ID: "w2"}))
		s := task.Slice{Batch: "running", Links: []string{"a", "b", "c"}}
		tk, err := s.Task()
		must(err)
		_, err = asynq.NewClientFromRedisClient(b.Client()).Enqueue(tk)
		must(err)

		m := New("v1")
		m.WatchFleet(l, asynq.NewInspectorFromRedisClient(b.Client()))
		got := series(t, m)
		for name, v := range map[string]float64{
			"linkcancel_redis_up": 1, "linkcancel_workers": 2, "linkcancel_queue_slices state=pending": 1,
			"linkcancel_open_batches state=importing": 1, "linkcancel_open_batches state=ready": 1,
			"linkcancel_open_batches state=running": 1, "linkcancel_open_batches state=paused": 2,
			"linkcancel_pending_links state=importing": 0, "linkcancel_pending_links state=ready": 3,
			"linkcancel_pending_links state=running": 2, "linkcancel_pending_links state=paused": 6,
		} {
			if got[name] != v {
				t.Errorf("%s = %v, want %v", name, got[name], v)
			}
		}
	})
}

// Without Redis a scrape says so, and has all that is this process's own.
func TestRedisAway(t *testing.T) {
	b := broker.Embedded()
	m := New("v1")
	m.WatchFleet(ledger.New(b.Client()), asynq.NewInspectorFromRedisClient(b.Client()))
	m.Outcome(ledger.Cancelled)
	_ = b.Close()
	got := series(t, m)
	if up, ok := got["linkcancel_redis_up"]; up != 0 || !ok {
		t.Errorf("linkcancel_redis_up = %v, %v", up, ok)
	}
	if got["linkcancel_outcomes_total outcome=cancelled"] != 1 {
		t.Errorf("own series are missing: %v", got)
	}
	for _, name := range []string{"linkcancel_workers", "linkcancel_queue_slices state=pending", "linkcancel_pending_links state=ready"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s = %v, though nobody knows", name, v)
		}
	}
}

// A scrape does not read Redis each time.
func TestCollectorRemembers(t *testing.T) {
	b := broker.Embedded()
	m := New("v1")
	m.WatchFleet(ledger.New(b.Client()), asynq.NewInspectorFromRedisClient(b.Client()))
	before := series(t, m)
	_ = b.Close()
	if diff := cmp.Diff(before, series(t, m)); diff != "" {
		t.Errorf("a second scrape at once: %s", diff)
	}
}

// serve starts a server for the length of the test.
func serve(t *testing.T, cfg ServerConfig) (url string) {
	t.Helper()
	var out strings.Builder
	cfg.Addr, cfg.Log = "127.0.0.1:0", slog.New(slog.NewTextHandler(&out, nil))
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
	})
	if err := New("v1").Serve(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	_, addr, ok := strings.Cut(out.String(), "addr=")
	if !ok {
		t.Fatalf("the log does not tell the address: %s", out.String())
	}
	return "http://" + strings.TrimSpace(addr)
}

func get(t *testing.T, url string) (status int, kind, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(text)
}

func TestServer(t *testing.T) {
	var why error
	url := serve(t, ServerConfig{Ready: func(context.Context) error { return why }})
	status, kind, body := get(t, url+"/metrics")
	if status != 200 || !strings.HasPrefix(kind, "text/plain") {
		t.Errorf("/metrics: %d %s", status, kind)
	}
	for _, line := range []string{`linkcancel_outcomes_total{outcome="cancelled"} 0`, `linkcancel_build_info{version="v1"} 1`, "go_goroutines ", "process_start_time_seconds "} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("/metrics has no line %s", line)
		}
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
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 405 {
		t.Errorf("POST /metrics: %d", resp.StatusCode)
	}
}

// ServerConfig says that Ready may be nil.
func TestAlwaysReady(t *testing.T) {
	url := serve(t, ServerConfig{})
	if status, _, body := get(t, url+"/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

func TestPprof(t *testing.T) {
	url := serve(t, ServerConfig{Pprof: true})
	for _, path := range []string{"heap", "goroutine", "allocs", "block", "mutex"} {
		if status, _, _ := get(t, url+"/debug/pprof/"+path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	// The command line may name files that are nobody's business.
	for _, path := range []string{"", "cmdline", "symbol", "trace"} {
		if status, _, _ := get(t, url+"/debug/pprof/"+path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestBusyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := slog.New(slog.DiscardHandler)
	err = New("v1").Serve(t.Context(), ServerConfig{Addr: l.Addr().String(), Log: log})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is in use") || !strings.Contains(err.Error(), "hint: choose another with --metrics-addr") {
		t.Errorf("a busy address: %v", err)
	}
	for _, addr := range []string{"nonsense", "127.0.0.1:99999", "192.0.2.1:80"} {
		err := New("v1").Serve(t.Context(), ServerConfig{Addr: addr, Log: log})
		if err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("address %s: %v", addr, err)
		}
	}
}

// The server ends with its context, also under a client that keeps its connection.
func TestServerEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var out strings.Builder
	err := New("v1").Serve(ctx, ServerConfig{Addr: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	_, addr, _ := strings.Cut(out.String(), "addr=")
	conn, err := net.Dial("tcp", strings.TrimSpace(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is open after the end: %v", err)
	}
}

// Whoever adds an outcome or reason has to add its series.
func TestClosedSets(t *testing.T) {
	names := fresh()
	for _, o := range ledger.Outcomes {
		if _, ok := names["linkcancel_outcomes_total outcome="+o.String()]; !ok {
			t.Errorf("no series for outcome %v", o)
		}
	}
	if !slices.Contains(repairs[:], "orphaned") || !slices.Contains(repairs[:], "missing") {
		t.Errorf("repairs %v", repairs)
	}
}
