package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// shop is a list of links as some server might show it. The zero value counts
// pages from 0, and tells no total.
type shop struct {
	links    []plexy.Link
	size     int              // the most links on a page
	oneBased bool             // else pages count from 0
	total    func(n int) int  // what it says of n links; nil: nothing
	beyond   int              // status of pages behind the last one, from the API itself; 0: an empty page
	clamp    bool             // they are the last page again
	ignore   bool             // every page is the first
	unusable int              // entries without an id on each page
	before   func() error     // each answer; its error is the answer
	after    func(plexy.Page) // each page
	date     time.Time
	requests []string
}

func (s *shop) List(_ context.Context, page, size int) (plexy.Page, error) {
	s.requests = append(s.requests, fmt.Sprint(page))
	if s.before != nil {
		if err := s.before(); err != nil {
			return plexy.Page{}, err
		}
	}
	if s.size > 0 && (size == 0 || size > s.size) {
		size = s.size
	}
	if s.oneBased {
		page = max(page-1, 0)
	}
	pages := (len(s.links) + size - 1) / size
	switch {
	case s.ignore:
		page = 0
	case page >= pages && s.clamp:
		page = max(pages-1, 0)
	case page >= pages && page > 0 && s.beyond != 0:
		return plexy.Page{}, proven(s.beyond)
	}
	p := plexy.Page{Date: s.date, Unusable: s.unusable}
	if s.total != nil {
		p.Total, p.HasTotal = int64(s.total(len(s.links))), true
	}
	first := min(page*size, len(s.links))
	p.Links = slices.Clone(s.links[first:min(first+size, len(s.links))])
	if s.after != nil {
		s.after(p)
	}
	return p, nil
}

func exact(n int) int { return n }

// proven is an error that the API itself gave, plain one that may be of something in front of it.
func proven(status int) error { return &plexy.Error{Method: "GET", Status: status, Proven: true} }
func plain(status int) error  { return &plexy.Error{Method: "GET", Status: status} }

func linksOf(ids []string) []plexy.Link {
	links := make([]plexy.Link, len(ids))
	for i, id := range ids {
		links[i] = plexy.Link{ID: id, Status: "active"}
	}
	return links
}

// answers is a limiter that lets everything pass at once and keeps what it is told.
type answers struct {
	acquire func() error
	told    []ratelimit.Answer
}

func (a *answers) Acquire(ctx context.Context) (ratelimit.Slot, error) {
	if a.acquire != nil {
		if err := a.acquire(); err != nil {
			return ratelimit.Slot{}, err
		}
	}
	return ratelimit.NewSlot(time.Now(), 0), ctx.Err()
}

func (a *answers) Report(_ ratelimit.Slot, answer ratelimit.Answer) { a.told = append(a.told, answer) }

func (a *answers) kinds() (kinds []string) {
	for _, answer := range a.told {
		kinds = append(kinds, answer.Kind.String())
	}
	return kinds
}

// reading reads a list with listing.read, and what it saw.
type reading struct {
	listReader
	limiter answers
	seen    map[string]int // links, and the pass that showed them last
	order   []string
	log     strings.Builder
}

func newReading(api Lister) *reading {
	r := &reading{seen: map[string]int{}}
	r.listReader = listReader{
		pageReader: pageReader{api: api, limiter: &r.limiter, log: slog.New(slog.NewTextHandler(&r.log, nil)), attempts: 3},
		most:       listMost,
		first:      func(plexy.Page) {},
		see: func(link plexy.Link, pass int) (isNew, inPass bool) {
			last, known := r.seen[link.ID]
			if !known {
				r.order = append(r.order, link.ID)
			}
			r.seen[link.ID] = pass
			return !known, last != pass
		},
	}
	return r
}

