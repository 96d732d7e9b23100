package tick

import (
	"testing"
	"time"
)

func TestAfter(t *testing.T) {
	start := time.Now()
	first := After(start, grid)
	for _, d := range []time.Duration{time.Second, 1499 * time.Millisecond, 1501 * time.Millisecond, time.Hour + 700*time.Millisecond} {
		at := After(start, d)
		if off := at.Sub(start.Add(d)).Abs(); off > grid/2 {
			t.Errorf("after %v: %v off", d, off)
		}
		if part := at.Sub(first) % grid; part != 0 {
			t.Errorf("after %v: %v from the grid", d, part)
		}
	}
	// A duty that takes some time stays on the grid, and does not miss instants.
	if at := After(first.Add(grid/3), grid); !at.Equal(first.Add(grid)) {
		t.Errorf("the next one comes %v later", at.Sub(first))
	}
	if at := After(start, grid/2); !at.Equal(start.Add(grid / 2)) {
		t.Errorf("half a second became %v", at.Sub(start))
	}
}

func TestIn(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, 2 * time.Second} {
		if got := In(d); got < d-grid/2 || got > d+grid/2 {
			t.Errorf("In(%v) = %v", d, got)
		}
	}
}

func TestNext(t *testing.T) {
	for range 100 {
		before := time.Now()
		d := Next()
		if d <= 0 || d > grid {
			t.Fatalf("the next instant is in %v", d)
		}
		late := time.Since(before)
		if off := After(before.Add(d), grid).Sub(before.Add(d + grid)); off < 0 || off > late {
			t.Fatalf("the next instant is %v from the grid", off)
		}
	}
}
