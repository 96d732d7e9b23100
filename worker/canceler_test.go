package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// call is one request that the canceler is to send, and its answer.
type call struct {
	method string
	status int // of a 2xx answer to a DELETE
	err    error
	link   string // the link's status, for a GET
}

// script runs a canceler on answers that are known beforehand.
type script struct {
	attempts int
	calls    []call
	gates    int  // after so many further slots there are none; 0: any number
	held     bool // an unattributed answer concerns all requests
	late     bool // the first slot is too old when the connection is there
	proof    stubProof
	ctx      context.Context

	// What happened.
	reports  []ratelimit.Answer
	requests []string
	fresh    []bool // of each request: on a new connection
}

// stubProof is what is known of the API.
type stubProof struct {
	unproved bool   // the base URL has shown nothing
	distrust string // why unproven answers are not trusted; "": they are
	refuted  bool   // the 204s of the batch cancel nothing
}

func (stubProof) answered(_ ratelimit.Slot, _, _ string, v verdict) ratelimit.Kind { return v.kind }
func (p stubProof) proved(string, string) bool                                     { return !p.unproved }
func (p stubProof) trusted(string) (bool, string)                                  { return p.distrust == "", p.distrust }
func (p stubProof) believed() bool                                                 { return !p.refuted }
func (stubProof) confirmed(bool, func() verdict) bool                              { return false }

var errNoSlot = errors.New("no more slots")

// canceler is one that follows the script.
func (s *script) canceler(api Canceler) *canceler {
	gates := 0
	gate := func() (ratelimit.Slot, error) {
		if gates++; s.gates > 0 && gates >= s.gates {
			return ratelimit.Slot{}, errNoSlot
		}
		return ratelimit.NewSlot(time.Now(), uint64(gates)), nil
	}
	permit := &ratelimit.Permit{Report: scriptLimiter{s: s}.Report, Acquire: gate}
	s.ctx = plexy.WithPermit(s.ctx, permit)
	return &canceler{
		permit: permit,
		api:    api, limiter: scriptLimiter{s: s}, attempts: s.attempts, observe: scriptObserver{s}, proof: s.proof, callCtx: s.ctx,
		key: func() uint64 { return 1 }, took: &average{}, backoff: func(n int) time.Duration { return time.Duration(n) * time.Second },
		gate: gate,
	}
}

// run runs l once and checks that every call was made, in order.
func (s *script) run(t *testing.T, l *link) *link {
	t.Helper()
	if s.ctx == nil {
		s.ctx = t.Context()
	}
	if s.attempts == 0 {
		s.attempts = 3
	}
	api := &scriptedAPI{t: t, s: s, calls: s.calls}
	c := s.canceler(api)
	c.run(l, ratelimit.Slot{})
	if l.unattributed != nil {
		c.applyOwn(l, s.held)
	}
	if len(api.calls) > 0 {
		t.Errorf("not called: %v", api.calls)
	}
	return l
}

type scriptedAPI struct {
	t     *testing.T
	s     *script
	calls []call
}

func (a *scriptedAPI) next(ctx context.Context, method string) call {
	a.t.Helper()
	if len(a.calls) == 0 {
		a.t.Errorf("unexpected %s", method)
		return call{status: 204, link: "cancelled"}
	}
	c := a.calls[0]
	a.calls = a.calls[1:]
	if c.method != method {
		a.t.Errorf("a %s, want a %s", method, c.method)
	}
	a.s.fresh = append(a.s.fresh, plexy.IsFresh(ctx))
	if p := plexy.PermitOf(ctx); a.s.late && !p.Good() {
		if err := p.Renew(); err != nil {
			return call{err: &plexy.TransportError{Method: method, Err: err}}
		}
	}
	return c
}

func (a *scriptedAPI) Cancel(ctx context.Context, _ string) (int, error) {
	c := a.next(ctx, "DELETE")
	return c.status, c.err
}

func (a *scriptedAPI) Get(ctx context.Context, id string) (plexy.Link, error) {
	c := a.next(ctx, "GET")
	return plexy.Link{ID: id, Status: c.link}, c.err
}

