package ledger

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// keySweep is the hash of the sweeps that workers run by their schedule.
const keySweep = "lc:sweep"

var (
	//go:embed sweep.lua
	sweepLua    string
	sweepScript = redis.NewScript(sweepLua)
)

const (
	// sweepAlive is how long a worker that runs a sweep may be silent before
	// another goes on with it: see SweepBeat.
	sweepAlive = 15 * time.Second
	// SweepBeat is how often it has to tell that it lives.
	SweepBeat = 5 * time.Second
	// sweepPatience is how long the next sweep waits for one whose worker is
	// silent: long enough for its task to be taken up by another.
	sweepPatience = 3 * time.Minute
)

const (
	// keySeal is the right to make the batch of a sweep, by schedule or by hand.
	keySeal = "lc:sweep:seal"
	// sealLease is how long it lasts if whoever has it dies; a batch of a million
	// links is made in a few seconds.
	sealLease = time.Minute
	sealAgain = 100 * time.Millisecond
)

// SealSweep waits until no other sweep makes its batch: two that look at the
// same time for the links that wait already would both take them. release ends
// the right.
func (l *Ledger) SealSweep(ctx context.Context) (release func(), err error) {
	var token [8]byte
	rand.Read(token[:])
	owner := hex.EncodeToString(token[:])
	for {
		got, err := leaseScript.Run(ctx, l.rdb, []string{keySeal}, owner, sealLease.Milliseconds()).Int()
		switch {
		case err != nil:
			return nil, fmt.Errorf("wait for the batches of other sweeps: %w", err)
		case got != 0:
			return func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				_ = leaseScript.Run(ctx, l.rdb, []string{keySeal}, owner, 1).Err() // it ends by itself otherwise
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(sealAgain):
		}
	}
}

// Errors of scheduled sweeps that callers branch on.
var (
	ErrSweepBusy     = errors.New("another worker runs a sweep")
	ErrSweepEnded    = errors.New("the sweep has ended")
	ErrSweepOutdated = errors.New("a later sweep was begun")
	ErrSweepNewer    = errors.New("a newer linkcancel runs the sweeps")
	ErrSweepLost     = errors.New("another worker took this sweep over")
)

// SweepCounts is what a sweep found, in links.
type SweepCounts struct {
	Listed   int64 `json:"listed"`
	Selected int64 `json:"selected"`
	Waiting  int64 `json:"waiting"` // selected too, but in an unfinished batch already
	// PastExpiry counts those past their expiry that can still be cancelled, as
	// far as is known, whatever was selected.
	PastExpiry int64 `json:"past_expiry"`
	// Suspicious: nothing was selected, though much should have been.
	Suspicious bool `json:"suspicious,omitempty"`
}

// SweepRun is one sweep by schedule.
type SweepRun struct {
	Due      time.Time // the instant of the schedule
	Started  time.Time // when a worker began it first
	Ended    time.Time // zero while it is at work, or waits to be tried again
	OK       bool      // it has ended, and well
	Batch    string    // the id that its batch has, or will have; "" if it made none
	Counts   SweepCounts
	Failures int    // tries that failed
	Crashes  int    // workers that vanished at it
	Error    string // why it waits, or has ended and is not OK
}

// Sweeps is what the ledger knows of the sweeps by schedule.
type Sweeps struct {
	Schedule  string    // as a worker told it last; "" if none ever did
	Next      time.Time // when the next sweep is due, by that schedule
	Running   *SweepRun // the one that has not ended; may be nil
	Last      *SweepRun // the one that ended last; may be nil
	Succeeded time.Time // end of the last one that ended well; zero: none did
}

// Sweeps reads what is known of the sweeps by schedule.
func (l *Ledger) Sweeps(ctx context.Context) (Sweeps, error) {
	h, err := l.rdb.HGetAll(ctx, keySweep).Result()
	if err != nil {
		return Sweeps{}, fmt.Errorf("read the state of the sweeps: %w", err)
	}
	s := Sweeps{Schedule: h["schedule"], Next: millis(h["next"]), Succeeded: millis(h["succeeded"])}
	if last := map[string]string{}; json.Unmarshal([]byte(h["last"]), &last) == nil {
		s.Last = parseSweep(last)
	}
	switch run := parseSweep(h); {
	case run == nil:
	case h["state"] == "ended":
		s.Last = run
	default:
		s.Running = run
	}
	return s, nil
}

func parseSweep(h map[string]string) *SweepRun {
	if h["due"] == "" {
		return nil
	}
	r := &SweepRun{
		Due: millis(h["due"]), Started: millis(h["started"]), Ended: millis(h["ended"]), OK: h["ok"] == "1",
		Batch: h["batch"], Failures: int(number(h["failures"])), Crashes: int(number(h["crashes"])), Error: h["error"],
	}
	_ = json.Unmarshal([]byte(h["counts"]), &r.Counts) // missing before it has found any
	return r
}

