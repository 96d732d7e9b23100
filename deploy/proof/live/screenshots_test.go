package live

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"linkcancel/deploy/proof/repo"
)

// TestScreenshots runs a fleet for five minutes, and draws the dashboard while it
// is at work: make screenshots. It is no proof, but needs the same programs.
func TestScreenshots(t *testing.T) {
	if os.Getenv("SCREENSHOTS") == "" {
		t.Log("make screenshots draws the dashboard")
		return
	}
	const (
		interval = 2 * time.Second
		shown    = 4 * time.Minute
		tick     = 30 * time.Second // between two labels of the axis of time
	)
	s := newStack(t, load{
		// The sweep comes after the imports, or it would take links of theirs.
		links: 20000, rate: "100/s", interval: interval.String(), sweep: 2 * time.Minute,
		worker: []string{"--attempts", "3"}, // so that some links fail
		api: []string{"--limit", "80", "--latency", "30ms", "--jitter", "90ms", "--error-500", "0.05", "--html-502", "0.02",
			"--cut", "0.02", "--cut-before", "0.02", "--bad-request", "0.003", "--friendly", "0.005"},
	})
	began := time.Now()

	s.imports(t, "stale-checkouts", 0, 13500)
	s.awaitPending(t, "stale-checkouts", 12000)
	s.imports(t, "holiday-sale", 13500, 16000)
	s.awaitPending(t, "holiday-sale", 1500)
	s.imports(t, "refunded-orders", 16000, 18000)
	s.awaitPending(t, "refunded-orders", 1600)
	s.cli(t, "batch", "pause", "refunded-orders")
	s.awaitPending(t, "stale-checkouts", 9500)
	s.cli(t, "rate", "hold", "--for", "12s", "--yes")
	s.awaitPending(t, "stale-checkouts", 7000)
	s.await(t, "the sweep", func(all []batch) bool {
		return slices.ContainsFunc(all, func(b batch) bool { return b.Source == "sweep" })
	})
	s.awaitPending(t, "stale-checkouts", 4500)
	s.await(t, "enough to show", func([]batch) bool { return time.Since(began) > shown+tick })

	// No label is cut off at the end.
	to := time.Now().Add(-tick * 2 / 3).Truncate(tick).Add(tick * 2 / 3)
	cmd := exec.Command("node", repo.Path(t, "deploy/screenshots/draw.js"), s.fast.url,
		strconv.FormatInt(to.Add(-shown).UnixMilli(), 10), strconv.FormatInt(to.UnixMilli(), 10), interval.String())
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("draw the dashboard: %v", err)
	}
}

// cli runs a command on the fleet.
func (s *stack) cli(t *testing.T, args ...string) {
	t.Helper()
	run(t, s.env, s.binary, args...)
}

// await waits for the batches to be so.
func (s *stack) await(t *testing.T, what string, done func([]batch) bool) {
	t.Helper()
	until(t, what, func() (bool, any) {
		all := s.batches(t)
		return done(all), all
	})
}

// awaitPending waits until a batch has at most so many links left.
func (s *stack) awaitPending(t *testing.T, id string, most int64) {
	t.Helper()
	s.await(t, "batch "+id+" to get on", func(all []batch) bool {
		i := slices.IndexFunc(all, func(b batch) bool { return b.Batch == id })
		return i >= 0 && all[i].Pending <= most
	})
}
