// Package metrics has every instrument of linkcancel, the collector of queue
// and ledger, and the server that shows them.
package metrics

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// Metrics are the instruments of one process, in a registry of their own.
type Metrics struct {
	registry *prometheus.Registry

	outcomes  *prometheus.CounterVec
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	attempts  prometheus.Counter
	ambiguous prometheus.Counter
	repairs   *prometheus.CounterVec
}

var (
	methods = [...]string{"DELETE", "GET"}
	classes = [...]string{"2xx", "3xx", "4xx", "5xx", "none"}
	repairs = [...]string{"orphaned", "missing"}
)

// New makes the instruments; every series stands at 0 from the beginning.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_outcomes_total", Help: "Links that got their outcome from this process, by outcome.",
		}, []string{"outcome"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_api_requests_total", Help: "Requests to the API, by method and class of the answer (none: no answer).",
		}, []string{"method", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "linkcancel_api_request_duration_seconds", Help: "Time from request to answer, by method.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}, []string{"method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "linkcancel_links_in_flight", Help: "Links that this process is cancelling now.",
		}),
		attempts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "linkcancel_attempts_total", Help: "Attempts used up, the final ones included.",
		}),
		ambiguous: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "linkcancel_ambiguous_attempts_total", Help: "Attempts used up by links of which an attempt may have been applied unseen.",
		}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linkcancel_ledger_repairs_total", Help: "Slices enqueued again after a crash, by reason.",
		}, []string{"reason"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "linkcancel_build_info", Help: "Always 1; the label names the release.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.outcomes, m.requests, m.duration, m.inFlight, m.attempts, m.ambiguous, m.repairs, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, o := range ledger.Outcomes {
		m.outcomes.WithLabelValues(o.String())
	}
	for _, method := range methods {
		m.duration.WithLabelValues(method)
		for _, class := range classes {
			m.requests.WithLabelValues(method, class)
		}
	}
	for _, reason := range repairs {
		m.repairs.WithLabelValues(reason)
	}
	return m
}

// Request counts one request; status 0 means that no answer came.
func (m *Metrics) Request(method string, status int, took time.Duration) {
	class := "none"
	if status >= 200 && status < 600 {
		class = fmt.Sprintf("%dxx", status/100)
	}
	m.requests.WithLabelValues(method, class).Inc()
	m.duration.WithLabelValues(method).Observe(took.Seconds())
}

// Outcome counts one link that got its outcome.
func (m *Metrics) Outcome(o ledger.Outcome) { m.outcomes.WithLabelValues(o.String()).Inc() }

// Attempt counts an attempt that was used up.
func (m *Metrics) Attempt(ambiguous bool) {
	m.attempts.Inc()
	if ambiguous {
		m.ambiguous.Inc()
	}
}

// InFlight counts the links that are being cancelled.
func (m *Metrics) InFlight(delta int) { m.inFlight.Add(float64(delta)) }

// Repaired counts slices that were enqueued again.
func (m *Metrics) Repaired(reason string, slices int) {
	m.repairs.WithLabelValues(reason).Add(float64(slices))
}

// WatchLimit shows what the rate limiter does.
func (m *Metrics) WatchLimit(status func() ratelimit.Status) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "linkcancel_rate_limit_ceiling", Help: "Configured limit, requests a second.",
		}, func() float64 { return float64(status().Ceiling) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "linkcancel_rate_limit_present", Help: "Present limit after adaptation, requests a second.",
		}, func() float64 { return float64(status().Rate) }),
	)
	for _, reason := range []ratelimit.Reason{
		ratelimit.ReasonThrottled, ratelimit.ReasonUnauthorized, ratelimit.ReasonOutage, ratelimit.ReasonManual,
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "linkcancel_hold", Help: "1 while nothing is sent for this reason.",
			ConstLabels: prometheus.Labels{"reason": string(reason)},
		}, func() float64 {
			if status().Hold.Reason == reason {
				return 1
			}
			return 0
		}))
	}
}