// PlanSweep remembers when the next sweep is due, so that a worker which starts
// later knows of one that nobody was there for.
func (l *Ledger) PlanSweep(ctx context.Context, schedule string, next time.Time) error {
	if err := l.rdb.HSet(ctx, keySweep, "schedule", schedule, "next", next.UnixMilli()).Err(); err != nil {
		return fmt.Errorf("write when the next sweep is due: %w", err)
	}
	return nil
}

// SweepLease is the right to run a sweep. It lasts as long as Beat is called
// every SweepBeat. Its methods give ErrSweepLost when another worker has it, and
// may be repeated.
type SweepLease struct {
	l     *Ledger
	token string

	Run SweepRun  // as it stood at the beginning
	Now time.Time // Redis' time
	// GivenUp is when a sweep was due that did not end, and made way for this one;
	// zero: there was none.
	GivenUp time.Time
}

// BeginSweep begins the sweep that is due at an instant of the schedule, or goes
// on with it. One sweep runs at a time: else it returns ErrSweepBusy, to be
// asked again, or for good ErrSweepEnded or ErrSweepOutdated. ErrSweepNewer:
// leave it to newer workers.
func (l *Ledger) BeginSweep(ctx context.Context, due time.Time) (*SweepLease, error) {
	var token [8]byte
	rand.Read(token[:])
	s := &SweepLease{l: l, token: hex.EncodeToString(token[:])}
	reply, err := s.run(ctx, "begin", due.UnixMilli(), sweepAlive.Milliseconds(), sweepPatience.Milliseconds(), formatVersion).Slice()
	if err != nil {
		return nil, fmt.Errorf("begin the sweep: %w", err)
	}
	switch reply[0] {
	case "busy":
		return nil, ErrSweepBusy
	case "ended":
		return nil, ErrSweepEnded
	case "outdated":
		return nil, ErrSweepOutdated
	case "newer":
		return nil, ErrSweepNewer
	}
	h, err := l.rdb.HGetAll(ctx, keySweep).Result()
	if err != nil {
		return nil, fmt.Errorf("begin the sweep: %w", err)
	}
	if h["token"] != s.token {
		return nil, ErrSweepBusy
	}
	now, _ := reply[1].(int64)
	lost, _ := reply[2].(int64)
	s.Run, s.Now = *parseSweep(h), time.UnixMilli(now).UTC()
	if lost > 0 {
		s.GivenUp = time.UnixMilli(lost).UTC()
	}
	return s, nil
}

func (s *SweepLease) run(ctx context.Context, verb string, args ...any) *redis.Cmd {
	return sweepScript.Run(ctx, s.l.rdb, []string{keySweep}, append([]any{verb, s.token}, args...)...)
}

func (s *SweepLease) write(ctx context.Context, verb string, args ...any) (string, error) {
	reply, err := s.run(ctx, verb, args...).Text()
	if err != nil && strings.HasPrefix(err.Error(), "LOST") {
		return "", ErrSweepLost
	}
	if err != nil {
		return "", fmt.Errorf("write the state of the sweep (%s): %w", verb, err)
	}
	return reply, nil
}

// Beat tells that the sweep is at work.
func (s *SweepLease) Beat(ctx context.Context) error {
	_, err := s.write(ctx, "beat", sweepAlive.Milliseconds())
	return err
}

// Claim gives the sweep's batch an id before it is made, in place of an earlier
// one ("": of none). It returns the id that is claimed: another than the wanted
// one if the earlier one is not what it was.
func (s *SweepLease) Claim(ctx context.Context, earlier, id string) (string, error) {
	return s.write(ctx, "claim", earlier, id)
}

// Note writes what the sweep has found, before its batch is made.
func (s *SweepLease) Note(ctx context.Context, c SweepCounts) error {
	doc, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode what the sweep has found: %w", err)
	}
	_, err = s.write(ctx, "note", doc)
	return err
}

// GiveBack lets another worker go on with the sweep after a delay; text says why
// this one does not.
func (s *SweepLease) GiveBack(ctx context.Context, delay time.Duration, text string) error {
	_, err := s.write(ctx, "wait", delay.Milliseconds(), 0, cutError(text))
	return err
}

// Fail ends a try that failed, and is to be repeated after a delay, unless a
// later sweep is due before.
func (s *SweepLease) Fail(ctx context.Context, delay time.Duration, text string) error {
	_, err := s.write(ctx, "wait", delay.Milliseconds(), 1, cutError(text))
	return err
}

// End ends the sweep well.
func (s *SweepLease) End(ctx context.Context) error {
	_, err := s.write(ctx, "end", 1, "")
	return err
}

// Abandon ends the sweep for good though it failed; text says why.
func (s *SweepLease) Abandon(ctx context.Context, text string) error {
	_, err := s.write(ctx, "end", 0, cutError(text))
	return err
}
