package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// rowImport is one way to get the rows of a manifest into Redis. It is measured
// from the start of its process to its end.
type rowImport struct {
	name string
	rows int
	// command makes the process. What it prepares is not measured.
	command func(r *redisServer, manifest string) (*exec.Cmd, error)
}

func (b *bench) imports() []rowImport {
	n := b.pick(1_000_000, 20_000)
	return []rowImport{
		{name: product, rows: n, command: func(r *redisServer, manifest string) (*exec.Cmd, error) {
			return b.linkcancel("import", "--yes", "--redis-url", r.url(), manifest), nil
		}},
		// At the same speed as for a million: it costs the same a row.
		{name: stockAsynq + ", 64 goroutines", rows: n / 10, command: func(r *redisServer, manifest string) (*exec.Cmd, error) {
			return self("asynq-enqueue", r.addr, manifest), nil
		}},
		{name: "redis-cli --pipe", rows: n, command: func(r *redisServer, manifest string) (*exec.Cmd, error) {
			return pipeCommand(r, manifest)
		}},
	}
}

// measureImports: how fast a manifest gets into Redis, and what it costs.
func (b *bench) measureImports(ctx context.Context) error {
	ways := map[string]rowImport{}
	var names []string
	for _, way := range b.imports() {
		ways[way.name] = way
		names = append(names, way.name)
	}
	return b.interleave(names, func(name string) error {
		got, err := b.importRows(ctx, ways[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.add("import", name, got)
		return nil
	})
}

func (b *bench) importRows(ctx context.Context, way rowImport) (sample, error) {
	manifest, err := b.writeManifest(0, way.rows)
	if err != nil {
		return nil, err
	}
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close()
	cmd, err := way.command(r, manifest)
	if err != nil {
		return nil, err
	}
	before, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	p, err := run(ctx, cmd)
	took := time.Since(began)
	if err != nil {
		return nil, err
	}
	after, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	rows := float64(way.rows)
	return sample{
		"rows/s":    rows / took.Seconds(),
		"peak":      float64(p.peak.Load()),
		"cpu":       (p.cpu() + after.cpu - before.cpu) / rows * 1e6, // s a million
		"cpu redis": (after.cpu - before.cpu) / rows * 1e6,
		"bytes":     float64(after.memory-before.memory) / rows,
	}, nil
}

// pipeCommand is the quickest way to get a file into Redis that has no memory
// of its own: one RPUSH a row, in Redis' own protocol.
func pipeCommand(r *redisServer, manifest string) (*exec.Cmd, error) {
	commands := manifest + ".resp"
	if err := writeCommands(manifest, commands); err != nil {
		return nil, err
	}
	in, err := os.Open(commands)
	if err != nil {
		return nil, err
	}
	host, port := r.hostPort()
	cmd := exec.Command("redis-cli", "-h", host, "-p", port, "--pipe")
	cmd.Stdin = in
	return cmd, nil
}

func writeCommands(manifest, path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	ids, err := readManifest(manifest)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for _, id := range ids {
		fmt.Fprintf(w, "*3\r\n$5\r\nRPUSH\r\n$5\r\nlinks\r\n$%d\r\n%s\r\n", len(id), id)
	}
	return w.Flush()
}
