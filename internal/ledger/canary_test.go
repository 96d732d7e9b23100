package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// watched makes a running batch "b" with its canary on.
func (l *bench) watched(total int) Batch {
	l.Helper()
	b := l.batch("b", total, true)
	l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
	return b
}

// plainly are outcomes that rest on answers the API may not have given.
func plainly(o Outcome, from, to int) []Entry {
	entries := outcomes(o, from, to)
	for i := range entries {
		entries[i].Record.Plain = true
	}
	return entries
}

// at commits entries to a chunk of batch "b".
func (l *bench) at(chunk int, entries ...Entry) Committed {
	l.Helper()
	c := l.Commit(l.Context(), []Group{{Batch: "b", Chunk: chunk, Entries: entries}})[0]
	l.must(c.Err)
	return c
}

// row checks the canary's row of batch "b".
func (l *bench) row(what string, want ...int) {
	l.Helper()
	row, err := l.rdb.Get(l.Context(), keyRow("b")).Bytes()
	if !errors.Is(err, redis.Nil) {
		l.must(err)
	}
	var got []int
	for ; len(row) >= 4; row = row[4:] {
		got = append(got, int(binary.BigEndian.Uint32(row)))
	}
	l.equal(what, want, got)
}

// span are the places from one to another.
func span(from, to int) (places []int) {
	for i := from; i < to; i++ {
		places = append(places, i)
	}
	return places
}

// addsUp checks the counters of batch "b" against its records.
func (l *bench) addsUp() {
	l.Helper()
	b := l.get("b")
	s, err := l.Snapshot(l.Context(), b)
	l.must(err)
	var recount Counts
	for place := range int(b.Total) {
		recount[s.Record(place).Outcome]++
	}
	l.equal("pending", recount[None], b.Pending())
	recount[None] = 0
	l.equal("the counters against the records", recount, b.Counts)
}

