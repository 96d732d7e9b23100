package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/sandbox"
)

// says is the answer that text names, as sandbox --gateway takes it.
func says(t *testing.T, text string) sandbox.Answer {
	t.Helper()
	a, err := sandbox.ParseAnswer(text, "html")
	must(t, err)
	return a
}

// holds remembers what held a process.
type holds struct {
	mu  sync.Mutex
	all []ratelimit.Hold
}

func (h *holds) hear(hold ratelimit.Hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if hold.Reason != ratelimit.ReasonNone {
		h.all = append(h.all, hold)
	}
}

func (h *holds) heard() []ratelimit.Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// watched starts a worker at so many links a second, and remembers its holds.
func (f *fleet) watched(cfg Config, api Canceler) (*process, *holds) {
	f.t.Helper()
	h := &holds{}
	limit := ratelimit.Config{Rate: ratelimit.Rate(cfg.Rate), Burst: 10, OnHold: h.hear}
	return f.work(cfg, api, f.limiter("w1", limit)), h
}

// want checks the counts of a batch that has ended.
func (f *fleet) want(id string, want ledger.Counts) {
	f.t.Helper()
	if got := f.get(id).Counts; got != want {
		f.t.Errorf("counts %v, want %v", got, want)
	}
}

// warnings counts the lines of a log, from warnings on, that have a text.
type warnings struct {
	slog.Handler
	text string
	n    *atomic.Int64
}

func (w warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w warnings) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn && strings.Contains(r.Message, w.text) {
		w.n.Add(1)
	}
	if !w.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return w.Handler.Handle(ctx, r)
}

// listen counts what the workers that are started later log.
func (f *fleet) listen(text string) *atomic.Int64 {
	n := &atomic.Int64{}
	f.log = slog.New(warnings{f.log.Handler(), text, n})
	return n
}

// A gateway that answers 404 for a while takes no link away, whatever its answer
// looks like and however many requests it answers.
func TestGatewayForAWhile(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"404:html", "404:empty", "404:grpc"} {
		for _, share := range []float64{1, .5, .1} {
			t.Run(fmt.Sprint(answer, " ", share), func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fleet) {
					const from, lasts = 2 * time.Second, 15 * time.Second
					began := time.Now()
					api := sandbox.New(sandbox.Config{
						Seed: 1, Links: 300, Latency: 20 * time.Millisecond,
						Gateway: sandbox.Gateway{Answer: says(t, answer), Share: share, From: from, For: lasts},
					})
					before := truth(api)
					b := f.batch("b1", api.IDs()...)
					f.watched(Config{Rate: 50, Concurrency: 8}, memory{api})
					f.feed(50)
					f.done(b.ID)
					if late := time.Since(began.Add(from + lasts)); late > time.Minute {
						t.Errorf("done %v after the gateway was gone", late)
					}
					f.check(b.ID, api, before)
					f.want(b.ID, ledger.Counts{ledger.Cancelled: 300})
				})
			})
		}
	}
}

// An API may answer 404 without a body for links that it does not have. Neither
// scattered nor in one block do these hold or pause anything.
func TestEmptyNotFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		missing []int // their places
	}{
		{"scattered", every(10, 300)},
		{"one block", span(150, 250)},
		{"one block at the start", span(0, 100)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				links := names(400)
				api := sandbox.New(sandbox.Config{IDs: links, EmptyErrors: true, Latency: 20 * time.Millisecond})
				for _, i := range tt.missing {
					api.SetStatus(links[i], "")
				}
				before := truth(api)
				b := f.batch("b1", links...)
				_, h := f.watched(Config{Rate: 50, Concurrency: 8}, memory{api})
				f.feed(50)
				f.until("an end", func() bool { s := f.get(b.ID).State; return s == ledger.Done || s == ledger.Paused })
				if got := f.get(b.ID); got.State != ledger.Done {
					t.Fatalf("%s, %s", got.State, got.Reason)
				}
				f.check(b.ID, api, before)
				n := int64(len(tt.missing))
				f.want(b.ID, ledger.Counts{ledger.Cancelled: 400 - n, ledger.NotFound: n})
				if all := h.heard(); len(all) > 0 {
					t.Errorf("held: %+v", all)
				}
				for link, r := range f.records(b.ID) {
					if r.Record.Outcome == ledger.NotFound && (r.Record.Attempts != maxPlains || !r.Record.Plain || r.Error == "") {
						t.Errorf("%s: %+v", link, r)
					}
				}
			})
		})
	}
}