func (a *scriptedAPI) List(context.Context, int, int) (plexy.Page, error) {
	a.t.Error("unexpected request for the list")
	return plexy.Page{}, errUnsent
}

// scriptLimiter grants everything and records what is reported.
type scriptLimiter struct {
	Limiter // what the canceler does not call
	s       *script
}

// Status is that of an idle limiter.
func (scriptLimiter) Status() ratelimit.Status { return ratelimit.Status{} }

// AwaitHold sees no hold.
func (scriptLimiter) AwaitHold(context.Context, ratelimit.Reason, time.Duration) bool { return false }

func (l scriptLimiter) Report(_ ratelimit.Slot, a ratelimit.Answer) {
	l.s.reports = append(l.s.reports, a)
}

type scriptObserver struct{ s *script }

func (o scriptObserver) Request(method string, status int, _ time.Duration) {
	o.s.requests = append(o.s.requests, fmt.Sprintf("%s %d", method, status))
}
func (scriptObserver) Unproven(int)                                       {}
func (scriptObserver) Waited(time.Duration)                               {}
func (scriptObserver) Outcome(string, ledger.Outcome, int, time.Duration) {}
func (scriptObserver) Settled(ledger.Outcome)                             {}
func (scriptObserver) Ambiguous(int)                                      {}

