package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

const (
	// collectAge is how long a reading of Redis serves further scrapes.
	collectAge = 2 * time.Second
	// collectTimeout is how long a reading may take. Prometheus waits 10 s for a
	// scrape.
	collectTimeout = time.Second

	// newestBatches is how many unfinished batches have series of their own.
	newestBatches = 20
)

// WatchLimit shows what the rate limiter does.
func (m *Metrics) WatchLimit(status func() ratelimit.Status) {
	m.registry.MustRegister(&limitCollector{
		status: status,
		ceiling: prometheus.NewDesc("linkcancel_limit_ceiling_requests_per_second",
			"Rate limit as configured: of the whole fleet, or of a process that works alone.", nil, nil),
		present: prometheus.NewDesc("linkcancel_limit_present_requests_per_second",
			"Rate limit at present, adapted to the API's answers; in a hold, that before it.", nil, nil),
		hold: prometheus.NewDesc("linkcancel_hold",
			"1 while this process sends nothing for this reason: unauthorized is its own hold, the others are those of all who share the limit.", []string{"reason"}, nil),
	})
}

// limitCollector reads the limiter once a scrape, so that its series agree.
type limitCollector struct {
	status                 func() ratelimit.Status
	ceiling, present, hold *prometheus.Desc
}

// Describe is part of prometheus.Collector.
func (c *limitCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.ceiling
	ch <- c.present
	ch <- c.hold
}

// Collect is part of prometheus.Collector.
func (c *limitCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.status()
	ch <- gauge(c.ceiling, float64(s.Ceiling))
	ch <- gauge(c.present, float64(s.Rate))
	for _, reason := range holds {
		ch <- gauge(c.hold, truth(s.Hold.Reason == reason), string(reason))
	}
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// truth is 1 for true.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// WatchFleet shows the queue and the ledger in rdb, which all processes share.
func (m *Metrics) WatchFleet(l *ledger.Ledger, rdb redis.UniversalClient, log *slog.Logger) {
	m.registry.MustRegister(newFleetCollector(l, rdb, log))
}

// fleetCollector reads queue and ledger. With Redis away it says so, and never
// yields an empty scrape. Its series then end: nobody knows them.
type fleetCollector struct {
	ledger *ledger.Ledger
	rdb    redis.UniversalClient
	log    *slog.Logger
	census *ledger.BatchCache

	age     time.Duration // of a reading that still serves
	timeout time.Duration // of a reading
	errors  prometheus.Counter
	up      *prometheus.Desc
	fleetDescs

	flight singleflight.Group // one reading at a time, for all scrapes
	mu     sync.Mutex
	latest *fleet // nil: the last reading failed
	at     time.Time
}

func newFleetCollector(l *ledger.Ledger, rdb redis.UniversalClient, log *slog.Logger) *fleetCollector {
	return &fleetCollector{
		ledger: l, rdb: rdb, log: log, census: l.NewBatchCache(), age: collectAge, timeout: collectTimeout,
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "linkcancel_collect_errors_total", Help: "Readings of queue and ledger for these metrics that failed.",
		}),
		up: prometheus.NewDesc("linkcancel_redis_up",
			"1 if queue and ledger could be read for this scrape. While it is 0 there are no series of the fleet.", nil, nil),
		fleetDescs: newFleetDescs(),
	}
}

// Describe is part of prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up
	c.errors.Describe(ch)
	c.fleetDescs.describe(ch)
}

// Collect is part of prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	f := c.get()
	ch <- gauge(c.up, truth(f != nil))
	ch <- c.errors
	if f != nil {
		c.fleetDescs.collect(ch, f)
	}
}

// get returns a reading that is not too old; nil if there is none in time.
func (c *fleetCollector) get() *fleet {
	if f, ok := c.fresh(); ok {
		return f
	}
	done := c.flight.DoChan("", func() (any, error) {
		f, ok := c.fresh()
		if !ok {
			f = c.refresh()
		}
		return f, nil
	})
	// A connection that is made may outlast the context.
	over := time.NewTimer(2 * c.timeout)
	defer over.Stop()
	select {
	case result := <-done:
		f, _ := result.Val.(*fleet)
		return f
	case <-over.C:
		return nil
	}
}

func (c *fleetCollector) fresh() (f *fleet, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest, !c.at.IsZero() && time.Since(c.at) < c.age
}

func (c *fleetCollector) refresh() *fleet {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	f, err := c.read(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	before, first := c.latest, c.at.IsZero()
	c.latest, c.at = f, time.Now()
	switch {
	case err != nil:
		c.errors.Inc()
		if before != nil || first {
			c.log.Warn("metrics of the fleet cannot be read", "error", err)
		}
	case before == nil && !first:
		c.log.Info("metrics of the fleet are read again")
	}
	return f
}

// fleet is what queue and ledger held at one time.
type fleet struct {
	now     time.Time // Redis' time
	batches []ledger.Batch
	workers int
	keys    int // different ones that the workers use
	sweeps  ledger.Sweeps
	queues  [len(queues)]queue
}

func (c *fleetCollector) read(ctx context.Context) (*fleet, error) {
	f := &fleet{}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		f.batches, err = c.census.Batches(ctx)
		return err
	})
	group.Go(func() error {
		workers, now, err := c.ledger.Workers(ctx)
		f.workers, f.now = len(workers), now
		keys := map[string]bool{}
		for _, w := range workers {
			if w.Key != "" {
				keys[w.Key] = true
			}
		}
		f.keys = len(keys)
		return err
	})
	group.Go(func() (err error) {
		f.sweeps, err = c.ledger.Sweeps(ctx)
		return err
	})
	group.Go(func() (err error) {
		f.queues, err = readQueues(ctx, c.rdb)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return f, nil
}