func every(n, most int) (places []int) {
	for i := n - 1; i < most; i += n {
		places = append(places, i)
	}
	return places
}

func span(from, to int) (places []int) {
	for i := from; i < to; i++ {
		places = append(places, i)
	}
	return places
}

// Fewer than ten links with such an answer do not distinguish it from a gateway's: they
// end failed, unless the answer is to be trusted.
func TestFewEmptyNotFound(t *testing.T) {
	t.Parallel()
	for _, trust := range []bool{false, true} {
		t.Run(fmt.Sprint("trusted ", trust), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				links := names(50)
				api := sandbox.New(sandbox.Config{IDs: links, EmptyErrors: true})
				for _, id := range links[20 : 20+kindLinks-1] {
					api.SetStatus(id, "")
				}
				before := truth(api)
				b := f.batch("b1", links...)
				f.watched(Config{Rate: 50, Concurrency: 8, Attempts: 5, TrustPlain404: trust}, memory{api})
				f.feed(50)
				f.done(b.ID)
				f.check(b.ID, api, before)
				if trust {
					f.want(b.ID, ledger.Counts{ledger.Cancelled: 41, ledger.NotFound: 9})
				} else {
					f.want(b.ID, ledger.Counts{ledger.Cancelled: 41, ledger.Failed: 9})
				}
				for link, r := range f.records(b.ID) {
					if r.Record.Outcome == ledger.Failed && !strings.Contains(r.Error, "too few links") {
						t.Errorf("%s: %q", link, r.Error)
					}
				}
			})
		})
	}
}

// moving is an API at a path that can be put right.
type moving struct {
	at *atomic.Pointer[sandbox.Server]
}

func newMoving(s *sandbox.Server) moving {
	m := moving{&atomic.Pointer[sandbox.Server]{}}
	m.at.Store(s)
	return m
}

func (m moving) Cancel(ctx context.Context, id string) (int, error) {
	return memory{m.at.Load()}.Cancel(ctx, id)
}

func (m moving) Get(ctx context.Context, id string) (plexy.Link, error) {
	return memory{m.at.Load()}.Get(ctx, id)
}

func (m moving) List(ctx context.Context, page, size int) (plexy.Page, error) {
	return memory{m.at.Load()}.List(ctx, page, size)
}

// wrongPaths are what answers at a path where the API is not.
var wrongPaths = []struct {
	name   string
	within time.Duration // until Unproved is called
	make   func(t *testing.T) sandbox.Config
}{
	{"the API's own 404", unprovedSure, func(*testing.T) sandbox.Config { return sandbox.Config{Prefix: "/v9"} }},
	{"a gateway", maxUnproved, func(t *testing.T) sandbox.Config {
		return sandbox.Config{Gateway: sandbox.Gateway{Answer: says(t, "404:html"), Share: 1}}
	}},
	{"a gateway in the API's form", unprovedSure, func(t *testing.T) sandbox.Config {
		return sandbox.Config{Gateway: sandbox.Gateway{Answer: says(t, "404:api"), Share: 1}}
	}},
}

