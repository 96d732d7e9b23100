package feeder

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/notify"
	"linkcancel/internal/testutil"
)

// notifying gives a feeder a dispatcher that sends nothing by itself.
func notifying(t *testing.T, y *yard, f *Feeder) {
	t.Helper()
	receivers, err := notify.Receivers(notify.Config{URLs: []string{"https://example.com/hook"}, Format: notify.FormatGeneric})
	testutil.Must(t, err)
	f.cfg.Notifier = notify.NewDispatcher(receivers, y.l, slog.New(slog.DiscardHandler), func(string) {})
}

// outbox are the types of what waits in the outbox, by subject.
func (y *yard) outbox() map[string][]string {
	y.t.Helper()
	all, err := y.l.Deliveries(y.t.Context())
	testutil.Must(y.t, err)
	got := map[string][]string{}
	for _, d := range all {
		got[d.Subject] = append(got[d.Subject], d.Type)
	}
	return got
}

// What happens to batches and sweeps gets into the outbox, whichever leader sees it. A batch is not
// retired before.
func TestNotifications(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		ctx, ann := t.Context(), history.By{Actor: "ann"}
		y.batch("b1", importer.SourceImport, 10)
		f := y.feeder(1000)
		notifying(t, y, f)
		y.tick(f)
		_, _, err := y.l.Pause(ctx, "b1", ann)
		testutil.Must(t, err)
		// This leader dies before it sees the rest.
		f.resign()
		_, _, err = y.l.Resume(ctx, "b1", ann)
		testutil.Must(t, err)
		y.record(ledger.Cancelled, 0, 0, 10)
		testutil.Must(t, y.l.NoteCommandSweep(ctx, ledger.SweepRun{Error: "no list"}, ann, ""))
		next := y.feeder(1000)
		notifying(t, y, next)
		y.ticks(next, 10*time.Second)
		got := y.outbox()
		if want := []string{notify.BatchPaused, notify.BatchDone}; len(got["b1"]) != 2 || got["b1"][0] != want[0] || got["b1"][1] != want[1] {
			t.Errorf("%v", got)
		}
		if len(got[history.Sweep]) != 1 || got[history.Sweep][0] != notify.SweepFailed {
			t.Errorf("%v", got)
		}
		if y.rdb.TTL(ctx, "lc:{b1}").Val() <= 0 {
			t.Error("the batch is not retired")
		}
	})
}

// The end of a batch may be recorded in any round of the leader.
func TestNoEndIsMissed(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		f := y.feeder(1000)
		notifying(t, y, f)
		for i := range 20 {
			id := "b" + string(rune('a'+i))
			y.batch(id, importer.SourceImport, 1)
			y.tick(f)
			testutil.Must(t, y.l.Commit(context.Background(), []ledger.Group{{Batch: id, Entries: []ledger.Entry{{Record: ledger.Record{Outcome: ledger.Cancelled}}}}})[0].Err)
			testutil.Advance(time.Duration(i) * 37 * time.Millisecond)
			y.tick(f)
		}
		y.ticks(f, 5*time.Second)
		if got := y.outbox(); len(got) != 20 {
			t.Errorf("%d of 20 ends are in the outbox: %v", len(got), got)
		}
		if open, err := y.l.Unfinished(t.Context()); len(open) > 0 || err != nil {
			t.Errorf("%d batches are not retired, %v", len(open), err)
		}
	})
}

// The history of a deleted batch is not told again for a new batch with its id.
func TestNotificationsOfAReusedID(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		ctx, ann := t.Context(), history.By{Actor: "ann"}
		y.batch("b1", importer.SourceImport, 10)
		f := y.feeder(1000)
		notifying(t, y, f)
		y.ticks(f, time.Second)
		y.record(ledger.Cancelled, 0, 0, 10)
		y.ticks(f, 5*time.Second)
		sent, err := y.l.Deliveries(ctx)
		testutil.Must(t, err)
		for _, d := range sent {
			d.OK, d.Ended = true, time.Now()
			testutil.Must(t, y.l.EndDelivery(ctx, d))
		}
		b, err := y.l.Get(ctx, "b1")
		testutil.Must(t, err)
		testutil.Must(t, y.l.Delete(ctx, b, ann, 30*24*time.Hour))
		testutil.Advance(20 * time.Minute)
		y.batch("b1", importer.SourceImport, 7)
		y.ticks(f, 3*time.Second)
		if got := y.outbox(); len(sent) != 1 || len(got) > 0 {
			t.Errorf("sent %v, then %v", sent, got)
		}
		y.record(ledger.Cancelled, 0, 0, 7)
		y.ticks(f, 5*time.Second)
		if got := y.outbox()["b1"]; len(got) != 1 || got[0] != notify.BatchDone {
			t.Errorf("%v", got)
		}
	})
}

// A process that takes the lease again reads the outbox again: others may have led since.
func TestOutboxIsReadAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		ctx := t.Context()
		y.batch("b1", importer.SourceImport, 10)
		f := y.feeder(1000)
		notifying(t, y, f)
		y.ticks(f, 2*time.Second)
		// What cannot be read shows who reads.
		testutil.Must(t, y.rdb.HSet(ctx, "lc:{lc:notify}:o", "x", "{").Err())
		for range 5 {
			testutil.Advance(time.Second)
			if _, err := f.tick(ctx); err != nil {
				t.Fatalf("it was read while the lease was held: %v", err)
			}
		}
		testutil.Advance(leaseTTL + time.Second)
		if _, err := f.tick(ctx); err == nil || !strings.Contains(err.Error(), "outbox") {
			t.Errorf("%v", err)
		}
	})
}

// A duty that always fails does not keep the others from being done.
func TestDutiesTakeTurns(t *testing.T) {
	done := [3]int{}
	failed := errors.New("it fails")
	r := &repairer{log: slog.New(slog.DiscardHandler)}
	for i := range done {
		r.duties = append(r.duties, duty{run: func(context.Context, []*batch) error {
			done[i]++
			if i == 1 {
				return failed
			}
			return nil
		}})
	}
	for range 10 {
		if err := r.do(t.Context(), nil); !errors.Is(err, failed) {
			t.Fatal(err)
		}
	}
	if done[0] < 9 || done[1] != 10 || done[2] < 9 {
		t.Errorf("done %v times", done)
	}
}
