package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// FleetStatus is what the limiter of a fleet does at present.
type FleetStatus struct {
	Ceiling  Rate // 0: no worker has been alive yet, and no rate is set
	Rate     Rate
	Burst    int
	Override bool // Ceiling was set by [SetFleetRate]; else it is the lowest flag
	Hold     Hold // of the fleet
	Workers  []FleetWorker
}

// FleetWorker is a process that sent a heartbeat in the last 15 s.
type FleetWorker struct {
	ID   string
	Rate Rate // its own flag
	Hold Hold // its own: unauthorized; Since is not known
}

// ShowFleet returns the state of the fleet, with the workers in order of
// their ids. Times are of this machine's clock. It changes nothing.
func ShowFleet(ctx context.Context, rdb redis.UniversalClient) (FleetStatus, error) {
	start := time.Now()
	r, err := command(ctx, rdb)
	if err != nil {
		return FleetStatus{}, fmt.Errorf("show the fleet's rate: %w", err)
	}
	now := time.Since(start)
	state := r.state(now - r.now.duration())
	s := FleetStatus{
		Ceiling:  Rate(r.ceiling),
		Rate:     Rate(r.rate),
		Burst:    r.burst,
		Override: r.override > 0,
		Hold:     state.hold(now).at(start.Add(now), now),
	}
	for w := range slices.Chunk(r.workers, 4) {
		flag, err := strconv.ParseFloat(w[1], 64)
		if err != nil {
			return FleetStatus{}, fmt.Errorf("show the fleet's rate: %w", errReply)
		}
		worker := FleetWorker{ID: w[0], Rate: Rate(flag)}
		if w[2] != "-" {
			worker.Hold.Reason = Reason(w[2])
			if lasts, err := strconv.ParseFloat(w[3], 64); err == nil && micros(lasts) < neverMicros {
				worker.Hold.Until = start.Add(now + micros(lasts).duration())
			}
		}
		s.Workers = append(s.Workers, worker)
	}
	slices.SortFunc(s.Workers, func(a, b FleetWorker) int { return cmp.Compare(a.ID, b.ID) })
	return s, nil
}

// SetFleetRate sets the fleet's ceiling, or, with 0, leaves it to the lowest
// flag of the workers alive. No worker exceeds its own flag. Like the other
// commands it acts on running workers within a second.
func SetFleetRate(ctx context.Context, rdb redis.UniversalClient, r Rate) error {
	if r != 0 && !r.valid() {
		return fmt.Errorf("set the fleet's rate: %v is not between one request a day and %v", r, MaxRate)
	}
	if _, err := command(ctx, rdb, event{kind: "set", rate: r}); err != nil {
		return fmt.Errorf("set the fleet's rate: %w", err)
	}
	return nil
}

// HoldFleet stops sending until the given time, or, if it is zero, until
// [ReleaseFleet]. It replaces the end of a manual hold that stands.
func HoldFleet(ctx context.Context, rdb redis.UniversalClient, until time.Time) error {
	lasts := neverMicros
	if !until.IsZero() {
		lasts = microsOf(time.Until(until))
	}
	if _, err := command(ctx, rdb, event{kind: "hold", wait: lasts}); err != nil {
		return fmt.Errorf("hold the fleet: %w", err)
	}
	return nil
}

// ReleaseFleet ends every hold, those of single workers too. After an outage
// the rate climbs from low as ever.
func ReleaseFleet(ctx context.Context, rdb redis.UniversalClient) error {
	if _, err := command(ctx, rdb, event{kind: "release"}); err != nil {
		return fmt.Errorf("release the fleet: %w", err)
	}
	return nil
}

func command(ctx context.Context, rdb redis.UniversalClient, events ...event) (*reply, error) {
	return (&request{events: events}).do(ctx, rdb, 0)
}
