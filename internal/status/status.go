// Package status computes what is shown of batches and of the fleet: progress, rate,
// time left, and the reason why nothing is sent. It prints nothing, so that the command
// line, a web page and an API can show the same.
package status

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// Fleet is the limiter and the workers at one time.
type Fleet struct {
	ratelimit.FleetStatus
	Heartbeats map[string]ledger.WorkerBeat // by worker id
	Now        time.Time                    // Redis' time
}

// ReadFleet reads the state of the fleet.
func ReadFleet(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger) (f Fleet, err error) {
	if f.FleetStatus, err = ratelimit.ShowFleet(ctx, rdb); err != nil {
		return f, err
	}
	alive, now, err := l.Workers(ctx)
	if err != nil {
		return f, err
	}
	f.Now, f.Heartbeats = now, make(map[string]ledger.WorkerBeat, len(alive))
	for _, beat := range alive {
		f.Heartbeats[beat.ID] = beat
	}
	return f, nil
}

// Batch is a batch and its fleet at one time.
type Batch struct {
	ledger.Batch
	Fleet Fleet
}

// Read reads a batch and the fleet.
func Read(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger, id string) (s Batch, err error) {
	if s.Batch, err = l.Get(ctx, id); err == nil {
		s.Fleet, err = ReadFleet(ctx, rdb, l)
	}
	return s, err
}

// Movement says why a batch does not move, or what limits its rate. Texts may be empty.
type Movement struct {
	Stopped string // why nothing is sent
	Beside  string // what limits the rate
	Cause   string // what the API answered, in a hold
	// Waits means that the time when it moves again is known: the window is closed, or the batch must
	// not begin yet.
	Waits bool
}

// Movement returns why the links of the batch do not move, or what bears on their rate.
func (s Batch) Movement() Movement {
	m := s.movement()
	m.Waits = s.State != ledger.Paused && (s.Fleet.Hold.Reason == ratelimit.ReasonWindow || s.Fleet.Now.Before(s.NotBefore))
	return m
}

func (s Batch) movement() Movement {
	f := s.Fleet
	switch held := f.OwnHolds(); {
	case s.State == ledger.Paused:
		return Movement{Stopped: Paused(s.Batch)}
	case s.Fleet.Now.Before(s.NotBefore):
		return Movement{Stopped: "not before " + s.NotBefore.UTC().Format("2006-01-02 15:04 UTC") + ", in " + humanize.Duration(s.NotBefore.Sub(s.Fleet.Now))}
	case f.Hold.Reason != ratelimit.ReasonNone:
		if f.Hold.Reason == ratelimit.ReasonManual || f.Hold.Reason == ratelimit.ReasonWindow {
			return Movement{Stopped: Hold(f.Hold)}
		}
		return Movement{Stopped: Hold(f.Hold), Cause: f.Hold.Cause}
	case len(f.Workers) == 0:
		return Movement{Stopped: "no worker is running"}
	case held == len(f.Workers):
		return Movement{Stopped: f.OwnHoldsText(), Cause: f.ownCause()}
	case held > 0:
		return Movement{Beside: f.OwnHoldsText(), Cause: f.ownCause()}
	}
	beside := "limit " + f.Limit()
	if slow := f.Slow(); slow != "" {
		beside += "  " + slow
	}
	return Movement{Beside: beside}
}

// TimeLeft is how long the pending links take at a rate, or negative if that is unknown.
func (s Batch) TimeLeft(rate float64) time.Duration {
	m := s.Movement()
	if rate <= 0 || s.Pending() == 0 || !s.Open() || m.Stopped != "" && !m.Waits {
		return -1
	}
	return s.Wait(TimeLeft(s.Batch, rate))
}

// Wait is how long it takes from now to send for so long: while the window is closed, or before the
// batch may begin, nothing is sent.
func (s Batch) Wait(sending time.Duration) time.Duration {
	ahead := max(0, s.NotBefore.Sub(s.Fleet.Now))
	return ahead + s.Fleet.Window.Stretch(s.Fleet.Now.Add(ahead), sending)
}

// maxLeft represents any longer time, which a Duration could not hold.
const maxLeft = 10 * 365 * 24 * time.Hour

