package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"linkcancel/internal/plexy"
)

// ListProgress is how far the reading of the list is.
type ListProgress struct {
	Pass     int   // from 1
	Requests int   // answered with a page, in all passes
	Links    int64 // distinct links, in all passes
	InPass   int64 // distinct links of this pass
	Total    int64 // as the API says; 0: unknown
	// Err is why a page is asked for again after Wait. It is nil after a good page.
	Err  error
	Wait time.Duration
}

// Errors of the list that an early retry does not solve.
var (
	// ErrKeyRefused: the API answered 401 or 403.
	ErrKeyRefused = errors.New("the API refused the key")
	// ErrNoList: the base URL has no list, or something else answered the first page each time.
	ErrNoList = errors.New("no list is there")
	// ErrPageIgnored: the list shows the same links again and again.
	ErrPageIgnored = errors.New("the list ignores page")
)

const (
	// pageSize is the size that is asked for. The server may lower it.
	pageSize = 100
	// maxPasses is how often the list is read at most.
	maxPasses = 3
	// repeatsSlack is how many moving links more than its distinct ones a pass may show again.
	repeatsSlack = 1000
	// listMost bounds an endless list, in links.
	listMost = 10_000_000
	// barrenMost bounds a list without usable links, in pages after the last new link.
	barrenMost = 1000
)

// listReader reads the whole list of an API of which little is known: neither how many links
// a page has, nor whether pages count from 0 or 1, nor whether there is a total. Links that
// appear and vanish meanwhile move others from page to page.
//
// A pass asks for every page, first without the parameter page. That is page 0 where pages count
// from 0, and page 1, which then comes twice, where they count from 1. The first pass goes
// forwards. It misses a link that moves to a page already read because links before it vanish. The
// second goes backwards, where new links may push one past it. Most lists change in one of these
// ways only, so the two passes together see every link that was there throughout.
//
// A list that something in front of the API cuts off must not look complete. An empty page
// ends the list. An error ends it only if the API itself gave it and the page before was the
// last one by its length or by the total: see ends. Every other answer is asked for again,
// and then fails the reading.
type listReader struct {
	pageReader
	most     int64 // links of a list that has an end
	progress func(ListProgress)
	first    func(plexy.Page) // is called with the first page, before its links
	// see is called with every link. It reports whether it is new to all passes and to this one.
	see func(link plexy.Link, pass int) (isNew, inPass bool)

	known    int64 // distinct links
	last     int   // the highest page with links
	total    int64 // as the latest answer says
	hasTotal bool
	single   bool                         // the first page said that it has all links
	unusable int64                        // entries, of the pass that had the most
	longest  int                          // entries of the longest page
	latest   struct{ entries, links int } // of the latest page with entries

	pass   int
	inPass passCounts
}

// passCounts is what one pass has seen.
type passCounts struct {
	shown, distinct, isNew int64 // links; isNew: that no pass had before
	unusable               int64
	head                   plexy.Page // the first page or page 1, which may be the same
}

// Why there is no page.
var (
	errPastEnd = errors.New("past the end of the list")
	// errGone: the API says so of a page that was there. The pages before must show the end.
	errGone = errors.New("the page is gone")
)

