package main

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/errgroup"
)

const (
	// enqueuers is how many goroutines enqueue: more were not faster.
	enqueuers = 64
	taskType  = "cancel"
)

// runAsynqEnqueue puts the links of a manifest into asynq, one a task: Redis address, manifest.
func runAsynqEnqueue(ctx context.Context, args []string) error {
	ids, err := readManifest(args[1])
	if err != nil {
		return err
	}
	client := asynq.NewClient(asynq.RedisClientOpt{Addr: args[0], PoolSize: enqueuers})
	defer client.Close()
	work := make(chan string, enqueuers)
	var group errgroup.Group
	for range enqueuers {
		group.Go(func() error {
			for id := range work {
				if _, err := client.EnqueueContext(ctx, asynq.NewTask(taskType, []byte(id))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	return group.Wait()
}

// runAsynqWork is a stock asynq.Server until SIGTERM: Redis address, base URL, concurrency, rate.
func runAsynqWork(_ context.Context, args []string) error {
	concurrency, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	pacer, err := newPacer(args[3])
	if err != nil {
		return err
	}
	cancel, err := newCanceler("own", args[1], concurrency)
	if err != nil {
		return err
	}
	server := asynq.NewServer(asynq.RedisClientOpt{Addr: args[0], PoolSize: concurrency},
		asynq.Config{Concurrency: concurrency, LogLevel: asynq.WarnLevel})
	err = server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		if err := pacer.Wait(ctx); err != nil {
			return err
		}
		return cancel(ctx, string(t.Payload()))
	}))
	if err != nil {
		return err
	}
	untilTerm()
	server.Shutdown()
	return nil
}

// untilTerm returns when the process is asked to end.
func untilTerm() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}
