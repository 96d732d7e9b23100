package ledger

import "testing"

func TestFind(t *testing.T) {
	hold(t, []rule{
		{"a link is found wherever it is, and no other one", func(l *bench) {
			const total = 30*ChunkLinks + 7 // two calls
			b := l.batch("b", total, false)
			all := links(0, total)
			for _, position := range []int{0, 1, 999, 1000, 24_999, 25_000, total - 1} {
				found, err := l.Find(l.Context(), b, []string{all[position]})
				l.must(err)
				l.equal("found", map[string]int{all[position]: position}, found)
			}
			found, err := l.Find(l.Context(), b, []string{all[3], "nobody", all[total-1], all[5] + "x", all[5][1:]})
			l.must(err)
			l.equal("several", map[string]int{all[3]: 3, all[total-1]: total - 1}, found)
		}},
		{"a batch that is gone has none", func(l *bench) {
			b := l.batch("b", 10, false)
			l.must(l.rdb.Del(l.Context(), keyChunk("b", 0)).Err())
			found, err := l.Find(l.Context(), b, links(0, 1))
			l.must(err)
			l.equal("found", map[string]int{}, found)
		}},
		{"a link has its record, its status and its text", func(l *bench) {
			b := l.running(10)
			l.commit(Entry{Position: 3, Record: Record{Outcome: NotCancellable, Attempts: 2, HTTPStatus: 422}, LinkStatus: "paid", Error: "it is paid"},
				Entry{Position: 5, Record: Record{Outcome: Cancelled, Attempts: 1, HTTPStatus: 204}})
			lr, err := l.LinkAt(l.Context(), "b", 3)
			l.must(err)
			lr.Record.After, lr.Record.LinkStatus = 0, 0
			l.equal("record", LinkRecord{Record: Record{Outcome: NotCancellable, Attempts: 2, HTTPStatus: 422}, LinkStatus: "paid", Error: "it is paid"}, lr)
			lr, err = l.LinkAt(l.Context(), "b", 4)
			l.must(err)
			l.equal("pending", LinkRecord{}, lr)
			for position, want := range map[int]int64{0: 0, 3: 3, 4: 3, 6: 4, 9: 7} {
				n, err := l.PendingBefore(l.Context(), b, position)
				l.must(err)
				l.equal("pending before", want, n)
			}
		}},
	})
}