// Behind a wrong path nothing is recorded, and it is said.
func TestWrongPathIsReported(t *testing.T) {
	t.Parallel()
	for _, tt := range wrongPaths {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				api := sandbox.New(tt.make(t))
				b := f.batch("b1", names(30)...)
				reported := make(chan error, 10)
				began := time.Now()
				f.watched(Config{Rate: 50, Concurrency: 8, Unproved: func(err error) { reported <- err }}, memory{api})
				f.feed(50)
				var err error
				select {
				case err = <-reported:
				case <-time.After(time.Hour):
					t.Fatal("nothing was reported for an hour")
				}
				if took := time.Since(began); took < tt.within || took > tt.within+5*time.Second {
					t.Errorf("reported after %v, want %v", took, tt.within)
				}
				var unproved *UnprovedError
				if !errors.As(err, &unproved) || !strings.Contains(unproved.Link, "404") || !strings.Contains(unproved.Control, "GET of the list answered 404") {
					t.Errorf("Unproved(%v)", err)
				}
				pass(2 * time.Minute)
				for link, r := range f.records(b.ID) {
					if r.Record.Outcome != ledger.None || r.Record.Ambiguous {
						t.Errorf("%s: %+v", link, r)
					}
				}
				if len(reported) > 0 {
					t.Error("reported twice")
				}
			})
		})
	}
}

// A fleet holds, and continues without help when the path answers.
func TestWrongPathHoldsTheFleet(t *testing.T) {
	t.Parallel()
	for _, tt := range wrongPaths {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				links := names(30)
				path := newMoving(sandbox.New(tt.make(t)))
				b := f.batch("b1", links...)
				p, _ := f.watched(Config{Rate: 50, Concurrency: 8}, path)
				f.feed(50)
				pass(15 * time.Second)
				hold := p.w.limiter.Status().Hold
				if hold.Reason != ratelimit.ReasonOutage || hold.Own || !strings.Contains(hold.Cause, "404") {
					t.Errorf("held: %+v", hold)
				}
				pass(2 * time.Minute)
				if got := f.get(b.ID); got.Counts.Sum() > 0 || got.State != ledger.Running {
					t.Errorf("%+v", got)
				}
				good := sandbox.New(sandbox.Config{IDs: links[:25]})
				before := truth(good)
				for _, id := range links[25:] {
					before[id] = ""
				}
				path.at.Store(good)
				began := time.Now()
				f.done(b.ID)
				if took := time.Since(began); took > time.Minute {
					t.Errorf("done %v after the path was right", took)
				}
				f.check(b.ID, good, before)
				f.want(b.ID, ledger.Counts{ledger.Cancelled: 25, ledger.NotFound: 5})
			})
		})
	}
}

// The control asks for a link that the API has shown where it gives no list.
func TestListForbidden(t *testing.T) {
	t.Parallel()
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprint("empty errors ", empty), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				api := sandbox.New(sandbox.Config{
					Seed: 3, Links: 300, Paid: .1, Expired: .05, Cancelled: .1, Missing: .2, ListForbidden: true, EmptyErrors: empty,
				})
				before := truth(api)
				b := f.batch("b1", api.IDs()...)
				_, h := f.watched(Config{Rate: 50, Concurrency: 8}, memory{api})
				f.feed(50)
				f.done(b.ID)
				f.check(b.ID, api, before)
				if got := f.get(b.ID).Counts; got[ledger.Failed]+got[ledger.Rejected] > 0 {
					t.Errorf("counts %v", got)
				}
				if all := h.heard(); len(all) > 0 {
					t.Errorf("held: %+v", all)
				}
			})
		})
	}
}

