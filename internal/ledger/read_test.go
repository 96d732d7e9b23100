package ledger

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"linkcancel/internal/history"
)

func TestLinkStatusTable(t *testing.T) {
	index := func(l *bench, status string, want int) {
		l.Helper()
		got, err := l.LinkStatus(l.Context(), "b", status)
		if got != want || err != nil {
			l.Errorf("%q: %d (%v), want %d", status, got, err, want)
		}
	}
	hold(t, []rule{
		{"an index is given once and stays", func(l *bench) {
			for range 2 {
				index(l, "paid", 1)
				index(l, "expired", 2)
				index(l, "Paid", 3)
				index(l, "other", 4) // a status of this name has its own place
			}
			table, err := l.linkStatuses(l.Context(), "b")
			l.must(err)
			l.equal("table", map[int]string{1: "paid", 2: "expired", 3: "Paid", 4: "other", 63: "other"}, table)
			got, err := l.LinkStatus(l.Context(), "another batch", "expired")
			l.must(err)
			l.equal("of another batch", 1, got)
		}},
		{"no status is 0", func(l *bench) {
			index(l, "", 0)
			table, err := l.linkStatuses(l.Context(), "b")
			l.must(err)
			l.equal("table", map[int]string{63: "other"}, table)
		}},
		{"what does not fit is other", func(l *bench) {
			for i := 1; i < 63; i++ {
				index(l, fmt.Sprintf("status %d", i), i)
			}
			index(l, "one more", 63)
			index(l, "two more", 63)
			index(l, "status 62", 62)
			l.equal("rows", int64(62), l.rdb.HLen(l.Context(), "lc:{b}:s").Val())
		}},
		{"a long status is cut to 64 bytes of valid UTF-8", func(l *bench) {
			index(l, strings.Repeat("x", 64), 1)
			index(l, strings.Repeat("x", 65), 1)
			index(l, "x"+strings.Repeat("é", 40), 2)
			table, err := l.linkStatuses(l.Context(), "b")
			l.must(err)
			l.equal("cut", "x"+strings.Repeat("é", 31), table[2])
		}},
	})
}

