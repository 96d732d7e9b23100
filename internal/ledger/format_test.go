package ledger

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/task"
)

// Of the last release that knew no format but 1, line.lua and record.lua.
//
//go:embed testdata/format1/record.lua
var format1Lua string

// older writes an outcome or note to a link of batch "b" as a worker of that release
// does, with all that it has read of the link's record, and returns the state.
func (l *bench) older(pos int, o Outcome, change func(head []byte)) (string, error) {
	l.Helper()
	raw, err := l.rdb.GetRange(l.Context(), "lc:{b}:r:0", int64(pos*RecordSize), int64(pos*RecordSize+3)).Bytes()
	l.must(err)
	head := make([]byte, 4)
	copy(head, raw)
	head[0] = head[0]&(flagAmbiguous|flagSettling) | byte(o)
	if change != nil {
		change(head)
	}
	entry := append(binary.BigEndian.AppendUint16(nil, uint16(pos)), head...)
	keys := []string{"lc:{b}", "lc:{b}:r:0", "lc:{b}:e", "lc:{b}:s"}
	reply, err := redis.NewScript(format1Lua).Run(l.Context(), l.rdb, keys, 0, ChunkLinks, MaxErrors, maxLinkStatus, entry, task.MaxAhead, 1).Slice()
	if err != nil {
		return "", scriptError(err)
	}
	return fmt.Sprint(reply[0]), nil
}

// first makes a running batch "b" of format 1.
func (l *bench) first(total int, canary bool) {
	l.Helper()
	b := l.batch("b", total, canary)
	l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
	l.set("lc:{b}", "v", 1)
}