// Four links that are locked for ever slow no other.
func TestLockedLinks(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		links := names(600)
		locked := map[string]sandbox.Answer{
			links[40]:  says(t, "429:api:20"),
			links[150]: says(t, "503:api:20"),
			links[260]: says(t, "401:api"),
			links[370]: says(t, "403:html"),
		}
		ends := map[string]ledger.Outcome{
			links[40]: ledger.Failed, links[150]: ledger.Failed, links[260]: ledger.Rejected, links[370]: ledger.Failed,
		}
		api := sandbox.New(sandbox.Config{IDs: links, Poison: locked, Latency: 20 * time.Millisecond})
		before := truth(api)
		b := f.batch("b1", links...)
		var mu sync.Mutex
		var last time.Time // of the requests for the other links
		requests := 0
		_, h := f.watched(Config{Rate: 50, Concurrency: 8, Attempts: 4}, through{memory{api}, func(_ context.Context, _, id string) error {
			mu.Lock()
			defer mu.Unlock()
			if _, is := locked[id]; !is {
				last = time.Now()
				requests++
			}
			return nil
		}})
		began := time.Now()
		f.feed(50)
		f.done(b.ID)
		f.check(b.ID, api, before)
		// 600 links at 50/s take 12 s. Most runs take up to 13.2 s, and one in ten up to 14.9 s.
		if took := last.Sub(began); took > 15500*time.Millisecond {
			t.Errorf("the others took %v", took)
		}
		if requests != 599 { // one for each, and GETs for the first three 204s
			t.Errorf("%d requests for the others", requests)
		}
		if all := h.heard(); len(all) > 0 {
			t.Errorf("held: %+v", all)
		}
		for id, want := range ends {
			if r := f.records(b.ID)[id]; r.Record.Outcome != want {
				t.Errorf("%s ended %v, want %v: %+v", id, r.Record.Outcome, want, r)
			}
		}
	})
}

// A link is rejected for a 401 only if something shows that the key is good.
func TestRefusedWhileNothingTells(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		down bool // lists and GETs fail
		want ledger.Outcome
	}{
		"lists and GETs work": {false, ledger.Rejected},
		"lists and GETs fail": {true, ledger.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				links := names(2)
				config := sandbox.Config{IDs: links, Poison: map[string]sandbox.Answer{links[1]: says(t, "401:api")}}
				if tt.down {
					config.Gateway = sandbox.Gateway{Answer: says(t, "500:html"), Share: 1, Page: 1}
				}
				api := sandbox.New(config)
				before := truth(api)
				b := f.batch("b1", links...)
				f.watched(Config{Rate: 1, Concurrency: 1, Attempts: 4}, through{memory{api}, func(_ context.Context, method, _ string) error {
					if tt.down && method == "GET" {
						return errCut
					}
					return nil
				}})
				f.feed(50)
				f.done(b.ID)
				f.check(b.ID, api, before)
				if r := f.records(b.ID)[links[1]]; r.Record.Outcome != tt.want {
					t.Errorf("ended %+v, want %v", r, tt.want)
				}
			})
		})
	}
}

// rotating is an API whose key changes three times, each time as it gets the DELETE of one link. The
// worker reads the new key just before it sends its next request, or while this one is answered.
type rotating struct {
	Canceler
	link      string
	during    bool
	mu        sync.Mutex
	key, used uint64 // the versions that the API takes, and that the worker sends
}

func (r *rotating) version() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

func (r *rotating) send(isLink bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isLink && r.key < 4 && r.used == r.key {
		r.key++
		if r.during {
			r.used = r.key
		}
		return answered(401)
	}
	r.used = r.key
	return nil
}

func (r *rotating) Cancel(ctx context.Context, id string) (int, error) {
	if err := r.send(id == r.link); err != nil {
		return 0, err
	}
	return r.Canceler.Cancel(ctx, id)
}

func (r *rotating) List(ctx context.Context, page, size int) (plexy.Page, error) {
	if err := r.send(false); err != nil {
		return plexy.Page{}, err
	}
	return r.Canceler.List(ctx, page, size)
}

// A 401 for a replaced key says nothing of the link, though requests that got their slots before the
// change and were sent after it work.
func TestRefusedWhileTheKeyChanges(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]bool{"during the request": true, "after it": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				links := names(200)
				box := sandbox.New(sandbox.Config{IDs: links, Latency: 20 * time.Millisecond})
				before := truth(box)
				api := &rotating{Canceler: memory{box}, link: links[10], during: during, key: 1, used: 1}
				b := f.batch("b1", links...)
				f.watched(Config{Rate: 50, Concurrency: 8, Attempts: 4, KeyVersion: api.version}, api)
				f.feed(50)
				f.done(b.ID)
				f.check(b.ID, box, before)
				if r := f.records(b.ID)[links[10]]; r.Record.Outcome != ledger.Cancelled || r.Record.Attempts != 1 {
					t.Errorf("ended %+v", r)
				}
			})
		})
	}
}

