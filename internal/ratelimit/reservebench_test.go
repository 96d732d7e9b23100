package ratelimit

import (
	"testing"

	"linkcancel/internal/redistest"
)

// BenchmarkReserve makes a call that asks for 50 slots and reports 50 good answers, on a
// real Redis. A busy process makes about 50 per second.
func BenchmarkReserve(b *testing.B) {
	if !redistest.Have(b) {
		return
	}
	rdb := redistest.Open(b, redistest.Start(b)).Client()
	const slots = 50
	r := request{process: "one", run: "a", rate: MaxRate, burst: 1, usable: slots, want: slots}
	granted := 0
	b.ReportAllocs()
	for b.Loop() {
		r.number++
		r.seq++
		r.events = []event{{kind: "proper", seq: r.seq, count: slots}}
		got, err := r.do(b.Context(), rdb, 0)
		if err != nil {
			b.Fatal(err)
		}
		if got.n == 0 {
			b.Fatalf("call %d reserved nothing: %+v", r.number, got)
		}
		granted += got.n
	}
	b.ReportMetric(float64(granted)/b.Elapsed().Seconds(), "slots/s")
}
