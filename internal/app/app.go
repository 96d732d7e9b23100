// Package app runs linkcancel in one process: worker, feeder, rate limiter, metrics and scheduled
// sweeps. It knows no flags and prints nothing, so a test can embed it.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/notify"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/metrics"
	"linkcancel/producer/feeder"
	"linkcancel/producer/sweep"
	"linkcancel/worker"
)

// Options configure an App.
type Options struct {
	ID      string // names this process in the fleet
	Version string // of the program
	Broker  *broker.Broker
	Ledger  *ledger.Ledger
	Client  *plexy.Client
	Key     *plexy.Key // the client's

	Rate          ratelimit.Rate
	Burst         int // requests that may be sent at once after a pause
	Concurrency   int
	Attempts      int           // per link
	DrainTimeout  time.Duration // how long requests in flight may take at the end
	TrustPlain404 bool
	Keep          time.Duration // how long finished batches are kept
	ArchiveDir    string        // for archives of finished batches; "": none
	PageURL       string        // of the page, for alerts; "": unknown
	Verify        string        // see feeder.Config.Verify
	PauseAbove    string        // see feeder.Config.PauseAbove
	Notify        []*notify.Receiver

	// Shared means that other processes use this Redis. The app stops if the fleet's API changes.
	Shared   bool
	Sweeps   *Sweeps        // nil: none
	Journal  worker.Journal // may be nil
	BadKey   func(error)    // see worker.Config
	Unproved func(error)    // see worker.Config
	// Attended means that the caller shows holds and failures. They are logged at level info only.
	Attended bool
	Log      *slog.Logger
	Tracer   trace.Tracer // nil: no traces
}

// Sweeps is a schedule of sweeps.
type Sweeps struct {
	Schedule  *sweep.Schedule
	Selection sweep.Selection
}

// App is a worker, a feeder and what they need. Create it with New.
type App struct {
	opt     Options
	limiter *ratelimit.Fleet
	worker  *worker.Worker
	feeder  *feeder.Feeder
	sweeper *sweep.Sweeper // nil: no sweeps
	metrics *metrics.Metrics

	held     ratelimit.Hold // the latest that was logged
	stopping atomic.Bool
}

// New creates an app. It reads from Redis, and starts nothing.
func New(ctx context.Context, opt Options) (*App, error) {
	a := &App{opt: opt, metrics: metrics.New(opt.Version)}
	if opt.PageURL != "" {
		a.metrics.Page(opt.PageURL)
	}
	api := Observe(opt.Client, opt.Client.BaseURL(), opt.Tracer, a.metrics.InFlight)
	var err error
	a.limiter, err = ratelimit.NewFleet(ratelimit.FleetConfig{
		Config: ratelimit.Config{Rate: opt.Rate, Burst: opt.Burst, OnHold: a.logHold},
		Redis:  opt.Broker.Client(), Process: opt.ID, Log: opt.Log,
		Demand:      func() int { return a.worker.Demand() }, // called while the app runs
		KernelTimer: true,
	})
	if err != nil {
		return nil, err
	}
	salt, err := opt.Ledger.Salt(ctx)
	if err != nil {
		return nil, err
	}
	a.worker, err = worker.New(worker.Config{
		ID: opt.ID, Concurrency: opt.Concurrency, Attempts: opt.Attempts, Rate: float64(opt.Rate),
		DrainTimeout: opt.DrainTimeout, Log: opt.Log, Observer: a.metrics, Journal: opt.Journal, BadKey: opt.BadKey,
		Unproved: opt.Unproved, TrustPlain404: opt.TrustPlain404, API: opt.Client.BaseURL(), Host: opt.Client.Host(), Version: opt.Version,
		Key: func() string { return opt.Key.Fingerprint(salt) }, KeySource: opt.Key.Source(), KeyVersion: opt.Key.Version, Tracer: opt.Tracer,
		ShowsFailures: opt.Attended,
		Delayed:       func() bool { return a.feeder.Delayed() }, // called while the app runs
		Lone:          func() bool { return a.feeder.Lone() },
		Leads:         func() bool { return a.feeder.Leads() },
	}, opt.Broker, opt.Ledger, api, a.limiter)
	if err != nil {
		return nil, err
	}
	var notifier *notify.Dispatcher
	if len(opt.Notify) > 0 {
		notifier = notify.NewDispatcher(opt.Notify, opt.Ledger, opt.Log, a.metrics.Notification)
	}
	a.feeder = feeder.New(feeder.Config{
		Process: opt.ID, Limit: a.limiter.Status, Unsent: a.worker.Unsent, Fed: a.fed, Keep: opt.Keep, ArchiveDir: opt.ArchiveDir, Verify: opt.Verify, PauseAbove: opt.PauseAbove,
		Notifier: notifier, PageURL: opt.PageURL, Log: opt.Log, Observer: a.metrics, Tracer: opt.Tracer,
	}, opt.Broker.Client(), opt.Ledger)
	if opt.Sweeps != nil {
		a.sweeper = sweep.NewSweeper(sweep.SweeperConfig{
			Schedule: opt.Sweeps.Schedule, Selection: opt.Sweeps.Selection,
			API: api, Limiter: a.limiter, Log: opt.Log, Process: opt.ID, Observe: a.metrics.Request, Tracer: opt.Tracer,
		}, opt.Broker, opt.Ledger)
	}
	a.metrics.WatchLimit(a.limiter.Status)
	a.metrics.WatchFleet(opt.Ledger, opt.Broker.Client(), opt.Log)
	return a, nil
}

