package status

import (
	"cmp"
	"context"
	"errors"
	"time"

	"linkcancel/internal/ledger"
)

// leftOut are the conditions of a sweep that leave links out, in words.
var leftOut = map[string]string{
	"status": "with another status", "no_expiry": "without an expiry", "unreadable_expiry": "with an unreadable expiry",
	"not_expired": "not expired, or too recently", "no_created": "without a date of creation",
	"unreadable_created": "with an unreadable date of creation", "not_old": "not old enough", "excluded": "excluded by a file",
	"waiting": "waiting in an unfinished batch", "settled": "finished in another batch meanwhile",
}

// LeftOut says in words why a sweep left links out.
func LeftOut(condition string) string { return cmp.Or(leftOut[condition], condition) }

// SweepsView is the state of the sweeps for programs.
type SweepsView struct {
	Schedule string        `json:"schedule"` // "": no worker has one
	Next     *time.Time    `json:"next"`
	Running  *SweepRunView `json:"running"`
	Last     *SweepRunView `json:"last"`    // the latest scheduled one that has ended
	Command  *SweepRunView `json:"command"` // the latest one by a command
}

// SweepRunView is one sweep.
type SweepRunView struct {
	Due      *time.Time       `json:"due"`
	Started  *time.Time       `json:"started"`
	Ended    *time.Time       `json:"ended"`
	OK       bool             `json:"ok"`
	By       string           `json:"by"`
	Listed   int64            `json:"listed"`
	Selected int64            `json:"selected"`
	LeftOut  map[string]int64 `json:"left_out"`
	Failures int              `json:"failures"`
	Error    string           `json:"error"`
	Batch    *BatchView       `json:"batch"` // null: none was made, or it is deleted
}

// ReadSweeps reads the state of the sweeps.
func ReadSweeps(ctx context.Context, l *ledger.Ledger) (SweepsView, error) {
	s, err := l.Sweeps(ctx)
	if err != nil {
		return SweepsView{}, err
	}
	view := SweepsView{Schedule: s.Schedule, Next: Time(s.Next)}
	for run, to := range map[*ledger.SweepRun]**SweepRunView{s.Running: &view.Running, s.Last: &view.Last, s.Command: &view.Command} {
		if run == nil {
			continue
		}
		if *to, err = viewSweep(ctx, l, *run); err != nil {
			return view, err
		}
	}
	return view, nil
}

func viewSweep(ctx context.Context, l *ledger.Ledger, r ledger.SweepRun) (*SweepRunView, error) {
	v := &SweepRunView{
		Due: Time(r.Due), Started: Time(r.Started), Ended: Time(r.Ended), OK: r.OK, By: r.Counts.By,
		Listed: r.Counts.Listed, Selected: r.Counts.Selected, LeftOut: r.Counts.LeftOut, Failures: r.Failures, Error: r.Error,
	}
	if v.LeftOut == nil {
		v.LeftOut = map[string]int64{}
	}
	if r.Batch == "" {
		return v, nil
	}
	b, err := l.Get(ctx, r.Batch)
	switch {
	case errors.Is(err, ledger.ErrNoBatch):
	case err != nil:
		return nil, err
	default:
		view := ViewOf(b)
		v.Batch = &view
	}
	return v, nil
}
