package importer

import (
	"fmt"
	"io"
	"linkcancel/internal/testutil"
	"runtime"
	"strings"
	"testing"
)

// endless makes n rows of CSV without holding them.
type endless struct {
	n, at int
	row   func(n int) string
	rest  string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.rest == "" {
		if e.at == e.n {
			return 0, io.EOF
		}
		e.rest = e.row(e.at)
		e.at++
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func drain(tb testing.TB, stdin io.Reader) Stats {
	tb.Helper()
	c, err := OpenCSV(CSVConfig{Paths: []string{"-"}, Stdin: stdin})
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := c.Next(); err == io.EOF {
			return c.Stats()
		} else if err != nil {
			tb.Fatal(err)
		}
	}
}

// A row costs its own string, with several columns a copy of the link, and nothing else.
func TestCSVAllocatesLittle(t *testing.T) {
	const rows = 10000
	row := func(n int) string { return fmt.Sprintf("%d,customer %d,%s,some text\n", n, n, testutil.LinkID(n)) }
	var b strings.Builder
	for n := range rows {
		b.WriteString(row(n))
	}
	text := b.String()
	allocs := testing.AllocsPerRun(3, func() { drain(t, &endless{n: 1, row: func(int) string { return text }}) })
	if perRow := allocs / rows; perRow > 2.1 {
		t.Errorf("%.2f allocations a row, want at most 2", perRow)
	}
}

// The memory of a long file is that of the duplicate check.
func TestCSVMemoryIsConstant(t *testing.T) {
	const rows = 300_000
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	c, err := OpenCSV(CSVConfig{Paths: []string{"-"}, Stdin: &endless{n: rows, row: func(n int) string { return testutil.LinkID(n) + "\n" }}})
	if err != nil {
		t.Fatal(err)
	}
	for range rows {
		if _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
	}
	grown := live() - before
	if limit := int64(rows*30 + 512<<10); grown > limit {
		t.Errorf("%d bytes for %d rows (%d a row), want at most %d", grown, rows, grown/rows, limit)
	}
	runtime.KeepAlive(c)
}

// BenchmarkCSV reads 1 000 000 rows of different ids.
func BenchmarkCSV(b *testing.B) {
	const rows = 1_000_000
	for name, row := range map[string]func(n int) string{
		"ids":       func(n int) string { return testutil.LinkID(n) + "\n" },
		"4_columns": func(n int) string { return fmt.Sprintf("%d,customer %d,%s,some text\n", n, n, testutil.LinkID(n)) },
		"urls":      func(n int) string { return "https://checkout.plexypay.com/" + testutil.LinkID(n) + "\n" },
	} {
		var text []byte
		for n := range rows {
			text = append(text, row(n)...)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if stats := drain(b, &endless{n: 1, row: func(int) string { return string(text) }}); stats.Links != rows {
					b.Fatalf("stats %+v", stats)
				}
			}
			b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
