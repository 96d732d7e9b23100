package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"linkcancel/internal/history"
)

func TestLease(t *testing.T) {
	take := func(l *bench, token string, want int64) {
		l.Helper()
		epoch, err := l.Lease(l.Context(), token, time.Minute)
		if epoch != want || err != nil {
			l.Errorf("%s: epoch %d, %v; want %d", token, epoch, err, want)
		}
	}
	refused := func(l *bench, token string) {
		l.Helper()
		epoch, err := l.Lease(l.Context(), token, time.Minute)
		l.fails(token, err, ErrNotLeader)
		l.equal("epoch", int64(0), epoch)
	}
	hold(t, []rule{
		{"one leads", func(l *bench) {
			take(l, "a", 1)
			refused(l, "b")
			take(l, "a", 0) // renewed
			refused(l, "b")
		}},
		{"each new leader has a higher epoch", func(l *bench) {
			for i, token := range []string{"a", "b", "a", "a"} {
				take(l, token, int64(i+1))
				l.must(l.rdb.Del(l.Context(), keyFeeder).Err()) // as if it ran out
			}
		}},
		{"a process of an earlier release gives way, and does not get it back", func(l *bench) {
			for _, earlier := range []string{"0123456789abcdef", "2:b"} {
				l.must(l.rdb.Set(l.Context(), keyFeeder, earlier, time.Minute).Err())
				epoch, err := l.Lease(l.Context(), "a", time.Minute)
				l.must(err)
				l.equal("a new epoch", true, epoch > 0)
				// The script of the earlier release.
				if owner := l.rdb.Get(l.Context(), keyFeeder).Val(); owner == earlier {
					l.Errorf("%s has the lease", owner)
				}
			}
		}},
		{"a process of a later release keeps it", func(l *bench) {
			l.must(l.rdb.Set(l.Context(), keyFeeder, "4:b", time.Minute).Err())
			refused(l, "a")
		}},
		{"renewing makes the lease longer", func(l *bench) {
			take(l, "a", 1)
			l.must(l.rdb.PExpire(l.Context(), keyFeeder, 30*time.Second).Err())
			take(l, "a", 0)
			if ttl := l.rdb.PTTL(l.Context(), keyFeeder).Val(); ttl <= 30*time.Second || ttl > time.Minute {
				l.Errorf("it ends in %v", ttl)
			}
		}},
		{"a refused one changes nothing", func(l *bench) {
			take(l, "a", 1)
			l.must(l.rdb.PExpire(l.Context(), keyFeeder, 30*time.Second).Err())
			refused(l, "b")
			l.must(l.Unlease(l.Context(), "b"))
			if ttl := l.rdb.PTTL(l.Context(), keyFeeder).Val(); ttl <= time.Second || ttl > 30*time.Second {
				l.Errorf("it ends in %v", ttl)
			}
			l.equal("epoch", "1", l.rdb.Get(l.Context(), keyEpoch).Val())
		}},
		{"a lease that is given back is free", func(l *bench) {
			take(l, "a", 1)
			l.must(l.Unlease(l.Context(), "a"))
			ctx, cancel := context.WithTimeout(l.Context(), 10*time.Second)
			defer cancel()
			for {
				epoch, err := l.Lease(ctx, "b", time.Minute)
				if err == nil {
					l.equal("epoch", int64(2), epoch)
					break
				}
				if ctx.Err() != nil {
					l.Fatalf("not free: %v", err)
				}
			}
		}},
	})
}

