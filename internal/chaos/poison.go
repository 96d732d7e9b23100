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

// lockedAmongOthers imports locked links among others, and a batch beside them, and
// measures how long the others take.
func lockedAmongOthers(ctx context.Context, r *round) error {
	began := time.Now()
	links := slices.DeleteFunc(r.take(1200), func(id string) bool { return r.links.status[id] != "active" })
	first, second := links[:600], links[600:900]
	others := slices.Clone(second)
	for i, id := range first {
		if i%100 != 50 || i/100 >= len(lockedLong) {
			others = append(others, id)
			continue
		}
		if err := r.lock(id, lockedLong[i/100]); err != nil {
			return err
		}
	}
	for _, batch := range [][]string{first, second} {
		if _, err := r.importBatch(ctx, batch); err != nil {
			return err
		}
	}
	expected := time.Duration(float64(len(others)) / float64(r.plan.rate) * float64(time.Second))
	left := func() int {
		return len(slices.DeleteFunc(slices.Clone(others), func(id string) bool { return r.api.box.Applied(id) > 0 }))
	}
	for deadline := time.Now().Add(3*expected + 10*time.Second); left() > 0 && time.Now().Before(deadline); {
		if !sleep(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	r.happened(poisoned, began, "%d links", len(lockedLong))
	if n := left(); n > 0 {
		r.violate(violation{rule: "a locked link does not slow the others", what: fmt.Sprintf("%d of %d others are not cancelled after three times their time", n, len(others))})
		return nil
	}
	took := spanOf(r.api.box.Requests(), others)
	r.notes = append(r.notes, fmt.Sprintf("%d others took %.1f s, %.1f s at their limit", len(others), took.Seconds(), expected.Seconds()))
	if took > time.Duration(slowest*float64(expected)) {
		r.violate(violation{rule: "a locked link does not slow the others", what: fmt.Sprintf("%d others took %v, at their limit it is %v", len(others), took, expected)})
	}
	return nil
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

// spanOf is the time from the first request for one of the links to the last that
// cancelled one.
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
