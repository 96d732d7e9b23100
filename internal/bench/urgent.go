package main

import (
	"context"
	"fmt"
	"time"
)

// measureUrgent: how long a small batch waits behind a large one, from the start
// of its import to its first and its last cancel at the API.
func (b *bench) measureUrgent(ctx context.Context) error {
	many, few := b.pick(1_000_000, 20_000), 100
	return b.interleave([]string{product}, func(name string) error {
		r, err := b.startRedis(ctx)
		if err != nil {
			return err
		}
		defer r.close()
		if err := b.importLinks(ctx, r, "large", 0, many); err != nil {
			return err
		}
		if _, err := b.writeManifest(many, few); err != nil {
			return err
		}
		if err := b.api.reset(ctx, 0, 0, true); err != nil {
			return err
		}
		w, err := start(b.worker(r.url(), "100/s", 50, "--metrics-addr", "off"))
		if err != nil {
			return err
		}
		defer func() { _ = w.stop() }()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := b.api.awaitLinks(ctx, 300); err != nil { // it runs steadily
			return err
		}
		began, err := b.api.tally(ctx)
		if err != nil {
			return err
		}
		if err := b.importLinks(ctx, r, "urgent", many, few); err != nil {
			return err
		}
		first, last, err := b.api.awaitRange(ctx, many, few)
		if err != nil {
			return err
		}
		b.add("urgent", name, sample{
			"first": time.Duration(first - began.Now).Seconds(),
			"last":  time.Duration(last - began.Now).Seconds(),
		})
		return nil
	})
}

// awaitRange waits until links from to from+n-1 were seen, and returns when the
// first and the last of them arrived.
func (a *api) awaitRange(ctx context.Context, from, n int) (first, last int64, err error) {
	for {
		stamps, err := a.stamps(ctx)
		if err != nil {
			return 0, 0, err
		}
		seen := 0
		for _, s := range stamps {
			if int(s.link) < from || int(s.link) >= from+n {
				continue
			}
			if seen++; seen == 1 {
				first = s.at
			}
			last = s.at
		}
		if seen >= n {
			return first, last, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return 0, 0, fmt.Errorf("wait for %d links, there were %d: %w", n, seen, err)
		}
	}
}