func TestCanceler(t *testing.T) {
	t.Parallel()
	del := func(status int) call {
		if status/100 == 2 {
			return call{method: "DELETE", status: status}
		}
		return call{method: "DELETE", err: answered(status)}
	}
	delErr := func(err error) call { return call{method: "DELETE", err: err} }
	get := func(status string) call { return call{method: "GET", link: status} }
	getErr := func(err error) call { return call{method: "GET", err: err} }
	delPlain := func(status int) call { return delErr(unproven(status)) }
	getPlain := func(status int) call { return getErr(unproven(status)) }

	type run struct {
		calls []call
		gates int
		want  link // id and wait left out
	}
	noteWhy := func(r ledger.Record, text string) link { return link{record: r, text: text, touched: true} }
	soon := func(r ledger.Record) link { return link{record: r, text: textNo, touched: true, soon: true} }
	back := func(r ledger.Record, text string) link { return link{record: r, text: text, touched: true, back: true} }
	done := func(r ledger.Record, status, text string) link {
		return link{record: r, status: status, text: text, touched: true, finished: true}
	}
	counted := func(l link, kind string) link {
		l.plain = kind
		return l
	}
	for _, tt := range []struct {
		name  string
		setup script // attempts: default 3
		runs  []run
	}{
		{"204 at once", script{}, []run{
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},
		{"204 of a batch whose 204s cancel nothing", script{proof: stubProof{refuted: true}}, []run{
			{[]call{del(204)}, 0, back(ledger.Record{Settling: true, Ambiguous: true, HTTPStatus: 204}, "")},
			{[]call{get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 204}, "answered 204, but the link is still active")},
		}},
		{"404 at once", script{}, []run{
			{[]call{del(404)}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 404}, "", textNo)},
		}},
		{"404, and nothing shows that the path is right", script{proof: stubProof{unproved: true}}, []run{
			{[]call{del(404)}, 0, back(ledger.Record{HTTPStatus: 404}, textNo)},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},
		{"400 at once", script{}, []run{
			{[]call{del(400)}, 0, done(ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 400}, "", textNo)},
		}},
		{"400, and nothing shows that the path is right", script{proof: stubProof{unproved: true}}, []run{
			{[]call{del(400)}, 0, back(ledger.Record{HTTPStatus: 400}, textNo)},
		}},
		{"422 is settled in the same run", script{}, []run{
			{[]call{del(422), get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", textNo)},
		}},
		{"422 of a cancelled link", script{}, []run{
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 1, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"422 of a link that is gone", script{}, []run{
			{[]call{del(422), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 422}, "", "")},
		}},
		{"500, then 204", script{}, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 204}, "", "")},
		}},
		{"cut, then 422: our own cancel", script{}, []run{
			{[]call{delErr(errCut)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1}, errCut.Error())},
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"unsent, then 422: not ours", script{}, []run{
			{[]call{delErr(errUnsent)}, 0, noteWhy(ledger.Record{Attempts: 1}, errUnsent.Error())},
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 2, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"cut, then 404 is settled: ours", script{}, []run{
			{[]call{delErr(errCut)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1}, errCut.Error())},
			{[]call{del(404), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 404}, "cancelled", "")},
		}},
		{"cut, then 404 is settled: gone", script{}, []run{
			{[]call{delErr(errCut)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1}, errCut.Error())},
			{[]call{del(404), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.NotFound, Ambiguous: true, Attempts: 2, HTTPStatus: 404}, "", noteGone)},
		}},
		{"400 after an ambiguous attempt is settled: rejected", script{}, []run{
			{[]call{del(502)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 502}, textNo)},
			{[]call{del(400), get("active")}, 0, done(ledger.Record{Outcome: ledger.Rejected, Ambiguous: true, Attempts: 2, HTTPStatus: 400}, "active", textNo)},
		}},
		{"400 after an ambiguous attempt is settled: cancelled", script{}, []run{
			{[]call{del(502)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 502}, textNo)},
			{[]call{del(400), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 400}, "cancelled", "")},
		}},

		{"a settling GET is sent again later, and no DELETE", script{}, []run{
			{[]call{del(422), getErr(answered(500))}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{getErr(errCut)}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 2, HTTPStatus: 422}, "")},
			{[]call{get("expired")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 3, HTTPStatus: 422}, "expired", "")},
		}},
		{"a failed GET makes nothing ambiguous", script{}, []run{
			{[]call{del(422), getErr(errCut)}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 2, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"a settling GET is never answered by the API", script{}, []run{
			{[]call{del(422), getErr(answered(500))}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{getPlain(404)}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 2, HTTPStatus: 422}, "")},
			{[]call{getErr(errCut)}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 3, HTTPStatus: 422}, "unknown", noteUnknown)},
		}},
		{"a 200 that is no proof, and no GET is answered by the API", script{attempts: 2}, []run{
			{[]call{{method: "DELETE", status: 200}, getPlain(404)}, 0, noteWhy(ledger.Record{Settling: true, Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "")},
			{[]call{getPlain(404)}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 2, HTTPStatus: 200}, "unknown", noteUnknown)},
		}},
		{"a gateway's 422, and no GET is answered by the API", script{attempts: 2}, []run{
			{[]call{delPlain(422), getPlain(404)}, 0, counted(noteWhy(ledger.Record{Settling: true, Plains: 1, Attempts: 1, HTTPStatus: 422}, "422, “a page”"), "422 k")},
			{[]call{getPlain(404)}, 0, counted(done(ledger.Record{Outcome: ledger.Failed, Plains: 1, Attempts: 2, HTTPStatus: 422}, "unknown", noteUnknown), "422 k")},
		}},
		{"a settling GET waits out a hold", script{held: true}, []run{
			{[]call{del(422), getErr(answered(429))}, 0, back(ledger.Record{Settling: true, HTTPStatus: 422}, textNo)},
			{[]call{get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", "")},
		}},
		{"a settling GET that is always throttled", script{attempts: 2}, []run{
			{[]call{del(422), getErr(answered(429))}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{getErr(answered(429))}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 2, HTTPStatus: 422}, "unknown", noteUnknown)},
		}},
		{"a key that may cancel, but not read", script{}, []run{
			{[]call{del(422), getErr(answered(403))}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "unknown", textNo)},
		}},

		{"a firewall's 403 to the settling GET decides nothing", script{}, []run{
			{[]call{del(422), getPlain(403)}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 2, HTTPStatus: 422}, "paid", "")},
		}},

		{"failed after a last look", script{attempts: 2}, []run{
			{[]call{delErr(errUnsent)}, 0, noteWhy(ledger.Record{Attempts: 1}, errUnsent.Error())},
			{[]call{delErr(errUnsent), get("active")}, 0, done(ledger.Record{Outcome: ledger.Failed, Attempts: 2}, "active", errUnsent.Error())},
		}},
		{"the last look shows it cancelled", script{attempts: 2}, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{delErr(errUnsent), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2}, "cancelled", "")},
		}},
		{"the last look shows it paid", script{attempts: 1}, []run{
			{[]call{del(500), get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "paid", textNo)},
		}},
		{"the last look fails", script{attempts: 1}, []run{
			{[]call{del(500), getErr(errCut)}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "", textNo)},
		}},
		{"the last look is throttled", script{attempts: 1}, []run{
			{[]call{del(500), getErr(answered(429))}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "", textNo)},
		}},
		{"the last look waits out a hold", script{attempts: 1, held: true}, []run{
			{[]call{del(500), getErr(answered(403))}, 0, back(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "cancelled", "")},
		}},
		{"the last look finds it gone", script{attempts: 1}, []run{
			{[]call{del(500), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "", textNo)},
		}},

		{"429 in a hold uses up nothing", script{held: true}, []run{
			{[]call{del(429)}, 0, back(ledger.Record{HTTPStatus: 429}, textNo)},
			{[]call{delErr(retryAfter(429, time.Hour))}, 0, back(ledger.Record{HTTPStatus: 429}, textNo)},
			{[]call{del(404)}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 404}, "", textNo)},
		}},
		{"429 again and again, of this link alone", script{attempts: 2}, []run{
			{[]call{del(429)}, 0, noteWhy(ledger.Record{Attempts: 1, HTTPStatus: 429}, textNo)},
			{[]call{del(429)}, 0, noteWhy(ledger.Record{Attempts: 2, HTTPStatus: 429}, textNo)},
			{[]call{get("active")}, 0, done(ledger.Record{Outcome: ledger.Failed, Attempts: 2, HTTPStatus: 429}, "active", "")},
		}},
		{"503 with Retry-After in a hold is ambiguous and uses up nothing", script{held: true}, []run{
			{[]call{delErr(retryAfter(503, 0))}, 0, back(ledger.Record{Ambiguous: true, HTTPStatus: 503}, textNo)},
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"401 in a hold uses up nothing", script{held: true}, []run{
			{[]call{del(401)}, 0, back(ledger.Record{HTTPStatus: 401}, textNo)},
			{[]call{del(401)}, 0, back(ledger.Record{HTTPStatus: 401}, textNo)},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},
		{"403 twice, of this link alone: rejected", script{}, []run{
			{[]call{del(403)}, 0, soon(ledger.Record{Attempts: 1, HTTPStatus: 403})},
			{[]call{del(403)}, 0, done(ledger.Record{Outcome: ledger.Rejected, Attempts: 2, HTTPStatus: 403}, "", textNo)},
		}},
		{"401 and 403 by turns: rejected when the attempts are used up", script{}, []run{
			{[]call{del(401)}, 0, soon(ledger.Record{Attempts: 1, HTTPStatus: 401})},
			{[]call{del(403)}, 0, soon(ledger.Record{Attempts: 2, HTTPStatus: 403})},
			{[]call{del(401)}, 0, done(ledger.Record{Outcome: ledger.Rejected, Attempts: 3, HTTPStatus: 401}, "", textNo)},
		}},
		{"401 for ever after an unanswered attempt: rejected, and nobody knows the status", script{attempts: 4}, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(401)}, 0, soon(ledger.Record{Ambiguous: true, Attempts: 2, HTTPStatus: 401})},
			{[]call{del(401)}, 0, noteWhy(ledger.Record{Settling: true, Ambiguous: true, Attempts: 3, HTTPStatus: 401}, textNo)},
			{[]call{getErr(answered(401))}, 0, done(ledger.Record{Outcome: ledger.Rejected, Ambiguous: true, Attempts: 4, HTTPStatus: 401}, "unknown", noteUnknown)},
		}},
		{"401 while the key is rotated, after an unanswered attempt: sent again", script{attempts: 6}, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(401)}, 0, soon(ledger.Record{Ambiguous: true, Attempts: 2, HTTPStatus: 401})},
			{[]call{del(401)}, 0, noteWhy(ledger.Record{Settling: true, Ambiguous: true, Attempts: 3, HTTPStatus: 401}, textNo)},
			{[]call{get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 4, HTTPStatus: 401}, "answered 401, and the link is still active")},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 5, HTTPStatus: 204}, "", "")},
		}},
		{"403 to the end, and the link can be read", script{attempts: 4}, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(403)}, 0, soon(ledger.Record{Ambiguous: true, Attempts: 2, HTTPStatus: 403})},
			{[]call{del(403)}, 0, noteWhy(ledger.Record{Settling: true, Ambiguous: true, Attempts: 3, HTTPStatus: 403}, textNo)},
			{[]call{get("active")}, 0, done(ledger.Record{Outcome: ledger.Rejected, Ambiguous: true, Attempts: 4, HTTPStatus: 403}, "active", "answered 403, and the link is still active")},
		}},
		{"a firewall's 403 is no rejection", script{attempts: 2}, []run{
			{[]call{delPlain(403)}, 0, noteWhy(ledger.Record{Attempts: 1, HTTPStatus: 403}, "403, “a page”")},
			{[]call{delPlain(403)}, 0, noteWhy(ledger.Record{Attempts: 2, HTTPStatus: 403}, "403, “a page”")},
			{[]call{getPlain(403)}, 0, done(ledger.Record{Outcome: ledger.Failed, Attempts: 2, HTTPStatus: 403}, "", "")},
		}},
		{"403 after an ambiguous attempt is settled", script{}, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(403)}, 0, soon(ledger.Record{Ambiguous: true, Attempts: 2, HTTPStatus: 403})},
			{[]call{del(403)}, 0, noteWhy(ledger.Record{Ambiguous: true, Settling: true, Attempts: 3, HTTPStatus: 403}, textNo)},
			{[]call{get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 3, HTTPStatus: 403}, "cancelled", "")},
		}},

		{"a friendly 200, and cancelled", script{}, []run{
			{[]call{del(200), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "cancelled", "")},
		}},
		{"a friendly 200, still active, is sent again", script{}, []run{
			{[]call{del(200), get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "answered 200, but the link is still active")},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 204}, "", "")},
		}},
		{"friendly to the end", script{attempts: 2}, []run{
			{[]call{del(200), get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "answered 200, but the link is still active")},
			{[]call{del(200), get("active"), get("active")}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 2, HTTPStatus: 200}, "active", "answered 200, but the link is still active")},
		}},

		{"an empty 404 three times, and once more to a GET", script{}, []run{
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 2, Attempts: 2, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404), getPlain(404)}, 0, counted(done(ledger.Record{Outcome: ledger.NotFound, Plain: true, Plains: 3, Attempts: 3, HTTPStatus: 404}, "", "404, “a page” (3 times, not in the API's own form)"), "404 k")},
		}},
		{"a gateway's 404, and then the API's 204", script{}, []run{
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{del(204)}, 0, counted(done(ledger.Record{Outcome: ledger.Cancelled, Plains: 1, Attempts: 2, HTTPStatus: 204}, "", ""), "404 k")},
		}},
		{"a 404 of which too few are known", script{proof: stubProof{distrust: "too few"}}, []run{
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 2, Attempts: 2, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404), getPlain(404), getPlain(404)}, 0, counted(done(ledger.Record{Outcome: ledger.Failed, Plains: 3, Attempts: 3, HTTPStatus: 404}, "", "404, “a page” (3 times, not in the API's own form): too few"), "404 k")},
		}},
		{"an empty 404, and nothing shows that the path is right", script{proof: stubProof{unproved: true}}, []run{
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 2, Attempts: 2, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404), getPlain(404), getPlain(404)}, 0, counted(done(ledger.Record{Outcome: ledger.Failed, Plains: 3, Attempts: 3, HTTPStatus: 404}, "", "404, “a page” (3 times, not in the API's own form): nothing shows that the base URL is the API's"), "404 k")},
		}},
		{"a 404 whose GET shows an active link", script{attempts: 4}, []run{
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 2, Attempts: 2, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(404), get("active")}, 0, counted(noteWhy(ledger.Record{Plains: 3, Attempts: 3, HTTPStatus: 404}, "answered 404, not by the API itself, and the link is still active"), "404 k")},
			{[]call{delPlain(404), get("paid")}, 0, counted(done(ledger.Record{Outcome: ledger.NotCancellable, Plains: 3, Attempts: 4, HTTPStatus: 404}, "paid", "404, “a page”"), "404 k")},
		}},
		{"answers of two kinds are counted apart", script{attempts: 5}, []run{
			{[]call{delPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 404}, "404, “a page”"), "404 k")},
			{[]call{delPlain(302)}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 2, HTTPStatus: 302}, "302, “a page”"), "302 k")},
			{[]call{delPlain(302)}, 0, counted(noteWhy(ledger.Record{Plains: 2, Attempts: 3, HTTPStatus: 302}, "302, “a page”"), "302 k")},
			{[]call{delPlain(302), getPlain(404)}, 0, counted(noteWhy(ledger.Record{Plains: 3, Attempts: 4, HTTPStatus: 302}, "302, “a page”"), "302 k")},
			{[]call{delPlain(302), getPlain(302)}, 0, counted(done(ledger.Record{Outcome: ledger.Rejected, Plain: true, Plains: 3, Attempts: 5, HTTPStatus: 302}, "", "302, “a page” (3 times, not in the API's own form)"), "302 k")},
		}},
		{"a gateway's 410, and the link is still active", script{}, []run{
			{[]call{delPlain(410), get("active")}, 0, counted(noteWhy(ledger.Record{Plains: 1, Attempts: 1, HTTPStatus: 410}, "answered 410, not by the API itself, and the link is still active"), "410 k")},
			{[]call{del(204)}, 0, counted(done(ledger.Record{Outcome: ledger.Cancelled, Plains: 1, Attempts: 2, HTTPStatus: 204}, "", ""), "410 k")},
		}},
		{"an empty 422 of a paid link", script{}, []run{
			{[]call{delPlain(422), get("paid")}, 0, counted(done(ledger.Record{Outcome: ledger.NotCancellable, Plains: 1, Attempts: 1, HTTPStatus: 422}, "paid", "422, “a page”"), "422 k")},
		}},

		{"this machine has no ports left", script{}, []run{
			{[]call{delErr(errLocal)}, 0, back(ledger.Record{}, errLocal.Error())},
		}},
		{"given back before the settling GET", script{}, []run{
			{[]call{del(422)}, 1, back(ledger.Record{Settling: true, HTTPStatus: 422}, textNo)},
			{[]call{get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", "")},
		}},
		{"given back before the last look: no DELETE any more", script{attempts: 1}, []run{
			{[]call{del(500)}, 1, back(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "cancelled", "")},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.setup
			last := link{}
			for i, run := range tt.runs {
				s.calls, s.gates = run.calls, run.gates
				got := *s.run(t, &link{id: "l1", record: last.record, plain: last.plain})
				want := run.want
				want.id, want.wait, want.proven = "l1", got.wait, got.proven
				want.ambiguous, want.settled = forMetrics(run.calls, want)
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(link{})); diff != "" {
					t.Fatalf("run %d: %s", i+1, diff)
				}
				if got.finished && got.wait != 0 && i == 0 {
					t.Errorf("run %d: a finished link waits %v", i+1, got.wait)
				}
				last = got
			}
			if len(s.reports) != len(s.requests) {
				t.Errorf("%d requests, %d reports to the limiter", len(s.requests), len(s.reports))
			}
		})
	}
}