func TestListShapes(t *testing.T) {
	type want struct {
		links, requests int
	}
	for name, test := range map[string]struct {
		shop  shop
		links int
		want  want
	}{
		// 4 pages and the empty one; in the second pass the empty one, then back.
		"from 0":              {shop{size: 30}, 100, want{100, 10}},
		"from 1":              {shop{size: 30, oneBased: true}, 100, want{100, 12}}, // page 1 comes twice
		"from 0, total":       {shop{size: 30, total: exact}, 100, want{100, 10}},
		"from 1, total":       {shop{size: 30, oneBased: true, total: exact}, 100, want{100, 12}},
		"size is not capped":  {shop{}, 1000, want{1000, 22}},
		"full pages":          {shop{size: 25, oneBased: true}, 100, want{100, 12}},
		"one page":            {shop{size: 50}, 20, want{20, 4}},
		"one page, total":     {shop{size: 50, total: exact}, 20, want{20, 2}},
		"one page of 1":       {shop{size: 50, oneBased: true, total: exact}, 20, want{20, 3}},
		"one page and a link": {shop{size: 50, oneBased: true, total: exact}, 51, want{51, 8}},
		"one link":            {shop{size: 50}, 1, want{1, 4}},
		"empty":               {shop{size: 50}, 0, want{0, 1}},
		"empty, total":        {shop{size: 50, total: exact}, 0, want{0, 1}},
		"pages of one":        {shop{size: 1, oneBased: true}, 50, want{50, 104}},
		// A total that lies is no end, be it the page's own count or far too high.
		"total of the page":  {shop{size: 30, oneBased: true, total: func(int) int { return 30 }}, 100, want{100, 12}},
		"total 0":            {shop{size: 30, total: func(int) int { return 0 }}, 100, want{100, 10}},
		"total 1":            {shop{size: 30, oneBased: true, total: func(int) int { return 1 }}, 100, want{100, 12}},
		"total far too high": {shop{size: 30, total: func(int) int { return 1e9 }}, 100, want{100, 10}},
		// What stands behind the last page.
		"404 behind it":                        {shop{size: 30, beyond: 404}, 100, want{100, 10}},
		"422 behind it":                        {shop{size: 30, beyond: 422}, 100, want{100, 10}},
		"400 behind it, from 1":                {shop{size: 30, oneBased: true, beyond: 400}, 100, want{100, 12}},
		"404 behind one page":                  {shop{size: 30, beyond: 404}, 10, want{10, 4}},
		"422 behind one page, from 1":          {shop{size: 30, oneBased: true, beyond: 422}, 10, want{10, 6}},
		"422 behind one page, total":           {shop{size: 30, beyond: 422, total: exact}, 10, want{10, 2}},
		"400 behind it, total":                 {shop{size: 30, oneBased: true, beyond: 400, total: exact}, 100, want{100, 12}},
		"404 behind full pages, total":         {shop{size: 25, beyond: 404, total: exact}, 100, want{100, 10}},
		"422 behind full pages, from 1, total": {shop{size: 25, oneBased: true, beyond: 422, total: exact}, 100, want{100, 12}},
		"404 behind one full page, total":      {shop{beyond: 404, total: exact}, 100, want{100, 2}},
		"the last page again, total":           {shop{size: 30, clamp: true, total: exact}, 100, want{100, 11}},
		"the last page again, from 1":          {shop{size: 30, oneBased: true, clamp: true, total: exact}, 100, want{100, 13}},
		"entries without id":                   {shop{size: 30, unusable: 2, beyond: 404, total: func(n int) int { return n + 8 }}, 100, want{100, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ids := testutil.LinkIDs(test.links)
				test.shop.links = linksOf(ids)
				r := newReading(&test.shop)
				if err := r.read(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(ids, r.order, cmp.Transformer("", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
					t.Error(diff)
				}
				if got := (want{len(r.seen), len(test.shop.requests)}); got != test.want {
					t.Errorf("%+v, want %+v: pages %s", got, test.want, test.shop.requests)
				}
				if got := len(r.limiter.told); got != len(test.shop.requests) {
					t.Errorf("%d reports of %d requests", got, len(test.shop.requests))
				}
				if warned, want := strings.Contains(r.log.String(), "ended before its total"), name == "total far too high"; warned != want {
					t.Errorf("log: %s", &r.log)
				}
			})
		})
	}
}

// Short pages do not end the list, however short.
func TestListShortPages(t *testing.T) {
	ids := testutil.LinkIDs(400)
	s := &shop{size: 40, oneBased: true, links: linksOf(ids)}
	// The server filters after paging: pages have 40 links, 1, 40, 1 …
	short := listFunc(func(ctx context.Context, page, size int) (plexy.Page, error) {
		p, err := s.List(ctx, page, size)
		if page%2 == 0 && page > 0 && len(p.Links) > 1 {
			p.Links = p.Links[:1]
		}
		return p, err
	})
	r := newReading(short)
	if err := r.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(r.seen) != 5*40+5*1 {
		t.Errorf("%d links", len(r.seen))
	}
}