func TestReading(t *testing.T) {
	// mixed is a batch of three chunks with something of everything.
	mixed := func(l *bench) (Batch, map[int]LinkRecord) {
		b := l.running(2003)
		paid, err := l.LinkStatus(l.Context(), "b", "paid")
		l.must(err)
		_, err = l.LinkStatus(l.Context(), "b", "odd")
		l.must(err)
		known := map[int]LinkRecord{
			0:    {Record: Record{Outcome: Cancelled, Attempts: 1, HTTPStatus: 204}},
			999:  {Record: Record{Outcome: NotCancellable, Attempts: 2, HTTPStatus: 422, LinkStatus: paid}, LinkStatus: "paid"},
			2000: {Record: Record{Outcome: Rejected, Attempts: 1, HTTPStatus: 400, LinkStatus: 2}, LinkStatus: "odd", Error: "bad id"},
			2001: {Record: Record{Attempts: 1, HTTPStatus: 404, Plains: 1, LinkStatus: 1}, Error: "404, empty"},
			2002: {Record: Record{Settling: true, Ambiguous: true, Attempts: 1, HTTPStatus: 202}, Error: "accepted"},
		}
		for place, lr := range known {
			e := Entry{Position: place % ChunkLinks, Record: lr.Record, LinkStatus: lr.LinkStatus, Error: lr.Error}
			if lr.Record.Plains > 0 {
				e.Kind = "404 empty"
			}
			l.must(l.Commit(l.Context(), []Group{{Batch: "b", Chunk: place / ChunkLinks, Entries: []Entry{e}}})[0].Err)
		}
		return b, known
	}
	noTime := cmpopts.IgnoreFields(Record{}, "After")
	hold(t, []rule{
		{"walk and snapshot tell the same, in order", func(l *bench) {
			b, known := mixed(l)
			s, err := l.Snapshot(l.Context(), b)
			l.must(err)
			place := 0
			for lr, err := range l.Walk(l.Context(), b) {
				l.must(err)
				at := s.At(place)
				at.Link = fmt.Sprintf("pl_%d", place)
				l.equal("walk and snapshot", at, lr)
				want := known[place]
				want.Link = at.Link
				l.equal("what was written", want, lr, noTime)
				place++
			}
			l.equal("links", 2003, place)
		}},
		{"a snapshot takes many round trips for many chunks", func(l *bench) {
			total := (snapshotChunks+1)*ChunkLinks + 7
			b := l.batch("b", total, false)
			want := map[int]Outcome{0: Cancelled, snapshotChunks*ChunkLinks - 1: Failed, snapshotChunks * ChunkLinks: NotFound, total - 1: Rejected}
			for place, o := range want {
				c := l.Commit(l.Context(), []Group{{Batch: "b", Chunk: place / ChunkLinks, Entries: outcomes(o, place%ChunkLinks, place%ChunkLinks+1)}})
				l.must(c[0].Err)
			}
			s, err := l.Snapshot(l.Context(), b)
			l.must(err)
			for place := range total {
				if got := s.Record(place).Outcome; got != want[place] {
					l.Errorf("link %d is %v, want %v", place, got, want[place])
				}
			}
		}},
		{"a snapshot with the help of an earlier one is the same", func(l *bench) {
			const total = 30_500
			d := l.create(DraftConfig{ID: "b"})
			l.write(d, total)
			restored := make([]Record, 500)
			restored[499] = Record{Outcome: Cancelled, Attempts: 1}
			l.must(d.Restore(l.Context(), 30, restored, nil))
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			b := l.get("b")
			l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
			var then Batch
			var earlier *Snapshot
			check := func(what string) {
				l.Helper()
				b := l.get("b")
				got, err := l.SnapshotSince(l.Context(), b, then, earlier)
				l.must(err)
				want, err := l.Snapshot(l.Context(), b)
				l.must(err)
				for place := range total {
					if g, w := got.Record(place), want.Record(place); g != w {
						l.Fatalf("%s: link %d is %+v, not %+v", what, place, g, w)
					}
				}
				then, earlier = b, got
			}
			in := func(chunk, from, to int, o Outcome) {
				l.Helper()
				l.must(l.Commit(l.Context(), []Group{{Batch: "b", Chunk: chunk, Entries: outcomes(o, from, to)}})[0].Err)
			}
			check("at first")
			for chunk := range 6 {
				in(chunk, 0, 1000, NotFound)
			}
			l.must(l.Advance(l.Context(), b, 1, 7000, 5400))
			check("after six chunks")
			in(6, 0, 900, Cancelled)
			in(24, 0, 10, Rejected) // as far as links are sent ahead of the cursor
			check("ahead of the cursor")
			l.must(l.Advance(l.Context(), b, 1, 9000, 6900))
			in(8, 0, 900, Failed)
			check("further")
			// Chunks that have all their outcomes are not read again.
			good := l.rdb.GetRange(l.Context(), "lc:{b}:r:1", 0, -1).Val()
			l.must(l.rdb.Set(l.Context(), "lc:{b}:r:1", "", 0).Err())
			got, err := l.SnapshotSince(l.Context(), l.get("b"), then, earlier)
			l.must(err)
			l.equal("a link of chunk 1", NotFound, got.Record(1001).Outcome)
			l.must(l.rdb.Set(l.Context(), "lc:{b}:r:1", good, 0).Err())
			// The canary's row is pending again after a resume.
			l.set("lc:{b}", "state", "paused", "canary", "tripped", "row", "3 50")
			l.must(l.rdb.Set(l.Context(), "lc:{b}:c", "\x00\x00\x00\x05\x00\x00\x03\xe9", 0).Err())
			_, _, err = l.Resume(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("link 5", None, l.record(5).Outcome)
			l.must(l.Advance(l.Context(), b, 1, 9000, 6900))
			check("after a resume")
		}},
		{"a walk may be broken off", func(l *bench) {
			b, _ := mixed(l)
			place := 0
			for range l.Walk(l.Context(), b) {
				if place++; place == 1500 {
					break
				}
			}
			l.equal("links", 1500, place)
		}},
		{"a missing chunk ends the walk with an error", func(l *bench) {
			b, _ := mixed(l)
			l.must(l.rdb.Del(l.Context(), "lc:{b}:m:1").Err())
			place, ended := 0, 0
			for _, err := range l.Walk(l.Context(), b) {
				if err != nil {
					l.fails("walk", err, ErrNoBatch)
					ended++
					continue
				}
				place++
			}
			l.equal("links and errors", []int{1000, 1}, []int{place, ended})
		}},
		{"a slice is read with the state of its batch", func(l *bench) {
			_, known := mixed(l)
			view, err := l.Slice(l.Context(), "b", 2, 0, 3)
			l.must(err)
			created := l.get("b").Created
			l.equal("slice", SliceView{
				State: Running, Incarnation: created.UnixMilli(), Created: created, Now: view.Now,
				Records: []Record{known[2000].Record, known[2001].Record, known[2002].Record},
				Kinds:   map[int]Kind{1: {Text: "404 empty", Links: 1}},
			}, view, noTime)
			if now := l.ago(0); view.Now.UnixMilli() > now || now-view.Now.UnixMilli() > time.Minute.Milliseconds() {
				l.Errorf("read at %v, by Redis' clock; it is %d now", view.Now, now)
			}
			view, err = l.Slice(l.Context(), "b", 0, 998, 2)
			l.must(err)
			l.equal("end of a chunk", []Record{{}, known[999].Record}, view.Records, noTime)
			_, _, err = l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
			l.must(err)
			view, err = l.Slice(l.Context(), "b", 1, 0, 1)
			l.must(err)
			l.equal("paused", SliceView{State: Paused, Incarnation: created.UnixMilli(), Created: created, Now: view.Now, Records: make([]Record, 1)}, view)
			l.must(l.rdb.Del(l.Context(), "lc:{b}").Err())
			_, err = l.Slice(l.Context(), "b", 2, 0, 3)
			l.fails("deleted", err, ErrNoBatch)
		}},
		{"texts are found by chunk and position", func(l *bench) {
			_, known := mixed(l)
			texts := maps.Collect(func(yield func(int, string) bool) {
				for place := range known {
					texts, err := l.ErrorTexts(l.Context(), "b", place/ChunkLinks, []int{place % ChunkLinks})
					l.must(err)
					if !yield(place, texts[0]) {
						return
					}
				}
			})
			l.equal("texts", map[int]string{0: "", 999: "", 2000: "bad id", 2001: "404, empty", 2002: "accepted"}, texts)
		}},
		{"the last chunk has what is left", func(l *bench) {
			b := l.running(2003)
			l.equal("chunks", []int{1000, 1000, 3}, []int{b.ChunkLen(0), b.ChunkLen(1), b.ChunkLen(2)})
			got, err := l.Links(l.Context(), "b", 2)
			l.must(err)
			l.equal("links", links(2000, 2003), got)
			_, err = l.Links(l.Context(), "b", 3)
			l.fails("one more", err, ErrNoBatch)
			whole := Batch{Total: 2000}
			l.equal("a full last chunk", 1000, whole.ChunkLen(1))
		}},
	})
}