func TestCanary(t *testing.T) {
	calls := func(parts ...[]Entry) [][]Entry { return parts }
	join := slices.Concat[[]Entry]
	const nf, rejected = "canary:not_found", "canary:rejected"
	var rules []rule
	for _, tt := range []struct {
		name   string
		total  int
		calls  [][]Entry
		state  State
		reason string
	}{
		{"49 are too few", 100, calls(outcomes(NotFound, 0, 49)), Running, ""},
		{"50 not found", 100, calls(outcomes(NotFound, 0, 50)), Paused, nf},
		{"50 rejected", 100, calls(outcomes(Rejected, 0, 50)), Paused, rejected},
		{"the 50th", 100, calls(outcomes(NotFound, 0, 49), outcomes(NotFound, 49, 50)), Paused, nf},
		{"more than 50 at once", 500, calls(outcomes(Rejected, 0, 20), outcomes(Rejected, 20, 400)), Paused, rejected},
		{"50 of another outcome", 100, calls(outcomes(Failed, 0, 50)), Running, ""},
		{"both mixed", 100, calls(outcomes(NotFound, 0, 49), outcomes(Rejected, 49, 98)), Running, ""},
		{"another kind begins anew", 200, calls(outcomes(NotFound, 0, 49), outcomes(Rejected, 49, 99)), Paused, rejected},
		{"one cancelled between", 100, calls(outcomes(NotFound, 0, 49), outcomes(Cancelled, 49, 50), outcomes(NotFound, 50, 99)), Running, ""},
		{"one cancelled between, in one call", 100, calls(join(outcomes(NotFound, 0, 49), outcomes(Cancelled, 49, 50), outcomes(NotFound, 50, 99))), Running, ""},
		{"in the middle of a batch", 300, calls(outcomes(Cancelled, 0, 137), outcomes(NotFound, 137, 187)), Paused, nf},
		{"in the middle of a call", 300, calls(join(outcomes(Cancelled, 0, 137), outcomes(NotFound, 137, 187), outcomes(Cancelled, 187, 290))), Paused, nf},
		{"at the end of a call and the beginning of the next", 300, calls(
			join(outcomes(Cancelled, 0, 130), outcomes(NotFound, 130, 160)), join(outcomes(NotFound, 160, 180), outcomes(Cancelled, 180, 200)),
		), Paused, nf},
		{"in the order in which they are recorded", 300, calls(outcomes(NotFound, 200, 225), outcomes(NotFound, 0, 25)), Paused, nf},
		{"one by one", 300, slices.Collect(slices.Chunk(outcomes(NotFound, 20, 70), 1)), Paused, nf},
		{"answers that were repeated count once", 100, calls(outcomes(NotFound, 0, 49), outcomes(NotFound, 0, 49)), Running, ""},
		{"notes neither count nor end a row", 200, calls(outcomes(None, 150, 200), outcomes(NotFound, 0, 49), outcomes(None, 100, 101), outcomes(NotFound, 49, 50)), Paused, nf},
		{"done wins in one call", 50, calls(outcomes(NotFound, 0, 50)), Done, ""},
		{"done wins at the 50th", 50, calls(outcomes(NotFound, 0, 49), outcomes(NotFound, 49, 50)), Done, ""},
		{"but is not done later", 100, calls(outcomes(NotFound, 0, 50), outcomes(NotFound, 50, 100)), Paused, nf},
		{"nor by other outcomes", 100, calls(outcomes(NotFound, 0, 50), outcomes(Cancelled, 50, 100)), Paused, nf},
		{"what is in flight still ends", 100, calls(outcomes(NotFound, 0, 50), outcomes(Cancelled, 50, 60)), Paused, nf},
		{"50 plain not found, and nothing else", 100, calls(plainly(NotFound, 0, 50)), Paused, nf},
		{"plain ones beside others do not count", 300, calls(outcomes(Cancelled, 0, 1), plainly(NotFound, 1, 200)), Running, ""},
		{"nor in the same call", 300, calls(join(outcomes(Cancelled, 0, 1), plainly(NotFound, 1, 200))), Running, ""},
		{"nor do they end a row", 300, calls(outcomes(Cancelled, 0, 1), outcomes(NotFound, 1, 26), plainly(NotFound, 26, 60), outcomes(NotFound, 60, 85)), Paused, nf},
		{"nor begin one", 300, calls(outcomes(Cancelled, 0, 1), plainly(NotFound, 1, 26), outcomes(NotFound, 26, 75)), Running, ""},
		{"those before the first other one do", 300, calls(plainly(NotFound, 0, 25), outcomes(NotFound, 25, 50)), Paused, nf},
		{"plain rejected ones count like others", 300, calls(outcomes(Cancelled, 0, 1), plainly(Rejected, 1, 51)), Paused, rejected},
	} {
		rules = append(rules, rule{tt.name, func(l *bench) {
			l.watched(tt.total)
			var c Committed
			for _, call := range tt.calls {
				c = l.commit(call...)
			}
			b := l.get("b")
			l.equal("state, as answered, and reason", []string{string(tt.state), string(tt.state), tt.reason}, []string{string(b.State), string(c.State), b.Reason})
			l.equal("tripped", tt.state == Paused, b.Canary == "tripped")
			if b.State != Done && !b.Finished.IsZero() {
				l.Errorf("finished %v", b.Finished)
			}
			l.addsUp()
		}})
	}
	hold(t, append(rules, canaryRules...))
}

// CanaryRow is for readers of the row elsewhere: it is the number in canary.lua.
func TestCanaryRow(t *testing.T) {
	hold(t, []rule{
		{"not one before", func(l *bench) {
			l.watched(2 * CanaryRow)
			l.commit(outcomes(NotFound, 0, CanaryRow-1)...)
			l.equal("canary", "on", l.get("b").Canary)
			l.commit(outcomes(NotFound, CanaryRow-1, CanaryRow)...)
			l.equal("canary", "tripped", l.get("b").Canary)
		}},
		{"nor in one call", func(l *bench) {
			l.watched(2 * CanaryRow)
			l.commit(slices.Concat(outcomes(Rejected, 0, CanaryRow-1), outcomes(Cancelled, CanaryRow-1, CanaryRow))...)
			l.equal("canary", "on", l.get("b").Canary)
		}},
	})
}

