package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	empty404 = "404 empty"
	html404  = "404 text/html nginx 1f3a9c20"
)

// plain is a note about an answer that the API may not have given.
func plain(pos int, kind string, plains uint8) Entry {
	return Entry{Position: pos, Record: Record{Attempts: plains, HTTPStatus: 404, Plains: plains}, Kind: kind}
}

// known checks what batch "b" knows of a kind.
func (l *bench) known(what, text string, links int64, contradicted bool) {
	l.Helper()
	want := Kind{Text: text, Links: links, Contradicted: contradicted}
	got, err := l.Kind(l.Context(), "b", text)
	l.must(err)
	l.equal(what, want, got)
	for index, k := range l.kindTable() {
		if k.Text == text {
			l.equal(fmt.Sprint(what, ", by the index ", index), want, k)
		}
	}
}

func (l *bench) kindTable() map[int]Kind {
	l.Helper()
	kinds, err := l.kinds(l.Context(), "b")
	l.must(err)
	return kinds
}

// kept checks plains and kind of a link of batch "b".
func (l *bench) kept(what string, pos int, plains uint8, kind string) {
	l.Helper()
	view := l.slice("b", pos)
	r := view.Records[0]
	l.equal(what+": plains", plains, r.Plains)
	l.equal(what+": kind", kind, view.Kinds[r.LinkStatus].Text)
}

