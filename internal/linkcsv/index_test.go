package linkcsv

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

// Against a plain map, with and without growing.
func TestIndex(t *testing.T) {
	for _, capacity := range []int{0, 1, 1000, 20000} {
		random := rand.New(rand.NewPCG(1, uint64(capacity)))
		index := NewIndex(capacity)
		want := make(map[string]int)
		for range 20000 {
			link := id(random.IntN(15000))
			before, known := want[link]
			if pos, ok := index.Find(link); ok != known || pos != before {
				t.Fatalf("Find(%s) = %d, %v; want %d, %v", link, pos, ok, before, known)
			}
			pos, added := index.Add(link)
			if !known {
				want[link] = len(want)
			}
			if added == known || pos != want[link] {
				t.Fatalf("Add(%s) = %d, %v; want %d, %v", link, pos, added, want[link], !known)
			}
		}
	}
}

func TestIndexMemory(t *testing.T) {
	const links = 200_000
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	index := NewIndex(links)
	for n := range links {
		index.Add(id(n))
	}
	if perLink := float64(live()-before) / links; perLink > 24 {
		t.Errorf("%.1f bytes a link, want at most 24", perLink)
	}
	runtime.KeepAlive(index)
}
