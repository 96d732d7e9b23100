// Package metrics has the instruments, the collector and the server. See docs/metrics.md.
package metrics

import (
	"regexp"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"linkcancel/internal/ledger"
	"linkcancel/internal/notify"
	"linkcancel/internal/ratelimit"
)

// Metrics are the instruments of one process, in a registry of their own.
type Metrics struct {
	registry *prometheus.Registry

	outcomes  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	attempts  prometheus.Histogram
	ambiguous prometheus.Counter
	settled   *prometheus.CounterVec
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	waited    prometheus.Histogram
	repairs   *prometheus.CounterVec
	archives  *prometheus.CounterVec
	notices   *prometheus.CounterVec
	unproven  *prometheus.CounterVec

	// Series resolved once, because resolving labels per link would cost more than counting.
	unprovens [len(answered)]prometheus.Counter
	calls     [len(methods)]struct {
		duration prometheus.Observer
		requests [len(classes)]prometheus.Counter
	}
	ends [len(sources)]struct {
		latency  prometheus.Observer
		outcomes []prometheus.Counter // by ledger.Outcome
	}
}

// All label values. Every series exists from the start, so that its first event is visible.
var (
	sources = [...]string{"import", "run", "sweep"}
	methods = [...]string{"DELETE", "GET"}
	classes = [...]string{"2xx", "3xx", "4xx", "429", "5xx", "none"}
	// answered are the classes of unproven answers that are counted, the first ones of
	// classes. Many APIs have no form of their own for a 429 or a 5xx.
	answered = [...]string{"2xx", "3xx", "4xx"}
	repairs  = [...]string{"orphaned", "missing"}

	archiveResults = [...]string{"ok", "failed"}
	noticeResults  = [...]string{notify.Delivered, notify.Failed, notify.GivenUp}
	holds          = [...]ratelimit.Reason{
		ratelimit.ReasonThrottled, ratelimit.ReasonUnauthorized, ratelimit.ReasonOutage, ratelimit.ReasonManual, ratelimit.ReasonWindow,
	}
	// bySettling are the outcomes that a GET can decide.
	bySettling = [...]ledger.Outcome{
		ledger.Cancelled, ledger.AlreadyCancelled, ledger.NotFound, ledger.NotCancellable, ledger.Rejected, ledger.Failed,
	}
)

const (
	minute, hour, day = 60., 3600., 86_400.

	// The size of native histograms: buckets that grow by a tenth, up to a maximum number.
	nativeFactor  = 1.1
	nativeBuckets = 100
	nativeReset   = time.Hour
)

// goHeap is the only unusual runtime metric, because the others would be very many series.
var goHeap = regexp.MustCompile(`^/memory/classes/heap/objects:bytes$`)

// New returns the instruments of a process of the given release. Every series starts at 0.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_outcomes_total",
			Help: "Links whose outcome this process wrote to the ledger. Outcomes of an abort are in linkcancel_fleet_links only.",
		}, []string{"source", "outcome"}),
		latency: prometheus.NewHistogramVec(histogram("linkcancel_link_latency_seconds",
			"Time from a batch's creation to the outcome of its links.",
			10, minute, 10*minute, hour, day, 7*day), []string{"source"}),
		attempts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "linkcancel_link_attempts", Help: "Attempts that links had used up when they got their outcome.",
			Buckets: []float64{1, 2, 3, 5, 8, 12},
		}),
		ambiguous: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "linkcancel_ambiguous_attempts_total", Help: "Attempts that may have been applied although no clear answer came.",
		}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_settled_total",
			Help: "Links whose outcome took a GET: after 422 and similar answers, after ambiguous attempts, and before the outcome failed.",
		}, []string{"outcome"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_api_requests_total",
			Help: "Finished requests to the API, by class of the answer: 4xx excludes 429, none means no answer.",
		}, []string{"method", "class"}),
		duration: prometheus.NewHistogramVec(histogram("linkcancel_api_request_duration_seconds",
			"Time from a request to its answer, or to the error in place of one.",
			.01, .05, .1, .25, .5, 1, 2.5, 5, 15), []string{"method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "linkcancel_api_requests_in_flight", Help: "Requests to the API in flight.",
		}),
		waited: prometheus.NewHistogram(histogram("linkcancel_limit_wait_seconds",
			"Time that links waited for their slot within the rate limit, holds included.",
			.01, .1, 1, 10, minute, 10*minute, hour)),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_ledger_repairs_total",
			Help: "Slices that this process enqueued again after a crash: orphaned ones had lost their worker, missing ones were not in the queue.",
		}, []string{"reason"}),
		archives: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_archive_attempts_total",
			Help: "Attempts of this process to archive a finished batch. A failed one is repeated after a minute.",
		}, []string{"result"}),
	}
	m.notices = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "linkcancel_notification_attempts_total",
		Help: "Attempts of this process to deliver a notification. A failed one is repeated for a day, then given_up.",
	}, []string{"result"})
	m.unproven = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "linkcancel_api_unproven_answers_total",
		Help: "Answers to requests for links that the API itself may not have given, by class: pages of a gateway or a firewall, and errors without the API's own body. Failures and throttling (408, 425, 429, 5xx) are not counted: linkcancel_api_requests_total has them.",
	}, []string{"class"})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "linkcancel_build_info", Help: "Always 1; the labels name the release and the Go that built it.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.outcomes, m.latency, m.attempts, m.ambiguous, m.settled, m.requests, m.duration, m.inFlight,
		m.waited, m.repairs, m.archives, m.notices, m.unproven, build,
		collectors.NewGoCollector(
			collectors.WithGoCollectorMemStatsMetricsDisabled(),
			collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: goHeap}),
		),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.begin()
	return m
}

