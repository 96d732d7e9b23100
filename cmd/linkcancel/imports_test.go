package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImports holds the import graph: cmd → internal/app → producer, worker, metrics → internal/*,
// and cmd → web → internal/*. Tests may import anything.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "linkcancel/...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	const ours = "linkcancel/"
	graph := map[string][]string{} // of our packages
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], ours)
		graph[name] = nil
		for _, imported := range fields[1:] {
			if rest, ok := strings.CutPrefix(imported, ours); ok {
				graph[name] = append(graph[name], rest)
			}
		}
	}
	for _, name := range []string{"cmd/linkcancel", "producer", "producer/feeder", "producer/sweep", "worker", "metrics", "web", "internal/plexy", "internal/task", "internal/ratelimit", "internal/sandbox", "internal/ledger", "internal/broker", "internal/app", "internal/status"} {
		if _, ok := graph[name]; !ok {
			t.Errorf("go list shows no package %s: it lists %d", name, len(graph))
		}
	}

	sides := []string{"producer", "worker", "metrics", "web"}
	helpers := []string{"internal/testutil", "internal/redistest", "internal/otlptest"}
	alone := []string{"internal/plexy", "internal/task", "internal/ratelimit", "internal/clean", "internal/history"}
	leaves := []string{"internal/clean", "internal/history", "internal/tick", "internal/walltime"}
	for name, imports := range graph {
		for _, imported := range imports {
			bad := ""
			switch {
			case strings.HasPrefix(imported, "cmd/"):
				bad = "nothing imports a command"
			case slices.Contains(alone, name) && !slices.Contains(leaves, imported):
				bad = "it stands alone"
			case slices.Contains(sides, side(name)) && !strings.HasPrefix(imported, "internal/") && side(imported) != side(name):
				bad = "producer, worker, metrics and web do not know each other"
			case side(name) == "producer" && imported == "producer":
				bad = "it is for programs of others"
			case imported == "internal/app" && !strings.HasPrefix(name, "cmd/"):
				bad = "only commands run the app"
			case name == "internal/app":
			case strings.HasPrefix(name, "internal/") && !strings.HasPrefix(imported, "internal/"):
				bad = "internal packages know nothing of what uses them"
			case imported == "internal/sandbox" && !strings.HasPrefix(name, "cmd/"):
				bad = "the sandbox is for commands and tests"
			case slices.Contains(helpers, imported) && !slices.Contains(helpers, name):
				bad = "it is for tests"
			}
			if bad != "" {
				t.Errorf("%s imports %s: %s", name, imported, bad)
			}
		}
	}
}

// side returns the first folder of a package.
func side(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}