var canaryRules = []rule{
	{"the hot path writes nothing for it", func(l *bench) {
		l.watched(1500)
		l.commit(outcomes(Cancelled, 0, 700)...)
		l.row("no row")
		l.equal("nothing in the hash", "", l.hash("lc:{b}")["row"])
		l.commit(slices.Concat(outcomes(NotFound, 700, 720), outcomes(Cancelled, 720, 721))...)
		l.row("ended in the same call")
		l.commit(outcomes(NotFound, 721, 723)...)
		l.row("a row", 721, 722)
		l.commit(outcomes(Cancelled, 723, 724)...)
		l.row("ended")
		l.equal("nothing in the hash", "", l.hash("lc:{b}")["row"])
		l.equal("keys", []string{"lc:batches", "lc:open", "lc:{b}", "lc:{b}:h", "lc:{b}:m:0", "lc:{b}:m:1", "lc:{b}:r:0"}, l.keys())
	}},
	{"its row goes over chunks, and grows by what was in flight", func(l *bench) {
		l.watched(2100)
		l.at(1, outcomes(NotFound, 990, 1000)...)
		l.at(2, outcomes(NotFound, 0, 30)...)
		l.at(0, outcomes(NotFound, 5, 14)...)
		row := slices.Concat(span(1990, 2030), span(5, 14))
		l.row("49", row...)
		l.equal("state", Running, l.get("b").State)
		l.at(1, outcomes(NotFound, 0, 3)...)
		row = append(row, 1000, 1001, 1002)
		l.row("tripped", row...)
		l.at(1, slices.Concat(outcomes(Cancelled, 3, 5), outcomes(NotFound, 5, 6), outcomes(Rejected, 6, 7), plainly(NotFound, 7, 8))...)
		l.row("and what came after", append(row, 1005, 1007)...)
		l.at(1, outcomes(NotFound, 5, 6)...)
		l.row("each once", append(row, 1005, 1007)...)
		b := l.get("b")
		l.equal("counts", Counts{NotFound: 54, Cancelled: 2, Rejected: 1}, b.Counts)
		l.equal("state and reason", "paused canary:not_found tripped", fmt.Sprint(b.State, " ", b.Reason, " ", b.Canary))
		l.addsUp()
	}},
	{"it is off when it is switched off, or an older release has decided", func(l *bench) {
		for _, canary := range []string{"off", "passed"} {
			l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 1})...).Err())
			l.watched(100)
			l.set("lc:{b}", "canary", canary)
			l.equal("state", Running, l.commit(outcomes(NotFound, 0, 90)...).State)
			l.row("no row")
			l.equal("canary", canary, l.get("b").Canary)
		}
	}},
	{"a batch that is ready pauses, too", func(l *bench) {
		l.batch("b", 1000, true)
		l.equal("state", Paused, l.commit(outcomes(NotFound, 0, 50)...).State)
		state, changed, err := l.Resume(l.Context(), "b", history.By{Actor: "ann"})
		l.must(err)
		l.equal("resumed", Ready, state)
		l.equal("changed", true, changed)
		l.equal("pending", int64(1000), l.get("b").Pending())
	}},
	{"the reason of a pause by hand stands, and it trips all the same", func(l *bench) {
		l.batch("b", 1000, true)
		_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
		l.must(err)
		l.equal("state", Paused, l.commit(outcomes(NotFound, 0, 50)...).State)
		b := l.get("b")
		l.equal("reason and canary", "manual tripped", b.Reason+" "+b.Canary)
	}},
	{"an aborted batch is not paused", func(l *bench) {
		l.batch("b", 1000, true)
		_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
		l.must(err)
		l.equal("state", AbortedState, l.commit(outcomes(NotFound, 0, 60)...).State)
		l.row("no row")
	}},
	{"not after a resume", func(l *bench) {
		l.watched(1000)
		l.commit(outcomes(NotFound, 0, 30)...)
		_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
		l.must(err)
		_, _, err = l.Resume(l.Context(), "b", history.By{Actor: "ann"})
		l.must(err)
		l.row("forgotten")
		l.equal("state", Running, l.commit(outcomes(NotFound, 30, 200)...).State)
		l.equal("counts", Counts{NotFound: 200}, l.get("b").Counts)
	}},
}