func TestKinds(t *testing.T) {
	hold(t, []rule{
		{"a note counts its link once a kind", func(l *bench) {
			l.running(100)
			l.known("unknown", "", 0, false)
			for range 2 { // a lost answer
				l.commit(plain(1, empty404, 1), plain(2, empty404, 1), plain(3, html404, 1))
			}
			l.commit(plain(1, empty404, 2))
			l.commit(plain(1, empty404, 3))
			l.known("empty", empty404, 2, false)
			l.known("HTML", html404, 1, false)
			l.kept("the third", 1, 3, empty404)
			l.kept("the first", 3, 1, html404)
			l.equal("records", Record{Attempts: 3, HTTPStatus: 404, Plains: 3, LinkStatus: 1}, l.record(1))
		}},
		{"another kind begins anew", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 1))
			l.commit(plain(1, empty404, 2))
			l.commit(plain(1, html404, 3))
			l.kept("another", 1, 1, html404)
			l.commit(plain(1, html404, 2))
			l.kept("and again", 1, 2, html404)
			l.commit(plain(1, empty404, 3))
			l.kept("back", 1, 1, empty404)
			l.known("empty", empty404, 1, false) // not twice for one link
			l.known("HTML", html404, 1, false)
		}},
		{"in one call as in many", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 1), plain(1, empty404, 2), plain(1, html404, 3), plain(2, html404, 1))
			l.kept("the last", 1, 1, html404)
			l.known("empty", empty404, 1, false)
			l.known("HTML", html404, 2, false)
		}},
		{"a note without a kind keeps it or ends it, as the worker says", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 2), plain(2, empty404, 2))
			l.commit(plain(1, "", 2), plain(2, "", 0), plain(3, "", 2))
			l.kept("kept", 1, 2, empty404)
			l.kept("ended", 2, 0, "")
			l.kept("none", 3, 0, "")
			if view := l.slice("b", 2); view.Kinds != nil {
				l.Errorf("kinds without need: %v", view.Kinds)
			}
			l.commit(plain(2, empty404, 1))
			l.known("the same link", empty404, 2, false)
		}},
		{"a kind without a number counts as the first", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 0))
			l.kept("first", 1, 1, empty404)
		}},
		{"a link counts once, up to 20", func(l *bench) {
			l.running(1500)
			for range 3 { // by turns
				for _, kind := range []string{empty404, html404} {
					var notes []Entry
					for pos := range 20 {
						notes = append(notes, plain(pos, kind, 1))
					}
					l.commit(notes...)
				}
			}
			l.known("empty", empty404, 20, false)
			l.known("HTML", html404, 20, false)
			l.at(1, plain(0, empty404, 1), plain(1, empty404, 1))
			l.known("of another chunk", empty404, 22, false)
		}},
		{"a proven answer contradicts the kind of its link", func(l *bench) {
			for _, proven := range []Record{
				{Outcome: Cancelled, HTTPStatus: 204}, {Outcome: NotFound, HTTPStatus: 404}, {Outcome: AlreadyCancelled, HTTPStatus: 422},
				{Attempts: 2, HTTPStatus: 500}, {Settling: true, HTTPStatus: 422},
			} {
				l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 1})...).Err())
				l.running(100)
				l.commit(plain(1, empty404, 1), plain(2, html404, 1), plain(3, empty404, 1))
				l.commit(Entry{Position: 50, Record: proven, Proven: true}) // of a link without a kind
				l.known("of another link", empty404, 2, false)
				for range 2 {
					l.commit(Entry{Position: 1, Record: proven, Proven: true})
				}
				l.known("contradicted", empty404, 2, true)
				l.known("the other", html404, 1, false)
				l.commit(plain(4, empty404, 1))
				l.known("for ever", empty404, 3, true)
				l.equal("as a slice has it", map[int]Kind{1: {empty404, 3, true}, 2: {html404, 1, false}}, l.slice("b", 3).Kinds)
			}
		}},
		{"in the same call, too", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 1), Entry{Position: 1, Record: Record{Outcome: Cancelled}, Proven: true})
			l.known("contradicted", empty404, 1, true)
		}},
		{"another plain answer does not", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 2), plain(2, empty404, 2), plain(3, empty404, 2), plain(4, empty404, 2))
			l.commit(
				Entry{Position: 1, Record: Record{Outcome: NotFound, Plain: true, HTTPStatus: 404}},
				Entry{Position: 2, Record: Record{Outcome: Failed, HTTPStatus: 404}},
				Entry{Position: 3, Record: Record{Attempts: 3, HTTPStatus: 502, Plains: 2}},
				Entry{Position: 4, Record: Record{Outcome: Aborted}},
			)
			l.known("not contradicted", empty404, 4, false)
			l.commit(Entry{Position: 4, Record: Record{Outcome: Cancelled}, Proven: true})
			l.known("nor by what came after an abort", empty404, 4, false)
			l.equal("a plain outcome", Record{Outcome: NotFound, Plain: true, Attempts: 2, HTTPStatus: 404}, l.record(1))
		}},
		{"nor does a proven answer that comes after the outcome", func(l *bench) {
			d := l.create(DraftConfig{ID: "b", Created: time.UnixMilli(l.ago(3 * 365 * 24 * time.Hour))})
			l.write(d, 10)
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.commit(plain(1, empty404, 1), plain(2, empty404, 1))
			l.commit(Entry{Position: 1, Record: Record{Outcome: NotFound, Plain: true}})
			l.commit(Entry{Position: 1, Record: Record{Outcome: Cancelled}, Proven: true})
			l.known("not contradicted", empty404, 2, false)
		}},
		{"an outcome has a link status of its own", func(l *bench) {
			l.running(100)
			l.commit(plain(1, empty404, 1), plain(2, html404, 1))
			stale := l.slice("b", 2).Records[0]
			stale.Outcome = NotCancellable // its LinkStatus names the kind
			l.commit(
				Entry{Position: 1, Record: Record{Outcome: NotCancellable, HTTPStatus: 422}, LinkStatus: "paid"},
				Entry{Position: 2, Record: stale},
			)
			s, err := l.Snapshot(l.Context(), l.get("b"))
			l.must(err)
			l.equal("link statuses", []string{"paid", ""}, []string{s.At(1).LinkStatus, s.At(2).LinkStatus})
		}},
		{"what does not fit is other, and never known", func(l *bench) {
			l.running(200)
			for i := range 70 {
				l.commit(plain(i, fmt.Sprintf("kind %d", i), 1))
			}
			l.equal("kinds", 62, len(l.kindTable()))
			l.known("the last", "kind 61", 1, false)
			l.known("other", "", 0, false)
			view := l.slice("b", 69)
			l.equal("index", 63, view.Records[0].LinkStatus)
			l.equal("kind", Kind{}, view.Kinds[63])
			l.commit(plain(69, "kind 69", 2), Entry{Position: 68, Record: Record{Outcome: Cancelled}, Proven: true})
			l.equal("index", Record{Attempts: 2, HTTPStatus: 404, Plains: 2, LinkStatus: 63}, l.record(69))
			l.equal("kinds", 62, len(l.kindTable()))
		}},
		{"a name is cut to 64 bytes, and any text will do", func(l *bench) {
			l.running(100)
			long := strings.Repeat("é", 40)
			l.commit(plain(1, long, 1), plain(2, long[:64], 1), plain(3, "63 1 1 1", 1), plain(4, "a\nb ", 1))
			l.known("cut", long[:64], 2, false)
			got, err := l.Kind(l.Context(), "b", long)
			l.must(err)
			l.equal("by its long name", Kind{Text: long[:64], Links: 2}, got)
			l.known("like a value", "63 1 1 1", 1, false)
			l.known("odd", "a\nb ", 1, false)
		}},
		{"a batch that is gone knows none", func(l *bench) {
			l.known("gone", "", 0, false)
			l.fails("note", l.Commit(l.Context(), []Group{{Batch: "b", Entries: []Entry{plain(1, empty404, 1)}}})[0].Err, ErrNoBatch)
			l.equal("keys", []string(nil), l.keys())
		}},
	})
}

