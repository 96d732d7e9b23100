package main

import (
	"context"
	"fmt"
	"time"
)

// measureFinds: how long `link show` takes for one of ten million links in 100 batches, and the
// slowest command of Redis meanwhile.
func (b *bench) measureFinds(ctx context.Context) error {
	batches, links := b.pick(100, 5), b.pick(100_000, 2_000)
	r, err := b.startRedis(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	for i := range batches {
		manifest, err := b.writeManifest(i*links, links)
		if err != nil {
			return err
		}
		// Without --quiet each import looks for its links in the ones before it.
		if err := b.runLinkcancel(ctx, "import", "--yes", "--quiet", "--id", fmt.Sprintf("b%03d", i), "--redis-url", r.url(), manifest); err != nil {
			return err
		}
	}
	if err := r.client.ConfigSet(ctx, "slowlog-log-slower-than", "0").Err(); err != nil {
		return err
	}
	return b.interleave([]string{"the first link", "the last link"}, func(name string) error {
		id := linkID(0)
		if name == "the last link" {
			id = linkID(batches*links - 1)
		}
		if err := r.client.Do(ctx, "SLOWLOG", "RESET").Err(); err != nil {
			return err
		}
		if err := r.client.ConfigSet(ctx, "slowlog-max-len", "100000").Err(); err != nil {
			return err
		}
		cmd := b.linkcancel("link", "show", id, "--redis-url", r.url())
		began := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("link show: %w", err)
		}
		took := time.Since(began)
		log, err := r.client.SlowLogGet(ctx, -1).Result()
		if err != nil {
			return err
		}
		var slowest time.Duration
		for _, entry := range log {
			slowest = max(slowest, entry.Duration)
		}
		b.add("find", name, sample{"seconds": took.Seconds(), "slowest": slowest.Seconds()})
		return nil
	})
}