// Half of the links are forbidden to a valid key: they do not hold up the others for long.
func TestForbiddenLinks(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Seed: 1, IDs: names(100), ForbiddenLinks: .5, Latency: 20 * time.Millisecond})
		before := truth(api)
		b := f.batch("b1", api.IDs()...)
		var calls atomic.Int64
		_, h := f.watched(Config{Rate: 50, Concurrency: 8, BadKey: func(error) { calls.Add(1) }}, memory{api})
		began := time.Now()
		f.feed(50)
		f.done(b.ID)
		if took := time.Since(began); took > 15*time.Second { // usually 4 s; sometimes all calls wait for an answer that shows that the key is good
			t.Errorf("they took %v", took)
		}
		f.check(b.ID, api, before)
		if got := f.get(b.ID).Counts; got[ledger.Cancelled]+got[ledger.Rejected] != 100 || got[ledger.Rejected] < 30 {
			t.Errorf("counts %v", got)
		}
		if all := h.heard(); len(all) > 0 || calls.Load() > 0 {
			t.Errorf("held: %+v; BadKey was called %d times", all, calls.Load())
		}
	})
}

// A key that may cancel, but not read, cannot be checked: that is said once.
func TestGetsForbidden(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		warned := f.listen("cannot check whether a 204 cancels: the key may not read links")
		api := sandbox.New(sandbox.Config{IDs: names(100), GetsForbidden: true})
		before := truth(api)
		b := f.batch("b1", api.IDs()...)
		_, h := f.watched(Config{Rate: 50, Concurrency: 8, BadKey: func(err error) { t.Error(err) }}, memory{api})
		f.feed(50)
		f.done(b.ID)
		f.check(b.ID, api, before)
		f.want(b.ID, ledger.Counts{ledger.Cancelled: 100})
		if n := warned.Load(); n != 1 {
			t.Errorf("warned %d times", n)
		}
		if all := h.heard(); len(all) > 0 {
			t.Errorf("held: %+v", all)
		}
	})
}

// A gateway that says 204 and does nothing stops the batch, and is not believed:
// neither if the link is still active, nor if it says 204 to a GET as well.
func TestGatewaySaysNoContent(t *testing.T) {
	t.Parallel()
	for spared, reason := range map[bool]string{true: ReasonUnconfirmed, false: "a link that was answered 204 cannot be read: GET answered 204"} {
		t.Run(fmt.Sprint("spared: ", spared), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				api := sandbox.New(sandbox.Config{IDs: names(100), Gateway: sandbox.Gateway{Answer: says(t, "204"), Share: 1, SpareGets: spared, SpareLists: spared}})
				b := f.batch("b1", api.IDs()...)
				f.watched(Config{Rate: 50, Concurrency: 8}, memory{api})
				f.feed(50)
				f.until("a pause", func() bool { return f.get(b.ID).State == ledger.Paused })
				pass(time.Minute)
				got := f.get(b.ID)
				if !strings.HasPrefix(got.Reason, reason) || got.Counts.Sum() > 0 {
					t.Errorf("paused: %+v", got)
				}
				// Those in flight, the looks, and what goes until the pause is seen.
				if n := api.Counts().Total; n > 8+vagueLooks+50 {
					t.Errorf("%d requests until the pause", n)
				}
				for link, r := range f.records(b.ID) {
					if r.Record.Outcome != ledger.None {
						t.Errorf("%s: %+v", link, r)
					}
				}
			})
		})
	}
}

