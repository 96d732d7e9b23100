package app

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

const (
	keyCheck = time.Second
	// holdEvery is how often a lasting hold is logged again.
	holdCheck, holdEvery = time.Minute, time.Hour
	// apiCheck is how often the app checks that the fleet still works for its API.
	apiCheck = 5 * time.Second
)

// every calls do at each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// WatchKey reads the key file again when it changes, and probes with the new key at once.
func WatchKey(ctx context.Context, key *plexy.Key, limiter *ratelimit.Fleet, log *slog.Logger) {
	every(ctx, keyCheck, func() {
		switch fresh, err := key.Reload(); {
		case err != nil:
			log.Warn("cannot read the api key file", "error", err)
		case fresh:
			log.Info("api key changed")
			limiter.KeyChanged()
		}
	})
}

// watchAPI returns an error when the fleet works for another API, and nil when ctx ends.
func (a *App) watchAPI(ctx context.Context) (changed error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	url := a.opt.Client.BaseURL()
	every(ctx, apiCheck, func() {
		api, err := a.opt.Ledger.API(ctx)
		if err != nil || api.URL == url {
			return
		}
		if api.URL == "" { // Redis lost it
			err = a.opt.Ledger.ClaimAPI(ctx, url, history.By{Actor: a.opt.ID, Auto: true})
		} else {
			err = fmt.Errorf("the API of this Redis database was changed to %s, and this worker works for %s", api.URL, url)
		}
		if err != nil && ctx.Err() == nil {
			changed = err
			stop()
		}
	})
	return changed
}

// maxClockSkew is how far this clock may be from Redis'. Task leases of 30 s depend on both.
const maxClockSkew = 5 * time.Second

func (a *App) checkClock(ctx context.Context) {
	now, err := a.opt.Ledger.Now(ctx)
	if err != nil {
		return // the worker will log it
	}
	if skew := time.Since(now); skew.Abs() > maxClockSkew {
		a.opt.Log.Warn("this machine's clock differs from that of Redis: set both by NTP", "by", skew.Round(time.Second).String())
	}
}

// logHold logs the start and the end of a hold.
func (a *App) logHold(h ratelimit.Hold) {
	before := a.held
	a.held = h
	if h.Reason == ratelimit.ReasonManual || h.Reason == ratelimit.ReasonNone && before.Reason == ratelimit.ReasonManual {
		return // the leader logs what commands do
	}
	if h.Reason == ratelimit.ReasonNone {
		a.opt.Log.Info("hold ended", "hold", string(before.Reason), "after", time.Since(before.Since).Round(time.Second).String())
		return
	}
	if before.Reason != ratelimit.ReasonNone {
		h.Since = before.Since // one hold follows the other
		a.held.Since = before.Since
	}
	level := slog.LevelWarn
	if a.opt.Attended || h.Reason == ratelimit.ReasonWindow {
		level = slog.LevelInfo
	}
	attrs := []any{"hold", string(h.Reason)}
	if !h.Until.IsZero() {
		name := "until"
		if h.Reason == ratelimit.ReasonOutage || h.Reason == ratelimit.ReasonUnauthorized {
			name = "next_try"
		}
		attrs = append(attrs, name, h.Until)
	}
	if h.Cause != "" {
		attrs = append(attrs, "cause", h.Cause)
	}
	a.opt.Log.Log(context.Background(), level, "nothing is sent", attrs...)
}

// watchHold logs each hour that a hold lasts. logHold logs its start and its end.
func (a *App) watchHold(ctx context.Context) {
	logged := time.Now()
	every(ctx, holdCheck, func() {
		hold := a.Hold()
		if hold.Reason == ratelimit.ReasonNone || hold.Reason == ratelimit.ReasonWindow || time.Since(hold.Since) < holdEvery || time.Since(logged) < holdEvery {
			return
		}
		logged = time.Now()
		a.opt.Log.Warn("still on hold", "hold", string(hold.Reason), "since", hold.Since, "cause", hold.Cause)
	})
}
