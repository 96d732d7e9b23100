package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

func TestStates(t *testing.T) {
	type verb func(*bench) (State, bool, error)
	pause := func(l *bench) (State, bool, error) {
		return l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
	}
	resume := func(l *bench) (State, bool, error) { return l.Resume(l.Context(), "b", history.By{Actor: "ann"}) }
	abort := func(l *bench) (State, bool, error) { return l.Abort(l.Context(), "b", history.By{Actor: "ann"}) }
	makers := map[string]func(*bench){
		"importing": func(l *bench) { l.draft(2) },
		"ready":     func(l *bench) { l.batch("b", 2, true) },
		"running":   func(l *bench) { l.running(2) },
		"paused before it ran": func(l *bench) {
			l.batch("b", 2, true)
			_, _, err := pause(l)
			l.must(err)
		},
		"paused": func(l *bench) {
			l.running(2)
			_, _, err := pause(l)
			l.must(err)
		},
		"done": func(l *bench) { l.running(2); l.commit(outcomes(Cancelled, 0, 2)...) },
		"aborted": func(l *bench) {
			l.running(2)
			_, _, err := abort(l)
			l.must(err)
		},
	}
	var rules []rule
	for _, tt := range []struct {
		from    string
		verb    string
		do      verb
		want    State
		changed bool
	}{
		{"importing", "pause", pause, Importing, false},
		{"importing", "resume", resume, Importing, false},
		{"importing", "abort", abort, Importing, false},
		{"ready", "pause", pause, Paused, true},
		{"ready", "resume", resume, Ready, false},
		{"ready", "abort", abort, AbortedState, true},
		{"running", "pause", pause, Paused, true},
		{"running", "resume", resume, Running, false},
		{"running", "abort", abort, AbortedState, true},
		{"paused before it ran", "pause", pause, Paused, false},
		{"paused before it ran", "resume", resume, Ready, true},
		{"paused before it ran", "abort", abort, AbortedState, true},
		{"paused", "pause", pause, Paused, false},
		{"paused", "resume", resume, Running, true},
		{"paused", "abort", abort, AbortedState, true},
		{"done", "pause", pause, Done, false},
		{"done", "resume", resume, Done, false},
		{"done", "abort", abort, Done, false},
		{"aborted", "pause", pause, AbortedState, false},
		{"aborted", "resume", resume, AbortedState, false},
		{"aborted", "abort", abort, AbortedState, false},
	} {
		rules = append(rules, rule{tt.verb + " from " + tt.from, func(l *bench) {
			makers[tt.from](l)
			before := l.get("b")
			state, changed, err := tt.do(l)
			if state != tt.want || changed != tt.changed || err != nil {
				l.Errorf("%s, %v, %v; want %s, %v", state, changed, err, tt.want, tt.changed)
			}
			after := l.get("b")
			if !tt.changed {
				l.equal("the batch", before, after)
				return
			}
			want := before
			want.State, want.Reason, want.History = tt.want, "", before.History+1
			switch tt.verb {
			case "pause":
				want.Reason = "manual"
			case "resume":
				want.Resumed, want.Canary = after.Resumed, "off"
				if after.Resumed.Before(before.Created) {
					l.Errorf("resumed %v", after.Resumed)
				}
			}
			l.equal("the batch", want, after)
		}})
	}
	rules = append(rules, rule{"no batch", func(l *bench) {
		for _, do := range []verb{pause, resume, abort} {
			_, changed, err := do(l)
			l.fails("a command", err, ErrNoBatch)
			if changed {
				l.Error("changed")
			}
		}
		_, err := l.Get(l.Context(), "b")
		l.fails("get", err, ErrNoBatch)
		l.equal("keys", []string(nil), l.keys())
	}})
	hold(t, rules)
}

// age moves a batch back in the list of all batches.
func (l *bench) age(id string, by time.Duration) {
	l.Helper()
	l.must(l.rdb.ZAdd(l.Context(), keyBatches, redis.Z{Score: float64(l.ago(by)), Member: id}).Err())
}

