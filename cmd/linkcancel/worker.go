package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/producer/sweep"
)

type workerCmd struct {
	redisFlags
	apiFlags
	sendFlags
	metricsFlags  `set:"metrics_addr=127.0.0.1:9464"`
	SweepCron     string         `env:"LINKCANCEL_SWEEP_CRON" help:"Sweep at these times, once for the whole fleet: five fields of cron, such as \"0 2 * * *\", or @daily. Give all workers the same." placeholder:"CRON"`
	SweepTimezone string         `default:"UTC" env:"LINKCANCEL_SWEEP_TIMEZONE" help:"Time zone of --sweep-cron; by default ${default}." placeholder:"ZONE"`
	Sweep         selectionFlags `embed:"" prefix:"sweep-"`
}

// sweeps reads the flags of the sweeps; nil if there are to be none.
func (c workerCmd) sweeps() (*sweepPlan, error) {
	if c.SweepCron == "" {
		if c.Sweep != (selectionFlags{Status: sweep.DefaultStatus, Max: sweep.DefaultMax}) {
			return nil, usagef("there is no --sweep-cron: it says when to sweep\nhint: linkcancel sweep does it now")
		}
		return nil, nil
	}
	schedule, err := sweep.ParseSchedule(c.SweepCron, c.SweepTimezone)
	if err != nil {
		return nil, usagef("--sweep-cron and --sweep-timezone: %w", err)
	}
	selection, err := c.Sweep.selection("sweep-")
	if err != nil {
		return nil, err
	}
	return &sweepPlan{schedule: schedule, selection: selection}, nil
}

func (c workerCmd) Run(a *app) error {
	outlive()
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
	client, err := c.client(key, c.Concurrency)
	if err != nil {
		return err
	}
	sweeps, err := c.sweeps()
	if err != nil {
		return err
	}
	b, err := c.open(a)
	if err != nil {
		return err
	}
	defer b.Close()
	l := ledger.New(b.Client())
	url := client.BaseURL()
	if err := a.claimAPI(l, url); err != nil {
		return err
	}
	e, err := newEngine(a, b, l, engineConfig{send: c.sendFlags, api: c.apiFlags, key: key, sweeps: sweeps})
	if err != nil {
		return err
	}
	stop, err := c.serve(a, e, func(ctx context.Context) error { return ready(ctx, a, b, l, e) })
	if err != nil {
		return err
	}
	defer stop()
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	}
	c.checkClock(a, l)
	a.log.Info("worker started", "id", a.id, "redis", b.String(), "api", c.BaseURL, "rate", c.Rate.String(),
		"concurrency", c.Concurrency, "version", version)
	ctx, stopFor := context.WithCancelCause(a.ctx)
	defer stopFor(nil)
	var watching sync.WaitGroup
	watching.Go(func() { watchAPI(ctx, l, url, stopFor) })
	err = e.run(ctx, a)
	stopFor(nil)
	watching.Wait()
	if err != nil {
		return err
	}
	if cause := context.Cause(ctx); a.ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	a.log.Info("worker stopped")
	return nil
}

// gcPercent lets garbage grow to some 60 MB. A worker keeps a few MB, and nearly
// all that a link needs dies with its answer: collecting it at the usual 100 %
// took a tenth of the CPU time.
const gcPercent = 800

// readyTimeout is how long Redis may take to show that it is there.
const readyTimeout = time.Second

// ready says why this worker does not work, nil if it does.
func ready(ctx context.Context, a *app, b *broker.Broker, l *ledger.Ledger, e *engine) error {
	switch {
	case a.ctx.Err() != nil:
		return errors.New("the worker is stopping")
	case !e.worker.Taking():
		return errors.New("the worker is starting")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := l.Now(ctx)
	if why, away := broker.Away(err); away {
		return fmt.Errorf("Redis at %s is away: %s", b, why)
	}
	return err
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
