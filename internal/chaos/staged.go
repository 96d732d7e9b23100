package main

import (
	"context"
	"fmt"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/sandbox"
)

// behind puts a gateway before the requests for links, for a time. The list is spared,
// so that the fleet sees that the API works and continues to send.
func behind(text string, share float64, lasts time.Duration) func(context.Context, *round) error {
	return func(ctx context.Context, r *round) error {
		answer, err := sandbox.ParseAnswer(text, sandbox.BodyHTML)
		if err != nil {
			return err
		}
		began := time.Now()
		r.api.box.SetGateway(sandbox.Gateway{Answer: answer, Share: share, SpareLists: true})
		sleep(ctx, lasts)
		r.api.box.SetGateway(sandbox.Gateway{})
		r.happened(apiGateway, began, "%s, share %v, not before the list", text, share)
		return nil
	}
}

// narrower puts a gateway before most links, and after a moment before fewer of them: the API then
// answers about some of those that the gateway has answered for.
func narrower(ctx context.Context, r *round) error {
	began := time.Now()
	gateway := sandbox.Gateway{Answer: sandbox.Answer{Status: 404, Body: sandbox.BodyHTML}, Sticky: true, SpareLists: true}
	for _, step := range []struct {
		share float64
		lasts time.Duration
	}{
		{0.7, 8 * time.Second},
		{0.4, 30 * time.Second}, // until the third attempts, 24 s after the first at the latest
	} {
		gateway.Share = step.share
		r.api.box.SetGateway(gateway)
		sleep(ctx, step.lasts)
	}
	r.api.box.SetGateway(sandbox.Gateway{})
	r.happened(apiGateway, began, "404 html for 0.7, then 0.4 of the links, not before the list")
	return nil
}

// rightAgain takes the gateway away that stood before the API from the beginning.
func rightAgain(ctx context.Context, r *round) error {
	sleep(ctx, 8*time.Second)
	r.api.box.SetGateway(sandbox.Gateway{})
	r.happened(apiGateway, r.began, "%s from the beginning", r.plan.wrong)
	return nil
}

// lied imports links whose DELETEs are answered 204, though nothing is cancelled.
func lied(ctx context.Context, r *round) error {
	if err := r.firstDone(ctx); err != nil {
		return err
	}
	began := time.Now()
	r.api.box.SetGateway(sandbox.Gateway{Answer: sandbox.Answer{Status: 204}, Share: 1, SpareGets: true, SpareLists: true})
	id, err := r.importBatch(ctx, r.take(60))
	if err != nil {
		return err
	}
	var state ledger.State
	err = until(ctx, "the batch to be paused or done", 20*time.Second, func() bool {
		b, err := r.ledger.Get(ctx, id)
		state = b.State
		return err == nil && (state == ledger.Paused || state == ledger.Done)
	})
	if err != nil {
		return fmt.Errorf("it is %s: %w", state, err)
	}
	r.api.box.SetGateway(sandbox.Gateway{})
	r.happened(apiGateway, began, "204 for every DELETE of %s", id)
	if state == ledger.Paused {
		_, err = r.command(ctx, r.redis.url(), "batch", "resume", id)
	}
	return ignore(err)
}
