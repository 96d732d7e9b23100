package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// linkcancel is a command of the product.
func (b *bench) linkcancel(args ...string) *exec.Cmd {
	cmd := exec.Command(b.bin, args...)
	cmd.Env = append(os.Environ(), "PLEXY_API_KEY="+apiKey)
	return cmd
}

// worker is a worker of the product on the stand-in.
func (b *bench) worker(redisURL, rate string, concurrency int, more ...string) *exec.Cmd {
	return b.linkcancel(append([]string{"worker", "--redis-url", redisURL, "--base-url", b.api.base(),
		"--rate", rate, "--concurrency", strconv.Itoa(concurrency), "--log-level", "warn"}, more...)...)
}

// runLinkcancel runs a command of the product to its end.
func (b *bench) runLinkcancel(ctx context.Context, args ...string) error {
	_, err := run(ctx, b.linkcancel(args...))
	return err
}

// runSelf runs a process of this program to its end.
func runSelf(ctx context.Context, args ...string) error {
	_, err := run(ctx, self(args...))
	return err
}

// importLinks imports links first to first+n-1.
func (b *bench) importLinks(ctx context.Context, r *redisServer, batch string, first, n int) error {
	manifest, err := b.writeManifest(first, n)
	if err != nil {
		return err
	}
	return b.runLinkcancel(ctx, "import", "--yes", "--id", batch, "--redis-url", r.url(), manifest)
}

// awaitDone waits until all links of a batch are recorded as cancelled.
func (r *redisServer) awaitDone(ctx context.Context, batch string, links int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		fields, err := r.client.HMGet(ctx, "lc:{"+batch+"}", "state", "cancelled").Result()
		if err != nil {
			return fmt.Errorf("ask for the batch: %w", err)
		}
		if fields[0] == "done" && fields[1] == strconv.Itoa(links) {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the batch is %v, and %v of %d links are cancelled", fields[0], fields[1], links)
		}
	}
}

// build builds the product as it is shipped.
func (b *bench) build(ctx context.Context) (bin string, err error) {
	bin = filepath.Join(b.dir, "linkcancel")
	return bin, goBuild(ctx, b.root, bin, "./cmd/linkcancel")
}

// connect is the program of Redpanda Connect's core.
func (b *bench) connect() string { return filepath.Join(b.dir, "connect") }

// buildConnect builds it, if it was not wanted before.
func (b *bench) buildConnect(ctx context.Context) error {
	if _, err := os.Stat(b.connect()); err == nil {
		return nil
	}
	return goBuild(ctx, ".", b.connect(), "linkcancel/internal/bench/connect")
}

func goBuild(ctx context.Context, dir, bin, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, pkg)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return nil
}
