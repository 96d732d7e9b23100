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

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

const (
	// collectAge is how long scrapes share one reading of Redis.
	collectAge = 2 * time.Second
	// collectTimeout limits a reading. Prometheus waits 10 s for a scrape.
	collectTimeout = time.Second

	// rereadEach is how many finished batches are read again at each reading.
	rereadEach = 20
	// newestBatches is how many unfinished batches have series of their own.
	newestBatches = 15
)

// WatchLimit adds the metrics of the rate limiter.
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

// limitCollector reads the limiter once per scrape, so that its series agree.
type limitCollector struct {
	status                 func() ratelimit.Status
	ceiling, present, hold *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *limitCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.ceiling
	ch <- c.present
	ch <- c.hold
}

// Collect implements prometheus.Collector.
func (c *limitCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.status()
	ch <- gauge(c.ceiling, float64(s.Ceiling))
	ch <- gauge(c.present, float64(s.Rate))
	for _, reason := range holds {
		ch <- gauge(c.hold, boolValue(s.Hold.Reason == reason), string(reason))
	}
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// boolValue returns 1 for true.
func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// WatchFleet adds the metrics of the queue and the ledger in rdb, which all processes share.
func (m *Metrics) WatchFleet(l *ledger.Ledger, rdb redis.UniversalClient, log *slog.Logger) {
	m.registry.MustRegister(newFleetCollector(l, rdb, log))
}

// fleetCollector reads queue and ledger. While Redis is away only that is reported.
type fleetCollector struct {
	ledger *ledger.Ledger
	rdb    redis.UniversalClient
	census *ledger.BatchCache

	age     time.Duration // maximum, of a shared reading
	timeout time.Duration // of a reading
	errors  prometheus.Counter
	up      *prometheus.Desc
	fleetDescs

	flight singleflight.Group // one reading at a time, for all scrapes
	mu     sync.Mutex
	latest *fleet // nil if the last reading failed
	at     time.Time

	trouble broker.Trouble
}

func newFleetCollector(l *ledger.Ledger, rdb redis.UniversalClient, log *slog.Logger) *fleetCollector {
	return &fleetCollector{
		ledger: l, rdb: rdb, trouble: broker.Trouble{Log: log}, census: l.NewBatchCache(rereadEach), age: collectAge, timeout: collectTimeout,
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "linkcancel_collect_errors_total", Help: "Failed readings of queue and ledger for these metrics.",
		}),
		up: prometheus.NewDesc("linkcancel_redis_up",
			"1 if queue and ledger could be read for this scrape. While it is 0 there are no series of the fleet.", nil, nil),
		fleetDescs: newFleetDescs(),
	}
}

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up
	c.errors.Describe(ch)
	c.fleetDescs.describe(ch)
}

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	f := c.get()
	ch <- gauge(c.up, boolValue(f != nil))
	ch <- c.errors
	if f != nil {
		c.fleetDescs.collect(ch, f)
	}
}

// get returns a reading that is fresh enough, or nil.
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
	// A dial may outlast the context.
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
	c.latest, c.at = f, time.Now()
	if err != nil {
		c.errors.Inc()
		c.trouble.Begin("cannot read fleet metrics", err)
	} else {
		c.trouble.End("fleet metrics can be read again")
	}
	return f
}

// fleet is one reading of queue and ledger.
type fleet struct {
	now     time.Time // Redis' time
	batches []*ledger.Batch
	workers int
	keys    int // number of different API keys of the workers
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
