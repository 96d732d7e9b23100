package ledger

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
)

// night is when the sweep of a day of November 2026 is due.
func night(day int) time.Time { return time.Date(2026, 11, day, 21, 0, 0, 0, time.UTC) }

func (l *bench) begin(due time.Time) *SweepLease {
	l.Helper()
	s, err := l.BeginSweep(l.Context(), due)
	l.must(err)
	return s
}

func (l *bench) refused(what string, due time.Time, want error) {
	l.Helper()
	if s, err := l.BeginSweep(l.Context(), due); s != nil || !errors.Is(err, want) {
		l.Errorf("%s: %v, want %v", what, err, want)
	}
}

func (l *bench) sweeps() Sweeps {
	l.Helper()
	s, err := l.Sweeps(l.Context())
	l.must(err)
	return s
}

// silent lets the worker that runs a sweep be silent for a time.
func (l *bench) silent(d time.Duration) {
	l.Helper()
	l.set(keySweep, "alive", l.ago(d-sweepAlive))
}

var ignoreTimes = cmpopts.IgnoreFields(SweepRun{}, "Started", "Ended")

func TestSweeps(t *testing.T) {
	found := SweepCounts{Listed: 120, Selected: 30, Waiting: 2, PastExpiry: 32}
	hold(t, []rule{
		{"one that ends well", func(l *bench) {
			before := l.ago(0)
			s := l.begin(night(1))
			l.equal("at the beginning", SweepRun{Due: night(1)}, s.Run, ignoreTimes)
			if s.Now.UnixMilli() < before || s.Run.Started.UnixMilli() < before || !s.Run.Ended.IsZero() || !s.GivenUp.IsZero() {
				l.Errorf("%+v", s)
			}
			l.must(s.Beat(l.Context()))
			id, err := s.Claim(l.Context(), "", "sweep-2026-11-01")
			l.must(err)
			l.equal("claimed", "sweep-2026-11-01", id)
			l.must(s.Note(l.Context(), found))
			want := SweepRun{Due: night(1), Batch: "sweep-2026-11-01", Counts: found}
			got := l.sweeps()
			if got.Running == nil || got.Last != nil || !got.Succeeded.IsZero() {
				l.Fatalf("while it runs: %+v", got)
			}
			l.equal("while it runs", want, *got.Running, ignoreTimes)

			l.must(s.End(l.Context(), "w1", ""))
			got = l.sweeps()
			if got.Running != nil || got.Last == nil {
				l.Fatalf("in the end: %+v", got)
			}
			want.OK = true
			l.equal("in the end", want, *got.Last, ignoreTimes)
			if got.Last.Ended.Before(got.Last.Started) || !got.Succeeded.Equal(got.Last.Ended) {
				l.Errorf("times: %+v", got)
			}
			l.equal("keys", []string{"lc:sweep", "lc:{lc:sweep}:h"}, l.keys())
		}},
		{"it is run once", func(l *bench) {
			s := l.begin(night(2))
			l.refused("while it runs", night(2), ErrSweepBusy)
			l.must(s.End(l.Context(), "w1", ""))
			l.refused("when it has ended", night(2), ErrSweepEnded)
			l.refused("an earlier one", night(1), ErrSweepOutdated)
			l.begin(night(3))
		}},
		{"one at a time", func(l *bench) {
			s := l.begin(night(1))
			l.refused("the next", night(2), ErrSweepBusy)
			l.silent(sweepAlive + sweepTimeout/2)
			l.refused("the next, while the first may be gone on with", night(2), ErrSweepBusy)
			l.must(s.Beat(l.Context()))
			l.refused("it lives", night(1), ErrSweepBusy)
		}},
		{"one whose worker is gone is gone on with", func(l *bench) {
			dead := l.begin(night(1))
			_, err := dead.Claim(l.Context(), "", "b")
			l.must(err)
			l.must(dead.Note(l.Context(), found))
			l.silent(sweepAlive + time.Second)
			s := l.begin(night(1))
			l.equal("what is known", SweepRun{Due: night(1), Batch: "b", Counts: found, Crashes: 1}, s.Run, ignoreTimes)
			if !s.Run.Started.Equal(dead.Run.Started) {
				l.Errorf("started %v, at first %v", s.Run.Started, dead.Run.Started)
			}
			// The dead one comes back.
			l.fails("beat", dead.Beat(l.Context()), ErrSweepLost)
			_, err = dead.Claim(l.Context(), "b", "c")
			l.fails("claim", err, ErrSweepLost)
			l.fails("note", dead.Note(l.Context(), SweepCounts{}), ErrSweepLost)
			l.fails("give back", dead.GiveBack(l.Context(), 0, ""), ErrSweepLost)
			l.fails("fail", dead.Fail(l.Context(), 0, "no"), ErrSweepLost)
			l.fails("end", dead.End(l.Context(), "w1", ""), ErrSweepLost)
			l.fails("abandon", dead.Abandon(l.Context(), "w1", "no", ""), ErrSweepLost)
			l.equal("after all that", SweepRun{Due: night(1), Batch: "b", Counts: found, Crashes: 1}, *l.sweeps().Running, ignoreTimes)
		}},
		{"one that is given back is no crash", func(l *bench) {
			l.must(l.begin(night(1)).GiveBack(l.Context(), 0, "stopping"))
			l.refused("the next has to wait for it", night(2), ErrSweepBusy)
			l.equal("waiting", SweepRun{Due: night(1), Error: "stopping"}, *l.sweeps().Running, ignoreTimes)
			l.equal("taken up", SweepRun{Due: night(1), Error: "stopping"}, l.begin(night(1)).Run, ignoreTimes)
		}},
		{"failed tries are counted", func(l *bench) {
			for n := range 3 {
				s := l.begin(night(1))
				l.equal("failures", n, s.Run.Failures)
				l.must(s.Fail(l.Context(), time.Hour, "the list answered 500"))
				l.must(s.Fail(l.Context(), time.Hour, "the list answered 500")) // the reply was lost
			}
			l.equal("waiting", SweepRun{Due: night(1), Failures: 3, Error: "the list answered 500"}, *l.sweeps().Running, ignoreTimes)
			s := l.begin(night(1))
			l.must(s.Abandon(l.Context(), "w1", "too often", ""))
			l.must(s.Abandon(l.Context(), "w1", "too often", ""))
			got := l.sweeps()
			l.equal("ended", SweepRun{Due: night(1), Failures: 3, Error: "too often"}, *got.Last, ignoreTimes)
			if !got.Succeeded.IsZero() || got.Running != nil {
				l.Errorf("%+v", got)
			}
		}},
		{"one that failed makes way for the next", func(l *bench) {
			s := l.begin(night(1))
			l.must(s.Fail(l.Context(), time.Hour, "the list answered 500"))
			next := l.begin(night(2))
			l.equal("given up", night(1), next.GivenUp)
			got := l.sweeps()
			l.equal("the last", SweepRun{Due: night(1), Failures: 1, Error: "the list answered 500"}, *got.Last, ignoreTimes)
			l.equal("the next", SweepRun{Due: night(2)}, *got.Running, ignoreTimes)
			l.refused("its task", night(1), ErrSweepOutdated)
		}},
		{"so does one that nobody goes on with", func(l *bench) {
			l.begin(night(1))
			l.silent(sweepAlive + sweepTimeout + time.Second)
			l.equal("given up", night(1), l.begin(night(2)).GivenUp)
			got := l.sweeps()
			l.equal("the last", SweepRun{Due: night(1), Error: "no worker went on with it"}, *got.Last, ignoreTimes)
			if got.Last.Ended.IsZero() {
				l.Errorf("not ended: %+v", got.Last)
			}
		}},
		{"the last good one is remembered", func(l *bench) {
			l.must(l.begin(night(1)).End(l.Context(), "w1", ""))
			good := l.sweeps().Succeeded
			l.must(l.begin(night(2)).Abandon(l.Context(), "w1", "no", ""))
			l.begin(night(3))
			got := l.sweeps()
			l.equal("the good one", good, got.Succeeded)
			l.equal("the last", SweepRun{Due: night(2), Error: "no"}, *got.Last, ignoreTimes)
			l.equal("the present", SweepRun{Due: night(3)}, *got.Running, ignoreTimes)
		}},
		{"a batch is claimed once", func(l *bench) {
			s := l.begin(night(1))
			for _, tt := range [][3]string{{"", "a", "a"}, {"", "b", "a"}, {"", "", "a"}, {"b", "c", "a"}, {"a", "c", "c"}, {"a", "d", "c"}, {"c", "", ""}} {
				got, err := s.Claim(l.Context(), tt[0], tt[1])
				l.must(err)
				l.equal("claimed", tt[2], got)
			}
		}},
		{"a repeated beginning is one", func(l *bench) {
			s := l.begin(night(1))
			l.must(s.run(l.Context(), "begin", night(1).UnixMilli(), 1, 1, 1).Err())
			l.equal("the run", SweepRun{Due: night(1)}, *l.sweeps().Running, ignoreTimes)
		}},
		{"a newer release is left alone", func(l *bench) {
			l.must(l.begin(night(1)).End(l.Context(), "w1", ""))
			l.set(keySweep, "v", formatVersion+1)
			before := l.hash(keySweep)
			l.refused("begin", night(2), ErrSweepNewer)
			l.equal("the hash", before, l.hash(keySweep))
		}},
		{"the plan is kept beside the runs", func(l *bench) {
			l.equal("at first", Sweeps{}, l.sweeps())
			l.must(l.PlanSweep(l.Context(), "0 2 * * * Asia/Almaty", night(1)))
			l.equal("planned", Sweeps{Schedule: "0 2 * * * Asia/Almaty", Next: night(1)}, l.sweeps())
			l.must(l.begin(night(1)).End(l.Context(), "w1", ""))
			l.must(l.PlanSweep(l.Context(), "@daily UTC", night(2)))
			l.begin(night(2))
			got := l.sweeps()
			l.equal("schedule", "@daily UTC", got.Schedule)
			l.equal("next", night(2), got.Next)
		}},
		{"a long error is cut", func(l *bench) {
			l.must(l.begin(night(1)).Abandon(l.Context(), "w1", strings.Repeat("é", MaxErrorBytes), ""))
			if n := len(l.sweeps().Last.Error); n != MaxErrorBytes {
				l.Errorf("%d bytes", n)
			}
		}},
	})
}

func TestAwayRedisIsNoAnswerAboutSweeps(t *testing.T) {
	l, ctx := down(t), t.Context()
	s := &SweepLease{l: l}
	calls := map[string]error{
		"PlanSweep": l.PlanSweep(ctx, "@daily UTC", night(1)),
		"Beat":      s.Beat(ctx),
		"Note":      s.Note(ctx, SweepCounts{}),
		"GiveBack":  s.GiveBack(ctx, 0, ""),
		"Fail":      s.Fail(ctx, 0, "no"),
		"End":       s.End(ctx, "w1", ""),
		"Abandon":   s.Abandon(ctx, "w1", "no", ""),
	}
	_, calls["Sweeps"] = l.Sweeps(ctx)
	_, calls["BeginSweep"] = l.BeginSweep(ctx, night(1))
	_, calls["Claim"] = s.Claim(ctx, "", "b")
	for call, err := range calls {
		if err == nil || errors.Is(err, ErrSweepLost) || errors.Is(err, ErrSweepBusy) || errors.Is(err, ErrSweepEnded) {
			t.Errorf("%s: %v", call, err)
		}
	}
}
