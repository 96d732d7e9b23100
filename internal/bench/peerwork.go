package main

import (
	"context"
	"strconv"

	"github.com/gocraft/work"
	"github.com/gomodule/redigo/redis"
)

const workNamespace = "bench"

func workPool(addr string, connections int) *redis.Pool {
	return &redis.Pool{
		MaxActive: connections, MaxIdle: connections, Wait: true,
		Dial: func() (redis.Conn, error) { return redis.Dial("tcp", addr) },
	}
}

// runWorkEnqueue puts the links of a manifest into gocraft/work: Redis address, manifest.
func runWorkEnqueue(_ context.Context, args []string) error {
	ids, err := readManifest(args[1])
	if err != nil {
		return err
	}
	pool := workPool(args[0], 1)
	defer pool.Close()
	enqueuer := work.NewEnqueuer(workNamespace, pool)
	for _, id := range ids {
		if _, err := enqueuer.Enqueue(taskType, work.Q{"id": id}); err != nil {
			return err
		}
	}
	return nil
}

type workContext struct{}

// runWorkWork works until SIGTERM: Redis address, base URL, concurrency.
func runWorkWork(ctx context.Context, args []string) error {
	concurrency, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	cancel, err := newCanceler("own", args[1], concurrency)
	if err != nil {
		return err
	}
	redisPool := workPool(args[0], 2*concurrency)
	defer redisPool.Close()
	workers := work.NewWorkerPool(workContext{}, uint(concurrency), workNamespace, redisPool)
	workers.Job(taskType, func(job *work.Job) error { return cancel(ctx, job.ArgString("id")) })
	workers.Start()
	untilTerm()
	workers.Stop()
	return nil
}
