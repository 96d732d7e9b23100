package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

func TestPrintActivity(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	entry := func(owner, actor string, action history.Action, detail, reason string) history.Entry {
		return history.Entry{Owner: owner, Time: at, Change: history.Change{Actor: actor, Action: action, Detail: detail, Reason: reason}}
	}
	var got strings.Builder
	printActivity(&got, []history.Entry{
		entry("march", "ann@desk", history.Delete, "2 links", "a mistake"),
		entry("march", history.Self, history.Finish, "19980 cancelled, 20 failed", ""),
		entry("march", "ann@desk", history.Resume, "50 links again", ""),
		entry("march", history.Self, history.Pause, "", "canary:not_found"),
		entry(history.Rate, "bob", history.RateHold, "until it is released", "\x1b[2JPlexy asked"),
		entry("march", "new", "levitate", "high", ""),
	})
	want := `TIME (UTC)           WHO         BATCH  WHAT
2026-03-01 12:00:00  ann@desk    march  deleted 2 links (a mistake)
2026-03-01 12:00:00  linkcancel  march  ended: 19,980 cancelled, 20 failed
2026-03-01 12:00:00  ann@desk    march  resumed: 50 links again
2026-03-01 12:00:00  linkcancel  march  paused (canary: 50 links in a row were not_found)
2026-03-01 12:00:00  bob                put sending on hold until it is released (\x1b[2JPlexy asked)
2026-03-01 12:00:00  new         march  levitate high
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

// A command is killed at a random moment, 200 times: what it changed is in the history, and nothing
// else is.
func TestKilledCommandLeavesItsEntry(t *testing.T) {
	if !redistest.Have(t) {
		t.Skip("needs redis-server")
	}
	t.Parallel()
	binary, url := fastBinary(t), redistest.Start(t)
	b, err := broker.Open(t.Context(), broker.Config{URL: url})
	testutil.Must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	l := ledger.New(b.Client())
	csv := filepath.Join(t.TempDir(), "links.csv")
	testutil.Must(t, os.WriteFile(csv, []byte("id\npl_1\n"), 0o600))
	took := 20 * time.Millisecond // about what a command takes on this machine at its present load
	changed := 0
	for i := range 200 {
		id, reason := fmt.Sprintf("b%d", i/5), fmt.Sprintf("try %d", i)
		args := [][]string{
			{"import", csv, "--id", id, "--yes"}, {"batch", "pause", id}, {"batch", "resume", id}, {"rate", "set", fmt.Sprintf("%d/s", i+1)}, {"batch", "abort", id, "--yes"},
		}[i%5]
		before, _ := l.Get(t.Context(), id)
		rate, err := ratelimit.ShowFleet(t.Context(), b.Client())
		testutil.Must(t, err)
		cmd := exec.Command(binary, append(args, "--reason", reason, "--redis-url", url)...)
		testutil.Must(t, cmd.Start())
		time.Sleep(rand.N(2 * took))
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		after, _ := l.Get(t.Context(), id)
		rateAfter, err := ratelimit.ShowFleet(t.Context(), b.Client())
		testutil.Must(t, err)
		did := rate.Ceiling != rateAfter.Ceiling || before.State != after.State && after.State != ledger.Importing
		all, err := l.Activity(t.Context(), 0)
		testutil.Must(t, err)
		entries := 0
		for _, e := range all {
			if e.Reason == reason {
				entries++
			}
		}
		want := 0
		if did {
			want = 1
			changed++
			took = max(time.Millisecond, took*9/10)
		} else {
			took = took * 11 / 10
		}
		if entries != want {
			t.Errorf("%q: from %v to %v, from %v to %v: %d entries", args, before.State, after.State, rate.Ceiling, rateAfter.Ceiling, entries)
		}
		if after.State == ledger.Importing { // its importer is dead, and would block the id for 30 s
			_, err := l.DiscardDead(t.Context(), id, 0)
			testutil.Must(t, err)
		}
	}
	if changed < 20 || changed == 200 {
		t.Errorf("%d of 200 commands made their change", changed)
	}
}
