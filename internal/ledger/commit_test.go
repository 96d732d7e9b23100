package ledger

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
)

func stand(o Outcome, wrote bool) CommitResult { return CommitResult{Outcome: o, Wrote: wrote} }

func one(o Outcome) Counts {
	var c Counts
	c[o] = 1
	return c
}

func TestOneOutcomeALink(t *testing.T) {
	hold(t, []rule{
		{"the first outcome stands, whoever repeats", func(l *bench) {
			for _, first := range Outcomes[:6] {
				for _, second := range Outcomes {
					redistest.Flush(l, l.rdb)
					l.running(3)
					c := l.commit(Entry{Position: 1, Record: Record{Outcome: first, Attempts: 2, HTTPStatus: 404}, LinkStatus: "one", Error: "first"})
					l.equal("first", Committed{State: Running, Pending: 2, Results: []CommitResult{stand(first, true)}}, c)
					want := l.record(1)
					for range 2 {
						c = l.commit(Entry{Position: 1, Record: Record{Outcome: second, Ambiguous: true, Attempts: 9, HTTPStatus: 500}, Error: "second"})
						l.equal("second", Committed{State: Running, Pending: 2, Results: []CommitResult{stand(first, false)}}, c)
					}
					l.equal("record", want, l.record(1))
					l.equal("counts", one(first), l.get("b").Counts)
					l.equal("text", "first", l.text(1))
				}
			}
		}},
		{"a real answer replaces aborted and moves the count", func(l *bench) {
			for _, answer := range Outcomes[:6] {
				redistest.Flush(l, l.rdb)
				l.running(2)
				l.commit(Entry{Record: Record{Ambiguous: true, Attempts: 3, HTTPStatus: 502}})
				l.commit(outcomes(Aborted, 0, 1)...)
				l.equal("aborted", Record{Outcome: Aborted, Ambiguous: true, Attempts: 3, HTTPStatus: 502}, l.record(0))
				c := l.commit(Entry{Record: Record{Outcome: answer, Attempts: 1, HTTPStatus: 204}, LinkStatus: "odd", Error: "text"})
				l.equal("standing", []CommitResult{stand(answer, true)}, c.Results)
				l.equal("answered", Record{Outcome: answer, Ambiguous: true, Attempts: 3, HTTPStatus: 204, LinkStatus: 1}, l.record(0))
				l.equal("counts", one(answer), l.get("b").Counts)
				l.equal("text", "text", l.text(0))
				l.equal("aborted again", []CommitResult{stand(answer, false)}, l.commit(outcomes(Aborted, 0, 1)...).Results)
			}
		}},
		{"aborted does not replace aborted", func(l *bench) {
			l.running(2)
			l.commit(outcomes(Aborted, 0, 1)...)
			c := l.commit(Entry{Record: Record{Outcome: Aborted, Ambiguous: true}})
			l.equal("standing", []CommitResult{stand(Aborted, false)}, c.Results)
			l.equal("counts", Counts{Aborted: 1}, l.get("b").Counts)
		}},
		{"the outcome is stamped in seconds since the batch was created", func(l *bench) {
			created := time.UnixMilli(l.ago(1000*time.Second + 500*time.Millisecond))
			d := l.create(DraftConfig{ID: "b", Created: created})
			l.write(d, 2)
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.commit(append(outcomes(Cancelled, 0, 1), Entry{Position: 1, Record: Record{Attempts: 1}})...)
			latest := (l.ago(0) - created.UnixMilli()) / 1000
			records, err := l.Records(l.Context(), "b", 0, 0, 2)
			l.must(err)
			if got := int64(records[0].After); got < 1000 || got > latest {
				l.Errorf("%d s, want 1000 to %d", got, latest)
			}
			if records[1].After != 0 {
				l.Error("a note has a time")
			}
		}},
		{"a batch from the future has its outcomes at its beginning", func(l *bench) {
			d := l.create(DraftConfig{ID: "b", Created: time.UnixMilli(l.ago(-time.Hour))})
			l.write(d, 1)
			l.must(d.Seal(l.Context(), "digest", 0, 0))
			l.commit(outcomes(Cancelled, 0, 1)...)
			records, err := l.Records(l.Context(), "b", 0, 0, 1)
			l.must(err)
			l.equal("record", []Record{{Outcome: Cancelled, Attempts: 1}}, records)
		}},
	})
}