func ids(batches []Batch) []string {
	var got []string
	for _, b := range batches {
		got = append(got, b.ID)
	}
	return got
}

func TestFindBatches(t *testing.T) {
	three := func(l *bench) {
		for i, id := range []string{"20260103-c", "20260101-a", "20260102-b"} {
			l.batch(id, 1, false)
			l.age(id, time.Duration(i+1)*time.Hour)
		}
	}
	resolves := func(l *bench, name, want string) {
		l.Helper()
		b, err := l.Resolve(l.Context(), name)
		if b.ID != want || err != nil {
			l.Errorf("%q is %q (%v), want %q", name, b.ID, err, want)
		}
	}
	hold(t, []rule{
		{"the newest first", func(l *bench) {
			three(l)
			all, err := l.List(l.Context())
			l.must(err)
			l.equal("list", []string{"20260103-c", "20260101-a", "20260102-b"}, ids(all))
		}},
		{"no batches", func(l *bench) {
			all, err := l.List(l.Context())
			l.must(err)
			open, err := l.Unfinished(l.Context())
			l.must(err)
			l.equal("list", []Batch(nil), append(all, open...))
		}},
		{"a list longer than a round trip", func(l *bench) {
			for _, id := range links(0, 501) {
				l.set(keyBatch(id), "v", 1, "state", "ready")
				l.age(id, time.Hour)
			}
			all, err := l.List(l.Context())
			l.must(err)
			l.equal("batches", 501, len(all))
		}},
		{"an expired batch is not listed, and leaves the unfinished ones", func(l *bench) {
			three(l)
			l.must(l.rdb.Del(l.Context(), "lc:{20260103-c}").Err())
			all, err := l.List(l.Context())
			l.must(err)
			l.equal("list", []string{"20260101-a", "20260102-b"}, ids(all))
			resolves(l, "latest", "20260101-a")
			open, err := l.Unfinished(l.Context())
			l.must(err)
			got := ids(open)
			slices.Sort(got)
			l.equal("unfinished", []string{"20260101-a", "20260102-b"}, got)
			members := l.rdb.SMembers(l.Context(), keyOpen).Val()
			slices.Sort(members)
			l.equal("lc:open", []string{"20260101-a", "20260102-b"}, members)
		}},
		{"by id, prefix and latest", func(l *bench) {
			three(l)
			l.batch("2026010", 1, false)
			resolves(l, "20260101-a", "20260101-a")
			resolves(l, "20260102", "20260102-b")
			resolves(l, "20260103-", "20260103-c")
			resolves(l, "2026010", "2026010") // an id before a prefix
			resolves(l, "latest", "2026010")
		}},
		{"an ambiguous prefix names two of them", func(l *bench) {
			three(l)
			l.batch("20250101-a", 1, false)
			for name, want := range map[string]string{
				"2025":     "",
				"202601":   `"202601" could be 20260103-c, 20260101-a or 1 more: give more of the id`,
				"20260101": "",
				"20":       `"20" could be 20250101-a, 20260103-c or 2 more: give more of the id`,
			} {
				_, err := l.Resolve(l.Context(), name)
				if got := fmt.Sprint(err); want != "" && got != want || want == "" && err != nil {
					l.Errorf("%s: %s", name, got)
				}
			}
			l.must(l.rdb.Del(l.Context(), "lc:{20260102-b}").Err())
			_, err := l.Resolve(l.Context(), "2026")
			if want := `"2026" could be 20260103-c or 20260101-a: give more of the id`; err == nil || err.Error() != want || errors.Is(err, ErrNoBatch) {
				l.Error(err)
			}
		}},
		{"one of a newer release is refused, however it is named", func(l *bench) {
			three(l)
			l.set("lc:{20260103-c}", "v", formatVersion+1)
			for _, name := range []string{"20260103-c", "20260103", "latest"} {
				if _, err := l.Resolve(l.Context(), name); err == nil || !strings.Contains(err.Error(), "use the newer release") {
					l.Errorf("%s: %v", name, err)
				}
			}
		}},
		{"what is none", func(l *bench) {
			_, err := l.Resolve(l.Context(), "latest")
			l.fails("latest of none", err, ErrNoBatch)
			three(l)
			for _, name := range []string{"", "2027", "0101", "20260101-ab", "*", "a b", strings.Repeat("x", 99)} {
				_, err := l.Resolve(l.Context(), name)
				l.fails(name, err, ErrNoBatch)
			}
		}},
	})
}

