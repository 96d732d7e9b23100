package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// measureLists: how long `batch list` takes with many batches.
func (b *bench) measureLists(ctx context.Context) error {
	batches := b.pick(10_000, 100)
	r, err := b.startRedis(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	if err := b.importLinks(ctx, r, "bench", 0, 10); err != nil {
		return err
	}
	if err := copyBatch(ctx, r.client, "bench", batches-1); err != nil {
		return err
	}
	return b.interleave([]string{"--limit 20", "--json"}, func(name string) error {
		args := []string{"batch", "list", "--redis-url", r.url(), "--limit", "20"}
		if name == "--json" {
			args = append(args[:4:4], "--json")
		}
		cmd := b.linkcancel(args...) // its output, a long line of JSON, is dropped
		began := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("batch list: %w", err)
		}
		b.add("list", name, sample{"seconds": time.Since(began).Seconds()})
		return nil
	})
}

// copyBatch makes n more batches like one, without their links.
func copyBatch(ctx context.Context, client *redis.Client, batch string, n int) error {
	fields, err := client.HGetAll(ctx, "lc:{"+batch+"}").Result()
	if err != nil {
		return err
	}
	pipe := client.Pipeline()
	for i := range n {
		id := fmt.Sprintf("%s-%05d", batch, i)
		pipe.HSet(ctx, "lc:{"+id+"}", fields)
		pipe.ZAdd(ctx, "lc:batches", redis.Z{Score: float64(i), Member: id})
	}
	_, err = pipe.Exec(ctx)
	return err
}