func TestNotes(t *testing.T) {
	type step struct {
		Record
		text string
	}
	var rules []rule
	for _, tt := range []struct {
		name  string
		steps []step
		want  Record
		text  string
	}{
		{"attempts go to the higher of both",
			[]step{{Record: Record{Attempts: 3}}, {Record: Record{Attempts: 2}}}, Record{Attempts: 3}, ""},
		{"attempts rise", []step{{Record: Record{Attempts: 3}}, {Record: Record{Attempts: 255}}}, Record{Attempts: 255}, ""},
		{"ambiguous is only ever set",
			[]step{{Record: Record{Ambiguous: true}}, {}}, Record{Ambiguous: true}, ""},
		{"settling is as given", []step{{Record: Record{Settling: true}}, {}}, Record{}, ""},
		{"the last status stands before it settles",
			[]step{{Record: Record{HTTPStatus: 500}}, {Record: Record{HTTPStatus: 502}}}, Record{HTTPStatus: 502}, ""},
		{"while settling, status and text stay those of the DELETE",
			[]step{
				{Record{Settling: true, Attempts: 1, HTTPStatus: 422}, "not cancellable"},
				{Record{Settling: true, Ambiguous: true, Attempts: 2, HTTPStatus: 503}, "unavailable"},
			},
			Record{Settling: true, Ambiguous: true, Attempts: 2, HTTPStatus: 422}, "not cancellable"},
		{"while settling, no text stays no text",
			[]step{{Record{Settling: true, HTTPStatus: 409}, ""}, {Record{Settling: true, HTTPStatus: 503}, "unavailable"}},
			Record{Settling: true, HTTPStatus: 409}, ""},
		{"while settling, the text stays without another",
			[]step{{Record{Settling: true, HTTPStatus: 400}, "bad"}, {Record{Settling: true}, ""}}, Record{Settling: true, HTTPStatus: 400}, "bad"},
		{"a link that settles no more is sent afresh",
			[]step{{Record{Settling: true, HTTPStatus: 202}, "accepted"}, {Record{HTTPStatus: 500}, ""}}, Record{HTTPStatus: 500}, ""},
		{"the outcome of a settling link has its own status, and no text of the DELETE",
			[]step{{Record{Settling: true, Ambiguous: true, Attempts: 2, HTTPStatus: 422}, "paid"}, {Record{Outcome: Cancelled, Attempts: 1, HTTPStatus: 204}, ""}},
			Record{Outcome: Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 204}, ""},
		{"the outcome of a settling link has its own text",
			[]step{{Record{Settling: true, HTTPStatus: 400}, "bad"}, {Record{Outcome: Rejected, HTTPStatus: 400}, "worse"}},
			Record{Outcome: Rejected, HTTPStatus: 400}, "worse"},
		{"an outcome keeps what the notes told",
			[]step{{Record: Record{Ambiguous: true, Attempts: 7}}, {Record{Outcome: Failed, Attempts: 6, HTTPStatus: 500}, "down"}},
			Record{Outcome: Failed, Ambiguous: true, Attempts: 7, HTTPStatus: 500}, "down"},
		{"an outcome does not settle any more",
			[]step{{Record: Record{Outcome: NotFound, Settling: true, HTTPStatus: 404}}}, Record{Outcome: NotFound, HTTPStatus: 404}, ""},
		{"an abort keeps flags, attempts and status",
			[]step{{Record{Settling: true, Ambiguous: true, Attempts: 2, HTTPStatus: 422}, "paid"}, {Record: Record{Outcome: Aborted}}},
			Record{Outcome: Aborted, Ambiguous: true, Attempts: 2, HTTPStatus: 422}, ""},
		{"a note after the outcome is ignored",
			[]step{{Record{Outcome: Rejected, HTTPStatus: 400}, "bad"}, {Record{Ambiguous: true, Settling: true, Attempts: 9, HTTPStatus: 500}, "late"}},
			Record{Outcome: Rejected, HTTPStatus: 400}, "bad"},
		{"a note after the abort is ignored",
			[]step{{Record: Record{Outcome: Aborted}}, {Record{Ambiguous: true, Attempts: 9, HTTPStatus: 500}, "late"}},
			Record{Outcome: Aborted}, ""},
		{"the text of a note stands until there is a newer one",
			[]step{{Record{Attempts: 1, HTTPStatus: 503}, "busy"}, {Record: Record{Attempts: 1}}, {Record{Attempts: 2}, "away"}, {Record: Record{Attempts: 2}}},
			Record{Attempts: 2}, "away"},
		{"the text of a note does not outlive it",
			[]step{{Record{Attempts: 1, HTTPStatus: 503}, "busy"}, {Record: Record{Outcome: Cancelled, HTTPStatus: 204}}},
			Record{Outcome: Cancelled, Attempts: 1, HTTPStatus: 204}, ""},
		{"not even if the note knew nothing else",
			[]step{{Record{}, "no sockets"}, {Record: Record{Outcome: Cancelled, HTTPStatus: 204}}},
			Record{Outcome: Cancelled, HTTPStatus: 204}, ""},
		{"an outcome has its own text",
			[]step{{Record{Attempts: 1}, "busy"}, {Record{Outcome: Failed, Attempts: 2}, "down"}}, Record{Outcome: Failed, Attempts: 2}, "down"},
		{"aborted has none", []step{{Record{Attempts: 1}, "busy"}, {Record: Record{Outcome: Aborted}}}, Record{Outcome: Aborted, Attempts: 1}, ""},
		{"an outcome may be plain, and a note not",
			[]step{{Record: Record{Plain: true, Attempts: 1}}, {Record: Record{Outcome: NotFound, Plain: true, HTTPStatus: 404}}},
			Record{Outcome: NotFound, Plain: true, Attempts: 1, HTTPStatus: 404}, ""},
		{"a plain outcome of a link never touched",
			[]step{{Record: Record{Outcome: NotFound, Plain: true, HTTPStatus: 404}}}, Record{Outcome: NotFound, Plain: true, HTTPStatus: 404}, ""},
	} {
		play := func(l *bench, together bool) {
			l.running(10)
			var entries []Entry
			ended := false
			var want []CommitResult
			for _, s := range tt.steps {
				entries = append(entries, Entry{Position: 7, Record: s.Record, Error: s.text})
				want = append(want, stand(s.Outcome, !ended))
				if ended {
					want[len(want)-1].Outcome = want[0].Outcome
				}
				ended = ended || s.Outcome != None
			}
			var got []CommitResult
			if together {
				got = l.commit(entries...).Results
			} else {
				for _, e := range entries {
					got = append(got, l.commit(e).Results...)
				}
			}
			l.equal("standing", want, got)
			l.equal("record", tt.want, l.record(7))
			l.equal("text", tt.text, l.text(7))
		}
		rules = append(rules,
			rule{tt.name, func(l *bench) { play(l, false) }},
			rule{tt.name + ", in one group", func(l *bench) { play(l, true) }})
	}
	hold(t, rules)
}