type listFunc func(ctx context.Context, page, size int) (plexy.Page, error)

func (f listFunc) List(ctx context.Context, page, size int) (plexy.Page, error) {
	return f(ctx, page, size)
}

// A list that shows the same again and again ends with an error, soon.
func TestListThatIgnoresPage(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, test := range map[string]struct {
		shop  *shop
		links int
		most  int // requests
		want  string
	}{
		"no total":       {&shop{size: 50, ignore: true}, 500, 3, "page 2 brings nothing new: the list ignores page: 50 links are known"},
		"total":          {&shop{size: 50, ignore: true, total: exact}, 500, 3, "page 2 brings nothing new: the list ignores page"},
		"total, 2 pages": {&shop{size: 50, ignore: true, total: exact}, 51, 3, "the list ignores page"},
		// All of them on one page may be all there are, but who knows?
		"all at once":          {&shop{ignore: true}, 80, 3, "the list ignores page: 80 links"},
		"the last page again":  {&shop{size: 30, clamp: true}, 100, 5, "page 4 brings nothing new: the list ignores page"},
		"nothing that has ids": {&shop{size: 50, ignore: true, unusable: 7}, 0, 3, "page 2: none of its entries has an id that can be used"},
	} {
		test.shop.links = linksOf(testutil.LinkIDs(test.links))
		r := newReading(test.shop)
		err := r.read(t.Context())
		if errors.Is(err, ErrPageIgnored) != (test.links > 0) || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
		if len(test.shop.requests) > test.most {
			t.Errorf("%s: %d requests", name, len(test.shop.requests))
		}
	}

	// No page is as the one before: a new link each time, or another order.
	for name, change := range map[string]func(s *shop){
		"a new link each time": func(s *shop) {
			s.links = append([]plexy.Link{{ID: fmt.Sprint("new", len(s.requests))}}, s.links...)
		},
		"another order": func(s *shop) {
			random.Shuffle(len(s.links), func(i, j int) { s.links[i], s.links[j] = s.links[j], s.links[i] })
		},
	} {
		for _, total := range []func(int) int{nil, exact} {
			s := &shop{size: 50, ignore: true, total: total, links: linksOf(testutil.LinkIDs(60))}
			s.before = func() error { change(s); return nil }
			err := newReading(s).read(t.Context())
			if !errors.Is(err, ErrPageIgnored) && name == "a new link each time" {
				t.Errorf("%s: %v", name, err)
			}
			if len(s.requests) > 60 {
				t.Errorf("%s: %d requests", name, len(s.requests))
			}
		}
	}

	// New links without end.
	n := 0
	endless := listFunc(func(context.Context, int, int) (plexy.Page, error) {
		var p plexy.Page
		for range 50 {
			n++
			p.Links = append(p.Links, plexy.Link{ID: testutil.LinkID(n)})
		}
		return p, nil
	})
	r := newReading(endless)
	r.most = 1000
	if err := r.read(t.Context()); err == nil || !strings.Contains(err.Error(), "it has no end: more than 1000 links") || n > 1100 {
		t.Errorf("%v after %d links", err, n)
	}
}

// Nor does a list end the other way: with pages that differ, but bring nothing.
func TestListThatBringsNothing(t *testing.T) {
	for _, known := range []int{0, 120} {
		s := &shop{size: 50, links: linksOf(testutil.LinkIDs(known))}
		pages := 0
		odd := listFunc(func(ctx context.Context, page, size int) (plexy.Page, error) {
			if pages++; pages <= known/50+1 && known > 0 {
				return s.List(ctx, page, size)
			}
			p := plexy.Page{Unusable: 1 + pages%2}
			if known > 0 {
				p.Links = linksOf(testutil.LinkIDs(pages % 2))
			}
			return p, nil
		})
		err := newReading(odd).read(t.Context())
		if err == nil || !strings.Contains(err.Error(), "page ") || pages > 2*barrenMost {
			t.Errorf("%d links: %v after %d pages", known, err, pages)
		}
	}
}

