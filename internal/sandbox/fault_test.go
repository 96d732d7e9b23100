package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEachFault(t *testing.T) {
	for name, test := range map[string]struct {
		faults  Faults
		status  int
		body    string
		applied int
	}{
		"error500":    {Faults{Error500: 1}, 500, `{"code":1,"message":"service unavailable"`, 0},
		"html502":     {Faults{HTML502: 1}, 502, "<html>", 0},
		"cut":         {Faults{Cut: 1}, 0, "", 1},
		"cut_before":  {Faults{CutBefore: 1}, 0, "", 0},
		"bad_request": {Faults{BadRequest: 1}, 400, `{"code":3`, 0},
		"forbidden":   {Faults{Forbidden: 1}, 403, `{"code":2`, 0},
		"friendly":    {Faults{Friendly: 1}, 200, "<!doctype html>", 0},
	} {
		var log strings.Builder
		s := New(Config{IDs: []string{"a"}, Faults: test.faults, Log: &log})
		status, body := call(s, "DELETE", "/v1/payment-links/a")
		if status != test.status || !strings.HasPrefix(body, test.body) || s.Applied("a") != test.applied {
			t.Errorf("%s: %d %s, applied %d", name, status, body, s.Applied("a"))
		}
		if got := link1(s, "GET", "a"); got != 200 {
			t.Errorf("%s: GET = %d without Gets", name, got)
		}
		if got := link1(s, "DELETE", "unknown"); got != 404 {
			t.Errorf("%s: an unknown link = %d", name, got)
		}
		s.Close()
		want := fmt.Sprintf(`"status":%d,"fault":%q,"applied":%v}`, test.status, name, test.applied == 1)
		if !strings.Contains(log.String(), want) {
			t.Errorf("log %s, want %s", &log, want)
		}
		test.faults.Gets = true
		s.SetFaults(test.faults)
		if got := link1(s, "GET", "a"); got != test.status {
			t.Errorf("%s: GET = %d with Gets", name, got)
		}
		if got, _ := call(s, "GET", "/v1/payment-links"); got != 200 {
			t.Errorf("%s: list = %d without Lists", name, got)
		}
		test.faults.Lists = true
		s.SetFaults(test.faults)
		if got, _ := call(s, "GET", "/v1/payment-links?page=2"); got != test.status {
			t.Errorf("%s: list = %d with Lists", name, got)
		}
		s.SetFaults(Faults{})
		if got := link1(s, "DELETE", "a"); got != 204 && test.applied == 0 {
			t.Errorf("%s: %d when it is over", name, got)
		}
	}
}

func TestCutOverConnection(t *testing.T) {
	s := New(Config{IDs: []string{"a"}, Faults: Faults{Cut: 1}})
	do := overTCP(t, s)
	if status, err := do(t.Context(), "DELETE", "a"); err == nil || s.Applied("a") != 1 {
		t.Errorf("DELETE = %d, %v, applied %d", status, err, s.Applied("a"))
	}
}

func TestHang(t *testing.T) {
	for _, apply := range []bool{false, true} {
		s := New(Config{IDs: []string{"a"}, Faults: Faults{Hang: 1, HangApplied: apply}})
		do := overTCP(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := do(ctx, "DELETE", "a")
		cancel()
		if want := map[bool]int{true: 1}[apply]; !errors.Is(err, context.DeadlineExceeded) || s.Applied("a") != want {
			t.Errorf("%v, applied %d, want %d", err, s.Applied("a"), want)
		}
		s.Close()
		if _, err := do(t.Context(), "DELETE", "a"); err == nil {
			t.Error("a closed server answered a request that hangs")
		}
	}
}

func TestCloseReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{IDs: []string{"a"}, Faults: Faults{Hang: 1}})
		var status int
		var done sync.WaitGroup
		done.Go(func() { status = link1(s, "DELETE", "a") })
		synctest.Wait() // it hangs
		s.Close()
		s.Close()
		done.Wait()
		if status != 0 {
			t.Errorf("status %d", status)
		}
	})
}