func TestCommit(t *testing.T) {
	hold(t, []rule{
		{"positions may be out of order and repeated", func(l *bench) {
			l.running(1000)
			g := Group{Batch: "b", Entries: []Entry{
				{Position: 999, Record: Record{Outcome: Cancelled}},
				{Position: 3, Record: Record{Outcome: NotFound}, Error: "three"},
				{Position: 0, Record: Record{Attempts: 1}},
				{Position: 3, Record: Record{Outcome: Rejected}, Error: "three again"},
				{Position: 500, Record: Record{Outcome: Failed}},
				{Position: 0, Record: Record{Outcome: Rejected}, Error: "zero"},
				{Position: 0, Record: Record{Attempts: 9}},
			}}
			c := l.Commit(l.Context(), []Group{g})[0]
			l.equal("the answer", Committed{State: Running, Pending: 996, Results: []CommitResult{
				stand(None, true), stand(Rejected, true), stand(Rejected, false), // 0
				stand(NotFound, true), stand(NotFound, false), // 3
				stand(Failed, true), stand(Cancelled, true),
			}}, c)
			var positions []int
			for _, e := range g.Entries {
				positions = append(positions, e.Position)
			}
			l.equal("the entries are sorted as the answer is", []int{0, 0, 0, 3, 3, 500, 999}, positions)
			records, err := l.Records(l.Context(), "b", 0, 0, 1000)
			l.must(err)
			want := make([]Record, 1000)
			want[0] = Record{Outcome: Rejected, Attempts: 1}
			want[3], want[500], want[999] = Record{Outcome: NotFound}, Record{Outcome: Failed}, Record{Outcome: Cancelled}
			for i := range records {
				records[i].After = 0
			}
			l.equal("records", want, records)
			l.equal("texts", map[string]string{"0": "zero", "3": "three"}, l.hash("lc:{b}:e"))
		}},
		{"one call writes chunks of many batches, each with its own answer", func(l *bench) {
			l.batch("one", 1500, false)
			l.batch("two", 1, false)
			l.create(DraftConfig{ID: "import"})
			got := l.Commit(l.Context(), []Group{
				{Batch: "one", Chunk: 1, Entries: outcomes(Cancelled, 499, 500)},
				{Batch: "gone", Entries: outcomes(Cancelled, 0, 1)},
				{Batch: "two", Entries: outcomes(Failed, 0, 1)},
				{Batch: "import", Entries: outcomes(Cancelled, 0, 1)},
				{Batch: "one", Chunk: 0, Entries: outcomes(NotFound, 0, 2)},
			})
			for _, i := range []int{1, 3} {
				l.fails("a missing batch", got[i].Err, ErrNoBatch)
				got[i].Err = nil
			}
			l.equal("answers", []Committed{
				{State: Ready, Pending: 1499, Results: []CommitResult{stand(Cancelled, true)}},
				{},
				{State: Done, Pending: 0, Results: []CommitResult{stand(Failed, true)}},
				{},
				{State: Ready, Pending: 1497, Results: []CommitResult{stand(NotFound, true), stand(NotFound, true)}},
			}, got)
			for _, key := range l.keys() {
				if strings.HasPrefix(key, "lc:{gone}") || strings.HasPrefix(key, "lc:{import}:r") {
					l.Errorf("%s was written", key)
				}
			}
		}},
		{"no group is no call", func(l *bench) {
			l.equal("answers", []Committed{}, l.Commit(l.Context(), nil))
		}},
		{"a Redis without the script is given it", func(l *bench) {
			l.batch("two", 1, false)
			l.running(1001)
			for chunk := range 2 {
				l.must(l.rdb.ScriptFlush(l.Context()).Err())
				got := l.Commit(l.Context(), []Group{
					{Batch: "b", Chunk: chunk, Entries: outcomes(Cancelled, 0, 1)},
					{Batch: "gone", Entries: outcomes(Cancelled, 0, 1)},
				})
				l.must(got[0].Err)
				l.fails("a missing batch", got[1].Err, ErrNoBatch)
			}
			l.equal("counts", Counts{Cancelled: 2}, l.get("b").Counts)
		}},
		{"a deleted batch is refused and not written", func(l *bench) {
			l.running(5)
			l.must(l.rdb.Del(l.Context(), "lc:{b}").Err())
			for _, e := range []Entry{{Record: Record{Outcome: Cancelled}}, {Record: Record{Attempts: 1}, Error: "note"}} {
				l.fails("commit", l.Commit(l.Context(), []Group{{Batch: "b", Entries: []Entry{e}}})[0].Err, ErrNoBatch)
			}
			if slices.Contains(l.keys(), "lc:{b}:r:0") {
				l.Error("records were written")
			}
		}},
		{"the first write makes the records at full size", func(l *bench) {
			l.running(1500)
			for chunk, want := range []int64{8000, 4000} {
				key := keyRecords("b", chunk)
				for _, e := range []Entry{{Position: 2, Record: Record{Attempts: 1}}, {Position: 499, Record: Record{Outcome: Failed}}} {
					l.must(l.Commit(l.Context(), []Group{{Batch: "b", Chunk: chunk, Entries: []Entry{e}}})[0].Err)
					if got := l.rdb.StrLen(l.Context(), key).Val(); got != want {
						l.Errorf("chunk %d has %d bytes, want %d", chunk, got, want)
					}
				}
			}
		}},
		{"a short record string reads as zeros and can be written", func(l *bench) {
			b := l.running(5)
			short := string(Record{Outcome: Failed, Attempts: 3}.Append(nil)) + "\x10\x02"
			l.must(l.rdb.Set(l.Context(), "lc:{b}:r:0", short, 0).Err())
			want := []Record{{Outcome: Failed, Attempts: 3}, {Ambiguous: true, Attempts: 2}, {}, {}, {}}
			records, err := l.Records(l.Context(), "b", 0, 0, 5)
			l.must(err)
			l.equal("records", want, records)
			view, err := l.Slice(l.Context(), "b", 0, 0, 5)
			l.must(err)
			l.equal("slice", want, view.Records)
			s, err := l.Snapshot(l.Context(), b)
			l.must(err)
			for i := range want {
				l.equal("snapshot", want[i], s.At(i).Record)
			}
			c := l.commit(Entry{Position: 1, Record: Record{Outcome: NotFound}}, Entry{Position: 3, Record: Record{Attempts: 1}})
			l.equal("standing", []CommitResult{stand(NotFound, true), stand(None, true)}, c.Results)
			l.equal("written", Record{Outcome: NotFound, Ambiguous: true, Attempts: 2}, l.record(1))
			l.equal("between", Record{}, l.record(2))
			l.equal("noted", Record{Attempts: 1}, l.record(3))
		}},
		{"a missing record string reads as zeros", func(l *bench) {
			l.running(5)
			view, err := l.Slice(l.Context(), "b", 0, 2, 3)
			l.must(err)
			b := l.get("b")
			l.equal("slice", SliceView{State: Running, Incarnation: b.Incarnation(), Created: b.Created, Now: view.Now, Records: make([]Record, 3)}, view)
			l.equal("record", Record{}, l.record(4))
		}},
		{"a text is cut to 256 bytes of valid UTF-8", func(l *bench) {
			l.running(20)
			for i, tt := range []struct{ text, want string }{
				{strings.Repeat("x", 256), strings.Repeat("x", 256)},
				{strings.Repeat("x", 257), strings.Repeat("x", 256)},
				{strings.Repeat("é", 200), strings.Repeat("é", 128)},
				{"x" + strings.Repeat("é", 200), "x" + strings.Repeat("é", 127)},
				{"a\xff\xfeb", "ab"},
				{"\x00\n", "\x00\n"},
				{strings.Repeat("€", 86), strings.Repeat("€", 85)},
			} {
				l.commit(Entry{Position: i, Record: Record{Outcome: Rejected}, Error: tt.text})
				l.equal("text", tt.want, l.text(i))
			}
		}},
		{"only so many texts are kept, and a kept one is replaced", func(l *bench) {
			l.running(20)
			l.commit(Entry{Position: 1, Record: Record{Settling: true, HTTPStatus: 400}, Error: "of the DELETE"})
			filler := map[string]string{}
			for i := range MaxErrors - 2 {
				filler[fmt.Sprintf("x%d", i)] = ""
			}
			l.set("lc:{b}:e", filler)
			c := l.commit(
				Entry{Position: 2, Record: Record{Outcome: Rejected}, Error: "the last"},
				Entry{Position: 3, Record: Record{Outcome: Rejected}, Error: "too many"},
			)
			l.equal("pending", int64(18), c.Pending)
			l.commit(Entry{Position: 4, Record: Record{Outcome: Rejected}, Error: "too many"})
			l.commit(Entry{Position: 1, Record: Record{Outcome: Rejected}, Error: "of the outcome"})
			texts := l.hash("lc:{b}:e")
			maps.DeleteFunc(texts, func(k, _ string) bool { return k[0] == 'x' })
			l.equal("texts", map[string]string{"1": "of the outcome", "2": "the last"}, texts)
			l.equal("a link without its text", Record{Outcome: Rejected}, l.record(4))
		}},
		{"why links wait takes half of the room for texts", func(l *bench) {
			l.running(20)
			filler := map[string]string{}
			for i := range MaxErrors/2 - 1 {
				filler[fmt.Sprintf("x%d", i)] = ""
			}
			l.set("lc:{b}:e", filler)
			l.commit(
				Entry{Position: 0, Record: Record{Attempts: 1}, Error: "the last"},
				Entry{Position: 1, Record: Record{Attempts: 1}, Error: "too many"},
				Entry{Position: 2, Record: Record{Settling: true}, Error: "of a DELETE"},
				Entry{Position: 3, Record: Record{Outcome: Rejected}, Error: "of an outcome"},
			)
			l.commit(Entry{Position: 0, Record: Record{Attempts: 2}, Error: "another"})
			texts := l.hash("lc:{b}:e")
			maps.DeleteFunc(texts, func(k, _ string) bool { return k[0] == 'x' })
			l.equal("texts", map[string]string{"0": "another", "2": "of a DELETE", "3": "of an outcome"}, texts)
		}},
	})
}