// Links appear and vanish between pages: every one that was there throughout is
// found, and none twice.
func TestListThatMoves(t *testing.T) {
	for _, oneBased := range []bool{false, true} {
		for _, total := range []func(int) int{nil, exact} {
			for name, move := range map[string]func(s *shop, r *rand.Rand){
				"the first vanishes":     func(s *shop, _ *rand.Rand) { s.links = s.links[1:] },
				"the first three vanish": func(s *shop, _ *rand.Rand) { s.links = s.links[3:] },
				"any vanishes":           func(s *shop, r *rand.Rand) { i := r.IntN(len(s.links)); s.links = slices.Delete(s.links, i, i+1) },
				"new ones at the head":   func(s *shop, r *rand.Rand) { s.appear(0, 3) },
				"more than a page of them": func(s *shop, r *rand.Rand) {
					if r.IntN(20) == 0 {
						s.appear(0, 70)
					}
				},
				"new ones at the end":    func(s *shop, r *rand.Rand) { s.appear(len(s.links), 1) },
				"vanish, and at the end": func(s *shop, r *rand.Rand) { s.links = s.links[2:]; s.appear(len(s.links), 1) },
			} {
				t.Run(fmt.Sprintf("%s, one-based %v, total %v", name, oneBased, total != nil), func(t *testing.T) {
					s := &shop{size: 50, oneBased: oneBased, total: total, links: linksOf(testutil.LinkIDs(3000))}
					random := rand.New(rand.NewPCG(1, 2))
					throughout := map[string]bool{}
					for _, link := range s.links {
						throughout[link.ID] = true
					}
					s.before = func() error { move(s, random); return nil }
					r := newReading(s)
					if err := r.read(t.Context()); err != nil {
						t.Fatal(err)
					}
					there := map[string]bool{}
					for _, link := range s.links {
						there[link.ID] = true
					}
					missed, kept := 0, 0
					for id := range throughout {
						if there[id] {
							kept++
							if r.seen[id] == 0 {
								missed++
							}
						}
					}
					if missed > 0 || kept < 1000 {
						t.Errorf("%d of %d links that were there throughout are missing", missed, kept)
					}
					if r.pass > 3 || len(s.requests) > 3*(3000/50+20) {
						t.Errorf("%d passes, %d requests", r.pass, len(s.requests))
					}
				})
			}
		}
	}
}

// appear adds n links at a place.
func (s *shop) appear(at, n int) {
	for i := range n {
		s.links = slices.Insert(s.links, at, plexy.Link{ID: fmt.Sprintf("new-%d-%d", len(s.requests), i)})
	}
}

// A list that does not stand still is read three times: forwards, backwards and
// forwards, each time to its end.
func TestListPasses(t *testing.T) {
	for _, total := range []func(int) int{nil, exact} {
		s := &shop{size: 50, links: linksOf(testutil.LinkIDs(200)), total: total}
		s.before = func() error { // so more links are known than there are
			s.links = s.links[1:]
			s.appear(len(s.links), 1)
			return nil
		}
		r := newReading(s)
		testutil.Must(t, r.read(t.Context()))
		if got, want := strings.Join(s.requests, " "), "0 1 2 3 4 4 3 2 1 0 0 1 2 3 4"; got != want || r.pass != 3 {
			t.Errorf("%d passes: %s, want %s", r.pass, got, want)
		}
	}
}

