package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// measureRuns: `linkcancel run` with its embedded Redis, from start to exit, the report written.
func (b *bench) measureRuns(ctx context.Context) error {
	sizes := map[string]int{"1,000": b.pick(1_000, 100), "20,000": b.pick(20_000, 1_000)}
	err := b.interleave([]string{"1,000", "20,000"}, func(name string) error {
		return b.measureRun(ctx, name, sizes[name])
	})
	if err != nil || !wanted(b.peers, "1,000,000") {
		return err
	}
	// Once, because of the time.
	return b.measureRun(ctx, "1,000,000", b.pick(1_000_000, 5_000))
}

func (b *bench) measureRun(ctx context.Context, name string, n int) error {
	manifest, err := b.writeManifest(0, n)
	if err != nil {
		return err
	}
	if err := b.api.reset(ctx, n, 0, false); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.dir, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.csv")
	began := time.Now()
	p, err := run(ctx, b.linkcancel("run", "--yes", "--base-url", b.api.base(), "--rate", "1000000/s",
		"--report", report, manifest))
	took := time.Since(began)
	if err != nil {
		return err
	}
	exit, err := b.api.tally(ctx)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	if got := bytes.Count(text, []byte(",cancelled,")); got != n {
		return fmt.Errorf("the report has %d links cancelled, want %d", got, n)
	}
	seen, err := b.api.done(ctx, p)
	if err != nil {
		return err
	}
	b.add("run", name, sample{
		"seconds": took.Seconds(), "sending": seen.seconds(), "to exit": time.Duration(exit.Now - exit.First).Seconds(),
		"cpu": p.cpu() / float64(n) * 10_000, "peak": float64(p.peak.Load()),
	})
	return nil
}