// Page tells alerts where the page of the fleet is.
func (m *Metrics) Page(url string) {
	page := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "linkcancel_page_info", Help: "Always 1; the label names the address of the page. Without --ui-url there is none.",
		ConstLabels: prometheus.Labels{"url": url},
	})
	page.Set(1)
	m.registry.MustRegister(page)
}

// histogram returns options for a classic and native histogram.
func histogram(name, help string, buckets ...float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     nativeFactor,
		NativeHistogramMaxBucketNumber:  nativeBuckets,
		NativeHistogramMinResetDuration: nativeReset,
	}
}

// begin creates every series.
func (m *Metrics) begin() {
	for i, source := range sources {
		end := &m.ends[i]
		end.latency = m.latency.WithLabelValues(source)
		end.outcomes = make([]prometheus.Counter, len(ledger.Counts{}))
		for _, o := range ledger.Outcomes {
			end.outcomes[o] = m.outcomes.WithLabelValues(source, o.String())
		}
	}
	for _, o := range bySettling {
		m.settled.WithLabelValues(o.String())
	}
	for i, method := range methods {
		call := &m.calls[i]
		call.duration = m.duration.WithLabelValues(method)
		for k, class := range classes {
			call.requests[k] = m.requests.WithLabelValues(method, class)
		}
	}
	for _, result := range archiveResults {
		m.archives.WithLabelValues(result)
	}
	for _, result := range noticeResults {
		m.notices.WithLabelValues(result)
	}
	for _, reason := range repairs {
		m.repairs.WithLabelValues(reason)
	}
	for i, class := range answered {
		m.unprovens[i] = m.unproven.WithLabelValues(class)
	}
}

// Request counts a request that ended. Status 0 means no answer.
func (m *Metrics) Request(method string, status int, took time.Duration) {
	call := &m.calls[slices.Index(methods[:], method)]
	call.requests[class(status)].Inc()
	call.duration.Observe(took.Seconds())
}

// Unproven counts an answer that may not come from the API itself.
func (m *Metrics) Unproven(status int) {
	if c := class(status); c < len(answered) {
		m.unprovens[c].Inc()
	}
}

// class returns the index of a status in classes.
func class(status int) int {
	switch {
	case status == 429:
		return 3
	case status >= 500 && status < 600:
		return 4
	case status >= 200 && status < 500:
		return status/100 - 2
	}
	return len(classes) - 1
}

// InFlight adds n requests in flight.
func (m *Metrics) InFlight(delta int) { m.inFlight.Add(float64(delta)) }

// Waited observes how long a link waited for its slot within the limit.
func (m *Metrics) Waited(d time.Duration) { m.waited.Observe(d.Seconds()) }

// Outcome counts a link's outcome, its attempts and the time since the batch was created.
func (m *Metrics) Outcome(source string, o ledger.Outcome, attempts int, after time.Duration) {
	end := &m.ends[sourceIndex(source)]
	end.outcomes[o].Inc()
	end.latency.Observe(after.Seconds())
	m.attempts.Observe(float64(attempts))
}

// sourceIndex returns the index of a batch's source in sources. Unknown means import.
func sourceIndex(source string) int {
	for i, s := range sources {
		if s == source {
			return i
		}
	}
	return 0
}

// Settled counts an outcome that took a GET to decide.
func (m *Metrics) Settled(o ledger.Outcome) { m.settled.WithLabelValues(o.String()).Inc() }

// Ambiguous counts attempts that may have been applied although no clear answer came.
func (m *Metrics) Ambiguous(attempts int) { m.ambiguous.Add(float64(attempts)) }

// Archived counts attempts to archive a finished batch.
func (m *Metrics) Archived(ok bool) {
	result := archiveResults[0]
	if !ok {
		result = archiveResults[1]
	}
	m.archives.WithLabelValues(result).Inc()
}

// Notification counts an attempt to deliver a notification.
func (m *Metrics) Notification(result string) { m.notices.WithLabelValues(result).Inc() }

// Repaired counts slices that were enqueued again.
func (m *Metrics) Repaired(reason string, slices int) {
	m.repairs.WithLabelValues(reason).Add(float64(slices))
}