func TestResumePutsTheRowBack(t *testing.T) {
	resume := func(l *bench, state State, changed bool) Batch {
		l.Helper()
		got, did, err := l.Resume(l.Context(), "b", history.By{Actor: "ann"})
		l.must(err)
		l.equal("state and change", fmt.Sprint(state, changed), fmt.Sprint(got, did))
		l.addsUp()
		return l.get("b")
	}
	hold(t, []rule{
		{"as links that were never asked, but for what may have been applied", func(l *bench) {
			l.watched(2100)
			l.must(l.Advance(l.Context(), l.get("b"), 1, 2100, 0))
			l.at(1, slices.Concat(
				outcomes(Cancelled, 0, 120),
				[]Entry{{Position: 131, Record: Record{Ambiguous: true, Settling: true, Attempts: 4, HTTPStatus: 503}, Error: "busy"}},
			)...)
			nf := outcomes(NotFound, 125, 200)
			for i := range nf {
				nf[i].Error, nf[i].LinkStatus = "code 4", "gone"
			}
			l.at(1, nf...)
			l.at(2, outcomes(NotFound, 3, 7)...)
			l.at(0, outcomes(Failed, 9, 10)...)
			l.must(l.Advance(l.Context(), l.get("b"), 1, 2100, 1200))
			before := l.get("b")
			l.equal("counts", Counts{Cancelled: 120, NotFound: 79, Failed: 1}, before.Counts)

			b := resume(l, Running, true)
			want := before
			want.State, want.Reason, want.Canary, want.Counts, want.Low, want.Resumed = Running, "", "off", Counts{Cancelled: 120, Failed: 1}, 1100, b.Resumed
			want.History++
			l.equal("batch", want, b)
			l.row("no row")
			l.equal("nothing in the hash", "", l.hash("lc:{b}")["row"])
			l.equal("texts", map[string]string{}, l.hash("lc:{b}:e"))
			for chunk, places := range [][]int{span(9, 10), span(119, 201), span(0, 10)} {
				for _, pos := range places {
					r := l.slice("b", chunk*ChunkLinks+pos).Records[0]
					r.After = 0
					switch {
					case chunk == 0:
						l.equal("failed", Record{Outcome: Failed, Attempts: 1}, r)
					case chunk == 1 && pos == 119:
						l.equal("before it", Record{Outcome: Cancelled, Attempts: 1}, r)
					case chunk == 1 && pos == 131:
						l.equal("may have been applied", Record{Ambiguous: true}, r)
					default:
						l.equal(fmt.Sprintf("%d:%d", chunk, pos), Record{}, r)
					}
				}
			}
			// Real answers take their place, and nothing is put back again.
			l.at(1, outcomes(Cancelled, 120, 1000)...)
			resume(l, Running, false)
			_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
			l.must(err)
			l.at(2, outcomes(NotFound, 0, 100)...)
			resume(l, Running, true)
			l.equal("after a second resume", Counts{Cancelled: 1000, Failed: 1, NotFound: 100}, l.get("b").Counts)
			l.at(0, outcomes(NotFound, 0, 1000)...)
			if b := l.get("b"); b.State != Done || b.Pending() != 0 || b.Finished.IsZero() {
				l.Errorf("%+v", b)
			}
		}},
		{"though all links have an outcome", func(l *bench) {
			l.watched(120)
			l.commit(outcomes(Rejected, 0, 50)...)
			l.commit(outcomes(Rejected, 50, 120)...)
			b := l.get("b")
			l.equal("paused", "paused tripped 0", fmt.Sprint(b.State, " ", b.Canary, " ", b.Pending()))
			l.fails("delete", l.Delete(l.Context(), b, history.By{Actor: "ann"}, time.Hour), ErrUnfinished)
			l.equal("final", false, b.final())
			l.equal("pending", int64(120), resume(l, Running, true).Pending())
			l.equal("done", Done, l.commit(outcomes(Cancelled, 0, 120)...).State)
			l.equal("counts", Counts{Cancelled: 120}, l.get("b").Counts)
		}},
		{"to the beginning of a slice", func(l *bench) {
			for _, tt := range []struct{ slice, place, low, want int }{
				{7, 40, 1000, 35}, {7, 1003, 2000, 1000}, {7, 1999, 2000, 1994}, {200, 1199, 1800, 1000}, {50, 1600, 1500, 1500}, {1, 77, 2000, 77},
			} {
				l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 3})...).Err())
				b := l.batch("b", 3000, true)
				l.must(l.Start(l.Context(), &b, 1, tt.slice, "w1"))
				l.must(l.Advance(l.Context(), b, 1, 3000, int64(tt.low)))
				l.at(2, outcomes(NotFound, 900, 949)...)
				l.at(tt.place/ChunkLinks, outcomes(NotFound, tt.place%ChunkLinks, tt.place%ChunkLinks+1)...)
				l.equal(fmt.Sprintf("%+v", tt), int64(tt.want), resume(l, Running, true).Low)
			}
		}},
		{"and a leader that looked before does not move the mark over it", func(l *bench) {
			l.watched(200)
			l.commit(outcomes(NotFound, 0, 50)...)
			seen := l.get("b")
			resume(l, Running, true)
			l.must(l.Advance(l.Context(), seen, 1, 150, 50))
			now := l.get("b")
			l.equal("cursor and low", []int64{150, 0}, []int64{now.Cursor, now.Low})
			l.must(l.Advance(l.Context(), now, 1, 150, 50))
			l.equal("low", int64(50), l.get("b").Low)
		}},
		{"and nothing but what it recorded", func(l *bench) {
			l.watched(60)
			l.commit(outcomes(NotFound, 0, 50)...)
			l.commit(outcomes(NotFound, 50, 60)...)
			other := Record{Outcome: Cancelled, Attempts: 1, HTTPStatus: 204}
			l.must(l.rdb.SetRange(l.Context(), "lc:{b}:r:0", 7*RecordSize, string(other.Append(nil))).Err())
			l.set("lc:{b}", "not_found", 59, "cancelled", 1, "finished", 123)
			b := resume(l, Running, true)
			l.equal("counts", Counts{Cancelled: 1}, b.Counts)
			l.equal("not finished", time.Time{}, b.Finished)
			l.equal("the other", other, l.record(7))
		}},
		{"in a batch of format 1, too", func(l *bench) {
			l.watched(200)
			l.set("lc:{b}", "v", 1)
			l.commit(outcomes(NotFound, 0, 60)...)
			if ttl := l.rdb.TTL(l.Context(), "lc:{b}:c").Val(); ttl < 80*24*time.Hour {
				l.Errorf("the row ends in %v, though an older release may retire the batch", ttl)
			}
			l.equal("pending", int64(200), resume(l, Running, true).Pending())
			l.equal("keys", []string{"lc:batches", "lc:open", "lc:{b}", "lc:{b}:h", "lc:{b}:m:0", "lc:{b}:r:0"}, l.keys())
		}},
		{"unless it was aborted: then it ends", func(l *bench) {
			l.watched(60)
			l.commit(outcomes(NotFound, 0, 50)...)
			l.commit(outcomes(NotFound, 50, 60)...)
			state, changed, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("aborted", fmt.Sprint(AbortedState, true), fmt.Sprint(state, changed))
			b := l.get("b")
			if b.Finished.IsZero() || b.Pending() != 0 {
				l.Errorf("%+v", b)
			}
			resume(l, AbortedState, false)
			l.equal("counts", Counts{NotFound: 60}, l.get("b").Counts)
			l.must(l.Retire(l.Context(), b, time.Hour))
			l.expires("lc:{b}", "lc:{b}:c", "lc:{b}:r:0")
			l.must(l.Delete(l.Context(), b, history.By{Actor: "ann"}, time.Hour))
			l.equal("keys", []string{"lc:activity:deleted", "lc:{b}:gone", "lc:{b}:h"}, l.keys())
		}},
		{"an abort with links pending ends when they are filled", func(l *bench) {
			l.watched(60)
			l.commit(outcomes(NotFound, 0, 50)...)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("finished", true, l.get("b").Finished.IsZero())
			l.must(l.FillAborted(l.Context(), l.get("b")))
			b := l.get("b")
			l.equal("counts", Counts{NotFound: 50, Aborted: 10}, b.Counts)
			l.equal("finished", false, b.Finished.IsZero())
		}},
	})
}

