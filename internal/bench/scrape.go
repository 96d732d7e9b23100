package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// measureScrapes: what a look at /metrics costs while a batch of a million links waits.
func (b *bench) measureScrapes(ctx context.Context) error {
	scrapes := b.pick(5, 1)
	const every = 2200 * time.Millisecond // what is younger than 2 s is not read from Redis again
	return b.interleave([]string{product}, func(name string) error {
		r, err := b.startRedis(ctx)
		if err != nil {
			return err
		}
		defer r.close()
		if err := b.importLinks(ctx, r, "bench", 0, b.pick(1_000_000, 20_000)); err != nil {
			return err
		}
		if err := b.api.reset(ctx, 0, 0, false); err != nil {
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
		ready, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := b.api.awaitLinks(ready, 1); err != nil {
			return err
		}
		url := "http://" + addr + "/metrics"
		// A worker with a paused batch sends few commands to Redis.
		if err := b.runLinkcancel(ctx, "batch", "pause", "bench", "--redis-url", r.url()); err != nil {
			return err
		}
		quiet, err := r.busy(ctx, func() error { return pause(ctx, time.Duration(scrapes)*every) })
		if err != nil {
			return err
		}
		times := make([]float64, 0, scrapes)
		var size int64
		scraped, err := r.busy(ctx, func() error {
			for range scrapes {
				began := time.Now()
				if size, err = scrape(ctx, url); err != nil {
					return err
				}
				took := time.Since(began)
				times = append(times, took.Seconds())
				if err := pause(ctx, every-took); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		b.add("scrape", name, sample{
			"seconds": median(times), "redis": max(0, (scraped-quiet).Seconds()) / float64(scrapes), "bytes": float64(size),
		})
		return nil
	})
}

func scrape(ctx context.Context, url string) (size int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("scrape: %w", err)
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

// busy is how long Redis worked on commands while do ran. What commands inside
// scripts take counts twice: at most so long.
func (r *redisServer) busy(ctx context.Context, do func() error) (time.Duration, error) {
	if err := r.client.ConfigResetStat(ctx).Err(); err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	info, err := r.client.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for line := range strings.Lines(info) {
		_, value, _ := strings.Cut(line, ":")
		_, after, ok := strings.Cut(value, "usec=")
		if !ok {
			continue
		}
		usec, _, _ := strings.Cut(after, ",")
		n, _ := strconv.ParseInt(usec, 10, 64)
		total += time.Duration(n) * time.Microsecond
	}
	return total, nil
}
