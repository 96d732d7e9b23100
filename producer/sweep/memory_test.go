package sweep

import (
	"runtime"
	"testing"

	"linkcancel/internal/plexy"
	"linkcancel/internal/testutil"
)

func TestSelectorMemory(t *testing.T) {
	const n = 300_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := newSelector(stale(), 0)
	c.now = noon
	for i := range n {
		c.see(plexy.Link{ID: testutil.LinkID(i), Status: "active", ExpiresAt: noon.Add(-9 * day)}, 1)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.0f bytes a link", per)
	if per > 150 {
		t.Errorf("%.0f bytes a link", per)
	}
	runtime.KeepAlive(c)
}