// rowModel is what canary.lua does, in Go.
type rowModel struct {
	outcomes []Outcome // by place
	row      []int
	kind     Outcome // of the row
	on       bool
	tripped  bool
	others   int // outcomes that are not not_found
}

func (m *rowModel) commit(chunk int, entries []Entry) {
	for _, e := range entries {
		place, o := chunk*ChunkLinks+e.Position, e.Record.Outcome
		if m.outcomes[place] != None {
			continue
		}
		m.outcomes[place] = o
		if o == None {
			continue
		}
		weak := o == NotFound && e.Record.Plain && m.others > 0 && !m.tripped
		switch {
		case !m.on || weak || m.tripped && o != m.kind:
		case o != NotFound && o != Rejected:
			m.row, m.kind = nil, None
		case o != m.kind:
			m.row, m.kind = []int{place}, o
		default:
			m.row = append(m.row, place)
		}
		m.tripped = m.tripped || len(m.row) >= 50
		if o != NotFound {
			m.others++
		}
	}
}

func (m *rowModel) resume() {
	for _, place := range m.row {
		m.outcomes[place] = None
		if m.kind != NotFound {
			m.others--
		}
	}
	*m = rowModel{outcomes: m.outcomes, others: m.others}
}

func (m *rowModel) counts() (c Counts) {
	for _, o := range m.outcomes {
		c[o]++
	}
	c[None] = 0
	return c
}

