package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The generated part of benchmarks.md is between these.
const (
	resultsBegin = "<!-- results -->\n"
	resultsEnd   = "<!-- /results -->\n"
)

// render writes benchmarks.svg, and the results into benchmarks.md.
func (r *results) render(dir string) error {
	page := filepath.Join(dir, "benchmarks.md")
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	fresh, err := r.fill(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	if err := os.WriteFile(page, []byte(fresh), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "benchmarks.svg"), []byte(r.plot()), 0o644)
}

// fill puts the results into a page.
func (r *results) fill(page string) (string, error) {
	head, rest, ok := strings.Cut(page, resultsBegin)
	_, tail, okEnd := strings.Cut(rest, resultsEnd)
	if !ok || !okEnd {
		return "", fmt.Errorf("it has no %s and %s", strings.TrimSpace(resultsBegin), strings.TrimSpace(resultsEnd))
	}
	return head + resultsBegin + r.page() + resultsEnd + tail, nil
}

// column is one column of a table.
type column struct {
	title  string
	figure string
	show   func(float64) string
	spread bool // lowest and highest value too
}

// table is one case.
type table struct {
	heading string // the case
	title   string
	who     string // title of the first column
	columns []column
}

func mib(v float64) string { return number(v / (1 << 20)) }

func ms(v float64) string { return number(v * 1000) }

func hundredths(v float64) string { return fmt.Sprintf("%.2f", v*100) }

func percent(v float64) string { return fmt.Sprintf("%.1f", v*100) }

var drainColumns = []column{
	{title: "links/s", figure: "links/s", show: number, spread: true},
	{title: "CPU s per 10,000", figure: "cpu", show: number},
	{title: "CPU s of the worker", figure: "cpu worker", show: number},
	{title: "peak MiB", figure: "peak", show: mib},
	{title: "Redis commands per link", figure: "commands", show: number},
	{title: "sent twice", figure: "twice", show: number},
}

var tables = []table{
	{"import", "Import", "", []column{
		{title: "rows/s", figure: "rows/s", show: number, spread: true},
		{title: "CPU s per million", figure: "cpu", show: number},
		{title: "CPU s of Redis", figure: "cpu redis", show: number},
		{title: "peak MiB", figure: "peak", show: mib},
		{title: "Redis bytes per row", figure: "bytes", show: number},
	}},
	{"drain near", "Drain: Redis on loopback, API of zero latency, 50 in flight", "", drainColumns},
	{"drain far", "Drain: Redis 1.3 ms away, API of zero latency, 50 in flight", "", append([]column{
		{title: "round trip ms", figure: "round trip", show: ms}}, drainColumns...)},
	{"drain 20ms", "Drain: API of 20 ms, 50 in flight (at most 2,500/s)", "", drainColumns},
	{"drain 20ms-200", "Drain: API of 20 ms, 200 in flight (at most 10,000/s)", "", drainColumns},
	{"size", "Batches of different sizes (at most 100,000 links are drained)", "links", []column{
		{title: "import rows/s", figure: "rows/s", show: number, spread: true},
		{title: "import CPU s per million", figure: "import cpu", show: number},
		{title: "import peak MiB", figure: "import peak", show: mib},
		{title: "drain links/s", figure: "links/s", show: number, spread: true},
		{title: "drain CPU s per 10,000", figure: "cpu", show: number},
		{title: "worker peak MiB", figure: "peak", show: mib},
		{title: "Redis bytes per waiting link", figure: "bytes waiting", show: number},
		{title: "per finished link", figure: "bytes done", show: number},
		{title: "Redis commands per link", figure: "commands", show: number},
	}},
	{"whole million", "A million links, all drained", "", []column{
		{title: "links/s", figure: "links/s", show: number},
		{title: "CPU s per 10,000", figure: "cpu", show: number},
		{title: "worker peak MiB", figure: "peak", show: mib},
		{title: "Redis bytes per waiting link", figure: "bytes waiting", show: number},
		{title: "per finished link", figure: "bytes done", show: number},
		{title: "sent twice", figure: "twice", show: number},
	}},
	pacedTable(10), pacedTable(50), pacedTable(200), pacedTable(1000),
	{"aof", "Redis with its data on disk", "appendfsync", drainColumns},
	{"run", "`run` with its embedded Redis, from start to exit, with the report", "links", []column{
		{title: "seconds", figure: "seconds", show: number, spread: true},
		{title: "first request to last", figure: "sending", show: number},
		{title: "to exit", figure: "to exit", show: number},
		{title: "CPU s per 10,000", figure: "cpu", show: number},
		{title: "peak MiB", figure: "peak", show: mib},
	}},
	{"rate", "Use of the fleet's limit, as the API counts", "", []column{
		{title: "% of the limit", figure: "share", show: percent, spread: true},
		{title: "fullest second, % of the limit", figure: "fullest", show: percent, spread: true},
	}},
	{"urgent", "A batch of 100 links behind a batch of a million, at 100/s, from the start of its import", "", []column{
		{title: "first cancel, s", figure: "first", show: number, spread: true},
		{title: "last cancel, s", figure: "last", show: number, spread: true},
	}},
	{"scrape", "A scrape of /metrics that reads Redis, while a million links wait", "", []column{
		{title: "ms", figure: "seconds", show: ms, spread: true},
		{title: "CPU ms of Redis", figure: "redis", show: ms},
		{title: "bytes", figure: "bytes", show: number},
	}},
	{"list", "`batch list` with 10,000 batches, from start to exit, and a scrape of a worker", "", []column{
		{title: "ms", figure: "seconds", show: ms, spread: true},
	}},
	{"find", "`link show` of one of 10 million links in 100 batches, from start to exit", "", []column{
		{title: "ms", figure: "seconds", show: ms, spread: true},
		{title: "slowest command of Redis, ms", figure: "slowest", show: ms, spread: true},
	}},
	{"page", "The page of a batch of a million links, and what it costs each second while people look at it", "", []column{
		{title: "ms", figure: "seconds", show: ms, spread: true},
		{title: "share of a core", figure: "share", show: percent},
		{title: "Redis commands per second", figure: "commands/s", show: number},
		{title: "events per second", figure: "events/s", show: number},
	}},
	{"idle", "An idle worker", "", []column{
		{title: "Redis commands per second", figure: "commands/s", show: number, spread: true},
		{title: "CPU, % of a core", figure: "cpu", show: hundredths},
		{title: "of Redis", figure: "cpu redis", show: hundredths},
	}},
}