// A fleet may have workers of both releases while it is upgraded.
func TestFormat1(t *testing.T) {
	wait := func(e Entry) Entry { e.Wait = time.Hour; return e }
	hold(t, []rule{
		{"a new batch has the new format, and the older release leaves it alone", func(l *bench) {
			l.running(10)
			l.equal("format", "2", l.hash("lc:{b}")["v"])
			_, err := l.older(0, Cancelled, nil)
			l.fails("the older one", err, ErrNewer)
		}},
		{"a batch of format 1 is read and drained", func(l *bench) {
			l.first(10, false)
			l.commit(outcomes(Cancelled, 0, 9)...)
			l.equal("slice", uint8(1), l.slice("b", 3).Records[0].Attempts)
			l.equal("done", Done, l.commit(outcomes(Cancelled, 9, 10)...).State)
			l.equal("format", "1", l.hash("lc:{b}")["v"])
			b := l.get("b")
			l.must(l.Retire(l.Context(), b, time.Hour))
			l.must(l.Delete(l.Context(), b, history.By{Actor: "ann"}, time.Hour))
		}},
		{"one of no format is not read", func(l *bench) {
			l.first(1, false)
			for _, v := range []string{"0", "", "x"} {
				l.set("lc:{b}", "v", v)
				l.fails("commit "+v, l.Commit(l.Context(), []Group{{Batch: "b", Entries: outcomes(Cancelled, 0, 1)}})[0].Err, ErrNewer)
				_, err := l.Get(l.Context(), "b")
				l.fails("get "+v, err, ErrNewer)
			}
		}},
		{"what a note tells this release is nothing to the older one", func(l *bench) {
			l.first(100, false)
			var notes []Entry
			for pos := range 63 { // all indexes of kinds
				notes = append(notes, wait(plain(pos, fmt.Sprint("kind ", pos), uint8(1+pos%3))))
			}
			l.commit(notes...)
			for pos := range 63 {
				raw, err := l.rdb.GetRange(l.Context(), "lc:{b}:r:0", int64(pos*RecordSize), int64(pos*RecordSize+3)).Bytes()
				l.must(err)
				if raw[0]&0x3f != 0 || raw[2]>>2 != 0 {
					l.Errorf("link %d: % x", pos, raw)
				}
			}
			// As the older one ends them.
			for pos, o := range Outcomes[:6] {
				state, err := l.older(pos, o, func(head []byte) { head[1]++ })
				l.must(err)
				l.equal("state", "running", state)
				l.equal("record", Record{Outcome: o, Attempts: uint8(2 + pos%3), HTTPStatus: 404}, l.record(pos))
			}
		}},
		{"a note of the older release makes a pending link one without a kind", func(l *bench) {
			l.first(100, false)
			l.commit(wait(plain(0, empty404, 3)))
			_, err := l.older(0, None, func(head []byte) { head[0] |= flagAmbiguous })
			l.must(err)
			l.equal("record", Record{Ambiguous: true, Attempts: 3, HTTPStatus: 404}, l.record(0))
			l.commit(Entry{Record: Record{Outcome: Cancelled}, Proven: true})
			l.known("not contradicted", empty404, 1, false)
		}},
		{"an abort of the older release keeps no kind as a link status", func(l *bench) {
			l.first(100, false)
			l.commit(wait(plain(0, empty404, 1)), wait(plain(1, html404, 2)))
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			for pos := range 2 {
				_, err := l.older(pos, Aborted, func(head []byte) { copy(head[1:], "\x00\x00\x00") })
				l.must(err)
				l.equal("record", Record{Outcome: Aborted, Attempts: uint8(1 + pos), HTTPStatus: 404}, l.record(pos))
			}
		}},
		{"a link that settles goes from one to the other", func(l *bench) {
			l.first(100, false)
			e := Entry{Record: Record{Settling: true, Attempts: 1, HTTPStatus: 422, Plains: 1}, Kind: empty404, Error: "paid"}
			l.commit(wait(e))
			_, err := l.older(0, None, func(head []byte) { head[1]++ })
			l.must(err)
			l.equal("record", Record{Settling: true, Attempts: 2, HTTPStatus: 422}, l.record(0))
			l.equal("text", "paid", l.text(0))
		}},
		{"a plain outcome is an outcome to the older one", func(l *bench) {
			l.first(100, false)
			l.commit(plainly(NotFound, 0, 1)...)
			_, err := l.older(0, Cancelled, nil)
			l.must(err)
			l.equal("record", Record{Outcome: NotFound, Plain: true, Attempts: 1}, l.record(0))
		}},
		{"whose canary decides first, decides", func(l *bench) {
			l.first(200, true)
			for pos := range 50 {
				_, err := l.older(pos, NotFound, nil)
				l.must(err)
			}
			b := l.get("b")
			l.equal("the older one", "paused canary:not_found passed", fmt.Sprint(b.State, " ", b.Reason, " ", b.Canary))
			l.commit(outcomes(NotFound, 50, 110)...)
			l.row("no row")
			_, _, err := l.Resume(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("nothing is put back", Counts{NotFound: 110}, l.get("b").Counts)
			l.addsUp()

			l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 1})...).Err())
			l.first(200, true)
			l.commit(outcomes(NotFound, 0, 50)...)
			for pos := 50; pos < 60; pos++ {
				_, err := l.older(pos, NotFound, nil)
				l.must(err)
			}
			l.row("of this one", span(0, 50)...)
			_, _, err = l.Resume(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("what this release knows of is put back", Counts{NotFound: 10}, l.get("b").Counts)
			l.addsUp()
		}},
		{"what the older release does not know of ends some day", func(l *bench) {
			l.first(100, false)
			l.commit(plain(0, empty404, 1))
			if ttl := l.rdb.TTL(l.Context(), "lc:{b}:k").Val(); ttl < 80*24*time.Hour {
				l.Errorf("the kinds end in %v", ttl)
			}
			l.must(l.rdb.Del(l.Context(), batchKeys(Batch{ID: "b", Chunks: 1})...).Err())
			l.running(100)
			l.commit(plain(0, empty404, 1))
			if ttl := l.rdb.TTL(l.Context(), "lc:{b}:k").Val(); ttl != -1 {
				l.Errorf("of a batch of format 2 they end in %v", ttl)
			}
		}},
		{"an older batch is not made a newer one by a command", func(l *bench) {
			l.first(10, false)
			_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "", Auto: true})
			l.must(err)
			_, _, err = l.Resume(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			_, _, err = l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.must(l.FillAborted(l.Context(), l.get("b")))
			l.equal("format", "1", l.hash("lc:{b}")["v"])
			all, err := l.List(l.Context())
			l.must(err)
			l.equal("listed", []State{AbortedState}, slices.Collect(func(yield func(State) bool) {
				for _, b := range all {
					yield(b.State)
				}
			}))
		}},
	})
}