// Nor is it believed if the first links that it answers are no longer active: somebody else canceled
// them, or they ended in another way.
func TestGatewaySaysNoContentOfEndedLinks(t *testing.T) {
	t.Parallel()
	for _, statuses := range [][]string{{"cancelled"}, {"cancelled", "cancelled"}, {"paid", "expired", "paid"}, {"cancelled", "expired", "cancelled", "paid"}} {
		t.Run(strings.Join(statuses, ","), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				api := sandbox.New(sandbox.Config{IDs: names(100), Gateway: sandbox.Gateway{Answer: says(t, "204"), Share: 1, SpareGets: true, SpareLists: true}})
				for i, status := range statuses {
					api.SetStatus(names(100)[i], status)
				}
				b := f.batch("b1", api.IDs()...)
				f.watched(Config{Rate: 50, Concurrency: 1}, memory{api}) // in order
				f.feed(50)
				f.until("a pause", func() bool { return f.get(b.ID).State == ledger.Paused })
				pass(time.Minute)
				for link, r := range f.records(b.ID) {
					status, _ := api.Status(link)
					if r.Record.Outcome == ledger.Cancelled && status != "cancelled" {
						t.Errorf("%s is %s: %+v", link, status, r)
					}
				}
			})
		})
	}
}

// Three confirmed 204s are enough; ones that tell nothing are checked five times at most.
func TestFirstCancel(t *testing.T) {
	for name, tt := range map[string]struct {
		found []firstResult
		want  firstState
	}{
		"two":                       {[]firstResult{firstConfirmed, firstConfirmed}, firstOpen},
		"three":                     {[]firstResult{firstConfirmed, firstNothing, firstConfirmed, firstDenied, firstConfirmed}, firstOK},
		"nothing to see":            {[]firstResult{firstNothing, firstDenied, firstNothing, firstUnclear, firstNothing}, firstOK},
		"nothing to see, but four":  {[]firstResult{firstNothing, firstDenied, firstNothing, firstUnclear}, firstOpen},
		"no permission to read":     {[]firstResult{firstNoReading}, firstOK},
		"active after two":          {[]firstResult{firstConfirmed, firstConfirmed, firstActive}, firstRefuted},
		"active after four denials": {[]firstResult{firstDenied, firstDenied, firstDenied, firstDenied, firstActive}, firstRefuted},
	} {
		f := &firstCancel{}
		for i, r := range tt.found {
			if state, mine, _ := f.begin(); !mine || state != firstLooking {
				t.Errorf("%s: check %d: %d", name, i, state)
			}
			if inVain := f.end(r); inVain != (i == 0 && r == firstNothing) {
				t.Errorf("%s: check %d in vain: %v", name, i, inVain)
			}
		}
		if f.state != tt.want || f.ok.Load() != (tt.want == firstOK) {
			t.Errorf("%s: %d", name, f.state)
		}
	}
}

// What this machine lacks uses up nobody's attempts.
func TestLocalLack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		warned := f.listen("this machine lacks resources")
		api := sandbox.New(sandbox.Config{IDs: names(30)})
		before := truth(api)
		b := f.batch("b1", api.IDs()...)
		began := time.Now()
		f.watched(Config{Rate: 50, Concurrency: 8, Attempts: 2}, through{memory{api}, func(_ context.Context, method, _ string) error {
			if time.Since(began) < 30*time.Second {
				return &plexy.TransportError{Method: method, Local: true, Err: syscall.EMFILE}
			}
			return nil
		}})
		f.feed(50)
		f.done(b.ID)
		f.check(b.ID, api, before)
		for link, r := range f.records(b.ID) {
			if r.Record.Outcome != ledger.Cancelled || r.Record.Attempts != 1 || r.Record.Ambiguous {
				t.Errorf("%s: %+v", link, r)
			}
		}
		if n := warned.Load(); n != 1 {
			t.Errorf("warned %d times", n)
		}
	})
}

// One link that is refused with 401 does not make the key a bad one, though it is the first.
func TestFirstLinkRefused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		links := names(50)
		api := sandbox.New(sandbox.Config{IDs: links, Poison: map[string]sandbox.Answer{links[0]: says(t, "401:api")}})
		before := truth(api)
		b := f.batch("b1", links...)
		f.watched(Config{Rate: 50, Concurrency: 1, BadKey: func(err error) { t.Error(err) }}, memory{api})
		f.feed(50)
		f.done(b.ID)
		f.check(b.ID, api, before)
		f.want(b.ID, ledger.Counts{ledger.Cancelled: 49, ledger.Rejected: 1})
	})
}
