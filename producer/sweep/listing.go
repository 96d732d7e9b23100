package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// Lister is the list of the API, a page a call.
type Lister interface {
	// List returns one page, or a *plexy.Error or *plexy.TransportError. 0 leaves
	// a parameter out.
	List(ctx context.Context, page, size int) (plexy.Page, error)
}

// Limiter says when a request may be sent, and learns from the answers.
type Limiter interface {
	Acquire(ctx context.Context) (ratelimit.Slot, error)
	Report(ratelimit.Slot, ratelimit.Answer)
}

// ListProgress tells how far the reading of the list is.
type ListProgress struct {
	Pass     int   // from 1
	Requests int   // answered with a page, in all passes
	Links    int64 // distinct ones, in all passes
	InPass   int64 // distinct ones of this pass
	Total    int64 // as the API says; 0: unknown
	// Err is why a page is asked for again, after Wait; nil after a good one.
	Err  error
	Wait time.Duration
}

// Errors of the list that trying again soon does not mend.
var (
	// ErrKeyRefused: the API answered 401 or 403 to the list.
	ErrKeyRefused = errors.New("the API refused the key")
	// ErrNoList: what the base URL leads to has no list of payment links, or
	// something in front of it answered the first page each time.
	ErrNoList = errors.New("no list is there")
	// ErrPageIgnored: the list shows the same links again and again.
	ErrPageIgnored = errors.New("the list ignores page")
)

const (
	// DefaultListAttempts is how often a page is asked for, by default: about
	// two minutes.
	DefaultListAttempts = 8

	// pageSize is what is asked for; the server may cap it.
	pageSize = 100
	// listPasses is how often the list is read at most.
	listPasses = 3
	// repeatsSlack is how many more links may be shown again in a pass than it
	// has: those that others push from page to page while it is read.
	repeatsSlack = 1000
	// listMost bounds a list that never ends, in links.
	listMost = 10_000_000
	// barrenMost bounds one that goes on and on without a link that can be used:
	// so many pages in a row behind all those that had a new one.
	barrenMost = 1000

	// throttledMost is how often one page may be answered 429, and refusedMost 401
	// or 403 when the key was good before. Neither uses an attempt up.
	throttledMost = 50
	// throttledWait is the longest wait after a 429 without Retry-After.
	throttledWait = 30 * time.Second
	refusedMost   = 3

	// tracedPages is how many pages of a list are in the trace of its sweep.
	tracedPages = 1000
)

// listReader reads the whole list of an API of which little is known: how many
// links a page has, whether pages count from 0 or 1 and whether there is a
// total. Links that appear and vanish meanwhile move others from page to page.
//
// A pass asks for every page, at first without the parameter page: that is page
// 0 where pages count from 0, and page 1, which comes twice, where they count
// from 1. The first pass goes forwards. It misses a link that moves to a page
// already read, as links before it vanish. The second goes backwards: there it
// is new links that may push one past it. Most lists only ever change in one of
// these ways, and so the two see every link that was there throughout.
//
// A list that something in front of the API cuts off must not look like one that
// ends there. An empty page ends it; an error does only if the API itself gave
// it and the page before it was the last one by its length or by the total: see
// ends. Every other answer is asked for again, and then fails the reading.
type listReader struct {
	api      Lister
	limiter  Limiter
	log      *slog.Logger
	attempts int
	most     int64 // links of a list that has an end
	observe  func(method string, status int, took time.Duration)
	progress func(ListProgress)
	// first is told of the first page, before its links.
	first func(plexy.Page)
	// see is told of every link shown, and says whether it is new at all, and
	// new in this pass.
	see func(link plexy.Link, pass int) (isNew, inPass bool)

	pass     int
	requests int
	size     int
	known    int64 // distinct links
	last     int   // the highest page with links
	total    int64 // as the latest answer says
	hasTotal bool
	single   bool  // the first page said that it has all links
	unusable int64 // entries, of the pass that had the most
	longest  int   // entries of the longest page
	latest   shape // of the latest page with entries

	// Of the present pass:
	shown, distinct, bad int64
	head                 plexy.Page // the first page or page 1, which may be the same
	fresh                int64      // links that no pass had before

	answered bool // the API knows the key
}

// shape is how long a page is.
type shape struct{ entries, links int }

// Why there is no page.
var (
	errPastEnd = errors.New("past the end of the list")
	// errGone: the API itself says so of a page that was there, and the pages
	// before it have to show whether the list ends now.
	errGone = errors.New("the page is gone")
)