// The work is done before the wait, so a client that gives up has done it.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Links: 100, Latency: time.Second, Jitter: time.Second})
		var fastest, slowest time.Duration
		for _, id := range s.IDs() {
			start := time.Now()
			if got := link1(s, "DELETE", id); got != 204 {
				t.Fatalf("status %d", got)
			}
			took := time.Since(start)
			if fastest == 0 || took < fastest {
				fastest = took
			}
			slowest = max(slowest, took)
		}
		if fastest < time.Second || fastest > 1200*time.Millisecond || slowest > 2*time.Second || slowest < 1800*time.Millisecond {
			t.Errorf("answers took %v to %v, want 1 s to 2 s", fastest, slowest)
		}
		s.SetStatus("a", "active")
		var done sync.WaitGroup
		done.Go(func() { link1(s, "DELETE", "a") })
		synctest.Wait()
		if s.Applied("a") != 1 {
			t.Error("not applied while the answer waits")
		}
		done.Wait()
	})
}

// mixed is a bit of everything that does not hang.
var mixed = Faults{Error500: 0.1, HTML502: 0.1, Cut: 0.1, CutBefore: 0.1, BadRequest: 0.1, Forbidden: 0.1, Friendly: 0.1, Gets: true}

// outcomes asks for every link several times, in that order of links and with
// that many workers, and returns what each link saw.
func outcomes(s *Server, order []int, workers int) map[string][]int {
	ids := s.IDs()
	seen := make([][]int, len(ids))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(order); i += workers {
				n := order[i]
				for range 4 {
					seen[n] = append(seen[n], link1(s, "DELETE", ids[n]), link1(s, "GET", ids[n]))
				}
			}
		})
	}
	wg.Wait()
	all := make(map[string][]int)
	for i, id := range ids {
		all[id] = seen[i]
	}
	return all
}

func TestDeterministic(t *testing.T) {
	cfg := Config{Seed: 42, Links: 400, IDs: []string{"a", "b"}, Paid: 0.1, Missing: 0.1, Faults: mixed}
	one := New(cfg)
	order := rand.New(rand.NewPCG(1, 2)).Perm(len(one.IDs()))
	sorted := slices.Sorted(slices.Values(order))
	alone := outcomes(one, sorted, 1)
	// Others come first, and are turned away: they must not move the draws.
	two := New(cfg)
	two.SetOutage(503)
	for _, id := range two.IDs() {
		link1(two, "DELETE", id)
	}
	two.SetOutage(0)
	two.SetKey("other")
	link1(two, "DELETE", "a")
	two.SetKey("")
	if diff := cmp.Diff(alone, outcomes(two, order, 8)); diff != "" {
		t.Errorf("scheduling changes the answers: %s", diff)
	}
	cfg.Seed++
	if other := New(cfg); cmp.Equal(alone["a"], outcomes(other, sorted, 1)["a"]) || cmp.Equal(one.IDs(), other.IDs()) {
		t.Error("the seed changes nothing")
	}
	for _, id := range one.IDs() {
		if n := one.Applied(id); n > 1 {
			t.Errorf("%s was cancelled %d times", id, n)
		}
	}
}

func TestFaultShares(t *testing.T) {
	const n = 20_000
	s := New(Config{Seed: 5, Links: n, Faults: mixed})
	count := map[int]float64{}
	for _, id := range s.IDs() {
		count[link1(s, "DELETE", id)]++
	}
	for status, want := range map[int]float64{500: 0.1, 502: 0.1, 0: 0.2, 400: 0.1, 403: 0.1, 200: 0.1, 204: 0.3} {
		if got := count[status] / n; got < want-0.015 || got > want+0.015 {
			t.Errorf("share of %d: %.3f, want %.3f", status, got, want)
		}
	}
}

// Which requests for a page fail depends on the page and on how often it was
// asked for, not on what was asked for in between.
func TestListFaults(t *testing.T) {
	draw := func(order ...int) map[int][]int {
		s := New(Config{Seed: 5, Links: 500, Faults: Faults{Error500: 0.5, Lists: true}})
		got := map[int][]int{}
		for _, page := range order {
			status, _ := call(s, "GET", fmt.Sprintf("/v1/payment-links?page=%d", page))
			got[page] = append(got[page], status)
		}
		return got
	}
	one, other := draw(1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2), draw(2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1)
	if diff := cmp.Diff(one, other); diff != "" {
		t.Error(diff)
	}
	for page, statuses := range one {
		if !slices.Contains(statuses, 200) || !slices.Contains(statuses, 500) {
			t.Errorf("page %d: %v", page, statuses)
		}
	}
}