// pacedTable is the table of what a rate costs.
func pacedTable(rate int) table {
	return table{pacedHeading(rate), fmt.Sprintf("%s links a second, API of 20 ms, 50 connections", number(float64(rate))), "", []column{
		{title: "links/s", figure: "links/s", show: number},
		{title: "CPU, % of a core", figure: "cpu", show: percent, spread: true},
		{title: "of the worker", figure: "cpu worker", show: percent},
		{title: "of Redis", figure: "cpu redis", show: percent},
		{title: "Redis commands per second", figure: "commands/s", show: number},
	}}
}

// page is the generated part of benchmarks.md.
func (r *results) page() string {
	if len(r.Series) == 0 {
		return ""
	}
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, %d cores, %s of memory, %s, %.0f ns for a system call. Measured %s.\n\n", m.CPU, m.Cores, m.Memory, m.Kernel, m.Syscall*1e9, r.when())
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		versions = append(versions, name+" "+m.Versions[name])
	}
	fmt.Fprintf(&b, "Versions: %s.\n", strings.Join(versions, ", "))
	for _, who := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintf(&b, "Left out: %s, since %s.\n", who, r.LeftOut[who])
	}
	b.WriteString("\n![linkcancel beside its peers](benchmarks.svg)\n\n")
	b.WriteString("| | target | measured | |\n|---|---|---|---|\n")
	for _, t := range targets {
		if got, ok := t.measure(r); ok {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.name, t.wanted(), t.show(got), t.verdict(got))
		}
	}
	r.perMachine(&b)
	for _, t := range tables {
		r.table(&b, t)
	}
	if r.Micro != "" {
		fmt.Fprintf(&b, "\n### Single functions, by benchstat\n\n```\n%s\n```\n", strings.TrimSpace(r.Micro))
	}
	return b.String()
}

// perMachine writes the ratios of each machine. A cheap system call makes the loop fast, so that what
// linkcancel adds weighs more.
func (r *results) perMachine(b *strings.Builder) {
	if len(r.Ratios) == 0 {
		return
	}
	b.WriteString("\n### Ratios by machine\n\n| machine | ns for a system call | measured |")
	var names []string
	for _, t := range targets {
		if t.unit == "×" && slices.ContainsFunc(r.Ratios, func(one ratios) bool { _, ok := one.Values[t.name]; return ok }) {
			names = append(names, t.name)
			fmt.Fprintf(b, " %s |", t.name)
		}
	}
	b.WriteString("\n|---|--:|---|" + strings.Repeat("--:|", len(names)) + "\n")
	for _, one := range r.Ratios {
		fmt.Fprintf(b, "| %s | %.0f | %s at %s |", one.Machine, one.Syscall*1e9, one.Date, one.Commit)
		for _, name := range names {
			if got, ok := one.Values[name]; ok {
				fmt.Fprintf(b, " %.2f", got)
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
}

// when says on which days and at which commits the figures were measured.
func (r *results) when() string {
	seen := map[string]bool{}
	for _, s := range r.Series {
		seen["on "+s.Date+" at "+s.Commit] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), ", ")
}

func (r *results) table(b *strings.Builder, t table) {
	whos := r.whos(t.heading)
	if len(whos) == 0 {
		return
	}
	// A column that nobody has is left out.
	columns := slices.DeleteFunc(slices.Clone(t.columns), func(c column) bool {
		return !slices.ContainsFunc(whos, func(who string) bool {
			_, ok := r.median(t.heading, who, c.figure)
			return ok
		})
	})
	fmt.Fprintf(b, "\n### %s\n\n| %s |", t.title, t.who)
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.title)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	for _, who := range whos {
		fmt.Fprintf(b, "| %s |", who)
		for _, c := range columns {
			values := r.find(t.heading, who).Figures[c.figure]
			switch {
			case len(values) == 0:
				b.WriteString(" |")
			case c.spread && len(values) > 1:
				fmt.Fprintf(b, " %s (%s to %s) |", c.show(median(values)), c.show(slices.Min(values)), c.show(slices.Max(values)))
			default:
				fmt.Fprintf(b, " %s |", c.show(median(values)))
			}
		}
		b.WriteString("\n")
	}
}
