package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/ratelimit"
)

// told are entries in short: the owner, the actor, what they did, and why.
func told(entries []history.Entry) (lines []string) {
	for _, e := range entries {
		line := fmt.Sprintf("%s: %s %s", e.Owner, e.Actor, e.Action)
		if e.Detail != "" {
			line += " " + e.Detail
		}
		if e.Reason != "" {
			line += " (" + e.Reason + ")"
		}
		lines = append(lines, line)
	}
	return lines
}

func (l *bench) history(id string) []history.Entry {
	l.Helper()
	entries, err := l.History(l.Context(), id)
	l.must(err)
	return entries
}

func TestHistory(t *testing.T) {
	ann := history.By{Actor: "ann", Reason: "the wrong file"}
	hold(t, []rule{
		{"a batch from its import to its end", func(l *bench) {
			d := l.create(DraftConfig{ID: "b", Source: "import", File: "stale.csv", By: history.By{Actor: "bob"}})
			l.equal("before the seal", 0, len(l.history("b")))
			l.write(d, 3)
			l.must(d.Seal(l.Context(), "sha", 0, 0))
			l.must(d.Seal(l.Context(), "sha", 0, 0)) // the reply was lost
			b := l.get("b")
			for range 2 {
				l.must(l.Start(l.Context(), &b, 1, 50, "w1"))
				_, _, err := l.Pause(l.Context(), "b", ann)
				l.must(err)
			}
			l.equal("the reason of the pause", "by ann: the wrong file", l.get("b").Reason)
			for range 2 {
				_, _, err := l.Resume(l.Context(), "b", history.By{Actor: "bob"})
				l.must(err)
			}
			l.commit(outcomes(Cancelled, 0, 2)...)
			for range 2 {
				l.commit(outcomes(Failed, 2, 3)...)
			}
			entries := l.history("b")
			l.equal("the history", []string{
				"b: bob import 3 links of stale.csv", "b: w1 start", "b: ann pause (the wrong file)", "b: bob resume",
				"b: linkcancel finish 2 cancelled, 1 failed",
			}, told(entries))
			b = l.get("b")
			l.equal("its length", int64(len(entries)), b.History)
			for i, e := range entries {
				l.equal("number", int64(i+1), e.Number)
				l.equal("automatic", e.Actor == "w1" || e.Actor == history.Self, e.Auto)
				if e.Time.Before(b.Created) || e.Time.After(b.Created.Add(time.Minute)) {
					l.Errorf("at %v, created %v", e.Time, b.Created)
				}
			}
		}},
		{"the canary, the resume, and an abort", func(l *bench) {
			l.watched(100)
			l.commit(outcomes(NotFound, 0, 50)...)
			_, _, err := l.Resume(l.Context(), "b", ann)
			l.must(err)
			for range 2 {
				_, _, err = l.Abort(l.Context(), "b", ann)
				l.must(err)
			}
			for range 2 {
				l.must(l.FillAborted(l.Context(), l.get("b")))
			}
			l.equal("the history", []string{
				"b: linkcancel pause (canary:not_found)", "b: ann resume 50 links again (the wrong file)",
				"b: ann abort (the wrong file)", "b: linkcancel finish 100 aborted",
			}, told(l.history("b")[2:]))
		}},
		{"it stays when the batch is deleted, and continues in the next one of its id", func(l *bench) {
			l.batch("b", 1, false)
			_, _, err := l.Abort(l.Context(), "b", ann)
			l.must(err)
			l.must(l.FillAborted(l.Context(), l.get("b")))
			b := l.get("b")
			for range 2 {
				l.must(l.Delete(l.Context(), b, ann, 2*time.Hour))
			}
			l.equal("the history", []string{
				"b:  import 1 link", "b: ann abort (the wrong file)", "b: linkcancel finish 1 aborted", "b: ann delete 1 link (the wrong file)",
			}, told(l.history("b")))
			if ttl := l.rdb.TTL(l.Context(), history.Key("b")).Val(); ttl < time.Hour || ttl > 2*time.Hour {
				l.Errorf("it expires in %v", ttl)
			}
			l.must(l.rdb.Del(l.Context(), keyTombstone("b")).Err())
			l.batch("b", 2, false)
			l.equal("the latest entry", int64(5), l.get("b").History)
			l.equal("expires", time.Duration(-1), l.rdb.TTL(l.Context(), history.Key("b")).Val())
			all, err := l.Activity(l.Context(), 0)
			l.must(err)
			l.equal("all", 5, len(all))
		}},
		{"it has at most 1,000 entries", func(l *bench) {
			l.batch("b", 1, false)
			for range 600 {
				_, _, err := l.Pause(l.Context(), "b", ann)
				l.must(err)
				_, _, err = l.Resume(l.Context(), "b", ann)
				l.must(err)
			}
			entries := l.history("b")
			l.equal("entries", 1000, len(entries))
			l.equal("the latest", int64(1201), entries[999].Number)
		}},
	})
}