func TestFeeding(t *testing.T) {
	start := func(l *bench, epoch int64, slice int) Batch {
		l.Helper()
		b := Batch{ID: "b"}
		l.must(l.Start(l.Context(), &b, epoch, slice, "w1"))
		return b
	}
	hold(t, []rule{
		{"the first start makes it run and fixes the slice", func(l *bench) {
			before := l.ago(0)
			l.batch("b", 100, false)
			l.equal("first", Batch{ID: "b", State: Running, Slice: 20}, start(l, 1, 20))
			started := l.get("b").Started
			if started.UnixMilli() < before {
				l.Errorf("started %v", started)
			}
			l.set("lc:{b}", "started", 123)
			l.equal("again", Batch{ID: "b", State: Running, Slice: 20}, start(l, 1, 50))
			l.equal("a later leader", Batch{ID: "b", State: Running, Slice: 20}, start(l, 2, 1))
			b := l.get("b")
			if b.State != Running || b.Slice != 20 || b.Started.UnixMilli() != 123 {
				l.Errorf("%+v", b)
			}
		}},
		{"a start tells where the last leader was", func(l *bench) {
			l.batch("b", 100, false)
			start(l, 1, 10)
			l.must(l.Advance(l.Context(), Batch{ID: "b"}, 1, 40, 20))
			l.equal("taken over", Batch{ID: "b", State: Running, Slice: 10, Cursor: 40, Low: 20}, start(l, 2, 50))
		}},
		{"a batch that is not to run does not run by a start", func(l *bench) {
			l.batch("b", 1, false)
			_, _, err := l.Pause(l.Context(), "b", history.By{Reason: "manual", Auto: true})
			l.must(err)
			l.equal("paused", Batch{ID: "b", State: Paused, Slice: 20}, start(l, 1, 20))
			state, _, err := l.Resume(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("resumed", Running, state)
			_, _, err = l.Abort(l.Context(), "b", history.By{Actor: "ann"})
			l.must(err)
			l.equal("aborted", Batch{ID: "b", State: AbortedState, Slice: 20}, start(l, 1, 50))
			l.commit(outcomes(Aborted, 0, 1)...)
			l.equal("filled", AbortedState, l.get("b").State)
		}},
		{"a batch that ended before it was fed can be started without harm", func(l *bench) {
			l.batch("b", 1, false)
			l.commit(outcomes(Cancelled, 0, 1)...)
			l.equal("done", Done, start(l, 1, 20).State)
			if b := l.get("b"); b.State != Done || !b.Started.IsZero() {
				l.Errorf("%+v", b)
			}
		}},
		{"a replaced leader moves nothing", func(l *bench) {
			b := l.batch("b", 100, false)
			start(l, 2, 10)
			l.must(l.Advance(l.Context(), Batch{ID: "b"}, 2, 40, 20))
			want := l.get("b")
			l.fails("start", l.Start(l.Context(), &b, 1, 50, "w1"), ErrNotLeader)
			l.fails("advance", l.Advance(l.Context(), Batch{ID: "b"}, 1, 90, 90), ErrNotLeader)
			l.equal("the batch", want, l.get("b"))
			l.must(l.Advance(l.Context(), Batch{ID: "b"}, 2, 50, 20))
		}},
		{"cursor and low-water mark never go back", func(l *bench) {
			l.running(100)
			for _, tt := range [][4]int64{{50, 10, 50, 10}, {40, 20, 50, 20}, {60, 10, 60, 20}, {0, 0, 60, 20}, {100, 100, 100, 100}} {
				l.must(l.Advance(l.Context(), Batch{ID: "b"}, 1, tt[0], tt[1]))
				b := l.get("b")
				l.equal("cursor and low", tt[2:], []int64{b.Cursor, b.Low})
			}
		}},
		{"a deleted batch is not fed", func(l *bench) {
			b := Batch{ID: "b"}
			l.fails("start", l.Start(l.Context(), &b, 1, 50, "w1"), ErrNoBatch)
			l.fails("advance", l.Advance(l.Context(), Batch{ID: "b"}, 1, 1, 1), ErrNoBatch)
			l.equal("keys", []string(nil), l.keys())
		}},
		{"repairs are remembered by slice", func(l *bench) {
			l.batch("b", 1, false)
			l.batch("c", 1, false)
			again, err := l.Redeliveries(l.Context(), "b")
			l.must(err)
			l.equal("none", map[string]int{}, again)
			l.must(l.SetRedeliveries(l.Context(), "b", "0:50", 1))
			l.must(l.SetRedeliveries(l.Context(), "b", "12:950", 3))
			l.must(l.SetRedeliveries(l.Context(), "b", "0:50", 2))
			l.must(l.SetRedeliveries(l.Context(), "c", "0:50", 9))
			again, err = l.Redeliveries(l.Context(), "b")
			l.must(err)
			l.equal("repairs", map[string]int{"0:50": 2, "12:950": 3}, again)
		}},
		{"a repair keeps nothing of a batch that ends", func(l *bench) {
			l.must(l.SetRedeliveries(l.Context(), "gone", "0:50", 1))
			l.equal("keys", []string(nil), l.keys())
			b := l.batch("b", 1, false)
			l.must(l.Retire(l.Context(), b, time.Hour))
			l.must(l.SetRedeliveries(l.Context(), "b", "0:50", 1))
			l.expires("lc:{b}:a")
		}},
	})
}

func TestSignsOfLife(t *testing.T) {
	workers := func(l *bench) ([]WorkerBeat, time.Time) {
		l.Helper()
		beats, now, err := l.Workers(l.Context())
		l.must(err)
		slices.SortFunc(beats, func(a, b WorkerBeat) int { return cmp.Compare(a.ID, b.ID) })
		return beats, now
	}
	one := WorkerBeat{
		ID: "host-1", Rate: 12.5, Unsent: 40, Slots: 50, Hold: "unauthorized", Own: true,
		API: "https://api.plexypay.com/v1", Version: "1.2.3", Key: "3f9a01", KeySource: "the file /etc/key", Cause: "401 (code 9: no such key)",
		InFlight: 7, Concurrency: 50, TookMillis: 4200,
	}
	two := WorkerBeat{ID: "host 2", Rate: 1000}
	hold(t, []rule{
		{"what a worker tells is read with its time", func(l *bench) {
			before := l.ago(0)
			l.must(l.Heartbeat(l.Context(), one))
			l.must(l.Heartbeat(l.Context(), two))
			beats, now := workers(l)
			l.equal("beats", []WorkerBeat{two, one}, beats, cmpopts.IgnoreFields(WorkerBeat{}, "At"))
			for _, b := range beats {
				if b.At.UnixMilli() < before || b.At.After(now) {
					l.Errorf("%s at %v, now %v", b.ID, b.At, now)
				}
			}
			later := two
			later.Unsent = 7
			l.must(l.Heartbeat(l.Context(), later))
			beats, _ = workers(l)
			l.equal("the later one", []WorkerBeat{later, one}, beats, cmpopts.IgnoreFields(WorkerBeat{}, "At"))
		}},
		{"a silent worker is forgotten", func(l *bench) {
			l.must(l.Heartbeat(l.Context(), one))
			l.set(keyWorkers,
				"silent", fmt.Sprintf(`%d {"id":"silent"}`, l.ago(16*time.Second)),
				"quiet", fmt.Sprintf(`%d {"id":"quiet"}`, l.ago(5*time.Second)),
				"broken", fmt.Sprintf(`%d {"id"`, l.ago(0)),
				"empty", "")
			beats, _ := workers(l)
			l.equal("alive", 2, len(beats))
			l.equal("kept", 2, len(l.hash(keyWorkers)))
			for _, id := range []string{"silent", "broken", "empty"} {
				if l.rdb.HExists(l.Context(), keyWorkers, id).Val() {
					l.Errorf("%s is kept", id)
				}
			}
		}},
		{"a worker that says goodbye is gone", func(l *bench) {
			l.must(l.Heartbeat(l.Context(), one))
			l.must(l.Heartbeat(l.Context(), two))
			l.must(l.Deregister(l.Context(), one.ID))
			beats, _ := workers(l)
			l.equal("alive", []WorkerBeat{two}, beats, cmpopts.IgnoreFields(WorkerBeat{}, "At"))
		}},
		{"no workers", func(l *bench) {
			beats, _ := workers(l)
			l.equal("alive", 0, len(beats))
		}},
	})
}