// What an answer that is no page means: to be asked for again or not, and what
// the limiter is told of it.
func TestListAnswers(t *testing.T) {
	status := func(code int) error { return &plexy.Error{Method: "GET", Status: code} }
	wait := func(code int, after time.Duration) error {
		return &plexy.Error{Method: "GET", Status: code, RetryAfter: after, HasRetryAfter: true}
	}
	broken := &plexy.TransportError{Method: "GET", Sent: true, Err: errors.New("reset")}
	for name, test := range map[string]struct {
		answers []error // then pages
		kinds   string
		want    string // the error; "": none
		is      error
	}{
		"fine":         {nil, "", "", nil},
		"500":          {[]error{status(500), status(502)}, "transient transient", "", nil},
		"no answer":    {[]error{broken, broken}, "transient transient", "", nil},
		"408, 425":     {[]error{status(408), status(425)}, "transient transient", "", nil},
		"500 for ever": {[]error{status(500), status(500), status(500)}, "transient transient transient", "the first page was asked for 3 times: GET answered 500", nil},
		// Too fast: the limiter waits, and no attempt is used up.
		"429":           {[]error{wait(429, time.Second), status(429), status(429), status(429), wait(503, time.Hour)}, "throttled throttled throttled throttled throttled", "", nil},
		"503 alone":     {[]error{status(503), status(503), status(503)}, "transient transient transient", "GET answered 503", nil},
		"429 for ever":  {slices.Repeat([]error{status(429)}, 60), strings.TrimSpace(strings.Repeat("throttled ", 53)), "GET answered 429", nil},
		"401":           {[]error{status(401)}, "unauthorized", "the API refused the key: GET answered 401", ErrKeyRefused},
		"403":           {[]error{status(403)}, "unauthorized", "the API refused the key: GET answered 403", ErrKeyRefused},
		"500, then 401": {[]error{status(500), status(401)}, "transient unauthorized", "the API refused the key", ErrKeyRefused},
		// The API itself knows no such list.
		"404":             {[]error{proven(404)}, "proper", "no list is there: GET answered 404 (Not Found)", ErrNoList},
		"405":             {[]error{proven(405)}, "proper", "no list is there: GET answered 405", ErrNoList},
		"500, then 404":   {[]error{status(500), proven(404)}, "transient proper", "no list is there: GET answered 404 (Not Found)", ErrNoList},
		"408 of the API":  {[]error{proven(408)}, "transient", "", nil},
		"400 to the size": {[]error{proven(400)}, "proper", "", nil},
		"422 to the size": {[]error{proven(422)}, "proper", "", nil},
		"400 to all":      {[]error{proven(400), proven(400)}, "proper proper", "no list is there: GET answered 400", ErrNoList},
		// Something in front of it says so: perhaps only for a moment.
		"a plain 404":           {[]error{status(404), status(404)}, "unproven unproven", "", nil},
		"a plain 404 for ever":  {slices.Repeat([]error{status(404)}, 3), "unproven unproven unproven", "no list is there: asked for 3 times: GET answered 404 (Not Found)", ErrNoList},
		"a redirect":            {[]error{status(302)}, "unproven", "", nil},
		"a redirect for ever":   {slices.Repeat([]error{status(302)}, 3), "unproven unproven unproven", "no list is there: asked for 3 times: GET answered 302", ErrNoList},
		"a friendly page":       {[]error{status(200), status(200)}, "unproven unproven", "", nil},
		"friendly for ever":     {slices.Repeat([]error{status(200)}, 3), "unproven unproven unproven", "no list is there: asked for 3 times: GET answered 200", ErrNoList},
		"a plain 422 of size":   {[]error{status(422)}, "unproven", "", nil},
		"a plain 400 for ever":  {slices.Repeat([]error{status(400)}, 3), "unproven unproven unproven", "no list is there: asked for 3 times: GET answered 400", ErrNoList},
		"a plain 404, then 404": {[]error{status(404), proven(404)}, "unproven proper", "no list is there: GET answered 404", ErrNoList},
		"a broken limiter":      {nil, "", "on hold for long", ratelimit.ErrHeld},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shop{size: 50, links: linksOf(testutil.LinkIDs(120))}
				next := 0
				s.before = func() error {
					if next++; next <= len(test.answers) {
						return test.answers[next-1]
					}
					return nil
				}
				r := newReading(s)
				if test.is == ratelimit.ErrHeld {
					r.limiter.acquire = func() error { return ratelimit.ErrHeld }
				}
				began := time.Now()
				err := r.read(t.Context())
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("%v, want %s", err, test.want)
				}
				if err == nil && len(r.seen) != 120 {
					t.Errorf("%d links", len(r.seen))
				}
				kinds := strings.Join(r.limiter.kinds(), " ")
				pages := strings.TrimSpace(strings.TrimPrefix(kinds, test.kinds))
				if !strings.HasPrefix(kinds, test.kinds) || strings.TrimSpace(strings.ReplaceAll(pages, "proper", "")) != "" || err != nil && pages != "" {
					t.Errorf("reported %s", kinds)
				}
				// The delays before the second and third attempt, and after 429s up to
				// 15 min each, as Retry-After asks.
				most := 6*time.Second + time.Duration(strings.Count(kinds, "throttled"))*task.MaxBackoff
				if passed := time.Since(began); passed > most {
					t.Errorf("it took %v", passed)
				}
			})
		})
	}
}