func TestActivity(t *testing.T) {
	ann := history.By{Actor: "ann", Reason: "the wrong file"}
	hold(t, []rule{
		{"all histories, the newest entry first", func(l *bench) {
			ctx := l.Context()
			l.batch("a", 1, false)
			l.batch("b", 1, false)
			l.must(ratelimit.SetFleetRate(ctx, l.rdb, 5, ann))
			l.must(ratelimit.HoldFleet(ctx, l.rdb, time.Time{}, ann))
			l.must(ratelimit.ReleaseFleet(ctx, l.rdb, ann))
			l.must(l.SetAPI(ctx, "https://api", ann))
			l.must(l.begin(night(1)).End(ctx, "w1", "7 listed"))
			l.must(l.begin(night(2)).Abandon(ctx, "w1", "no list", ""))
			_, _, err := l.Abort(ctx, "a", ann)
			l.must(err)
			l.must(l.FillAborted(ctx, l.get("a")))
			l.must(l.Delete(ctx, l.get("a"), ann, time.Hour))
			for range 2 {
				all, err := l.Activity(ctx, 0)
				l.must(err)
				l.equal("all", []string{
					"a:  import 1 link", "b:  import 1 link",
					"lc:rate: ann rate set 5/s (the wrong file)", "lc:rate: ann rate hold until it is released (the wrong file)",
					"lc:rate: ann rate release (the wrong file)", "lc:api: ann api set https://api (the wrong file)",
					"lc:sweep: w1 sweep ended 7 listed", "lc:sweep: w1 sweep failed (no list)",
					"a: ann abort (the wrong file)", "a: linkcancel finish 1 aborted", "a: ann delete 1 link (the wrong file)",
				}, told(all), cmpopts.SortSlices(func(a, b string) bool { return a < b }))
				for i := range all[1:] {
					if all[i+1].Time.After(all[i].Time) {
						l.Errorf("%v after %v", all[i+1], all[i])
					}
				}
				if some, err := l.Activity(ctx, 3); err != nil || len(some) != 3 || some[0] != all[0] || some[2] != all[2] {
					l.Errorf("three: %v, %v", some, err)
				}
			}
			l.equal("indexed", int64(1), l.get("b").Indexed)
		}},
		{"entries that are newer than a reading of the batch wait for the next", func(l *bench) {
			ctx := l.Context()
			l.batch("b", 1, false)
			before := l.get("b")
			_, _, err := l.Abort(ctx, "b", ann)
			l.must(err)
			var seen []string
			see := func(e history.Entry) error { seen = append(seen, told([]history.Entry{e})...); return nil }
			put := func() error { return nil }
			l.must(l.LogBatch(ctx, before, see))
			l.must(l.NotifyBatch(ctx, before, see, put))
			l.equal("before", []string{"b:  import 1 link", "b:  import 1 link"}, seen)
			seen = nil
			l.must(l.LogBatch(ctx, l.get("b"), see))
			l.must(l.NotifyBatch(ctx, l.get("b"), see, put))
			l.equal("after", []string{"b: ann abort (the wrong file)", "b: ann abort (the wrong file)"}, seen)
		}},
		{"each entry is logged once, even if others have read it before", func(l *bench) {
			ctx := l.Context()
			var logged []string
			all := func() []string {
				l.Helper()
				logged = nil
				log := func(e history.Entry) error { logged = append(logged, told([]history.Entry{e})...); return nil }
				open, err := l.Unfinished(ctx)
				l.must(err)
				for _, b := range open {
					l.must(l.LogBatch(ctx, b, log))
				}
				l.must(l.LogFleet(ctx, func(e history.Entry) { _ = log(e) }))
				return logged
			}
			l.batch("b", 1, false)
			_, err := l.Activity(ctx, 0)
			l.must(err)
			l.equal("the import", []string{"b:  import 1 link"}, all())
			l.equal("again", []string(nil), all())
			_, _, err = l.Abort(ctx, "b", ann)
			l.must(err)
			l.must(ratelimit.SetFleetRate(ctx, l.rdb, 5, ann))
			_, err = l.Activity(ctx, 0)
			l.must(err)
			l.equal("abort and rate", []string{"b: ann abort (the wrong file)", "lc:rate: ann rate set 5/s (the wrong file)"}, all())
			l.must(l.FillAborted(ctx, l.get("b")))
			l.must(l.Delete(ctx, l.get("b"), ann, time.Hour))
			_, err = l.Activity(ctx, 0)
			l.must(err)
			l.equal("the deletion", []string{"b: ann delete 1 link (the wrong file)"}, all())
			l.equal("again", []string(nil), all())

			// Redis lost what was indexed and logged, or the history itself.
			l.must(l.rdb.Del(ctx, keyDeleted).Err())
			time.Sleep(2 * time.Millisecond) // an entry is known by its number and millisecond
			l.must(l.rdb.Del(ctx, history.Key(history.Rate)).Err())
			l.must(ratelimit.SetFleetRate(ctx, l.rdb, 6, ann))
			l.equal("of a lost history", []string{"lc:rate: ann rate set 6/s (the wrong file)"}, all())
			entries, err := l.Activity(ctx, 0)
			l.must(err)
			l.equal("indexed", 6, len(entries))
		}},
		{"the index is not written for a batch that is gone", func(l *bench) {
			l.batch("b", 1, false)
			b := l.get("b")
			l.must(l.rdb.Del(l.Context(), keyBatch("b")).Err())
			l.must(l.IndexBatch(l.Context(), b))
			l.equal("the hash", map[string]string{}, l.hash("lc:{b}"))
		}},
		{"automatic entries do not take the place of others, and all of them age", func(l *bench) {
			l.batch("b", 1, false)
			_, _, err := l.Pause(l.Context(), "b", ann)
			l.must(err)
			_, err = l.Activity(l.Context(), 0)
			l.must(err)
			at := l.ago(time.Hour)
			var entries []redis.Z
			for i := range maxIndexed + 500 {
				entries = append(entries, redis.Z{Score: float64(at), Member: fmt.Sprintf(`c %d %d {"action":"start","actor":"w1","auto":true}`, i+1, at)})
			}
			for part := range slices.Chunk(entries, 500) { // a busy machine answers each in time
				l.must(l.rdb.ZAdd(l.Context(), keyAuto, part...).Err())
			}
			l.must(l.TrimIndex(l.Context(), 2*time.Hour))
			all, err := l.Activity(l.Context(), 0)
			l.must(err)
			l.equal("entries", maxIndexed+2, len(all))
			l.equal("the newest", "b: ann pause (the wrong file)", told(all)[0])
			l.must(l.TrimIndex(l.Context(), 30*time.Minute))
			all, err = l.Activity(l.Context(), 0)
			l.must(err)
			l.equal("entries that are not old", 2, len(all))
		}},
	})
}
