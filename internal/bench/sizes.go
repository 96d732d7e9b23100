package main

import (
	"context"
	"time"
)

// sizeTimes is how often each size is measured: ten million links take long.
const sizeTimes = 2

// measureSizes: what a link costs in batches of very different sizes. Of large
// ones a part is drained.
func (b *bench) measureSizes(ctx context.Context) error {
	const part = 100_000
	sizes := map[string]int{"10 k": 10_000, "100 k": 100_000, "1 M": 1_000_000, "10 M": 10_000_000}
	names := []string{"10 k", "100 k", "1 M", "10 M"}
	if b.quick {
		sizes = map[string]int{"1 k": 1_000, "5 k": 5_000}
		names = []string{"1 k", "5 k"}
	}
	err := b.interleaveTimes(sizeTimes, names, func(name string) error {
		imported, err := b.importRows(ctx, rowImport{rows: sizes[name], command: b.imports()[0].command})
		if err != nil {
			return err
		}
		got, err := b.drain(ctx, linkcancelContender(), job{links: sizes[name], most: part, concurrency: 50})
		if err != nil {
			return err
		}
		got["rows/s"], got["import peak"], got["import cpu"] = imported["rows/s"], imported["peak"], imported["cpu"]
		b.add("size", name, got)
		return nil
	})
	if err != nil {
		return err
	}
	// Once: memory is the same each time.
	full := b.pick(1_000_000, 5_000)
	got, err := b.drain(ctx, linkcancelContender(), job{links: full, concurrency: 50})
	if err != nil {
		return err
	}
	b.add("whole million", product, got)
	return nil
}

// measureIdle: what a worker without work asks of Redis.
func (b *bench) measureIdle(ctx context.Context) error {
	length := time.Duration(b.pick(20, 2)) * time.Second
	return b.interleave([]string{product}, func(name string) error {
		r, err := b.startRedis(ctx)
		if err != nil {
			return err
		}
		defer r.close()
		w, err := start(b.worker(r.url(), "100/s", 50, "--metrics-addr", "off"))
		if err != nil {
			return err
		}
		defer func() { _ = w.stop() }()
		if err := pause(ctx, 2*time.Second); err != nil { // it starts
			return err
		}
		p := &place{bench: b, redis: r}
		before, err := b.look(ctx, p, w)
		if err != nil {
			return err
		}
		if err := pause(ctx, length); err != nil {
			return err
		}
		after, err := b.look(ctx, p, w)
		if err != nil {
			return err
		}
		seconds := after.at.Sub(before.at).Seconds()
		b.add("idle", name, sample{
			"commands/s": float64(after.redis.commands-before.redis.commands-1) / seconds, // without the question itself
			"cpu":        (after.worker - before.worker + after.redis.cpu - before.redis.cpu) / seconds,
			"cpu redis":  (after.redis.cpu - before.redis.cpu) / seconds,
		})
		return nil
	})
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
