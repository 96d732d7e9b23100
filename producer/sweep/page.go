package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// Lister reads the API's list of links.
type Lister interface {
	// List returns one page, or a *plexy.Error or *plexy.TransportError. 0 leaves a parameter out.
	List(ctx context.Context, page, size int) (plexy.Page, error)
}

// Limiter grants requests and learns from the answers.
type Limiter interface {
	Acquire(ctx context.Context) (ratelimit.Slot, error)
	Report(ratelimit.Slot, ratelimit.Answer)
}

const (
	// listAttempts is how often a page is asked for, with backoff: about two minutes.
	listAttempts = 8

	// throttledMost and refusedMost are how often a page may get 429, or 401 and 403.
	throttledMost = 50
	refusedMost   = 3
	// throttledWait is the longest wait after a 429 without Retry-After.
	throttledWait = 30 * time.Second

	// tracedPages is how many pages of a list are in the trace of its sweep.
	tracedPages = 1000
)

// pageReader asks for single pages.
type pageReader struct {
	api      Lister
	limiter  Limiter
	log      *slog.Logger
	attempts int
	observe  func(method string, status int, took time.Duration)

	size     int  // asked for; 0 leaves it to the API
	requests int  // answered with a page
	accepted bool // the API has accepted the key
}

// tries counts the unusable answers for one page.
type tries struct{ attempts, throttled, refused int }

// page asks for one page until there is a usable answer. ends returns the error that ends the
// asking if an answer means that there is no such page, or nil. waits is called before each wait.
func (p *pageReader) page(ctx context.Context, n int, ends func(n int, err error) error, waits func(error, time.Duration)) (plexy.Page, error) {
	var t tries
	for {
		page, kind, err := p.ask(ctx, n)
		switch {
		case err == nil:
			p.accepted = true
			p.requests++
			return page, nil
		case ctx.Err() != nil:
			return plexy.Page{}, ctx.Err()
		case kind == ratelimit.Unused: // the error is the limiter's
			return plexy.Page{}, err
		}
		if end := ends(n, err); end != nil {
			return plexy.Page{}, end
		}
		wait, final := p.judge(n, kind, err, &t)
		if final != nil {
			return plexy.Page{}, final
		}
		if wait == 0 {
			continue
		}
		p.log.Debug("page of the list is asked for again", "after", wait.String(), "error", err)
		waits(err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return plexy.Page{}, ctx.Err()
		}
	}
}

// judge decides about an unusable answer: it returns the reason to give up, or how long to
// wait before the page is asked for again. 0: as soon as the limiter allows.
func (p *pageReader) judge(n int, kind ratelimit.Kind, err error, t *tries) (wait time.Duration, final error) {
	var api *plexy.Error
	if !errors.As(err, &api) {
		api = &plexy.Error{}
	}
	first := n == 0 && p.requests == 0
	switch {
	case kind == ratelimit.Unauthorized && (!p.accepted || t.refused == refusedMost):
		return 0, fmt.Errorf("%w: %w", ErrKeyRefused, err)
	case kind == ratelimit.Unauthorized:
		t.refused++
		return task.BackoffUnit << (t.refused - 1), nil // perhaps the key is being replaced
	case kind == ratelimit.Throttled && t.throttled < throttledMost:
		t.throttled++
		return max(min(api.RetryAfter, task.MaxBackoff), min(task.Backoff(t.throttled), throttledWait)), nil
	case first && p.size > 0 && (api.Status == 400 || api.Status == 422):
		p.size = 0 // perhaps the API does not accept it
		if api.Proven {
			p.accepted = true
			return 0, nil
		}
	case first && api.Proven && kind == ratelimit.OK:
		return 0, fmt.Errorf("%w: %w", ErrNoList, err)
	}
	if t.attempts++; t.attempts < p.attempts {
		return task.Backoff(t.attempts), nil
	}
	switch {
	case missing(n, err):
		return 0, fmt.Errorf("%s was asked for %d times, and nothing but this answer says that the list ends before it: %w", pageName(n), t.attempts, err)
	case first && api.Status > 0 && api.Status < 500 && kind != ratelimit.Throttled:
		return 0, fmt.Errorf("%w: asked for %d times: %w", ErrNoList, t.attempts, err)
	}
	return 0, fmt.Errorf("%s was asked for %d times: %w", pageName(n), t.attempts, err)
}

// missing reports whether an error may be how the API itself says that its list has no page n.
func missing(n int, err error) bool {
	var api *plexy.Error
	if n == 0 || !errors.As(err, &api) || !api.Proven {
		return false
	}
	return api.Status == 400 || api.Status == 404 || api.Status == 422
}

// ask sends one request and reports its answer. Unused: nothing was sent, or ctx ended it.
func (p *pageReader) ask(ctx context.Context, n int) (plexy.Page, ratelimit.Kind, error) {
	acquire := func() (ratelimit.Slot, error) { return p.slot(ctx) }
	slot, err := acquire()
	if err != nil {
		return plexy.Page{}, ratelimit.Unused, err
	}
	permit := &ratelimit.Permit{Report: p.limiter.Report, Acquire: acquire}
	permit.Begin(slot)
	callCtx := plexy.WithPermit(ctx, permit)
	if p.requests >= tracedPages {
		callCtx = tracing.Without(callCtx)
	}
	page, err := p.api.List(callCtx, n, p.size)
	if permit.Err != nil {
		return plexy.Page{}, ratelimit.Unused, permit.Err
	}
	answer := answerOf(err)
	if p.observe != nil {
		p.observe("GET", answer.Status, time.Since(permit.Since))
	}
	if ctx.Err() != nil {
		answer.Kind = ratelimit.Unused
	}
	// The limiter counts by link. Here a page takes its place.
	answer.Link = pageName(n)
	if err != nil {
		answer.Cause = err.Error()
	}
	p.limiter.Report(permit.Slot, answer)
	return page, answer.Kind, err
}

// slot waits for a slot.
func (p *pageReader) slot(ctx context.Context) (ratelimit.Slot, error) {
	for {
		slot, err := p.limiter.Acquire(ctx)
		if err != nil || !slot.Stale() {
			return slot, err
		}
		p.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
	}
}

func pageName(n int) string {
	if n == 0 {
		return "the first page"
	}
	return fmt.Sprintf("page %d", n)
}

// kinds are what the classes of errors mean to the limiter.
var kinds = [...]ratelimit.Kind{
	plexy.Unproven: ratelimit.Unproven, plexy.Proven: ratelimit.OK, plexy.Unauthorized: ratelimit.Unauthorized,
	plexy.Throttled: ratelimit.Throttled, plexy.Transient: ratelimit.Transient,
}

// answerOf returns what an answer to the list means to the limiter. Status 0: no answer.
func answerOf(err error) ratelimit.Answer {
	var api *plexy.Error
	switch {
	case err == nil:
		return ratelimit.Answer{Kind: ratelimit.OK, Status: 200}
	case !errors.As(err, &api):
		return ratelimit.Answer{Kind: ratelimit.Transient}
	}
	return ratelimit.Answer{Kind: kinds[api.Class()], Status: api.Status, RetryAfter: api.RetryAfter, HasRetryAfter: api.HasRetryAfter}
}
