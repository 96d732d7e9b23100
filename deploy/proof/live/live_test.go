package live

import (
	"fmt"
	"maps"
	"math"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"linkcancel/deploy/proof/dashboard"
	"linkcancel/deploy/proof/promql"
	"linkcancel/deploy/proof/repo"
	"linkcancel/deploy/proof/rules"
)

// importLinks are enough for half a minute at what the sandbox API allows. Links
// beyond them are left for the sweep.
const importLinks = 5000

// TestLive runs a fleet on a real Redis and a sandbox API that throttles, under
// the eyes of a real Prometheus.
func TestLive(t *testing.T) {
	if !repo.Have(t, "redis-server", "prometheus", "promtool") {
		return
	}
	s := newStack(t, load{
		links: importLinks + 300, rate: "200/s", interval: "1s", sweep: 8 * time.Second, // the workers have time to start
		// It throttles, some answers are 400, 500 or 502, and some never come.
		api: []string{"--limit", "150", "--latency", "10ms", "--jitter", "20ms", "--error-500", "0.02", "--html-502", "0.01",
			"--cut", "0.01", "--cut-before", "0.01", "--bad-request", "0.01", "--friendly", "0.005"},
	})
	began := time.Now()
	s.imports(t, "some", 0, importLinks)
	s.awaitImport(t)
	drained := time.Now()
	s.awaitDone(t, 2) // that, and the sweep

	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"scrape is clean", s.scrapeIsClean},
		{"outcomes are those of the ledger", func(t *testing.T) { s.outcomes(t, true) }},
		{"Redis goes and comes back", s.redisGoes},
		{"outcomes are still those of the ledger", func(t *testing.T) { s.outcomes(t, false) }},
		{"rates are those of the API", func(t *testing.T) { s.rates(t, began, drained) }},
		{"queries use what exists", s.names},
		{"queries return data", s.data},
		{"mistakes are found", s.mistakes},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

