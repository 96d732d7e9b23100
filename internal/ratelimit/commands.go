package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// FleetStatus is the state of a fleet.
type FleetStatus struct {
	Ceiling  Rate // 0: no worker has been alive yet, and no rate was set
	Rate     Rate
	Burst    int
	Override bool // Ceiling was set by [SetFleetRate]; otherwise it is the lowest Rate of the workers
	Hold     Hold // of the fleet
	Window   Window
	Workers  []FleetWorker
}

// FleetWorker is a worker that sent a heartbeat in the last 15 s.
type FleetWorker struct {
	ID   string
	Rate Rate // its own
	Hold Hold // its own; only Reason and Until are known
}

// ShowFleet returns the fleet's state, with workers in order of their ids. It changes nothing.
func ShowFleet(ctx context.Context, rdb redis.UniversalClient) (FleetStatus, error) {
	start := time.Now()
	r, err := command(ctx, rdb, "show the fleet's rate")
	if err != nil {
		return FleetStatus{}, err
	}
	now := time.Since(start)
	s := FleetStatus{
		Ceiling:  Rate(r.ceiling),
		Rate:     Rate(r.rate),
		Burst:    r.burst,
		Override: r.override > 0,
		Window:   windowOf(r.window),
		Hold:     r.hold(&clock{zero: now - r.now.duration()}, now).at(now),
	}
	for _, text := range r.workers {
		var worker FleetWorker
		var lasts micros
		if _, err := fmt.Sscanf(text, "%g %s %g", &worker.Rate, &worker.Hold.Reason, &lasts); err != nil {
			return FleetStatus{}, fmt.Errorf("show the fleet's rate: %w: %w", errReply, err)
		}
		worker.ID = strings.SplitN(text, " ", 4)[3]
		if worker.Hold.Reason == "-" {
			worker.Hold.Reason = ReasonNone
		} else if lasts < neverMicros {
			worker.Hold.Until = start.Add(now + lasts.duration())
		}
		s.Workers = append(s.Workers, worker)
	}
	slices.SortFunc(s.Workers, func(a, b FleetWorker) int { return cmp.Compare(a.ID, b.ID) })
	return s, nil
}

// SetFleetRate sets the fleet's ceiling, which a worker's own Rate may undercut. 0 means the lowest
// Rate of the live workers. Like the other commands it takes effect within a second.
func SetFleetRate(ctx context.Context, rdb redis.UniversalClient, r Rate, by history.By) error {
	if r != 0 && !r.valid() {
		return fmt.Errorf("set the fleet's rate: %v is not between one request a day and %v", r, MaxRate)
	}
	detail := "automatic"
	if r != 0 {
		detail = r.String()
	}
	_, err := command(ctx, rdb, "set the fleet's rate", event{kind: "set", rate: r, entry: by.Change(history.RateSet, detail)})
	return err
}

// HoldFleet stops sending until a time or, if zero, until [ReleaseFleet]. It may be repeated.
func HoldFleet(ctx context.Context, rdb redis.UniversalClient, until time.Time, by history.By) error {
	lasts, detail := neverMicros, "until it is released"
	if !until.IsZero() {
		lasts, detail = microsOf(time.Until(until)), "until "+until.UTC().Format("2006-01-02 15:04:05")+" UTC"
	}
	text := Answer{Cause: by.String()}.cause()
	_, err := command(ctx, rdb, "hold the fleet", event{kind: "hold", wait: lasts, text: text, entry: by.Change(history.RateHold, detail)})
	return err
}

// ReleaseFleet ends every hold, also of single workers. After an outage sending starts slowly.
func ReleaseFleet(ctx context.Context, rdb redis.UniversalClient, by history.By) error {
	_, err := command(ctx, rdb, "release the fleet", event{kind: "release", entry: by.Change(history.RateRelease, "")})
	return err
}

// command calls the script outside of any process. what describes the command in errors.
func command(ctx context.Context, rdb redis.UniversalClient, what string, events ...event) (*reply, error) {
	r, err := (&request{events: events}).do(ctx, rdb, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return r, nil
}
