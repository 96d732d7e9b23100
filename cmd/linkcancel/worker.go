package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"linkcancel/internal/app"
	"linkcancel/internal/archive"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/producer/sweep"
)

type workerCmd struct {
	redisFlags
	apiFlags
	sendFlags
	metricsFlags `set:"metrics_addr=127.0.0.1:9464"`
	pageFlag
	notifyFlags
	Verify        string         `default:"off" env:"LINKCANCEL_VERIFY" help:"When a batch is done, read its links again and report which can still be paid: all of them, off, or a random sample such as 5%; by default ${default}. --verify of a batch comes first. Give all workers the same." placeholder:"all|5%|off"`
	PauseAbove    string         `env:"LINKCANCEL_PAUSE_ABOVE" help:"Pause a batch when more than this share of its last 500 links, or this number of its links, are rejected, failed, not_found, or not cancellable but still payable. --pause-above of a batch comes first. Give all workers the same." placeholder:"5%|N"`
	ArchiveDir    string         `env:"LINKCANCEL_ARCHIVE_DIR" help:"Archive each finished batch in this folder: report, history and SHA-256 sums. Give all workers the same folder." placeholder:"DIR"`
	SweepCron     string         `env:"LINKCANCEL_SWEEP_CRON" help:"Sweep at these times, once for the whole fleet: five fields of cron, such as \"0 2 * * *\", or @daily. Give all workers the same." placeholder:"CRON"`
	SweepTimezone string         `default:"UTC" env:"LINKCANCEL_SWEEP_TIMEZONE" help:"Time zone of --sweep-cron; by default ${default}." placeholder:"ZONE"`
	Sweep         selectionFlags `embed:"" prefix:"sweep-"`
}

// sweeps reads the flags of scheduled sweeps. It returns nil if there are none.
func (c workerCmd) sweeps() (*app.Sweeps, error) {
	if c.SweepCron == "" {
		if c.Sweep != (selectionFlags{Status: sweep.DefaultStatus, Max: sweep.DefaultMax}) {
			return nil, hint(usagef("there is no --sweep-cron: it says when to sweep"), "linkcancel sweep does it now")
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
	return &app.Sweeps{Schedule: schedule, Selection: selection}, nil
}

func (c workerCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	if a.DryRun {
		return hint(usagef("--dry-run cannot be combined with worker, which cancels what it takes"), "linkcancel import FILE --dry-run reads a file and writes nothing")
	}
	if err := c.sendFlags.check(); err != nil {
		return err
	}
	if _, err := importer.ParseSample(c.Verify); err != nil {
		return usagef("--verify: %w", err)
	}
	pauseAbove, err := ledger.ParsePauseAbove(c.PauseAbove)
	if err != nil {
		return usagef("--pause-above: %w", err)
	}
	if c.ArchiveDir != "" {
		if err := archive.CheckFolder(c.ArchiveDir); err != nil {
			return usagef("--archive-dir: %w", err)
		}
	}
	key, client, err := c.connect(a, c.Concurrency)
	if err != nil {
		return err
	}
	receivers, err := c.receivers(a)
	if err != nil {
		return err
	}
	sweeps, err := c.sweeps()
	if err != nil {
		return err
	}
	b, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	l := ledger.New(b.Client())
	if err := a.claimAPI(ctx, l, client.BaseURL()); err != nil {
		return err
	}
	opt := c.options(a, key, client)
	opt.Broker, opt.Ledger, opt.Shared, opt.Sweeps, opt.ArchiveDir, opt.PageURL, opt.Verify, opt.PauseAbove, opt.Notify = b, l, true, sweeps, c.ArchiveDir, c.UIURL, c.Verify, pauseAbove, receivers
	worker, err := app.New(ctx, opt)
	if err != nil {
		return err
	}
	stop, err := c.serve(ctx, worker)
	if err != nil {
		return err
	}
	defer stop()
	defer setGC(workerGC)()
	if os.Getenv("GOMAXPROCS") == "" {
		adapting, end := context.WithCancel(ctx)
		var adapted sync.WaitGroup
		adapted.Go(func() { adaptProcessors(adapting, float64(c.Rate)) })
		defer adapted.Wait()
		defer end()
	}
	a.log.Info("worker started", "id", a.id, "redis", b.String(), "api", c.BaseURL, "rate", c.Rate.String(),
		"concurrency", c.Concurrency, "version", version)
	if err := worker.Run(ctx); err != nil {
		return err
	}
	a.log.Info("worker stopped", remaining(l)...)
	return nil
}

// remaining says what is left to other workers, or to the next start.
func remaining(l *ledger.Ledger) (attrs []any) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	batches, err := l.Unfinished(ctx)
	if err != nil {
		return nil
	}
	var open []string
	var links int64
	for _, b := range batches {
		if b.Open() {
			open = append(open, fmt.Sprintf("%s (%s): %d", b.ID, b.State, b.Pending()))
			links += b.Pending()
		}
	}
	const most = 10
	if len(open) > most {
		open = append(open[:most], fmt.Sprintf("and %d more", len(open)-most))
	}
	attrs = []any{"pending_links", links}
	if len(open) > 0 {
		attrs = append(attrs, "open_batches", strings.Join(open, ", "))
	}
	return attrs
}

// oneProcessor is a rate that needs a third of a core at most.
const oneProcessor = 1000

// How much garbage may grow before it is collected, in percent of what is in use. At the usual 100% a
// link takes about 8% more CPU time.
const (
	workerGC = 250 // about 30 MB at full speed
	runGC    = 150 // the data of the batch is in use, too
)

// setGC sets one of these, unless the environment sets GOGC. Call the result to undo it.
func setGC(percent int) (undo func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(percent)
	return func() { debug.SetGCPercent(before) }
}
