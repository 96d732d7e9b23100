package metrics

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"

	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

// collectAge is how long a reading of Redis serves further scrapes.
const collectAge = 2 * time.Second

// fleetCollector reads queue and ledger. With Redis away it says so, and never
// yields an empty scrape.
type fleetCollector struct {
	ledger    *ledger.Ledger
	inspector *asynq.Inspector

	up, tasks, pending, batches, workers *prometheus.Desc

	mu     sync.Mutex
	read   time.Time
	latest []prometheus.Metric
}

// WatchFleet shows the queue and the ledger, which all processes share.
func (m *Metrics) WatchFleet(l *ledger.Ledger, i *asynq.Inspector) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m.registry.MustRegister(&fleetCollector{
		ledger: l, inspector: i,
		up:      desc("linkcancel_redis_up", "1 if queue and ledger could be read for this scrape."),
		tasks:   desc("linkcancel_queue_slices", "Slices in the queue, by state.", "state"),
		pending: desc("linkcancel_pending_links", "Links without an outcome, by state of their batch.", "state"),
		batches: desc("linkcancel_open_batches", "Unfinished batches, by state.", "state"),
		workers: desc("linkcancel_workers", "Workers alive."),
	})
}

// Describe is part of prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.tasks, c.pending, c.batches, c.workers} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) > collectAge {
		c.latest = c.collect()
		c.read = time.Now()
	}
	for _, m := range c.latest {
		ch <- m
	}
}

func (c *fleetCollector) collect() []prometheus.Metric {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
		return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	batches, err := c.ledger.Unfinished(ctx)
	if err != nil {
		return []prometheus.Metric{gauge(c.up, 0)}
	}
	workers, _, err := c.ledger.Workers(ctx)
	if err != nil {
		return []prometheus.Metric{gauge(c.up, 0)}
	}
	queue, err := c.inspector.GetQueueInfo(task.QueueCancel)
	if err != nil {
		if !errors.Is(err, asynq.ErrQueueNotFound) && !strings.Contains(err.Error(), "NOT_FOUND") {
			return []prometheus.Metric{gauge(c.up, 0)}
		}
		queue = &asynq.QueueInfo{}
	}
	found := []prometheus.Metric{
		gauge(c.up, 1),
		gauge(c.workers, float64(len(workers))),
		gauge(c.tasks, float64(queue.Pending), "pending"),
		gauge(c.tasks, float64(queue.Active), "active"),
		gauge(c.tasks, float64(queue.Retry), "retry"),
		gauge(c.tasks, float64(queue.Archived), "archived"),
	}
	for _, state := range []ledger.State{ledger.Importing, ledger.Ready, ledger.Running, ledger.Paused} {
		var links, n int64
		for _, b := range batches {
			if b.State == state {
				n++
				links += b.Pending()
			}
		}
		found = append(found, gauge(c.batches, float64(n), string(state)), gauge(c.pending, float64(links), string(state)))
	}
	return found
}