// forMetrics is what the metrics show of one run with this end: how many DELETEs may
// have been applied without a clear answer, and whether a GET found the outcome.
func forMetrics(calls []call, end link) (ambiguous int, settled bool) {
	for _, c := range calls {
		var api *plexy.Error
		unclear := c.status == 200 || errors.Is(c.err, errCut) || errors.As(c.err, &api) && api.Status >= 500
		if c.method == "DELETE" && unclear {
			ambiguous++
		}
	}
	return ambiguous, end.finished && calls[len(calls)-1].method == "GET"
}

// How long a link waits for its next attempt.
func TestWaits(t *testing.T) {
	t.Parallel()
	wait := func(attempts int, record ledger.Record, calls ...call) time.Duration {
		s := script{attempts: attempts, calls: calls}
		return s.run(t, &link{id: "l1", record: record, plain: "404 k"}).wait
	}
	del := func(err error) call { return call{method: "DELETE", err: err} }
	for n := range 5 {
		if got, want := wait(10, ledger.Record{Attempts: uint8(n)}, del(errCut)), time.Duration(n+1)*time.Second; got != want {
			t.Errorf("after attempt %d: %v, want %v", n+1, got, want)
		}
	}
	if got := wait(10, ledger.Record{}, del(retryAfter(429, time.Minute))); got != time.Minute {
		t.Errorf("after a Retry-After of a minute: %v", got)
	}
	if got := wait(10, ledger.Record{Attempts: 4}, del(retryAfter(429, time.Second))); got != 5*time.Second {
		t.Errorf("after a Retry-After of a second at the fifth attempt: %v", got)
	}
	if got := wait(10, ledger.Record{Attempts: 9}, del(retryAfter(429, time.Second))); got != time.Second {
		t.Errorf("the last look, after a Retry-After of a second: %v", got)
	}
	if got := wait(10, ledger.Record{}, del(errLocal)); got != localWait {
		t.Errorf("after a local lack: %v", got)
	}
	// The third unproven answer comes 20 s after the first at least.
	var sum time.Duration
	for n := range 2 {
		sum += wait(10, ledger.Record{Attempts: uint8(n), Plains: uint8(n), HTTPStatus: 404}, del(unproven(404)))
	}
	if sum < 20*time.Second || sum > 24*time.Second {
		t.Errorf("two unproven answers: %v until the third, want 20 to 24 s", sum)
	}
}

