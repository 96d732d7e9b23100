package feeder

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/archive"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/testutil"
)

// logging lets a feeder log into a text without times.
func logging(f *Feeder) *testutil.Log {
	var text testutil.Log
	f.cfg.Log = slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "took" || a.Key == "rate" {
			return slog.Attr{}
		}
		return a
	}}))
	f.trouble.Log, f.archiver.trouble.Log = f.cfg.Log, f.cfg.Log
	return &text
}

// What is new in the histories is logged once, by whichever feeder leads.
func TestActivityIsLogged(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		ctx, ann := t.Context(), history.By{Actor: "ann", Reason: "the wrong file"}
		y.batch("b1", importer.SourceImport, 3)
		f := y.feeder(100)
		f.cfg.Process = "w1"
		log := logging(f)
		y.ticks(f, 3*time.Second)
		_, _, err := y.l.Pause(ctx, "b1", ann)
		testutil.Must(t, err)
		testutil.Must(t, ratelimit.SetFleetRate(ctx, y.rdb, 5, ann))
		y.ticks(f, 3*time.Second)
		f.resign()

		// Nobody leads for a while.
		_, _, err = y.l.Resume(ctx, "b1", ann)
		testutil.Must(t, err)
		testutil.Advance(time.Minute)
		next := y.feeder(100)
		next.cfg.Log = f.cfg.Log
		y.ticks(next, 3*time.Second)
		c := y.l.Commit(ctx, []ledger.Group{{Batch: "b1", Entries: []ledger.Entry{
			{Position: 0, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}, {Position: 1, Record: ledger.Record{Outcome: ledger.Failed, Attempts: 1}},
			{Position: 2, Record: ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 1}},
		}}})
		testutil.Must(t, c[0].Err)
		y.ticks(next, 3*time.Second)
		want := `level=INFO msg="batch queued" batch=b1 detail="3 links"
level=INFO msg="batch started" batch=b1 worker=w1
level=INFO msg="batch paused" batch=b1 by=ann reason="the wrong file"
level=INFO msg="limit set" by=ann detail=5/s reason="the wrong file"
level=INFO msg="batch resumed" batch=b1 by=ann reason="the wrong file" at=TIME
level=WARN msg="batch finished" batch=b1 state=done links=3 cancelled=1 already_cancelled=1 failed=1 may_be_payable=1
`
		got := regexp.MustCompile(`at=\S+`).ReplaceAllString(log.String(), "at=TIME")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		all, err := y.l.Activity(ctx, 0)
		if len(all) != 6 || err != nil {
			t.Errorf("%d entries, %v", len(all), err)
		}
	})
}

// archived counts attempts.
type archived struct {
	mu         sync.Mutex
	ok, failed int
}

func (*archived) Repaired(string, int) {}
func (a *archived) Archived(ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ok {
		a.ok++
	} else {
		a.failed++
	}
}

// A finished batch is kept until it is archived.
func TestArchive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	inBubble(t, func(t *testing.T, y *yard) {
		ctx, seen := t.Context(), &archived{}
		old := y.batch("old", importer.SourceImport, 2)
		y.batch("new", importer.SourceImport, 2)
		for _, id := range []string{"old", "new"} {
			_, _, err := y.l.Abort(ctx, id, history.By{Actor: "ann"})
			testutil.Must(t, err)
			testutil.Must(t, y.l.FillAborted(ctx, y.get(id)))
		}
		testutil.Must(t, y.l.Retire(ctx, old, time.Hour)) // by a leader without a folder
		f := y.feeder(100)
		f.cfg.Process, f.cfg.ArchiveDir, f.cfg.Observer = "w1", dir, seen
		log := logging(f)
		y.ticks(f, 90*time.Second)
		if seen.failed < 2 || seen.failed > 3 || seen.ok != 0 || strings.Count(log.String(), "cannot archive finished batches") != 1 {
			t.Errorf("without the folder: %+v\n%s", seen, log)
		}
		if ttl := y.rdb.TTL(ctx, "lc:{new}").Val(); ttl != -1 {
			t.Errorf("the batch expires in %v", ttl)
		}
		testutil.Must(t, os.Mkdir(dir, 0o700))
		for range 3 {
			y.ticks(f, 65*time.Second)
			due(f)
		}
		if seen.ok != 2 || strings.Count(log.String(), "finished batches are archived again") != 1 {
			t.Errorf("with the folder: %+v\n%s", seen, log)
		}
		found, err := archive.Verify(dir)
		if len(found) != 2 || !found[0].OK() || !found[1].OK() || err != nil {
			t.Errorf("%+v, %v", found, err)
		}
		for i, id := range []string{"new", "old"} {
			entries, err := y.l.History(ctx, id)
			testutil.Must(t, err)
			last := entries[len(entries)-1]
			if last.Action != history.Archive || !last.Auto || last.Actor != "w1" || last.Detail != found[i].Name+", SHA-256 "+found[i].Sum {
				t.Errorf("%+v", last)
			}
			if ttl := y.rdb.TTL(ctx, "lc:{"+id+"}").Val(); ttl <= 0 || ttl > time.Hour {
				t.Errorf("batch %s expires in %v", id, ttl)
			}
		}
		if n := strings.Count(log.String(), `msg="batch archived"`); n != 2 {
			t.Errorf("%d archives in the log:\n%s", n, log)
		}
		all, err := y.l.Activity(ctx, 0)
		testutil.Must(t, err)
		indexed := 0
		for _, e := range all {
			if e.Action == history.Archive {
				indexed++
			}
		}
		if indexed != 2 {
			t.Errorf("%d archives in the index", indexed)
		}
		if n := y.rdb.SCard(ctx, "lc:open").Val(); n != 0 {
			t.Errorf("%d unfinished batches", n)
		}
	})
}