func TestCanaryDoesWhatTheModelDoes(t *testing.T) {
	const total = 6*ChunkLinks + 500
	run := func(l *bench) {
		source := seeded(l.T)
		trips := 0
		for range 6 {
			l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 7})...).Err())
			rng := rand.New(rand.NewPCG(source.Uint64(), 0))
			l.watched(total)
			m := &rowModel{outcomes: make([]Outcome, total), on: true}
			streak, next := []Outcome{NotFound, Rejected, Cancelled}[rng.IntN(3)], 0
			for next < total-300 {
				if rng.IntN(30) == 0 {
					streak = []Outcome{NotFound, Rejected, Cancelled}[rng.IntN(3)]
				}
				chunk, entries := next/ChunkLinks, randomStreak(rng, streak, next)
				next += len(entries)
				want := slices.Clone(entries)
				m.commit(chunk, want)
				repeat := entries[:rng.IntN(len(entries)+1)] // a lost answer
				c := l.at(chunk, entries...)
				if len(repeat) > 0 {
					c = l.at(chunk, repeat...)
				}
				state := Running
				if m.tripped {
					state = Paused
				}
				l.equal("state", state, c.State)
				l.row("row", m.row...)
				if l.Failed() {
					l.Fatalf("at link %d: %+v", next, entries)
				}
				if m.tripped && rng.IntN(3) == 0 {
					trips++
					l.resumeAs(m)
				}
			}
			l.equal("counts", m.counts(), l.get("b").Counts)
			l.addsUp()
		}
		if trips == 0 {
			l.Error("the canary tripped in no batch")
		}
	}
	hold(t, []rule{{"model", run}})
}

// resumeAs resumes batch "b" as the model does, and switches its canary on again.
func (l *bench) resumeAs(m *rowModel) {
	l.Helper()
	lowest := slices.Min(m.row)
	l.set("lc:{b}", "low", len(m.outcomes))
	m.resume()
	_, _, err := l.Resume(l.Context(), "b", history.By{Actor: "ann"})
	l.must(err)
	b := l.get("b")
	l.equal("counts after the resume", m.counts(), b.Counts)
	l.equal("low", int64(lowest-lowest%50), b.Low)
	l.set("lc:{b}", "canary", "on")
	m.on = true
}

// randomStreak are outcomes of the links from a place on, most of them alike, in the
// order of their positions.
func randomStreak(rng *rand.Rand, most Outcome, from int) []Entry {
	pos := from % ChunkLinks
	n := min(1+rng.IntN(40), ChunkLinks-pos)
	var entries []Entry
	for i := range n {
		o := most
		if rng.IntN(60) == 0 {
			o = Outcomes[rng.IntN(6)]
		}
		if rng.IntN(20) == 0 {
			o = None
		}
		entries = append(entries, Entry{Position: pos + i, Record: Record{Outcome: o, Attempts: 1, Plain: o != None && rng.IntN(3) == 0}})
	}
	return entries
}