// What is sent on a new connection: probes, and the GET that confirms an unproven answer.
func TestFreshConnections(t *testing.T) {
	t.Parallel()
	s := script{calls: []call{{method: "DELETE", err: unproven(404)}, {method: "GET", err: unproven(404)}}}
	s.run(t, &link{id: "l1", record: ledger.Record{Attempts: 2, Plains: 2, HTTPStatus: 404}, plain: "404 k"})
	if diff := cmp.Diff([]bool{false, true}, s.fresh); diff != "" {
		t.Error(diff)
	}
}

func TestBadIDIsNeverSent(t *testing.T) {
	t.Parallel()
	client, err := plexy.New(plexy.Config{BaseURL: "http://127.0.0.1:1", Key: key(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"..", "a/b", "", strings.Repeat("x", 200)} {
		s := script{attempts: 3, gates: 1, ctx: t.Context()}
		l := &link{id: id}
		s.canceler(client).run(l, ratelimit.Slot{})
		if l.record != (ledger.Record{Outcome: ledger.Rejected, Attempts: 1}) || l.text == "" {
			t.Errorf("id %q: %+v", id, l)
		}
		if diff := cmp.Diff([]ratelimit.Answer{{Kind: ratelimit.Unused}}, s.reports); diff != "" || len(s.requests) > 0 {
			t.Errorf("id %q: requests %v, reports %s", id, s.requests, diff)
		}
	}
}

// A call that the worker cuts at its end says nothing of the API, but was sent.
func TestCutCall(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := script{attempts: 3, ctx: ctx, calls: []call{{method: "DELETE", err: errCut}}}
	l := s.run(t, &link{id: "l1"})
	if l.record != (ledger.Record{Ambiguous: true, Attempts: 1}) || !l.touched || l.finished {
		t.Errorf("%+v", l)
	}
	if len(s.reports) != 1 || s.reports[0].Kind != ratelimit.Unused {
		t.Errorf("reports %+v", s.reports)
	}
}

// A slot that is too old when the connection is there is replaced. If there is no other, the link is as before.
func TestLateSlot(t *testing.T) {
	t.Parallel()
	unused := ratelimit.Answer{Kind: ratelimit.Unused}
	for _, method := range []string{"DELETE", "GET"} {
		before := ledger.Record{Attempts: 1, HTTPStatus: 503}
		if method == "GET" {
			before = ledger.Record{Attempts: 1, Settling: true, HTTPStatus: 422}
		}
		s := script{late: true, calls: []call{{method: method, status: 204, link: "paid"}}}
		l := s.run(t, &link{id: "l1", text: "no", record: before})
		if !l.finished || len(s.reports) != 2 || s.reports[0] != unused || s.reports[1].Kind != ratelimit.OK {
			t.Errorf("%s with another slot: %+v, reports %+v", method, l, s.reports)
		}
		s = script{late: true, gates: 1, calls: []call{{method: method}}}
		l = s.run(t, &link{id: "l1", text: "no", record: before})
		if !l.back || l.touched || l.wait != 0 || l.text != "no" || l.record != before {
			t.Errorf("%s without another slot: %+v", method, l)
		}
		if len(s.reports) != 1 || s.reports[0] != unused || len(s.requests) != 0 {
			t.Errorf("%s without another slot: reports %+v, requests %v", method, s.reports, s.requests)
		}
	}
}

// What the limiter and the metrics receive.
func TestReports(t *testing.T) {
	t.Parallel()
	s := script{held: true, calls: []call{{method: "DELETE", err: retryAfter(429, time.Minute)}}}
	s.run(t, &link{id: "l1", record: ledger.Record{HTTPStatus: 429}})
	s.calls = []call{{method: "DELETE", err: answered(401)}}
	s.run(t, &link{id: "l1"})
	s.calls = []call{{method: "DELETE", err: answered(422)}, {method: "GET", err: answered(503)}}
	s.run(t, &link{id: "l1"})
	s.calls = []call{{method: "GET", err: errUnsent}}
	s.run(t, &link{id: "l1", record: ledger.Record{Settling: true, HTTPStatus: 422}})
	s.calls = []call{{method: "GET", link: "paid"}}
	s.run(t, &link{id: "l1", record: ledger.Record{Settling: true, HTTPStatus: 422}})
	s.calls = []call{{method: "DELETE", err: unproven(404)}}
	s.run(t, &link{id: "l1"})
	if diff := cmp.Diff([]string{"DELETE 429", "DELETE 401", "DELETE 422", "GET 503", "GET 0", "GET 200", "DELETE 404"}, s.requests); diff != "" {
		t.Error(diff)
	}
	want := []ratelimit.Answer{
		{Kind: ratelimit.Throttled, Link: "l1", Status: 429, Repeat: true, RetryAfter: time.Minute, HasRetryAfter: true, Cause: "DELETE answered 429 (code 7: no)"},
		{Kind: ratelimit.Unauthorized, Link: "l1", Status: 401, Cause: "DELETE answered 401 (code 7: no)"},
		{Kind: ratelimit.OK, Link: "l1", Status: 422},
		{Kind: ratelimit.Transient, Link: "l1", Status: 503, Cause: "GET answered 503 (code 7: no)"},
		{Kind: ratelimit.Transient, Link: "l1", Cause: errUnsent.Error()},
		{Kind: ratelimit.OK, Link: "l1", Status: 200},
		{Kind: ratelimit.Unproven, Link: "l1", Status: 404, Cause: "DELETE answered 404, “a page”"},
	}
	if diff := cmp.Diff(want, s.reports); diff != "" {
		t.Error(diff)
	}
}

func key(t *testing.T) *plexy.Key {
	t.Helper()
	k, err := plexy.NewKey("key-that-nobody-may-see")
	if err != nil {
		t.Fatal(err)
	}
	return k
}