// TimeLeft is how long the pending links of b take at a rate above 0, in links per second.
func TimeLeft(b ledger.Batch, rate float64) time.Duration {
	return time.Duration(min(float64(b.Pending())/rate, maxLeft.Seconds()) * float64(time.Second))
}

// Paused says that a batch is paused, and why.
func Paused(b ledger.Batch) string {
	if b.Reason == "" {
		return "paused"
	}
	return "paused (" + Reason(b) + ")"
}

// Reason says why a batch is paused or aborted.
func Reason(b ledger.Batch) string {
	return ReasonOf(b.Reason)
}

// Hold says what sending is on hold for, and for how long.
func Hold(hold ratelimit.Hold) string {
	text := "on hold: " + string(hold.Reason)
	if (hold.Reason == ratelimit.ReasonManual || hold.Reason == ratelimit.ReasonWindow) && hold.Cause != "" {
		text += " " + clean.Line(hold.Cause)
	}
	left := time.Until(hold.Until)
	switch {
	case left <= 0:
		return text
	case hold.Reason == ratelimit.ReasonOutage, hold.Reason == ratelimit.ReasonUnauthorized:
		return text + ", next try in " + humanize.Duration(left)
	}
	return text + ", for " + humanize.Duration(left)
}

// Limit is the fleet's limit: 50/s, or 43/s of 50/s after a cut.
func (f Fleet) Limit() string {
	if f.Rate < f.Ceiling*0.995 {
		return fmt.Sprintf("%s of %s", humanize.Rate(float64(f.Rate)), f.Ceiling)
	}
	return f.Ceiling.String()
}

// OwnHold is the hold of one worker alone, with its cause.
func (f Fleet) OwnHold(w ratelimit.FleetWorker) ratelimit.Hold {
	hold := w.Hold
	if hold.Reason != ratelimit.ReasonNone {
		hold.Cause = f.Heartbeats[w.ID].Cause
	}
	return hold
}

// OwnHolds counts the workers that are on hold of their own.
func (f Fleet) OwnHolds() (n int) {
	for _, w := range f.Workers {
		if w.Hold.Reason != ratelimit.ReasonNone {
			n++
		}
	}
	return n
}

// OwnHoldsText says how many workers are on hold of their own; "" if none is.
func (f Fleet) OwnHoldsText() string {
	for _, w := range f.Workers {
		if w.Hold.Reason != ratelimit.ReasonNone {
			return fmt.Sprintf("%d of %s on hold: %s", f.OwnHolds(), humanize.Plural(int64(len(f.Workers)), "worker"), w.Hold.Reason)
		}
	}
	return ""
}

func (f Fleet) ownCause() string {
	for _, w := range f.Workers {
		if cause := f.OwnHold(w).Cause; cause != "" {
			return cause
		}
	}
	return ""
}

// Slow says that all workers wait for slow requests; "" if they do not.
func (f Fleet) Slow() string {
	inFlight, concurrency, took := 0, 0, time.Duration(0)
	for _, beat := range f.Heartbeats {
		inFlight += beat.InFlight
		concurrency += beat.Concurrency
		took = max(took, time.Duration(beat.TookMillis)*time.Millisecond)
	}
	return Slow(inFlight, concurrency, took)
}

// minSlow is how long requests must take to be what limits the rate.
const minSlow = 500 * time.Millisecond

// Slow says that all allowed requests are in flight and take long, or returns "".
func Slow(inFlight, concurrency int, took time.Duration) string {
	if concurrency == 0 || inFlight < concurrency || took < minSlow {
		return ""
	}
	return fmt.Sprintf("slow API: %d requests in flight, %.1f s each", inFlight, took.Seconds())
}

// KeysMayDiffer is how long workers may use different API keys during a change of key.
const KeysMayDiffer = 10 * time.Minute

// DifferentKeys is how many API keys were used for longer than KeysMayDiffer; 0 if one.
func (f Fleet) DifferentKeys() int {
	keys := map[string]bool{}
	var latest int64
	for _, beat := range f.Heartbeats {
		if beat.Key != "" {
			keys[beat.Key] = true
			latest = max(latest, beat.KeySince)
		}
	}
	if len(keys) < 2 || f.Now.Sub(time.Unix(latest, 0)) < KeysMayDiffer {
		return 0
	}
	return len(keys)
}
