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
	if err := b.interleave([]string{"--limit 20", "--json"}, func(name string) error {
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
	}); err != nil {
		return err
	}
	return b.scrapeLists(ctx, batches)
}

// scrapeLists: how long a look at /metrics takes with ten finished batches, and with many.
func (b *bench) scrapeLists(ctx context.Context, batches int) error {
	return b.interleave([]string{"/metrics, 10 batches", "/metrics, 10,000 batches"}, func(name string) error {
		r, err := b.startRedis(ctx)
		if err != nil {
			return err
		}
		defer r.close()
		if err := b.importLinks(ctx, r, "bench", 0, 10); err != nil {
			return err
		}
		finished := map[string]any{"state": "done", "cancelled": 10, "started": 1, "finished": 2}
		if err := r.client.HSet(ctx, "lc:{bench}", finished).Err(); err != nil {
			return err
		}
		if err := r.client.Del(ctx, "lc:open").Err(); err != nil {
			return err
		}
		n := 10
		if name != "/metrics, 10 batches" {
			n = batches
		}
		if err := copyBatch(ctx, r.client, "bench", n-1); err != nil {
			return err
		}
		port, err := freePort()
		if err != nil {
			return err
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		w, err := start(b.worker(r.url(), "1/s", 50, "--metrics-addr", addr))
		if err != nil {
			return err
		}
		defer func() { _ = w.stop() }()
		url := "http://" + addr + "/metrics"
		for deadline := time.Now().Add(20 * time.Second); ; {
			if _, err = scrape(ctx, url); err == nil || time.Now().After(deadline) {
				break
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
		times := make([]float64, 0, 5)
		for range cap(times) {
			if err := pause(ctx, 2200*time.Millisecond); err != nil { // what is younger is not read again
				return err
			}
			began := time.Now()
			if _, err := scrape(ctx, url); err != nil {
				return err
			}
			times = append(times, time.Since(began).Seconds())
		}
		b.add("list", name, sample{"seconds": median(times)})
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