func TestEndOfABatch(t *testing.T) {
	hold(t, []rule{
		{"done and finished when the last link has its outcome", func(l *bench) {
			before := l.ago(0)
			l.running(1002)
			c := l.commit(outcomes(Cancelled, 0, 1000)...)
			if b := l.get("b"); c.State != Running || c.Pending != 2 || b.State != Running || !b.Finished.IsZero() {
				l.Errorf("%s, %d pending, %+v", c.State, c.Pending, b)
			}
			last := []Group{{Batch: "b", Chunk: 1, Entries: outcomes(NotFound, 0, 2)}}
			l.equal("the last", Committed{State: Done, Results: []CommitResult{stand(NotFound, true), stand(NotFound, true)}}, l.Commit(l.Context(), last)[0])
			if b := l.get("b"); b.State != Done || b.Finished.UnixMilli() < before || b.Pending() != 0 {
				l.Errorf("%+v", b)
			}
			l.set("lc:{b}", "finished", 123)
			l.equal("repeated", Committed{State: Done, Results: []CommitResult{stand(NotFound, false), stand(NotFound, false)}}, l.Commit(l.Context(), last)[0])
			l.equal("finished once", int64(123), l.get("b").Finished.UnixMilli())
		}},
		{"done from paused, and without its reason", func(l *bench) {
			l.running(1)
			_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
			l.must(err)
			l.equal("state", Done, l.commit(outcomes(Cancelled, 0, 1)...).State)
			l.equal("reason", "", l.get("b").Reason)
		}},
		{"done from ready", func(l *bench) {
			l.batch("b", 1, false)
			l.equal("state", Done, l.commit(outcomes(Cancelled, 0, 1)...).State)
		}},
		{"an aborted batch stays aborted, and finishes once", func(l *bench) {
			l.running(3)
			l.commit(outcomes(Cancelled, 0, 1)...)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			c := l.commit(outcomes(Aborted, 1, 2)...)
			if b := l.get("b"); c.State != AbortedState || c.Pending != 1 || !b.Finished.IsZero() {
				l.Errorf("%s, %d pending, %+v", c.State, c.Pending, b)
			}
			l.equal("filled", Committed{State: AbortedState, Results: []CommitResult{stand(Aborted, true)}}, l.commit(outcomes(Aborted, 2, 3)...))
			if l.get("b").Finished.IsZero() {
				l.Error("not finished")
			}
			l.set("lc:{b}", "finished", 123)
			c = l.commit(outcomes(Cancelled, 2, 3)...)
			l.equal("a late answer", Committed{State: AbortedState, Results: []CommitResult{stand(Cancelled, true)}}, c)
			b := l.get("b")
			l.equal("finished once", int64(123), b.Finished.UnixMilli())
			l.equal("counts", Counts{Cancelled: 2, Aborted: 1}, b.Counts)
		}},
		{"filling an aborted batch keeps what is known, and may be repeated", func(l *bench) {
			l.running(2003)
			l.must(l.Commit(l.Context(), []Group{{Batch: "b", Chunk: 2, Entries: []Entry{
				{Position: 0, Record: Record{Outcome: Cancelled, Attempts: 1}},
				{Position: 1, Record: Record{Ambiguous: true, Attempts: 4, HTTPStatus: 500}},
			}}})[0].Err)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.commit(outcomes(Aborted, 0, 700)...) // an earlier call, interrupted
			for range 2 {
				l.must(l.FillAborted(l.Context(), l.get("b")))
				b := l.get("b")
				l.equal("counts", Counts{Cancelled: 1, Aborted: 2002}, b.Counts)
				l.equal("state", AbortedState, b.State)
			}
			records, err := l.Records(l.Context(), "b", 2, 0, 3)
			l.must(err)
			for i := range records {
				records[i].After = 0
			}
			l.equal("records", []Record{
				{Outcome: Cancelled, Attempts: 1}, {Outcome: Aborted, Ambiguous: true, Attempts: 4, HTTPStatus: 500}, {Outcome: Aborted},
			}, records)
			l.must(l.rdb.Del(l.Context(), "lc:{b}", "lc:{b}:r:0").Err())
			l.fails("a deleted batch", l.FillAborted(l.Context(), Batch{ID: "b", Total: 2003, Chunks: 3}), ErrNoBatch)
		}},
	})
}

