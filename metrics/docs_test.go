package metrics

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/testutil"
)

// TestDocsMetrics holds the tables in docs/metrics.md to the metrics. UPDATE=1 writes them.
func TestDocsMetrics(t *testing.T) {
	const path = "../docs/metrics.md"
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	// Each batch that is not finished has series of its own.
	newBench(t, b.Client()).batch(ledger.DraftConfig{ID: "b", Source: "import"}, 1, 0, 0)
	m := complete(b, quiet)
	m.Page("https://links.example.com/") // by --ui-url
	all := families(t, m.registry)
	fleet := slices.IndexFunc(all, func(f *dto.MetricFamily) bool { return strings.HasPrefix(f.GetName(), "linkcancel_fleet_") })
	rest := fleet + slices.IndexFunc(all[fleet:], func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "linkcancel_fleet_") })
	tables := map[string]string{
		"process": table(slices.Concat(all[:fleet], all[rest:])),
		"fleet":   table(all[fleet:rest]),
	}

	raw, err := os.ReadFile(path)
	testutil.Must(t, err)
	text := string(raw)
	for name, want := range tables {
		begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
		head, more, ok := strings.Cut(text, begin)
		have, tail, ok2 := strings.Cut(more, end)
		if !ok || !ok2 {
			t.Fatalf("docs/metrics.md has no %s…%s", begin, end)
		}
		if have != want && os.Getenv("UPDATE") == "" {
			t.Errorf("docs/metrics.md is out of step with the metrics: make docs\n%s", cmp.Diff(have, want))
		}
		text = head + begin + want + end + tail
	}
	if os.Getenv("UPDATE") != "" {
		testutil.Must(t, os.WriteFile(path, []byte(text), 0o644))
	}
}

// table lists metrics by name, with the values of their labels.
func table(families []*dto.MetricFamily) string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		kind := strings.ToLower(f.GetType().String())
		if h := f.GetMetric()[0].GetHistogram(); h != nil && h.Schema != nil {
			kind += ", also native"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), kind, labels(f), f.GetHelp())
	}
	return b.String()
}

// labels are the names and values of a metric's labels.
func labels(f *dto.MetricFamily) string {
	open := map[string]string{"batch": "a batch id", "version": "the release", "goversion": "the Go release"}
	var names []string
	values := map[string][]string{}
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
			if !slices.Contains(values[l.GetName()], l.GetValue()) {
				values[l.GetName()] = append(values[l.GetName()], l.GetValue())
			}
		}
	}
	for i, name := range names {
		of := open[name]
		if of == "" {
			of = strings.Join(values[name], " ")
		}
		names[i] = "`" + name + "`: " + of
	}
	return strings.Join(names, "; ")
}
