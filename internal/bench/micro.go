package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// benchstat is the version of golang.org/x/perf whose benchstat is used.
const benchstat = "golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da"

// microBenchmarks are those of the hot path: codec, CSV, reserve, record.
var microBenchmarks = []struct{ name, pkg string }{
	{"Slice", "./internal/task"},
	{"Record", "./internal/ledger"},
	{"Commit", "./internal/ledger"},
	{"Reserve", "./internal/ratelimit"},
	{"CSV", "./producer"},
}

// measureMicro runs Go benchmarks of single functions and keeps what benchstat
// says of them. It needs 6 of each for a confidence interval.
func (b *bench) measureMicro(ctx context.Context) error {
	var found bytes.Buffer
	for _, one := range microBenchmarks {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark"+one.name+"$", "-benchmem",
			"-count", strconv.Itoa(b.pick(max(b.times, 6), 1)), "-benchtime", fmt.Sprintf("%dms", b.pick(500, 1)), one.pkg)
		cmd.Dir = b.root
		cmd.Stdout, cmd.Stderr = &found, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("run Benchmark%s: %w", one.name, err)
		}
	}
	// Its name is the title of a column.
	if err := os.WriteFile(filepath.Join(b.dir, "measured"), found.Bytes(), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "run", benchstat, "measured")
	cmd.Dir, cmd.Stderr = b.dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run benchstat: %w", err)
	}
	b.results.Micro = string(out)
	fmt.Println(b.results.Micro)
	return nil
}