// Something in front of the API answers for page 4 of 20: for ever, and the
// reading fails, or for a while, and it brings all links.
func TestListBehindGateway(t *testing.T) {
	for name, answer := range map[string]error{
		"html": &plexy.Error{Method: "GET", Status: 404, Message: "<html> 404 Not Found"},
		"json": &plexy.Error{Method: "GET", Status: 404, Message: "no Route matched with those values"},
		"grpc": &plexy.Error{Method: "GET", Status: 404, Code: "5", Message: "Not Found"}, "empty": plain(404),
		"redirect": plain(302), "friendly": plain(200), "400": plain(400), "422": plain(422), "405": plain(405), "410": plain(410),
		// The API itself, though the page before was full.
		"api": proven(404), "api 422": proven(422),
	} {
		for _, total := range []func(int) int{nil, exact} {
			for _, times := range []int{1, 2, 3, 1 << 20} {
				t.Run(fmt.Sprintf("%s, total %v, %d times", name, total != nil, times), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := &shop{size: 50, total: total, links: linksOf(testutil.LinkIDs(1000))}
						asked := 0
						r := newReading(listFunc(func(ctx context.Context, page, size int) (plexy.Page, error) {
							if page == 4 {
								if asked++; asked <= times {
									return plexy.Page{}, answer
								}
							}
							return s.List(ctx, page, size)
						}))
						err := r.read(t.Context())
						switch {
						case times < 3 && (err != nil || len(r.seen) != 1000):
							t.Errorf("%v, %d links", err, len(r.seen))
						case times >= 3 && (err == nil || !strings.Contains(err.Error(), "page 4 was asked for 3 times") || asked != 3):
							t.Errorf("%v, %d requests for page 4", err, asked)
						}
					})
				})
			}
		}
	}
}

// Where the answer behind the last page is no proof that it was the last one, the
// reading fails after its attempts, rather than that links are lost.
func TestListWithoutEnd(t *testing.T) {
	for name, test := range map[string]struct {
		shop  shop
		links int
		want  string
	}{
		"404 behind a full page":            {shop{size: 25, beyond: 404}, 100, "page 4 was asked for 3 times, and nothing but this answer says that the list ends before it: GET answered 404"},
		"422 behind a full page, from 1":    {shop{size: 25, oneBased: true, beyond: 422}, 100, "page 5 was asked for 3 times, and nothing but"},
		"404 behind a full page, no end":    {shop{size: 25, beyond: 404, total: func(n int) int { return n + 50 }}, 100, "page 4 was asked for 3 times, and nothing but"},
		"404 behind one page as asked for":  {shop{beyond: 404}, 100, "page 1 was asked for 3 times, and nothing but"},
		"404 behind one page, higher total": {shop{beyond: 404, total: func(n int) int { return n + 1 }}, 10, "page 1 was asked for 3 times, and nothing but"},
		// Perhaps it does not know the parameter page.
		"422 behind one page": {shop{beyond: 422}, 10, "page 1 was asked for 3 times, and nothing but"},
		"500, total":          {shop{size: 30, beyond: 500, total: exact}, 100, "page 4 was asked for 3 times: GET answered 500"},
		"405, total":          {shop{size: 30, beyond: 405, total: exact}, 100, "page 4 was asked for 3 times: GET answered 405"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.shop.links = linksOf(testutil.LinkIDs(test.links))
				r := newReading(&test.shop)
				if err := r.read(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want %s", err, test.want)
				}
				if len(test.shop.requests) > 10 {
					t.Errorf("%d requests", len(test.shop.requests))
				}
			})
		})
	}
}

// A list with errors behind its end becomes shorter between its passes: by how much,
// only the length of its new last page, or the total, can tell.
func TestListThatShrinks(t *testing.T) {
	for _, beyond := range []int{0, 404, 422} {
		for _, total := range []func(int) int{nil, exact} {
			for _, left := range []int{490, 470, 451, 450, 410, 110, 60, 50, 20} {
				t.Run(fmt.Sprintf("%d, total %v, %d left", beyond, total != nil, left), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := &shop{size: 50, beyond: beyond, total: total, links: linksOf(testutil.LinkIDs(490))}
						r := newReading(s)
						s.before = func() error {
							if r.pass == 2 {
								s.links = s.links[:left]
							}
							return nil
						}
						err := r.read(t.Context())
						full := left%50 == 0 && beyond > 0 && total == nil
						if full != (err != nil) || err != nil && !strings.Contains(err.Error(), "nothing but this answer says") {
							t.Errorf("%v: pages %s", err, s.requests)
						}
						if len(r.seen) != 490 || len(s.requests) > 40 {
							t.Errorf("%d links, pages %s", len(r.seen), s.requests)
						}
					})
				})
			}
		}
	}
}