// Hold returns what sending is on hold for in this process.
func (a *App) Hold() ratelimit.Hold { return a.limiter.Status().Hold }

// Load returns the load of the worker.
func (a *App) Load() worker.Load { return a.worker.Load() }

// Serve serves metrics and health at an address until ctx ends. It returns when it
// listens. An app that shares its Redis is ready while it takes work, any other always.
func (a *App) Serve(ctx context.Context, addr string, pprof bool) error {
	cfg := metrics.ServerConfig{Addr: addr, Pprof: pprof, Log: a.opt.Log}
	if a.opt.Shared {
		cfg.Ready = a.ready
	}
	return a.metrics.Serve(ctx, cfg)
}

// readyTimeout is how long Redis may take to answer a readiness check.
const readyTimeout = time.Second

// ready returns why the app takes no work; nil if it does.
func (a *App) ready(ctx context.Context) error {
	switch {
	case a.stopping.Load():
		return errors.New("the worker is stopping")
	case !a.worker.Taking():
		return errors.New("the worker is starting")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := a.opt.Ledger.Now(ctx)
	if why, away := broker.Away(err); away {
		return fmt.Errorf("Redis at %s is away: %s", a.opt.Broker, why)
	}
	return err
}

// Run works until ctx ends, then lets requests in flight finish. It may run once.
func (a *App) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(ctx, func() { a.stopping.Store(true) })
	var side sync.WaitGroup
	side.Go(func() { a.feeder.Run(ctx) })
	side.Go(func() { WatchKey(ctx, a.opt.Key, a.limiter, a.opt.Log) })
	if !a.opt.Attended {
		side.Go(func() { a.watchHold(ctx) })
	}
	var changed error
	if a.opt.Shared {
		a.checkClock(ctx)
		side.Go(func() { a.listen(ctx) })
		side.Go(func() {
			if changed = a.watchAPI(ctx); changed != nil {
				stop()
			}
		})
	}
	if a.sweeper != nil {
		side.Go(func() {
			if err := a.sweeper.Run(ctx); err != nil {
				a.opt.Log.Error("no sweeps are run", "error", err)
			}
		})
	}
	// The limiter learns from the answers to the last requests too.
	limiterCtx, stopLimiter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLimiter()
	side.Go(func() { a.limiter.Run(limiterCtx) })
	err := a.worker.Run(ctx)
	a.opt.Client.CloseIdle() // the caller may need their file descriptors
	stop()
	stopLimiter()
	side.Wait()
	if err == nil {
		err = changed
	}
	return err
}

// ErrInterrupted is returned by RunBatch when its context ended before the batch.
var ErrInterrupted = errors.New("interrupted")

// finalRead is how long RunBatch waits for the batch as it is at the end.
const finalRead = 5 * time.Second

// RunBatch runs the app until a batch is done, aborted or paused, and returns the batch. If it is to
// be verified, it runs until its verification is. update is called with each state that was read of
// either, at least once.
func (a *App) RunBatch(ctx context.Context, id string, update func(ledger.Batch)) (ledger.Batch, error) {
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		err := a.Run(runCtx)
		stop() // it may have ended early: a journal that cannot be written
		ended <- err
	}()
	watchErr := a.watchBatch(runCtx, id, update)
	if watchErr == nil {
		watchErr = a.watchVerification(runCtx, id, update)
	}
	stop()
	err := <-ended
	// Links may have been recorded meanwhile.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalRead)
	defer cancel()
	b, getErr := a.opt.Ledger.Get(last, id)
	if getErr == nil {
		update(b)
	}
	switch {
	case err != nil:
		return b, err
	case getErr != nil:
		return b, getErr
	case errors.Is(watchErr, context.Canceled):
		return b, ErrInterrupted
	}
	return b, watchErr
}

// batchCheck is how often RunBatch reads the batch.
const batchCheck = 200 * time.Millisecond

func (a *App) watchBatch(ctx context.Context, id string, update func(ledger.Batch)) error {
	ticker := time.NewTicker(batchCheck)
	defer ticker.Stop()
	for {
		b, err := a.opt.Ledger.Get(ctx, id)
		if err != nil {
			return err
		}
		update(b)
		if b.State == ledger.Done || b.State == ledger.AbortedState || b.State == ledger.Paused {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// watchVerification follows the verification of a batch, if it is to have one.
func (a *App) watchVerification(ctx context.Context, id string, update func(ledger.Batch)) error {
	for {
		b, err := a.opt.Ledger.Get(ctx, id)
		if err != nil {
			return err
		}
		sample, err := importer.ParseSample(cmp.Or(b.Verify, "off"))
		if err != nil || sample.Off() || b.State != ledger.Done || b.HadNothingToVerify() {
			return err
		}
		made, err := a.opt.Ledger.VerificationsOf(ctx, b)
		if err != nil {
			return err
		}
		if len(made) > 0 {
			return a.watchBatch(ctx, made[len(made)-1].ID, update)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(batchCheck):
		}
	}
}