func TestDue(t *testing.T) {
	// due is when a link may be sent again, from now, as a worker reckons.
	due := func(l *bench, pos int) time.Duration {
		l.Helper()
		view := l.slice("b", pos)
		if view.Records[0].Due == 0 {
			return 0
		}
		return view.Created.Add(time.Duration(view.Records[0].Due) * time.Second).Sub(view.Now)
	}
	old := func(l *bench, age time.Duration) {
		d := l.create(DraftConfig{ID: "b", Created: time.UnixMilli(l.ago(age))})
		l.write(d, 10)
		l.must(d.Seal(l.Context(), "digest", 0, 0))
	}
	note := func(wait time.Duration) Entry { return Entry{Record: Record{Attempts: 1}, Wait: wait} }
	hold(t, []rule{
		{"it is so long after the note, by Redis' clock, or a little later", func(l *bench) {
			for _, age := range []time.Duration{0, 1500 * time.Millisecond, 100 * 24 * time.Hour} {
				l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 1})...).Err())
				old(l, age)
				before := l.ago(0)
				l.commit(note(10 * time.Minute))
				left, passed := due(l, 0), time.Duration(l.ago(0)-before)*time.Millisecond
				if left < 10*time.Minute-passed-time.Millisecond || left > 10*time.Minute+time.Second {
					l.Errorf("a batch of %v: due in %v", age, left)
				}
			}
		}},
		{"a note without a wait ends it, an outcome has none", func(l *bench) {
			old(l, time.Hour)
			l.commit(note(time.Minute))
			l.commit(note(0))
			l.equal("due", uint32(0), l.slice("b", 0).Records[0].Due)
			l.commit(note(time.Minute))
			l.commit(Entry{Record: Record{Outcome: Cancelled}, Wait: time.Minute})
			r := l.slice("b", 0).Records[0]
			l.equal("due and outcome", Record{Outcome: Cancelled, Attempts: 1, After: r.After}, r)
		}},
		{"the shortest wait is one", func(l *bench) {
			old(l, time.Hour)
			l.commit(note(time.Nanosecond))
			if r := l.slice("b", 0).Records[0]; r.Due < 3600 {
				l.Errorf("due %d", r.Due)
			}
		}},
		{"it is kept beside a kind", func(l *bench) {
			old(l, time.Hour)
			e := plain(0, html404, 2)
			e.Wait = 30 * time.Second
			l.commit(plain(1, empty404, 1), e)
			l.kept("both", 0, 2, html404)
			if left := due(l, 0); left < 20*time.Second || left > 31*time.Second {
				l.Errorf("due in %v", left)
			}
		}},
		{"it ends at two years, and a batch from the future has none", func(l *bench) {
			old(l, 10*365*24*time.Hour)
			l.commit(note(time.Hour))
			l.equal("old", uint32(maxDue), l.slice("b", 0).Records[0].Due)
			l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 1})...).Err())
			old(l, -2*time.Hour)
			l.commit(note(time.Hour))
			l.equal("future", uint32(0), l.slice("b", 0).Records[0].Due)
		}},
		{"a wait alone does not make a link look asked", func(l *bench) {
			old(l, time.Hour)
			l.commit(Entry{Record: Record{}, Wait: time.Minute, Error: "no sockets"})
			r := l.slice("b", 0).Records[0]
			l.equal("record", Record{Due: r.Due}, r)
			l.commit(outcomes(Cancelled, 0, 1)...)
			l.equal("text", "", l.text(0))
		}},
	})
}