// A batch of an id that was used before has a table of its own: nobody may
// remember the indexes of the old one.
func TestLinkStatusesOfAnIDUsedAgain(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l, ctx := New(b.Client()), t.Context()
		for _, statuses := range [][]string{{"active", "EXPIRED", "Paid"}, {"CANCELED", "Paid", "active"}} {
			redistest.Flush(t, b.Client())
			d, _, err := l.Create(ctx, DraftConfig{ID: "x"})
			if err == nil {
				err = d.Write(ctx, []string{"l1", "l2", "l3"})
			}
			if err == nil {
				err = d.Seal(ctx, "digest", 0, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			g := Group{Batch: "x"}
			for i, status := range statuses {
				g.Entries = append(g.Entries, Entry{
					Position: i, Record: Record{Outcome: NotCancellable, Attempts: 1, HTTPStatus: 422}, LinkStatus: status,
				})
			}
			if c := l.Commit(ctx, []Group{g}); c[0].Err != nil {
				t.Fatal(c[0].Err)
			}
			batch, err := l.Get(ctx, "x")
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for lr, err := range l.Walk(ctx, batch) {
				if err != nil {
					t.Fatal(err)
				}
				if lr.LinkStatus != statuses[i] || lr.Record.HTTPStatus != 422 {
					t.Errorf("%s has the status %q, HTTP %d; want %q, 422", lr.Link, lr.LinkStatus, lr.Record.HTTPStatus, statuses[i])
				}
				i++
			}
		}
	})
}