// read reads the list: again and again until a pass brings no new link, three
// times at most.
func (w *listReader) read(ctx context.Context) error {
	w.size = pageSize
	for w.pass < listPasses {
		w.pass++
		w.shown, w.distinct, w.bad, w.fresh, w.head = 0, 0, 0, 0, plexy.Page{}
		var err error
		if w.pass%2 == 1 {
			err = w.forwards(ctx, 0)
		} else {
			err = w.backwards(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the list of payment links: %w", err)
		}
		// One page is one moment, in which nothing moves.
		if w.fresh == 0 || w.single && w.last <= 1 {
			break
		}
	}
	w.check()
	return nil
}

// forwards reads from a page on to the end.
func (w *listReader) forwards(ctx context.Context, from int) error {
	var previous plexy.Page
	barren := 0
	for n := from; ; n++ {
		page, err := w.page(ctx, n, false)
		if errors.Is(err, errPastEnd) {
			return nil
		}
		if err != nil {
			return err
		}
		known, last := w.known, w.last
		if err := w.take(n, page); err != nil {
			return err
		}
		if n > last {
			barren++
		}
		if w.known > known {
			barren = 0
		}
		switch {
		case barren > barrenMost:
			return w.ignored(n)
		case w.known > known, n <= 1:
			// Page 1 may be the one that came without a number.
		case n > last && w.reached():
			return nil
		case samePage(page, previous):
			return w.ignored(n)
		}
		previous = page
	}
}

// backwards reads what has come behind the last known page, and then from that
// one to the first.
func (w *listReader) backwards(ctx context.Context) error {
	last := w.last
	if err := w.forwards(ctx, last+1); err != nil {
		return err
	}
	gone := false // the pages behind this one
	for n := last; n >= 0; n-- {
		// Each page was there in the first pass: only the last ones may be gone.
		page, err := w.page(ctx, n, gone || n == last)
		switch {
		case errors.Is(err, errPastEnd):
			continue // the list has become shorter
		case errors.Is(err, errGone):
			gone = true
			continue
		case err != nil:
			return err
		}
		if err := w.take(n, page); err != nil {
			return err
		}
		if gone {
			// Only the length of this page tells whether the list ends behind it.
			gone, w.last = false, n
			if err := w.forwards(ctx, n+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// take takes in the links of page n.
func (w *listReader) take(n int, page plexy.Page) error {
	if w.pass == 1 && n == 0 {
		w.first(page)
		w.single = page.HasTotal && page.Total <= int64(len(page.Links)+page.Unusable)
	}
	w.last = max(w.last, n)
	w.latest = shape{entries: len(page.Links) + page.Unusable, links: len(page.Links)}
	w.longest = max(w.longest, w.latest.entries)
	for _, link := range page.Links {
		isNew, inPass := w.see(link, w.pass)
		if isNew {
			w.known++
			w.fresh++
		}
		if inPass {
			w.distinct++
		}
		w.shown++
	}
	if n > 1 || !samePage(page, w.head) {
		w.bad += int64(page.Unusable)
	}
	if n <= 1 {
		w.head = page
	}
	w.unusable = max(w.unusable, w.bad)
	w.tell(nil, 0)
	switch {
	case w.known > w.most:
		return fmt.Errorf("it has no end: more than %d links", w.most)
	case w.shown > 2*w.distinct+repeatsSlack:
		return w.ignored(n)
	}
	return nil
}

// reached says whether as many links are known as there are, as the list says.
func (w *listReader) reached() bool { return w.hasTotal && w.known+w.bad >= w.total }

func (w *listReader) ignored(n int) error {
	if w.known == 0 {
		return fmt.Errorf("page %d: none of its entries has an id that can be used", n)
	}
	return fmt.Errorf("page %d brings nothing new: %w: %d links are known, and there is no telling whether they are all", n, ErrPageIgnored, w.known)
}

// samePage compares the ids of two pages.
func samePage(a, b plexy.Page) bool {
	return a.Unusable == b.Unusable && slices.EqualFunc(a.Links, b.Links, func(x, y plexy.Link) bool { return x.ID == y.ID })
}

// check tells of a list that is shorter than it says.
func (w *listReader) check() {
	missing := w.total - w.known - w.unusable
	if w.hasTotal && (missing > max(pageSize, w.total/100) || missing > w.total/10 || missing > 0 && w.known == 0) {
		w.log.Warn("the list ended before its total: links may be missing", "links", w.known, "total", w.total)
	}
}

func (w *listReader) tell(err error, wait time.Duration) {
	if w.progress != nil {
		w.progress(ListProgress{Pass: w.pass, Requests: w.requests, Links: w.known, InPass: w.distinct, Total: w.total, Err: err, Wait: wait})
	}
}

// tries counts the answers for one page that were none.
type tries struct{ attempts, throttled, refused int }

// page asks for one page until there is a usable answer. errPastEnd: there is
// no such page. errGone, only with mayBeGone: the API says that there is none.
func (w *listReader) page(ctx context.Context, n int, mayBeGone bool) (plexy.Page, error) {
	var t tries
	for {
		page, kind, err := w.ask(ctx, n)
		if err == nil {
			w.answered = true
			w.requests++
			if w.hasTotal = page.HasTotal; page.HasTotal {
				w.total = page.Total
			}
			if len(page.Links) == 0 && page.Unusable == 0 {
				return page, errPastEnd
			}
			return page, nil
		}
		if ctx.Err() != nil {
			return plexy.Page{}, ctx.Err()
		}
		if kind == ratelimit.Unused {
			return plexy.Page{}, err // the limiter's
		}
		if mayBeGone && missing(n, err) {
			return plexy.Page{}, errGone
		}
		wait, final := w.judge(n, kind, err, &t)
		if final != nil {
			return plexy.Page{}, final
		}
		if err := w.wait(ctx, wait, err); err != nil {
			return plexy.Page{}, err
		}
	}
}

// judge says what becomes of an answer that is no page: it is the reason to give
// up, or the page is asked for again, after a wait or as soon as the limiter lets.
func (w *listReader) judge(n int, kind ratelimit.Kind, err error, t *tries) (wait time.Duration, final error) {
	var api *plexy.Error
	if !errors.As(err, &api) {
		api = &plexy.Error{}
	}
	first := n == 0 && w.requests == 0
	switch {
	case kind == ratelimit.Unauthorized && (!w.answered || t.refused == refusedMost):
		return 0, fmt.Errorf("%w: %w", ErrKeyRefused, err)
	case kind == ratelimit.Unauthorized:
		t.refused++
		return task.BackoffUnit << (t.refused - 1), nil // perhaps the key is just being replaced
	case kind == ratelimit.Throttled && t.throttled < throttledMost:
		t.throttled++
		return max(min(api.RetryAfter, task.MaxBackoff), min(task.Backoff(t.throttled), throttledWait)), nil
	case w.ends(n, err):
		return 0, errPastEnd
	case first && w.size > 0 && (api.Status == 400 || api.Status == 422):
		w.size = 0 // perhaps that is what it does not like
		if api.Proven {
			w.answered = true
			return 0, nil
		}
	case first && api.Proven && kind == ratelimit.Proper:
		return 0, fmt.Errorf("%w: %w", ErrNoList, err)
	}
	if t.attempts++; t.attempts < w.attempts {
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

// missing says whether an error is how the API itself may say that a list has no
// page n.
func missing(n int, err error) bool {
	var api *plexy.Error
	if n == 0 || !errors.As(err, &api) || !api.Proven {
		return false
	}
	return api.Status == 400 || api.Status == 404 || api.Status == 422
}

// ends says whether an error for page n is the end of the list. That takes an
// answer of the API itself, since what is in front of it knows no list, and a
// sign that the pages before are all: as many links as the total says, or a page
// that is not full. One page alone is not full if it is shorter than was asked
// for; there a 400 or 422 may be about the parameter page as such, unless page 1
// was shown.
func (w *listReader) ends(n int, err error) bool {
	if !missing(n, err) {
		return false
	}
	if w.reached() && n > w.last || w.hasTotal && w.distinct+w.bad >= w.total || w.latest.entries < w.longest {
		return true
	}
	var api *plexy.Error
	alone := errors.As(err, &api) && (api.Status == 404 || n > 1) && w.known == int64(w.latest.links)
	return alone && !w.hasTotal && w.latest.entries < w.size
}

// wait waits before the page is asked for again.
func (w *listReader) wait(ctx context.Context, wait time.Duration, why error) error {
	if wait == 0 {
		return nil
	}
	w.log.Debug("page of the list is asked for again", "after", wait.String(), "error", why)
	w.tell(why, wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask sends one request, with a slot of the limiter, and tells it what the
// answer means. Kind Unused: nothing was sent, or it was cut by ourselves.
func (w *listReader) ask(ctx context.Context, n int) (plexy.Page, ratelimit.Kind, error) {
	slot, err := w.limiter.Acquire(ctx)
	for err == nil && slot.Stale() {
		w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		slot, err = w.limiter.Acquire(ctx)
	}
	if err != nil {
		return plexy.Page{}, ratelimit.Unused, err
	}
	sending := ctx
	if w.requests >= tracedPages {
		sending = tracing.Without(ctx)
	}
	began := time.Now()
	page, err := w.api.List(sending, n, w.size)
	answer := answerOf(err)
	if w.observe != nil {
		w.observe("GET", answer.Status, time.Since(began))
	}
	if ctx.Err() != nil {
		answer.Kind = ratelimit.Unused
	}
	// For the limiter, a page is what elsewhere is a link.
	answer.Link = pageName(n)
	if err != nil {
		answer.Cause = err.Error()
	}
	w.limiter.Report(slot, answer)
	return page, answer.Kind, err
}

func pageName(n int) string {
	if n == 0 {
		return "the first page"
	}
	return fmt.Sprintf("page %d", n)
}

// kinds are what the classes of errors mean to the limiter.
var kinds = [...]ratelimit.Kind{
	plexy.Unproven: ratelimit.Unproven, plexy.Proven: ratelimit.Proper, plexy.Unauthorized: ratelimit.Unauthorized,
	plexy.Throttled: ratelimit.Throttled, plexy.Transient: ratelimit.Transient,
}

// answerOf returns what an answer to the list means to the limiter. Without an answer the
// status is 0.
func answerOf(err error) ratelimit.Answer {
	var api *plexy.Error
	switch {
	case err == nil:
		return ratelimit.Answer{Kind: ratelimit.Proper, Status: 200}
	case !errors.As(err, &api):
		return ratelimit.Answer{Kind: ratelimit.Transient}
	}
	return ratelimit.Answer{Kind: kinds[api.Class()], Status: api.Status, RetryAfter: api.RetryAfter, HasRetryAfter: api.HasRetryAfter}
}