func (s *stack) scrapeIsClean(t *testing.T) {
	_, body, err := get("http://" + s.workers[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(string(body))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// outcomes compares the series with what batch show says of each batch, and, in
// a time without crashes, with what the workers counted.
func (s *stack) outcomes(t *testing.T, counters bool) {
	want := map[string]float64{}
	for _, b := range s.batches(t) {
		shown := s.show(t, b.Batch)
		for outcome, n := range shown.Outcomes {
			want[b.Source+" "+outcome] += float64(n)
		}
		want[b.Source+" pending"] += float64(shown.Pending)
	}
	maps.DeleteFunc(want, func(_ string, n float64) bool { return n == 0 })
	if want["import cancelled"] == 0 || want["sweep cancelled"] == 0 {
		t.Fatalf("the batches were not what they should be: %v", want)
	}
	equal := func(expr string) {
		until(t, expr+" to be what batch show says", func() (bool, any) {
			have := map[string]float64{}
			found, err := s.fast.query(expr, time.Time{})
			for _, r := range found {
				if r.last() != 0 {
					have[r.labels["source"]+" "+r.labels["outcome"]] = r.last()
				}
			}
			return err == nil && cmp.Equal(want, have), fmt.Sprint(err, cmp.Diff(want, have))
		})
	}
	equal(`max by (source, outcome) (linkcancel_fleet_links{job="linkcancel"})`)
	if counters {
		equal(`sum by (source, outcome) (linkcancel_outcomes_total{job="linkcancel"})`)
	}
}

// alertWithin is how soon Redis' absence must show.
const alertWithin = 15 * time.Second

func (s *stack) redisGoes(t *testing.T) {
	status := func(worker, path string) int {
		code, _, _ := get("http://" + worker + path)
		return code
	}
	scrape := func(worker string) string {
		_, body, err := get("http://" + worker + "/metrics")
		if err != nil || !strings.Contains(string(body), "\nlinkcancel_outcomes_total{") || !strings.Contains(string(body), "\nlinkcancel_redis_up ") {
			t.Errorf("a scrape of a worker lacks its series: %v\n%s", err, body)
		}
		return string(body)
	}
	const firing = `ALERTS{alertname="LinkcancelRedisAway",alertstate="firing",job="linkcancel"}`

	killed := time.Now()
	s.redis.end(syscall.SIGKILL)
	for _, w := range s.workers {
		until(t, "a worker to see that Redis is away", func() (bool, any) {
			return strings.Contains(scrape(w), "\nlinkcancel_redis_up 0\n") && status(w, "/readyz") == 503, status(w, "/readyz")
		})
		if code := status(w, "/healthz"); code != 200 {
			t.Errorf("/healthz says %d while Redis is away, not 200", code)
		}
	}
	until(t, "LinkcancelRedisAway to fire", func() (bool, any) {
		found, err := s.shipped.query(firing, time.Time{})
		return len(found) == 1, err
	})
	for what, expr := range map[string]string{"the alert fires": firing + "[2m]", "the gauge is 0": `linkcancel_redis_up{job="linkcancel"}[2m]`} {
		found, err := s.shipped.query(expr, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, r := range found {
			for _, v := range r.samples {
				if !v.at.After(killed) || strings.HasPrefix(expr, "linkcancel_redis_up") && v.value != 0 {
					continue
				}
				if took := v.at.Sub(killed); took > alertWithin {
					t.Errorf("%s %v after Redis was killed, not within %v", what, took, alertWithin)
				} else {
					t.Logf("%s %v after Redis was killed", what, took)
				}
				seen++
				break
			}
		}
		if seen == 0 {
			t.Errorf("never seen: %s", what)
		}
	}

	s.startRedis(t)
	for _, w := range s.workers {
		until(t, "a worker to see that Redis is back", func() (bool, any) {
			return strings.Contains(scrape(w), "\nlinkcancel_redis_up 1\n") && status(w, "/readyz") == 200, status(w, "/readyz")
		})
	}
	until(t, "LinkcancelRedisAway to end", func() (bool, any) {
		found, err := s.shipped.query(firing, time.Time{})
		return err == nil && len(found) == 0, err
	})
	s.imports(t, "few", 0, 200) // work continues
	s.awaitDone(t, 3)
	for _, expr := range []string{`min_over_time(up{job="linkcancel"}[2m])`, `min_over_time(scrape_samples_scraped{job="linkcancel"}[2m])`} {
		found, err := s.shipped.query(expr, time.Time{})
		if err != nil || len(found) != 2 {
			t.Fatalf("%s: %v, %v", expr, found, err)
		}
		for _, r := range found {
			if r.last() == 0 {
				t.Errorf("%s: a scrape failed or was empty while Redis was away", expr)
			}
		}
	}
}

const (
	// rateWindow is in place of $__rate_interval where rates are compared.
	rateWindow = 15 * time.Second
	// rateOff is how far a rate that is shown may be from the API's own log.
	rateOff = 0.02
)

// rates compares the rates that the dashboard shows while 5 000 links were
// drained with the API's log, and the workers' count of requests with its lines.
func (s *stack) rates(t *testing.T, from, to time.Time) {
	log := s.stopSandbox(t)
	all := func(request) bool { return true }
	for title, count := range map[string]func(request) bool{
		"Rate against limit": all,
		"Answers by class":   func(r request) bool { return r.status/100 == 2 },
	} {
		if off := s.off(t, exprOf(t, title, "A"), log, from, to, count); math.Abs(off) > rateOff {
			t.Errorf("%s shows rates that are off by %.1f %%", title, 100*off)
		}
	}
	// Outcomes are fewer than requests: so small a difference must show.
	if off := s.off(t, exprOf(t, "Rate against limit", "B"), log, from, to, all); math.Abs(off) <= rateOff {
		t.Errorf("the rate of outcomes is taken for that of requests: off by %.1f %%", 100*off)
	}

	found, err := s.fast.query(`sum(linkcancel_api_requests_total{job="linkcancel"})`, time.Time{})
	if err != nil || len(found) != 1 || found[0].last() != float64(len(log)) {
		t.Errorf("the workers counted %v requests (%v), the API's log has %d", found, err, len(log))
	}
}

// off is how far a rate that is shown is from the API's log, as a share of it:
// the mean over a time, since each value knows the ends of its window only to a
// scrape.
func (s *stack) off(t *testing.T, expr string, log []request, from, to time.Time, count func(request) bool) float64 {
	t.Helper()
	expr = dashboard.Expand(expr, job, rateWindow.String())
	from = from.Add(rateWindow + 2*time.Second) // from here on the window is full
	found, err := s.fast.queryRange(expr, from, to, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(r result) bool { return r.labels["class"] == "" || r.labels["class"] == "2xx" })
	if i < 0 || len(found[i].samples) < 10 {
		t.Fatalf("%s returned too little: %v", expr, found)
	}
	var shown, logged float64
	for _, v := range found[i].samples {
		shown += v.value
		for _, r := range log {
			if r.at.After(v.at.Add(-rateWindow)) && !r.at.After(v.at) && count(r) {
				logged += 1 / rateWindow.Seconds()
			}
		}
	}
	n := float64(len(found[i].samples))
	t.Logf("%s: %.2f/s shown, %.2f/s by the API's log, the mean of %v values", expr, shown/n, logged/n, n)
	return shown/logged - 1
}

// exprOf is a query of a panel.
func exprOf(t *testing.T, title, ref string) string {
	t.Helper()
	for _, e := range board(t).Exprs() {
		if e.Where == fmt.Sprintf("panel %q, query %s", title, ref) {
			return e.Expr
		}
	}
	t.Fatalf("there is no query %s of panel %q", ref, title)
	return ""
}

func board(t *testing.T) *dashboard.Dashboard {
	t.Helper()
	d, err := dashboard.Parse(repo.Read(t, dashboard.File))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func alerts(t *testing.T) []rules.Rule {
	t.Helper()
	r, err := rules.Parse(repo.Read(t, rules.File))
	if err != nil {
		t.Fatal(err)
	}
	return r.All()
}

// catalogue is every series that there was.
func (s *stack) catalogue(t *testing.T) promql.Catalogue {
	t.Helper()
	all, err := s.fast.series([]string{`{job="linkcancel"}`}, s.began, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := promql.Catalogue{}
	for _, series := range all {
		c.Add(series)
	}
	return c
}

// names: all expressions, and the series in the cases of the rules, use metrics,
// labels and values of labels that exist.
func (s *stack) names(t *testing.T) {
	c := s.catalogue(t)
	for _, e := range board(t).Exprs() {
		if err := checkNames(c, dashboard.Expand(e.Expr, job, "10s")); err != nil {
			t.Errorf("%s: %v", e.Where, err)
		}
	}
	for _, a := range alerts(t) {
		if err := checkNames(c, a.Expr); err != nil {
			t.Errorf("alert %s: %v", a.Alert, err)
		}
	}
	for _, file := range rules.Tests {
		cases, err := rules.ParseCases(repo.Read(t, rules.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range cases.Tests {
			for _, in := range test.Input {
				if err := checkSeries(c, in.Series); err != nil {
					t.Errorf("%s, %q: %v", file, test.Name, err)
				}
			}
		}
	}
}

func checkNames(c promql.Catalogue, expr string) error {
	q, err := promql.Parse(expr)
	if err != nil {
		return err
	}
	return c.Check(q)
}

// checkSeries checks a made-up series; its job and instance are made up too.
func checkSeries(c promql.Catalogue, series string) error {
	metric, err := parser.NewParser(parser.Options{}).ParseMetric(series)
	if err != nil {
		return err
	}
	var matchers []promql.Matcher
	metric.Range(func(l labels.Label) {
		if !slices.Contains([]string{model.MetricNameLabel, "job", "instance"}, l.Name) {
			matchers = append(matchers, labels.MustNewMatcher(labels.MatchEqual, l.Name, l.Value))
		}
	})
	return c.CheckSelector(metric.Get(model.MetricNameLabel), matchers)
}

// data: every query of the dashboard returns data at some time of the run, without
// exception: ALERTS does since Redis was killed. So does whatever an alert looks
// at. That it fires on the values of its fault, and only then, is proved by its
// cases for promtool.
func (s *stack) data(t *testing.T) {
	end := time.Now()
	for _, e := range board(t).Exprs() {
		if err := s.returnsData(dashboard.Expand(e.Expr, job, "10s"), e.Legend, end); err != nil {
			t.Errorf("%s: %v", e.Where, err)
		}
	}
	for _, a := range alerts(t) {
		q, err := promql.Parse(a.Expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, selector := range q.Selectors {
			if err := s.returnsData(selector.Text, "", end); err != nil {
				t.Errorf("alert %s: %v", a.Alert, err)
			}
		}
	}
}

var legendLabel = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// returnsData: an expression returns numbers at some time, and series with the
// labels that its legend shows.
func (s *stack) returnsData(expr, legend string, end time.Time) error {
	found, err := s.fast.queryRange(expr, s.began, end, time.Second)
	if err != nil {
		return fmt.Errorf("%s: %w", expr, err)
	}
	numbers := false
	for _, r := range found {
		numbers = numbers || slices.ContainsFunc(r.samples, func(v sample) bool { return !math.IsNaN(v.value) && !math.IsInf(v.value, 0) })
		for _, m := range legendLabel.FindAllStringSubmatch(legend, -1) {
			if _, ok := r.labels[m[1]]; !ok {
				return fmt.Errorf("%s: the legend wants the label %s, the series have %v", expr, m[1], r.labels)
			}
		}
	}
	if !numbers {
		return fmt.Errorf("%s: returned no data all the time", expr)
	}
	return nil
}

// mistakes: what is wrong is found, by the very checks above.
func (s *stack) mistakes(t *testing.T) {
	c, end := s.catalogue(t), time.Now()
	for _, test := range []struct{ name, expr, legend, want string }{
		{"metric", `max(linkcancel_fleet_worker{job="linkcancel"})`, "", "no metric linkcancel_fleet_worker"},
		{"label", `max(linkcancel_hold{job="linkcancel",cause="manual"})`, "", "no label cause"},
		{"value", `max(linkcancel_hold{job="linkcancel",reason="throtled"})`, "", `never has reason="throtled"`},
		{"one value of several", `sum(linkcancel_outcomes_total{job="linkcancel",outcome=~"failed|reject"})`, "", `never has outcome=~"reject"`},
		{"grouping", `max by (reasons) (linkcancel_hold{job="linkcancel"})`, "", "no label reasons"},
		{"matching", `max by (job) (linkcancel_hold) and on (jobs) max by (job) (linkcancel_redis_up)`, "", "no label jobs"},
		{"no data", `linkcancel_fleet_workers{job="linkcancel"} > 1000`, "", "returned no data"},
		{"no number", `0 * sum(linkcancel_redis_up{job="linkcancel"}) / 0`, "", "returned no data"},
		{"legend", `max(linkcancel_hold{job="linkcancel"})`, "{{reason}}", "the legend wants the label reason"},
		{"type", `rate(linkcancel_outcomes_total{job="linkcancel"})`, "", "parse"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkNames(c, test.expr)
			if err == nil {
				err = s.returnsData(test.expr, test.legend, end)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %v, not %q", err, test.want)
			}
		})
	}
	for name, err := range map[string]error{
		"made-up series": checkSeries(c, `linkcancel_hold{job="linkcancel",reason="asleep"}`),
		"dashboard": func() error {
			b := repo.Mutate(t, repo.Read(t, dashboard.File), `"expr": "max by (queue) (linkcancel_fleet_queue_oldest_seconds{job=\"$job\"})",
          "legendFormat": "{{queue}}",
          "format": "time_series",
          "instant": true`, `"expr": "max by (queue) (linkcancel_fleet_queue_age_seconds{job=\"$job\"})",
          "legendFormat": "{{queue}}",
          "format": "time_series",
          "instant": true`)
			d, err := dashboard.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range d.Exprs() {
				if err := checkNames(c, dashboard.Expand(e.Expr, job, "10s")); err != nil {
					return err
				}
			}
			return nil
		}(),
	} {
		if err == nil {
			t.Errorf("%s: the mistake was not found", name)
		}
	}
}
