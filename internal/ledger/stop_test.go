package ledger

import (
	"strings"
	"testing"

	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
)

func TestParsePauseAbove(t *testing.T) {
	for text, want := range map[string]string{"": "", "off": "off", "5%": "5%", " 2.50% ": "2.5%", "0%": "0%", "20": "20", "0": "0", "007": "7"} {
		if got, err := ParsePauseAbove(text); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"5 %%", "100%", "-1", "-1%", "x", "1.5", "NaN%", "%"} {
		if got, err := ParsePauseAbove(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// stopping makes a running batch "b" with a stop condition.
func (l *bench) stopping(total int, pauseAbove string) {
	l.Helper()
	b := l.batch("b", total, false)
	b.PauseAbove = pauseAbove
	l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
}

// ends records outcomes for links from..to-1, in calls of so many links, until the batch is paused. It
// returns how many were recorded then, or -1.
func (l *bench) ends(from, to, size int, outcome func(link int) Entry) int {
	l.Helper()
	for at := from; at < to; at += size {
		var entries []Entry
		for link := at; link < min(at+size, to); link++ {
			e := outcome(link)
			e.Position = link % ChunkLinks
			entries = append(entries, e)
		}
		c := l.Commit(l.Context(), []Group{{Batch: "b", Chunk: at / ChunkLinks, Entries: entries}})[0]
		l.must(c.Err)
		if c.State == Paused {
			return min(at+size, to)
		}
	}
	return -1
}

func bad(Outcome) Entry {
	return Entry{Record: Record{Outcome: Rejected, Attempts: 1, HTTPStatus: 400}}
}
func fine() Entry { return Entry{Record: Record{Outcome: Cancelled, Attempts: 1}} }

// when returns bad entries for the links that is names.
func when(is func(link int) bool) func(int) Entry {
	return func(link int) Entry {
		if is(link) {
			return bad(Rejected)
		}
		return fine()
	}
}

func TestStopCondition(t *testing.T) {
	hold(t, []rule{
		{"a share pauses from 50 outcomes on", func(l *bench) {
			l.stopping(1000, "5%")
			l.equal("paused after", 50, l.ends(0, 1000, 1, when(func(link int) bool { return link < 3 })))
			b := l.get("b")
			l.equal("reason", "threshold:3 of the last 50 links", b.Reason)
			l.equal("state", Paused, b.State)
		}},
		{"exactly the share does not", func(l *bench) {
			l.stopping(1000, "6%")
			l.equal("paused after", -1, l.ends(0, 1000, 1, when(func(link int) bool { return link < 3 || link >= 100 && link%20 == 0 })))
		}},
		{"only the last 500 count", func(l *bench) {
			l.stopping(3000, "5%")
			at := l.ends(0, 3000, 1, when(func(link int) bool { return link >= 2000 && link%2 == 1 }))
			l.equal("paused after", 2052, at)
			l.equal("reason", "threshold:26 of the last 500 links", l.get("b").Reason)
		}},
		{"so it is in calls of many links", func(l *bench) {
			for _, size := range []int{7, 50, 200} {
				l.stopping(3000, "5%")
				at := l.ends(0, 3000, size, when(func(link int) bool { return link >= 2000 && link%2 == 1 }))
				if at < 2052 || at >= 2052+size+size {
					l.Errorf("in calls of %d: paused after %d", size, at)
				}
				redistest.Flush(l.T, l.rdb)
			}
		}},
		{"a number pauses above it, over the whole batch", func(l *bench) {
			l.stopping(3000, "20")
			at := l.ends(0, 3000, 1, when(func(link int) bool { return link%100 == 99 }))
			l.equal("paused after", 2100, at)
			l.equal("reason", "threshold:21 links", l.get("b").Reason)
		}},
		{"what counts", func(l *bench) {
			l.stopping(1000, "3")
			paid := Entry{Record: Record{Outcome: NotCancellable, Attempts: 1, HTTPStatus: 422}, LinkStatus: "paid"}
			active := Entry{Record: Record{Outcome: NotCancellable, Attempts: 1, HTTPStatus: 422}, LinkStatus: "active", Payable: true}
			kinds := []Entry{fine(), paid, {Record: Record{Outcome: AlreadyCancelled}}, {Record: Record{Attempts: 3}}, // do not
				active, {Record: Record{Outcome: NotFound}}, {Record: Record{Outcome: Failed}}, bad(Rejected)} // do
			l.equal("paused after", 8, l.ends(0, 8, 1, func(link int) Entry { return kinds[link] }))
			for position, want := range kinds {
				r, err := l.LinkAt(l.Context(), "b", position)
				l.must(err)
				l.equal("outcome", want.Record.Outcome, r.Record.Outcome)
				l.equal("HTTP status", want.Record.HTTPStatus, r.Record.HTTPStatus)
				l.equal("link status", want.LinkStatus, r.LinkStatus)
			}
		}},
		{"a repeated call counts once", func(l *bench) {
			l.stopping(100, "3")
			for range 5 {
				l.equal("paused after", -1, l.ends(0, 3, 3, when(func(int) bool { return true })))
			}
		}},
		{"a resume counts anew, and may change the condition", func(l *bench) {
			l.stopping(3000, "5%")
			l.equal("paused after", 50, l.ends(0, 100, 50, when(func(int) bool { return true })))
			_, _, err := l.Resume(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("paused after", -1, l.ends(50, 99, 1, when(func(int) bool { return true })))
			l.equal("paused after", 100, l.ends(99, 150, 1, when(func(int) bool { return true })))
			_, _, err = l.ResumeWith(l.Context(), "b", "off", history.By{Actor: "ann"})
			l.must(err)
			l.equal("paused after", -1, l.ends(100, 3000, 50, when(func(int) bool { return true })))
			b := l.get("b")
			l.equal("state", Done, b.State)
			l.equal("condition", "off", b.PauseAbove)
			entries, err := l.History(l.Context(), "b")
			l.must(err)
			var texts []string
			for _, e := range entries {
				texts = append(texts, string(e.Action)+" "+e.Reason+e.Detail)
			}
			if all := strings.Join(texts, "\n"); !strings.Contains(all, "pause threshold:50 of the last 50 links\nresume \npause threshold:50 of the last 50 links\nresume pause above off") {
				l.Errorf("%s", all)
			}
		}},
		{"a batch has its own condition before that of the workers", func(l *bench) {
			d := l.create(DraftConfig{ID: "b", Source: "import", Terms: Terms{PauseAbove: "off"}})
			l.must(d.Write(l.Context(), []string{"x1", "x2"}))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			b := l.get("b")
			b.PauseAbove = "1"
			l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
			l.equal("condition", "off", l.get("b").PauseAbove)
		}},
		{"a batch without it is never paused", func(l *bench) {
			l.stopping(1000, "")
			l.equal("paused after", -1, l.ends(0, 1000, 100, when(func(int) bool { return true })))
		}},
		{"the last outcome ends the batch, and pauses nothing", func(l *bench) {
			l.stopping(60, "5%")
			l.equal("paused after", -1, l.ends(0, 60, 60, when(func(int) bool { return true })))
			l.equal("state", Done, l.get("b").State)
		}},
		{"an aborted batch stays aborted", func(l *bench) {
			l.stopping(1000, "5%")
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("paused after", -1, l.ends(0, 100, 10, when(func(int) bool { return true })))
			l.equal("state", AbortedState, l.get("b").State)
		}},
	})
}

func TestSetPriority(t *testing.T) {
	hold(t, []rule{
		{"of an open batch", func(l *bench) {
			l.batch("b", 3, false)
			for _, want := range []bool{true, false} {
				state, changed, err := l.SetPriority(l.Context(), "b", PriorityHigh, history.By{Actor: "ann"})
				l.must(err)
				l.equal("state", Ready, state)
				l.equal("changed", want, changed)
			}
			l.equal("priority", PriorityHigh, l.get("b").Priority)
		}},
		{"not of one that has ended, or of none", func(l *bench) {
			l.running(1)
			l.must(l.Commit(l.Context(), []Group{{Batch: "b", Entries: outcomes(Cancelled, 0, 1)}})[0].Err)
			state, changed, err := l.SetPriority(l.Context(), "b", PriorityHigh, history.By{Actor: "ann"})
			l.must(err)
			l.equal("state", Done, state)
			l.equal("changed", false, changed)
			_, _, err = l.SetPriority(l.Context(), "none", PriorityHigh, history.By{Actor: "ann"})
			l.fails("none", err, ErrNoBatch)
		}},
	})
}