func TestEndOfLife(t *testing.T) {
	hold(t, []rule{
		{"retiring lets every key expire", func(l *bench) {
			l.running(1001)
			l.batch("other", 1, false)
			_, err := l.LinkStatus(l.Context(), "b", "paid")
			l.must(err)
			l.rowAndKind()
			l.must(l.SetRedeliveries(l.Context(), "b", "0:0", 1))
			for chunk := range 2 {
				entries := outcomes(Rejected, 0, 1)
				entries[0].Error = "text"
				l.must(l.Commit(l.Context(), []Group{{Batch: "b", Chunk: chunk, Entries: entries}})[0].Err)
			}
			l.must(l.Retire(l.Context(), l.get("b"), time.Hour))
			n := 0
			for _, key := range l.keys() {
				ttl := l.rdb.TTL(l.Context(), key).Val()
				if !strings.HasPrefix(key, "lc:{b}") {
					if ttl != -1 {
						l.Errorf("%s expires in %v", key, ttl)
					}
					continue
				}
				n++
				if ttl <= 50*time.Minute || ttl > time.Hour {
					l.Errorf("%s expires in %v", key, ttl)
				}
			}
			l.equal("keys of the batch", 11, n)
			l.equal("lc:open", []string{"other"}, l.rdb.SMembers(l.Context(), keyOpen).Val())
			all, err := l.List(l.Context())
			l.must(err)
			l.equal("listed still", 2, len(all))
		}},
		{"a repeated outcome does not keep a retired batch alive", func(l *bench) {
			l.running(1)
			l.commit(outcomes(Cancelled, 0, 1)...)
			l.must(l.Retire(l.Context(), l.get("b"), time.Hour))
			l.commit(outcomes(Cancelled, 0, 1)...)
			for _, key := range []string{"lc:{b}", "lc:{b}:m:0", "lc:{b}:r:0"} {
				if ttl := l.rdb.TTL(l.Context(), key).Val(); ttl <= 0 {
					l.Errorf("%s does not expire", key)
				}
			}
		}},
		{"an answer that comes after an abort leaves nothing that outlives the batch", func(l *bench) {
			l.running(3)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.must(l.FillAborted(l.Context(), l.get("b")))
			l.must(l.Retire(l.Context(), l.get("b"), time.Hour))
			l.commit(Entry{Record: Record{Outcome: NotCancellable, Attempts: 1, HTTPStatus: 422}, LinkStatus: "paid", Error: "late"})
			l.equal("counts", Counts{NotCancellable: 1, Aborted: 2}, l.get("b").Counts)
			l.expires("lc:{b}", "lc:{b}:m:0", "lc:{b}:r:0", "lc:{b}:e", "lc:{b}:s")
		}},
		{"nor does a proven one leave its kind", func(l *bench) {
			l.running(3)
			l.commit(Entry{Record: Record{Plains: 1}, Kind: "404 empty"})
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.must(l.rdb.Expire(l.Context(), "lc:{b}", time.Hour).Err()) // as if it were retired
			l.commit(Entry{Record: Record{Outcome: Cancelled}, Proven: true})
			l.expires("lc:{b}", "lc:{b}:r:0", "lc:{b}:k")
		}},
		{"deleting takes every key of the batch, and no other", func(l *bench) {
			l.batch("other", 1, false)
			want := l.keys()
			want = slices.Insert(want, slices.Index(want, "lc:{other}"), "lc:{b}:gone", "lc:{b}:h")
			want = slices.Insert(want, 0, "lc:activity:deleted")
			l.batch("b", 2500, false)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.commit(Entry{Record: Record{Outcome: Rejected, Attempts: 1}, LinkStatus: "odd", Error: "text"})
			l.rowAndKind()
			l.must(l.SetRedeliveries(l.Context(), "b", "0:0", 1))
			l.must(l.FillAborted(l.Context(), l.get("b")))
			b := l.get("b")
			for range 2 { // a deletion may be repeated
				l.must(l.Delete(l.Context(), b, history.By{Actor: "ann"}, time.Hour))
				l.equal("keys", want, l.keys())
				l.equal("lc:open", []string{"other"}, l.rdb.SMembers(l.Context(), keyOpen).Val())
				l.equal("lc:batches", []string{"other"}, l.rdb.ZRange(l.Context(), keyBatches, 0, -1).Val())
			}
			l.fails("a late answer", l.Commit(l.Context(), []Group{{Batch: "b", Entries: outcomes(Cancelled, 0, 1)}})[0].Err, ErrNoBatch)
			l.equal("keys after a late answer", want, l.keys())
		}},
		{"the id of a deleted batch is not used again at once", func(l *bench) {
			l.batch("b", 1, false)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.must(l.FillAborted(l.Context(), l.get("b")))
			l.must(l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour))
			_, _, err = l.Create(l.Context(), DraftConfig{ID: "b"})
			l.fails("at once", err, ErrDeleted)
			deleted, err := l.Deleted(l.Context(), "b")
			l.must(err)
			l.equal("deleted", true, deleted)
			l.expires("lc:{b}:gone")
			l.must(l.rdb.Del(l.Context(), "lc:{b}:gone").Err())
			l.batch("b", 1, false)
		}},
		{"what is not finished is not deleted", func(l *bench) {
			l.draft(2)
			l.fails("importing", l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour), ErrUnfinished)
			l.must(l.discardDead("b"))
			l.batch("b", 2, false)
			l.fails("ready", l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour), ErrUnfinished)
			b := l.get("b")
			l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
			l.fails("running", l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour), ErrUnfinished)
			_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "", Auto: true})
			l.must(err)
			l.fails("paused", l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour), ErrUnfinished)
			_, _, err = l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			want := l.keys()
			l.fails("aborted, and not filled", l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour), ErrUnfinished)
			l.equal("keys", want, l.keys())
		}},
		{"a deletion that broke off ends by itself, or by another", func(l *bench) {
			l.batch("b", 1500, false)
			_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.must(l.FillAborted(l.Context(), l.get("b")))
			b := l.get("b")
			// An interrupted deletion: everything expires, and the first chunk is deleted.
			l.must(l.end(l.Context(), b, batchKeys(b), leftoverTTL))
			l.must(l.rdb.Unlink(l.Context(), "lc:{b}:m:0", "lc:{b}:r:0").Err())
			l.commit(Entry{Record: Record{Outcome: Rejected, Attempts: 1}, LinkStatus: "odd", Error: "late"})
			l.expires("lc:{b}", "lc:{b}:r:0", "lc:{b}:m:1", "lc:{b}:r:1", "lc:{b}:e", "lc:{b}:s")
			l.must(l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour))
			l.equal("keys", []string{"lc:activity:deleted", "lc:{b}:gone", "lc:{b}:h"}, l.keys())
		}},
		{"pruning forgets old batches that are gone, and no others", func(l *bench) {
			for _, id := range []string{"old", "old-gone", "new", "new-gone"} {
				l.batch(id, 1, false)
			}
			l.age("old", 25*time.Hour)
			l.age("old-gone", 25*time.Hour)
			l.age("new-gone", 23*time.Hour)
			for _, id := range []string{"old-gone", "new-gone"} {
				l.must(l.rdb.Del(l.Context(), keyBatch(id)).Err())
			}
			for range 2 {
				l.must(l.Prune(l.Context()))
				l.equal("lc:batches", []string{"old", "new-gone", "new"}, l.rdb.ZRange(l.Context(), keyBatches, 0, -1).Val())
			}
		}},
	})
}