// The Retry-After goes to the limiter as it came; each page is a thing of its own
// to it, as links are.
func TestListReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shop{size: 50, links: linksOf(testutil.LinkIDs(100))}
		next := 0
		s.before = func() error {
			if next++; next == 2 {
				return &plexy.Error{Method: "GET", Status: 429, RetryAfter: 7 * time.Second, HasRetryAfter: true}
			}
			return nil
		}
		r := newReading(s)
		testutil.Must(t, r.read(t.Context()))
		want := []ratelimit.Answer{
			{Kind: ratelimit.OK, Link: "the first page", Status: 200},
			{
				Kind: ratelimit.Throttled, Link: "page 1", Status: 429, RetryAfter: 7 * time.Second, HasRetryAfter: true,
				Cause: "GET answered 429 (Too Many Requests)",
			},
			{Kind: ratelimit.OK, Link: "page 1", Status: 200},
		}
		if diff := cmp.Diff(want, r.limiter.told[:3]); diff != "" {
			t.Error(diff)
		}
	})
}

// The key is refused in the middle: the limiter holds and probes. A key that
// is good again goes on, one that stays bad ends the reading.
func TestListKeyRefusedInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for refusals, want := range map[int]error{1: nil, 3: nil, 4: ErrKeyRefused} {
			s := &shop{size: 50, links: linksOf(testutil.LinkIDs(200))}
			next := 0
			s.before = func() error {
				if next++; next > 2 && next <= 2+refusals {
					return &plexy.Error{Method: "GET", Status: 401}
				}
				return nil
			}
			r := newReading(s)
			if err := r.read(t.Context()); !errors.Is(err, want) {
				t.Errorf("%d times: %v", refusals, err)
			} else if want == nil && len(r.seen) != 200 {
				t.Errorf("%d times: %d links", refusals, len(r.seen))
			}
		}
	})
}

// Pages fail now and then, in every way, and none is lost; nor does the real
// limiter let through more than it should.
func TestListTroubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		s := &shop{size: 50, oneBased: true, total: exact, links: linksOf(testutil.LinkIDs(5000))}
		var sent []time.Time
		s.before = func() error {
			sent = append(sent, time.Now())
			switch n := random.IntN(40); {
			case n < 2:
				return &plexy.Error{Method: "GET", Status: 500}
			case n < 3:
				return &plexy.Error{Method: "GET", Status: 429, RetryAfter: 2 * time.Second, HasRetryAfter: true}
			case n < 4:
				time.Sleep(15 * time.Second) // no answer
				return &plexy.TransportError{Method: "GET", Sent: true, Err: context.DeadlineExceeded}
			case n < 5:
				return &plexy.Error{Method: "GET", Status: 200, Message: "the answer is not a page of payment links"}
			}
			return nil
		}
		next := s.before
		s.before = func() error { // the first page is fine, lest the base URL seems wrong
			if len(sent) == 0 {
				sent = append(sent, time.Now())
				return nil
			}
			return next()
		}
		r := newReading(s)
		r.listReader.limiter = fleetLimiter(t, 20)
		r.attempts = listAttempts
		testutil.Must(t, r.read(t.Context()))
		if len(r.seen) != 5000 {
			t.Errorf("%d links", len(r.seen))
		}
		for i := 20; i < len(sent); i++ {
			if d := sent[i].Sub(sent[i-20]); d < time.Second-50*time.Millisecond {
				t.Fatalf("21 requests within %v", d)
			}
		}
	})
}

// fleetLimiter is the limiter of a fleet of one process, on a Redis of its own.
func fleetLimiter(t *testing.T, rate ratelimit.Rate) Limiter {
	t.Helper()
	b := broker.Embedded()
	limiter, err := ratelimit.NewFleet(ratelimit.FleetConfig{Config: ratelimit.Config{Rate: rate}, Redis: b.Client(), Process: "one"})
	testutil.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		limiter.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = b.Close()
	})
	return limiter
}

