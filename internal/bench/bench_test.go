package main

import (
	"os"
	"testing"
	"time"
)

func TestLinksAreToldApart(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range []int{0, 1, 49_999, linksMost - 1} {
		id := linkID(n)
		if len(id) != 35 || seen[id] {
			t.Errorf("link %d is %q", n, id)
		}
		seen[id] = true
		if got, ok := linkNumber([]byte(id)); !ok || got != n {
			t.Errorf("link %d reads back as %d, %v", n, got, ok)
		}
	}
	for _, id := range []string{"", "pl_5e9f", linkID(linksMost), "xx_" + linkID(1)[3:], linkID(1)[:34] + "g"} {
		if n, ok := linkNumber([]byte(id)); ok {
			t.Errorf("%q reads as link %d", id, n)
		}
	}
}

func TestRequestSize(t *testing.T) {
	const head = "DELETE /v1/payment-links/x HTTP/1.1\r\nHost: a\r\n"
	for _, tt := range []struct {
		data string
		size int
	}{
		{"", 0},
		{head, 0},
		{head + "\r\n", len(head) + 2},
		{head + "\r\n" + head, len(head) + 2},
		{head + "Content-Length: 12\r\n\r\n{}", len(head) + 20 + 2 + 12},
		{head + "content-length:0\r\nAccept: b\r\n\r\n", len(head) + 18 + 11 + 2},
	} {
		if got := requestSize([]byte(tt.data)); got != tt.size {
			t.Errorf("%q: %d, want %d", tt.data, got, tt.size)
		}
	}
}

func TestFifoKeepsOrder(t *testing.T) {
	var q fifo[int]
	in, out := 0, 0
	for round := range 100 {
		for range round % 7 {
			q.push(in)
			in++
		}
		for q.len() > round%5 {
			if got := q.first(); got != out {
				t.Fatalf("got %d, want %d", got, out)
			}
			q.pop()
			out++
		}
	}
	if q.len() != in-out {
		t.Errorf("%d are left, want %d", q.len(), in-out)
	}
}

func TestFullest(t *testing.T) {
	times := []int64{0, 400, 900, 999, 1000, 1399, 2500}
	if got := fullest(times, 1000); got != 5 {
		t.Errorf("%d in the fullest window, want 5", got)
	}
	if got := fullest(nil, time.Second); got != 0 {
		t.Errorf("%d in the fullest window of none", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.2478: "0.248", 41.02: "41.0", 548: "548", 1234: "1,230", 999_600: "1,000,000", 2_246_000: "2,250,000", -3.14159: "-3.14",
	} {
		if got := number(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("%v, want 5", got)
	}
	if got := median([]float64{4, 1, 2, 9}); got != 3 {
		t.Errorf("%v, want 3", got)
	}
}

func TestVerdict(t *testing.T) {
	speed, memory := target{limit: 10, atLeast: true}, target{limit: 10}
	for got, want := range map[float64][2]string{9.99: {"not met", "met"}, 10: {"met", "met"}, 10.01: {"met", "not met"}} {
		if v := [2]string{speed.verdict(got), memory.verdict(got)}; v != want {
			t.Errorf("%v: %v, want %v", got, v, want)
		}
	}
}

// TestPageIsWhatWasMeasured: the page and the plot are those of the kept results.
func TestPageIsWhatWasMeasured(t *testing.T) {
	const docs = "../../docs/benchmarks"
	r, err := loadResults(docs + ".json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(docs + ".md")
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := r.fill(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if fresh != string(page) {
		t.Error("docs/benchmarks.md is not what was measured: run `go run . -render -docs ../../docs` in internal/bench")
	}
	plot, err := os.ReadFile(docs + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	if r.plot() != string(plot) {
		t.Error("docs/benchmarks.svg is not what was measured: run `go run . -render -docs ../../docs` in internal/bench")
	}
}
