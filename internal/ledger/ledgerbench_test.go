package ledger

import (
	"slices"
	"testing"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

// BenchmarkRecord is the codec of the records of a full slice.
func BenchmarkRecord(b *testing.B) {
	const links = 50
	record := Record{Outcome: NotCancellable, Ambiguous: true, Attempts: 2, HTTPStatus: 422, LinkStatus: 3, After: 86400}
	full := slices.Repeat(record.Append(nil), links)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, len(full))
		for b.Loop() {
			buf = buf[:0]
			for range links {
				buf = record.Append(buf)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decodeRecords(full, links)
		}
	})
}

// BenchmarkCommit records the outcomes of a slice of 50 links, alone and together
// with 19 others in one round trip: on a real Redis, and on the embedded one,
// which reads the script anew for each call.
func BenchmarkCommit(b *testing.B) {
	for _, bench := range []struct {
		name   string
		groups int
	}{{"1_slice", 1}, {"20_slices", 20}} {
		b.Run(bench.name, func(b *testing.B) {
			if redistest.Have(b) {
				benchCommit(b, redistest.Open(b, redistest.Start(b)), bench.groups)
			}
		})
		b.Run(bench.name+"_embedded", func(b *testing.B) {
			embedded := broker.Embedded()
			b.Cleanup(func() { _ = embedded.Close() })
			benchCommit(b, embedded, bench.groups)
		})
	}
}

func benchCommit(b *testing.B, redis *broker.Broker, slices int) {
	const slice, total = 50, 100 * ChunkLinks
	rdb := redis.Client()
	l := New(rdb)
	next := total
	for b.Loop() {
		if next == total { // nothing is left to record
			b.StopTimer()
			redistest.Flush(b, rdb)
			makeRunning(b, l, total)
			next = 0
			b.StartTimer()
		}
		groups := make([]Group, slices)
		for i := range groups {
			groups[i] = Group{Batch: "b", Chunk: next / ChunkLinks, Entries: outcomes(Cancelled, next%ChunkLinks, next%ChunkLinks+slice)}
			next += slice
		}
		for _, c := range l.Commit(b.Context(), groups) {
			if c.Err != nil || !c.Results[slice-1].Wrote {
				b.Fatalf("nothing was written: %+v", c)
			}
		}
	}
	b.ReportMetric(float64(b.N*slices*slice)/b.Elapsed().Seconds(), "links/s")
}

// makeRunning makes a batch "b" that is fed.
func makeRunning(tb testing.TB, l *Ledger, total int) {
	tb.Helper()
	d, _, err := l.Create(tb.Context(), DraftConfig{ID: "b", Source: "import"})
	if err != nil {
		tb.Fatal(err)
	}
	if err := d.Write(tb.Context(), slices.Collect(slices.Chunk(links(0, total), ChunkLinks))...); err != nil {
		tb.Fatal(err)
	}
	if err := d.Seal(tb.Context(), "digest", 0, 0); err != nil {
		tb.Fatal(err)
	}
	batch, err := l.Get(tb.Context(), "b")
	if err != nil {
		tb.Fatal(err)
	}
	if err := l.Start(tb.Context(), &batch, 1, 50, "w1"); err != nil {
		tb.Fatal(err)
	}
}