// The end of the context ends the reading at once, in whatever it waits.
func TestListInterrupted(t *testing.T) {
	for name, answer := range map[string]error{
		"in a backoff": &plexy.Error{Method: "GET", Status: 500},
		"in a call":    nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("interrupted"))
			defer cancel()
			api := listFunc(func(ctx context.Context, _, _ int) (plexy.Page, error) {
				if answer != nil {
					return plexy.Page{}, answer
				}
				<-ctx.Done()
				return plexy.Page{}, &plexy.TransportError{Method: "GET", Sent: true, Err: ctx.Err()}
			})
			began := time.Now()
			r := newReading(api)
			r.attempts = 100
			err := r.read(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
			// What was cut by ourselves tells nothing of the API.
			if kinds := r.limiter.kinds(); answer == nil && !slices.Equal(kinds, []string{"unused"}) {
				t.Errorf("%s: reported %s", name, kinds)
			}
		})
	}
}

// A slot that has become stale is given back.
func TestListStaleSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shop{size: 50, links: linksOf(testutil.LinkIDs(10))}
		r := newReading(s)
		limiter := &staleOnce{Limiter: &answers{}}
		r.listReader.limiter = limiter
		testutil.Must(t, r.read(t.Context()))
		if limiter.unused != 1 || limiter.others != len(s.requests) {
			t.Errorf("%d slots unused, %d used for %d requests", limiter.unused, limiter.others, len(s.requests))
		}
	})
}

// A slot that has become too old while a connection was opened is replaced, or nothing is sent.
func TestListLateSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := &shop{size: 50, links: linksOf(testutil.LinkIDs(10))}
		calls := 0
		r := newReading(listFunc(func(ctx context.Context, page, size int) (plexy.Page, error) {
			if calls++; calls == 2 {
				cancel()
			}
			time.Sleep(time.Second)
			p := plexy.PermitOf(ctx)
			if p.Good() {
				t.Error("the slot is still good")
			}
			if err := p.Renew(); err != nil {
				return plexy.Page{}, &plexy.TransportError{Method: "GET", Err: err}
			}
			return s.List(ctx, page, size)
		}))
		if err := r.read(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the second page: %v", err)
		}
		if kinds := r.limiter.kinds(); !slices.Equal(kinds, []string{"unused", "proper", "unused"}) || calls != 2 {
			t.Errorf("reported %s in %d calls", kinds, calls)
		}
	})
}

// staleOnce hands out a stale slot first.
type staleOnce struct {
	Limiter
	unused, others int
}

func (s *staleOnce) Acquire(ctx context.Context) (ratelimit.Slot, error) {
	slot, err := s.Limiter.Acquire(ctx)
	if s.unused+s.others == 0 {
		time.Sleep(time.Second)
	}
	return slot, err
}

func (s *staleOnce) Report(slot ratelimit.Slot, a ratelimit.Answer) {
	if a.Kind == ratelimit.Unused {
		s.unused++
	} else {
		s.others++
	}
	s.Limiter.Report(slot, a)
}

// Progress is told of pages, and of what is asked for again.
func TestListProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shop{size: 50, links: linksOf(testutil.LinkIDs(70)), total: exact}
		failed := &plexy.Error{Method: "GET", Status: http.StatusBadGateway}
		next := 0
		s.before = func() error {
			if next++; next == 2 {
				return failed
			}
			return nil
		}
		r := newReading(s)
		var got []ListProgress
		r.progress = func(p ListProgress) { p.Wait = min(p.Wait, 1); got = append(got, p) }
		testutil.Must(t, r.read(t.Context()))
		want := []ListProgress{
			{Pass: 1, Requests: 1, Links: 50, InPass: 50, Total: 70},
			{Pass: 1, Requests: 1, Links: 50, InPass: 50, Total: 70, Err: failed, Wait: 1},
			{Pass: 1, Requests: 2, Links: 70, InPass: 70, Total: 70},
			{Pass: 2, Requests: 5, Links: 70, InPass: 20, Total: 70}, // the empty page is none
			{Pass: 2, Requests: 6, Links: 70, InPass: 70, Total: 70},
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
	})
}
