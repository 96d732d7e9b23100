package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"linkcancel/internal/sandbox"
)

// slowest is how much longer the other links may take because of the locked ones.
const slowest = 1.1

// lockedAmongOthers cancels 600 links with a batch of 300 beside them, and does it
// again with locked links among them.
func lockedAmongOthers(answers []string) func(context.Context, *round) error {
	return func(ctx context.Context, r *round) error {
		if err := r.firstDone(ctx); err != nil {
			return err
		}
		without, err := r.timed(ctx, nil)
		if err != nil || without == 0 {
			return err
		}
		began := time.Now()
		with, err := r.timed(ctx, answers)
		r.happened(poisoned, began, "%d links", len(answers))
		if err != nil || with == 0 {
			return err
		}
		r.notes = append(r.notes, fmt.Sprintf("the others took %.1f s, and %.1f s beside locked links", without.Seconds(), with.Seconds()))
		if with > time.Duration(slowest*float64(without)) {
			r.violate(violation{rule: notSlowed, what: fmt.Sprintf("the others took %v, and %v without the locked ones", with, without)})
		}
		return nil
	}
}

// firstDone waits until the batches that stood from the beginning are done.
func (r *round) firstDone(ctx context.Context) error {
	return until(ctx, "the first batches to be done", time.Minute, func() bool {
		return !slices.ContainsFunc(r.known(), func(id string) bool {
			b, err := r.ledger.Get(ctx, id)
			return err != nil || b.Pending() > 0
		})
	})
}

const notSlowed = "a locked link does not slow the others"

// timed imports a batch that has a locked link for each of the answers, and a second
// batch, and returns how long the other links take; 0 if it is far too long.
func (r *round) timed(ctx context.Context, answers []string) (time.Duration, error) {
	links := slices.DeleteFunc(slices.Clone(r.take(1200)), func(id string) bool { return r.links.status[id] != "active" })
	if len(links) < 900 {
		return 0, fmt.Errorf("%d active links are too few", len(links))
	}
	first, second := links[:600], links[600:900]
	others := slices.Clone(second)
	for i, id := range first {
		if i%100 != 50 || i/100 >= len(answers) {
			others = append(others, id)
		} else if err := r.lock(id, answers[i/100]); err != nil {
			return 0, err
		}
	}
	for _, batch := range [][]string{first, second} {
		if _, err := r.importBatch(ctx, batch); err != nil {
			return 0, err
		}
	}
	expected := time.Duration(float64(len(others)) / float64(r.plan.rate) * float64(time.Second))
	left := func() int {
		return len(slices.DeleteFunc(slices.Clone(others), func(id string) bool { return r.api.box.Applied(id) > 0 }))
	}
	for deadline := time.Now().Add(3*expected + 10*time.Second); left() > 0; {
		if time.Now().After(deadline) {
			r.violate(violation{rule: notSlowed, what: fmt.Sprintf("%d of %d others are not cancelled after three times their time", left(), len(others))})
			return 0, nil
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
	return spanOf(r.api.box.Requests(), others), nil
}

// lockedLong is poisons with a Retry-After that is felt.
var lockedLong = []string{"429:api:20s", "503:api:20s", "401:api", "403:html"}

// lock gives a link one answer for ever.
func (r *round) lock(id, text string) error {
	answer, err := sandbox.ParseAnswer(text, sandbox.BodyAPI)
	if err != nil {
		return err
	}
	r.api.box.SetPoison(id, answer)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.poisoned[id] = text
	return nil
}

// spanOf is the time from the first request for one of the links to the last that cancelled one.
func spanOf(requests []sandbox.Request, links []string) time.Duration {
	of := map[string]bool{}
	for _, id := range links {
		of[id] = true
	}
	var first, last time.Time
	for _, q := range requests {
		if !of[q.ID] {
			continue
		}
		if first.IsZero() {
			first = q.Time
		}
		if q.Applied {
			last = q.Time
		}
	}
	return last.Sub(first)
}
