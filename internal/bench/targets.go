package main

import (
	"fmt"
	"math"
	"strings"
)

// target is a figure that the product should reach.
type target struct {
	name    string
	limit   float64
	atLeast bool // the limit is the lowest that is good, not the highest
	unit    string
	measure func(*results) (float64, bool)
}

// targets are all of them, in the order of the table.
var targets = []target{
	{"import, rows per second", 1e6, true, "", figure("import", product, "rows/s")},
	{"import, compared with asynq's enqueue from 64 goroutines", 20, true, "×", ratio("import", product, "import", stockAsynq+", 64 goroutines", "rows/s")},
	{"import, peak memory", 120 << 20, false, "MiB", figure("import", product, "peak")},
	{"Redis, bytes per waiting link, a million links", 22, false, "B", figure("import", product, "bytes")},
	{"Redis, bytes per finished link, a million links", 60, false, "B", figure("whole million", product, "bytes done")},
	{"drain, compared with asynq", 3.5, true, "×", ratio("drain near", product, "drain near", stockAsynq, "links/s")},
	{"drain, compared with the plain loop", 0.8, true, "×", ratio("drain near", product, "drain near", plainLoop, "links/s")},
	{"drain, Redis 1.3 ms away, compared with asynq", 20, true, "×", ratio("drain far", product, "drain far", stockAsynq, "links/s")},
	{"drain, 20 ms API, 200 in flight, share of the maximum", 0.95, true, "%", shareOfLatency},
	{"drain, 20 ms API, 50 in flight, time compared with the plain loop", 1.1, false, "×", ratio("drain 20ms", plainLoop, "drain 20ms", product, "links/s")},
	{"drain, CPU time compared with the plain loop", 1.4, false, "×", ratio("drain near", product, "drain near", plainLoop, "cpu")},
	{"drain, 20 ms API, 50 in flight, CPU time compared with the plain loop", 1.4, false, "×", ratio("drain 20ms", product, "drain 20ms", plainLoop, "cpu")},
	{"drain, peak memory of the worker", 64e6, false, "MiB", figure("drain near", product, "peak")},
	{"10 links/s, CPU time compared with a paced loop", 1.8, false, "×", paced(10)},
	{"50 links/s, CPU time compared with a paced loop", 1.8, false, "×", paced(50)},
	{"200 links/s, CPU time compared with a paced loop", 1.3, false, "×", paced(200)},
	{"1,000 links/s, CPU time compared with a paced loop", 1.25, false, "×", paced(1000)},
	{"10 links/s, Redis commands per second", 60, false, "", figure(pacedHeading(10), product, "commands/s")},
	{"drain, compared with the fastest other tool", 1, true, "×", timesQuickest},
	{"cost per link, 10 M compared with 100 k: import", 1.15, false, "×", ratio("size", "10 M", "size", "100 k", "import cpu")},
	{"cost per link, 10 M compared with 100 k: feed and drain", 1.15, false, "×", ratio("size", "10 M", "size", "100 k", "cpu")},
	{"cost per link, 10 M compared with 100 k: bytes in Redis", 1.15, false, "×", ratio("size", "10 M", "size", "100 k", "bytes waiting")},
	{"urgent batch behind a million, first cancel", 4, false, "s", figure("urgent", product, "first")},
	{"urgent batch behind a million, last cancel", 3, false, "s", figure("urgent", product, "last")},
	{"`run` of 20,000 links, start to exit", 3, false, "s", figure("run", "20,000", "seconds")},
	{"`run` of a million links, first request to exit", 120, false, "s", figure("run", "1,000,000", "to exit")},
	{"cost per link, `run` of a million compared with 20,000", 1.15, false, "×", ratio("run", "1,000,000", "run", "20,000", "cpu")},
	{"`batch list --limit 20` of 10,000 batches", 0.3, false, "s", figure("list", "--limit 20", "seconds")},
	{"`link show` of one of 10 million links in 100 batches", 5, false, "s", figure("find", "the first link", "seconds")},
	{"page of a batch of a million links", 0.3, false, "s", figure("page", "the first time", "seconds")},
	{"ten viewers of it, share of a core", 0.01, false, "%", figure("page", "10 viewers", "share")},
	{"ten viewers of it, Redis commands per second", 10, false, "", figure("page", "10 viewers", "commands/s")},
	{"idle worker, Redis commands per second", 15, false, "", figure("idle", product, "commands/s")},
	{"idle worker and its Redis, share of a core", 0.005, false, "%", figure("idle", product, "cpu")},
}

// verdict says whether a measured figure reaches the target.
func (t target) verdict(got float64) string {
	if t.atLeast && got >= t.limit || !t.atLeast && got <= t.limit {
		return "met"
	}
	return "not met"
}

func (t target) wanted() string {
	if t.atLeast {
		return "at least " + t.show(t.limit)
	}
	return "at most " + t.show(t.limit)
}

func (t target) show(v float64) string {
	switch t.unit {
	case "MiB":
		return number(v/(1<<20)) + " MiB"
	case "%":
		return fmt.Sprintf("%.1f%%", v*100)
	case "×":
		return fmt.Sprintf("%.2f×", v)
	case "":
		return number(v)
	}
	return number(v) + " " + t.unit
}

func figure(heading, who, name string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) { return r.median(heading, who, name) }
}

func ratio(heading, who, otherHeading, other, name string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, ok := r.median(heading, who, name)
		b, okB := r.median(otherHeading, other, name)
		return a / b, ok && okB && b > 0
	}
}

// paced compares the processor time of worker and Redis with that of a loop at the same rate.
func paced(rate int) func(*results) (float64, bool) {
	return ratio(pacedHeading(rate), product, pacedHeading(rate), plainLoop, "cpu")
}

// shareOfLatency is the speed as a share of concurrency ÷ latency.
func shareOfLatency(r *results) (float64, bool) {
	const allowed = 200 / 0.020
	got, ok := r.median("drain 20ms-200", product, "links/s")
	return got / allowed, ok
}

// timesQuickest is the speed against the quickest tool that is no loop.
func timesQuickest(r *results) (float64, bool) {
	best := 0.0
	for _, who := range []string{parallelCurl, gocraftWork, redpanda, riverQueue} {
		if got, ok := r.median("drain near", who, "links/s"); ok {
			best = max(best, got)
		}
	}
	got, ok := r.median("drain near", product, "links/s")
	return got / best, ok && best > 0
}

// number writes a figure with three significant digits, and thousands separators.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	if digits := 2 - int(math.Floor(math.Log10(math.Abs(v)))); digits > 0 {
		return fmt.Sprintf("%.*f", digits, v)
	} else if digits < 0 {
		unit := math.Pow10(-digits)
		v = math.Round(v/unit) * unit
	}
	text := fmt.Sprintf("%.0f", v)
	var groups []string
	for len(text) > 3 {
		groups = append([]string{text[len(text)-3:]}, groups...)
		text = text[:len(text)-3]
	}
	return strings.Join(append([]string{text}, groups...), ",")
}
