package metrics

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	promtest "github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

func TestMain(m *testing.M) {
	broker.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m,
		// go-redis looks every second whether a server is back, and so sees only
		// then that its pool was closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
		// net/http lingers for half a second after it refused a request.
		goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"),
	)
}

// complete makes the metrics of a process that works on b.
func complete(b *broker.Broker, status func() ratelimit.Status) *Metrics {
	m := New("v1")
	m.WatchLimit(status)
	m.WatchFleet(ledger.New(b.Client()), b.Client(), slog.New(slog.DiscardHandler))
	return m
}

func quiet() ratelimit.Status { return ratelimit.Status{} }

// families are linkcancel's own.
func families(t testing.TB, g prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	all, err := g.Gather()
	testutil.Must(t, err)
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "linkcancel_") })
}

// series reads all values of linkcancel's own, by name and labels; of a histogram
// the number of observations.
func series(t testing.TB, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, f := range families(t, g) {
		for _, s := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "linkcancel_")
			for _, l := range s.GetLabel() {
				name += " " + l.GetValue()
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

// changes are the values that differ.
func changes(before, after map[string]float64) map[string]float64 {
	changed := map[string]float64{}
	for name, v := range after {
		if was, ok := before[name]; !ok || was != v {
			changed[name] = v
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			changed[name+" is gone"] = 1
		}
	}
	return changed
}

// text is what /metrics shows of linkcancel's own.
func text(t testing.TB, m *Metrics) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(scrape(t, m)) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "linkcancel_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// golden holds text to a file; UPDATE=1 writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		testutil.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		testutil.Must(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	testutil.Must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of step (UPDATE=1 writes it): %s", path, diff)
	}
}

var goVersion = regexp.MustCompile(`goversion="[^"]+"`)

// All series except those of single batches exist from the start: names, labels and help.
func TestFreshProcess(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		m := complete(b, quiet)
		golden(t, "testdata/fresh.txt", goVersion.ReplaceAllString(text(t, m), `goversion="go0"`))
		problems, err := promtest.GatherAndLint(m.registry)
		if err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	})
}

// What happens is counted, and adds no series.
func TestCounts(t *testing.T) {
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	var status ratelimit.Status
	m := complete(b, func() ratelimit.Status { return status })
	before := series(t, m.registry)

	for _, status := range []int{200, 204, 302, 404, 422, 429, 500, 599, 0, 101, 999} {
		m.Request("DELETE", status, 20*time.Millisecond)
	}
	m.Request("GET", 200, time.Second)
	for _, status := range []int{200, 302, 403, 404, 429, 503, 999} {
		m.Unproven(status)
	}
	m.InFlight(1)
	m.InFlight(1)
	m.InFlight(-1)
	m.Waited(time.Minute)
	for i, source := range []string{"import", "run", "sweep", "from elsewhere"} {
		for _, o := range ledger.Outcomes[:5+i%2] {
			m.Outcome(source, o, 1+i, time.Hour)
		}
	}
	for _, o := range bySettling {
		m.Settled(o)
	}
	m.Ambiguous(3)
	m.Repaired("missing", 2)
	m.Repaired("orphaned", 1)
	status = ratelimit.Status{Ceiling: 10, Rate: 8.5, Hold: ratelimit.Hold{Reason: ratelimit.ReasonOutage}}

	want := map[string]float64{
		"api_requests_total 2xx DELETE": 2, "api_requests_total 3xx DELETE": 1, "api_requests_total 4xx DELETE": 2,
		"api_requests_total 429 DELETE": 1, "api_requests_total 5xx DELETE": 2, "api_requests_total none DELETE": 3,
		"api_requests_total 2xx GET": 1, "api_request_duration_seconds DELETE": 11, "api_request_duration_seconds GET": 1,
		"api_unproven_answers_total 2xx": 1, "api_unproven_answers_total 3xx": 1, "api_unproven_answers_total 4xx": 2,
		"api_requests_in_flight": 1, "limit_wait_seconds": 1,
		"outcomes_total failed run": 1, "outcomes_total failed import": 1,
		"link_latency_seconds import": 11, "link_latency_seconds run": 6, "link_latency_seconds sweep": 5, "link_attempts": 22,
		"ambiguous_attempts_total":      3,
		"ledger_repairs_total orphaned": 1, "ledger_repairs_total missing": 2,
		"limit_ceiling_requests_per_second": 10, "limit_present_requests_per_second": 8.5, "hold outage": 1,
	}
	for _, o := range ledger.Outcomes[:5] {
		want["outcomes_total "+o.String()+" import"] = 2
		want["outcomes_total "+o.String()+" run"] = 1
		want["outcomes_total "+o.String()+" sweep"] = 1
	}
	for _, o := range bySettling {
		want["settled_total "+o.String()] = 1
	}
	if diff := cmp.Diff(want, changes(before, series(t, m.registry))); diff != "" {
		t.Error(diff)
	}
}

// Times are classic and native histograms, with as few classic buckets as needed.
func TestHistograms(t *testing.T) {
	m := New("v1")
	m.Request("DELETE", 204, 40*time.Millisecond)
	m.Waited(40 * time.Millisecond)
	m.Outcome("sweep", ledger.Cancelled, 3, 40*time.Minute)
	seen := 0
	for _, f := range families(t, m.registry) {
		if f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		seen++
		for _, s := range f.GetMetric() {
			h := s.GetHistogram()
			if len(h.GetBucket()) < 5 || len(h.GetBucket()) > 10 {
				t.Errorf("%s has %d classic buckets", f.GetName(), len(h.GetBucket()))
			}
			if h.GetSampleCount() == 0 {
				continue
			}
			if native := len(h.GetPositiveSpan()) > 0; native != (f.GetName() != "linkcancel_link_attempts") {
				t.Errorf("%s: native %v", f.GetName(), native)
			}
		}
	}
	if seen != 4 {
		t.Errorf("%d histograms", seen)
	}
}

// The closed sets are those of the packages whose words they are.
func TestClosedSets(t *testing.T) {
	want := []string{importer.SourceImport, importer.SourceRun, importer.SourceSweep}
	if diff := cmp.Diff(want, sources[:]); diff != "" {
		t.Errorf("sources: %s", diff)
	}
	if got := sources[sourceIndex("")]; got != importer.SourceImport {
		t.Errorf("a batch of no source counts as %s", got)
	}
	for _, o := range ledger.Outcomes {
		if (o != ledger.Aborted) != slices.Contains(bySettling[:], o) {
			t.Errorf("outcome %v", o)
		}
		if !slices.Contains(linkStates, o) {
			t.Errorf("a link can be %v", o)
		}
	}
	if linkStates[0] != ledger.None || len(linkStates) != len(ledger.Outcomes)+1 {
		t.Errorf("a link can be %v", linkStates)
	}
}
