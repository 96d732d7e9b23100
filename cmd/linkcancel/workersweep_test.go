package main

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"linkcancel/internal/ledger"
	"linkcancel/producer/sweep"
)

// plan-sweep CRON ZONE lets a sweep by that schedule be due since a minute, so
// that the next worker makes up for it; SWEEP is the id that its batch will have.
func cmdPlanSweep(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "plan-sweep CRON ZONE")
	s, err := sweep.ParseSchedule(args[0], args[1])
	ts.Check(err)
	zone, err := time.LoadLocation(args[1])
	ts.Check(err)
	b := of(ts).open(ts)
	defer b.Close()
	l := ledger.New(b.Client())
	now, err := l.Now(context.Background())
	ts.Check(err)
	due := now.Add(-time.Minute)
	ts.Check(l.PlanSweep(context.Background(), s.String(), due))
	ts.Setenv("SWEEP", "sweep-"+due.In(zone).Format(time.DateOnly))
}

// wait-sweep PATTERN waits until the last sweep by schedule has failed for a reason that matches.
func cmdWaitSweep(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "wait-sweep PATTERN")
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	b := of(ts).open(ts)
	defer b.Close()
	l := ledger.New(b.Client())
	until(ts, "a sweep to fail", func() (bool, string) {
		s, err := l.Sweeps(context.Background())
		ts.Check(err)
		return s.Last != nil && !s.Last.OK && want.MatchString(s.Last.Error), fmt.Sprintf("%+v, last %+v", s, s.Last)
	})
}