// read reads the list until a pass brings no new link, maxPasses times at most.
func (w *listReader) read(ctx context.Context) error {
	w.size = pageSize
	for w.pass < maxPasses {
		w.pass++
		w.inPass = passCounts{}
		var err error
		if w.pass%2 == 1 {
			err = w.forwards(ctx, 0)
		} else {
			err = w.backwards(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the list of payment links: %w", err)
		}
		// Nothing moves within one page.
		if w.inPass.isNew == 0 || w.single && w.last <= 1 {
			break
		}
	}
	w.check()
	return nil
}

// forwards reads from a page to the end.
func (w *listReader) forwards(ctx context.Context, from int) error {
	var previous plexy.Page
	barren := 0
	for n := from; ; n++ {
		page, err := w.get(ctx, n, w.ended)
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

// backwards reads what was added after the last known page, then from that page to the first.
func (w *listReader) backwards(ctx context.Context) error {
	last := w.last
	if err := w.forwards(ctx, last+1); err != nil {
		return err
	}
	gone := false // the pages behind this one
	for n := last; n >= 0; n-- {
		// Each page was there in the first pass. Only the last ones may be gone.
		ends := w.ended
		if gone || n == last {
			ends = w.gone
		}
		page, err := w.get(ctx, n, ends)
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
			// Only the length of this page shows whether the list ends after it.
			gone, w.last = false, n
			if err := w.forwards(ctx, n+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// take adds the links of page n.
func (w *listReader) take(n int, page plexy.Page) error {
	if w.pass == 1 && n == 0 {
		w.first(page)
		w.single = page.HasTotal && page.Total <= int64(len(page.Links)+page.Unusable)
	}
	w.last = max(w.last, n)
	w.latest.entries, w.latest.links = len(page.Links)+page.Unusable, len(page.Links)
	w.longest = max(w.longest, w.latest.entries)
	for _, link := range page.Links {
		isNew, inPass := w.see(link, w.pass)
		if isNew {
			w.known++
			w.inPass.isNew++
		}
		if inPass {
			w.inPass.distinct++
		}
		w.inPass.shown++
	}
	if n > 1 || !samePage(page, w.inPass.head) {
		w.inPass.unusable += int64(page.Unusable)
	}
	if n <= 1 {
		w.inPass.head = page
	}
	w.unusable = max(w.unusable, w.inPass.unusable)
	w.report(nil, 0)
	switch {
	case w.known > w.most:
		return fmt.Errorf("it has no end: more than %d links", w.most)
	case w.inPass.shown > 2*w.inPass.distinct+repeatsSlack:
		return w.ignored(n)
	}
	return nil
}

// reached reports whether all links that the list says it has are known.
func (w *listReader) reached() bool { return w.hasTotal && w.known+w.inPass.unusable >= w.total }

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

// check warns of a list that is shorter than it says.
func (w *listReader) check() {
	missing := w.total - w.known - w.unusable
	if w.hasTotal && (missing > max(pageSize, w.total/100) || missing > w.total/10 || missing > 0 && w.known == 0) {
		w.log.Warn("the list ended before its total: links may be missing", "links", w.known, "total", w.total)
	}
}

func (w *listReader) report(err error, wait time.Duration) {
	if w.progress != nil {
		w.progress(ListProgress{Pass: w.pass, Requests: w.requests, Links: w.known, InPass: w.inPass.distinct, Total: w.total, Err: err, Wait: wait})
	}
}

// ends reports whether an error for page n is the end of the list. That needs an answer of
// the API itself, since a gateway does not know the list, and a sign that the pages before
// are all: as many links as the total says, or a page that is not full. A single page is not
// full if it is shorter than asked for. There, a 400 or 422 may be about the parameter page
// as such, unless page 1 was shown.
func (w *listReader) ends(n int, err error) bool {
	if !missing(n, err) {
		return false
	}
	if w.reached() && n > w.last || w.hasTotal && w.inPass.distinct+w.inPass.unusable >= w.total || w.latest.entries < w.longest {
		return true
	}
	var api *plexy.Error
	alone := errors.As(err, &api) && (api.Status == 404 || n > 1) && w.known == int64(w.latest.links)
	return alone && !w.hasTotal && w.latest.entries < w.size
}

// ended and gone are the rules by which an error ends the asking for a page.
func (w *listReader) ended(n int, err error) error {
	if w.ends(n, err) {
		return errPastEnd
	}
	return nil
}

func (w *listReader) gone(n int, err error) error {
	if missing(n, err) {
		return errGone
	}
	return nil
}

// get returns page n, or the error of rule if there is no such page. An empty page is past the end.
func (w *listReader) get(ctx context.Context, n int, rule func(int, error) error) (plexy.Page, error) {
	page, err := w.page(ctx, n, rule, w.report)
	if err != nil {
		return page, err
	}
	if w.hasTotal = page.HasTotal; page.HasTotal {
		w.total = page.Total
	}
	if len(page.Links) == 0 && page.Unusable == 0 {
		return page, errPastEnd
	}
	return page, nil
}
