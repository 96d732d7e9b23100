package main

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type riverArgs struct {
	ID string `json:"id"`
}

func (riverArgs) Kind() string { return "cancel" }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	cancel canceler
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverArgs]) error {
	return w.cancel(ctx, job.Args.ID)
}

// runRiverEnqueue puts the links of a manifest into River: database, manifest.
func runRiverEnqueue(ctx context.Context, args []string) error {
	ids, err := readManifest(args[1])
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, args[0])
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quietLog()})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	client, err := river.NewClient[pgx.Tx](driver, &river.Config{Logger: quietLog()})
	if err != nil {
		return err
	}
	const most = 5000
	for len(ids) > 0 {
		n := min(most, len(ids))
		jobs := make([]river.InsertManyParams, n)
		for i, id := range ids[:n] {
			jobs[i].Args = riverArgs{ID: id}
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
		ids = ids[n:]
	}
	_, err = pool.Exec(ctx, "ANALYZE river_job")
	return err
}

// runRiverWork works until SIGTERM: database, base URL, concurrency.
func runRiverWork(ctx context.Context, args []string) error {
	concurrency, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	cancel, err := newCanceler("own", args[1], concurrency)
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, args[0])
	if err != nil {
		return err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{cancel: cancel})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger: quietLog(), Workers: workers,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: concurrency}},
		// By default it fetches ten times a second at most: 500 links/s here.
		FetchCooldown: time.Millisecond, FetchPollInterval: 10 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	untilTerm()
	return client.Stop(ctx)
}

func quietLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}
