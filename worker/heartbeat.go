package worker

import (
	"context"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/tick"
)

const (
	beatEvery = 500 * time.Millisecond
	beatIdle  = 2 * time.Second // with nothing in hand, or no other worker: see Config.Lone

	// From fastRate on the feeder's look-ahead no longer grows and needs fresh heartbeats.
	beatFast = 100 * time.Millisecond
	fastRate = 10_000
)

// heartbeats publish what a worker holds and how fast it is. The feeder relies on them.
type heartbeats struct {
	w        *Worker
	ctx      context.Context
	key      string    // the fingerprint of the key in the last heartbeat
	keySince time.Time // when this key was first seen
	trouble  broker.Trouble
}

// newHeartbeats sends the first heartbeat.
func newHeartbeats(w *Worker, ctx context.Context) *heartbeats {
	h := &heartbeats{w: w, ctx: ctx, trouble: broker.Trouble{Log: w.log}}
	h.send()
	return h
}

// run sends heartbeats until ctx ends, then deregisters the worker.
func (h *heartbeats) run() {
	timer := time.NewTimer(tick.In(beatIdle))
	defer timer.Stop()
	told := false // the last heartbeat said that the worker has work
	for {
		select {
		case <-h.w.work.busy:
			if told {
				continue
			}
		case <-timer.C:
		case <-h.ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = h.w.ledger.Deregister(ctx, h.w.cfg.ID) // otherwise the heartbeat expires
			return
		}
		told = h.w.Unsent() > 0
		h.send()
		timer.Reset(tick.In(h.pause(told)))
	}
}

// pause returns the time until the next heartbeat.
func (h *heartbeats) pause(busy bool) time.Duration {
	switch {
	case !busy, h.w.cfg.Lone():
		return beatIdle
	case h.w.limiter.Status().Rate >= fastRate:
		return beatFast
	}
	return beatEvery
}

func (h *heartbeats) send() {
	err := h.w.ledger.Heartbeat(h.ctx, h.next())
	switch {
	case h.ctx.Err() != nil:
	case err != nil:
		h.trouble.Begin("cannot write heartbeat", err)
	default:
		h.trouble.End("heartbeat is written again")
	}
}

func (h *heartbeats) next() ledger.WorkerBeat {
	cfg, hold, load := &h.w.cfg, h.w.limiter.Status().Hold, h.w.Load()
	beat := ledger.WorkerBeat{
		ID: cfg.ID, Rate: cfg.Rate, Unsent: h.w.Unsent(), Slots: cfg.Concurrency,
		Hold: string(hold.Reason), Own: hold.Own, Cause: hold.Cause,
		API: cfg.Host, Version: cfg.Version, KeySource: cfg.KeySource,
		InFlight: load.InFlight, Concurrency: load.Concurrency, TookMillis: load.Took.Milliseconds(),
	}
	if cfg.Key != nil {
		if key := cfg.Key(); key != h.key {
			h.key, h.keySince = key, time.Now()
		}
		beat.Key, beat.KeySince = h.key, h.keySince.Unix()
	}
	return beat
}
