package main

import (
	"context"
	"errors"
	"time"

	"github.com/hibiken/asynq"

	"linkcancel/internal/ledger"
)

type workerCmd struct {
	redisFlags
	apiFlags
	sendFlags
	metricsFlags `set:"metrics_addr=127.0.0.1:9464"`
}

func (c workerCmd) Run(a *app) error {
	if a.DryRun {
		return usagef("--dry-run does not go with worker: whatever it takes on, it cancels\nhint: linkcancel import FILE --dry-run reads a file and writes nothing")
	}
	key, err := c.key(a)
	if err != nil {
		return err
	}
	// What is wrong with the flags is told before Redis is looked for.
	if err := c.sendFlags.check(); err != nil {
		return err
	}
	if _, err := c.client(key, c.Concurrency); err != nil {
		return err
	}
	b, err := c.open(a)
	if err != nil {
		return err
	}
	defer b.Close()
	l := ledger.New(b.Client())
	e, err := newEngine(a, b, l, engineConfig{send: c.sendFlags, api: c.apiFlags, key: key, fleet: true})
	if err != nil {
		return err
	}
	e.metrics.WatchFleet(l, asynq.NewInspectorFromRedisClient(b.Client()))
	ready := func(ctx context.Context) error {
		if a.ctx.Err() != nil {
			return errors.New("stopping")
		}
		_, err := l.Now(ctx)
		return err
	}
	if err := c.serve(a, e, ready); err != nil {
		return err
	}
	c.checkClock(a, l)
	a.log.Info("worker started", "id", workerID(), "redis", b.String(), "api", c.BaseURL, "rate", c.Rate.String(),
		"concurrency", c.Concurrency, "version", version)
	if err := e.run(a.ctx, a); err != nil {
		return err
	}
	a.log.Info("worker stopped")
	return nil
}

// clockSkewMost is how far this machine's clock may be from Redis': the leases
// of tasks, 30 s long, go by both.
const clockSkewMost = 5 * time.Second

func (c workerCmd) checkClock(a *app, l *ledger.Ledger) {
	now, err := l.Now(a.ctx)
	if err != nil {
		return // the worker will say so itself
	}
	if skew := time.Since(now); skew.Abs() > clockSkewMost {
		a.log.Warn("this machine's clock differs from that of Redis: set both by NTP", "by", skew.Round(time.Second).String())
	}
}
