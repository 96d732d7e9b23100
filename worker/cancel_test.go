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
	attempts  int
	calls     []call
	gates     int        // after so many further slots there are none; 0: any number
	forbidden *forbidden // nil: of its own
	answered  bool       // an answer came before
	ctx       context.Context

	// What happened.
	reports  []ratelimit.Answer
	requests []string
	badKey   []error
}

var errNoSlot = errors.New("no more slots")

// run runs l once and checks that every call was made, in order.
func (s *script) run(t *testing.T, l *link) *link {
	t.Helper()
	if s.forbidden == nil {
		s.forbidden = newForbidden()
	}
	if s.ctx == nil {
		s.ctx = t.Context()
	}
	api := &scriptedAPI{t: t, calls: s.calls}
	gates := 0
	c := canceler{
		api: api, limiter: scriptLimiter{s}, attempts: s.attempts, observe: scriptObserver{s},
		forbidden: s.forbidden, calls: s.ctx, badKey: func(err error) { s.badKey = append(s.badKey, err) },
		gate: func() (ratelimit.Slot, error) {
			if gates++; s.gates > 0 && gates >= s.gates {
				return ratelimit.Slot{}, errNoSlot
			}
			return ratelimit.Slot{}, nil
		},
		first: func() bool { was := s.answered; s.answered = true; return !was },
	}
	c.run(l, ratelimit.Slot{})
	if len(api.calls) > 0 {
		t.Errorf("not called: %v", api.calls)
	}
	return l
}

type scriptedAPI struct {
	t     *testing.T
	calls []call
}

func (a *scriptedAPI) next(method string) call {
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
	return c
}

func (a *scriptedAPI) Cancel(context.Context, string) (int, error) {
	c := a.next("DELETE")
	return c.status, c.err
}

func (a *scriptedAPI) Get(_ context.Context, id string) (plexy.Link, error) {
	c := a.next("GET")
	return plexy.Link{ID: id, Status: c.link}, c.err
}

type scriptLimiter struct{ s *script }

func (scriptLimiter) Acquire(context.Context) (ratelimit.Slot, error) { return ratelimit.Slot{}, nil }
func (scriptLimiter) Status() ratelimit.Status                        { return ratelimit.Status{} }
func (l scriptLimiter) Report(_ ratelimit.Slot, a ratelimit.Answer) {
	l.s.reports = append(l.s.reports, a)
}

type scriptObserver struct{ s *script }

func (o scriptObserver) Request(method string, status int, _ time.Duration) {
	o.s.requests = append(o.s.requests, fmt.Sprintf("%s %d", method, status))
}
func (scriptObserver) Waited(time.Duration)                               {}
func (scriptObserver) Outcome(string, ledger.Outcome, int, time.Duration) {}
func (scriptObserver) Settled(ledger.Outcome)                             {}
func (scriptObserver) Ambiguous(int)                                      {}

func TestCanceler(t *testing.T) {
	del := func(status int) call {
		if status/100 == 2 {
			return call{method: "DELETE", status: status}
		}
		return call{method: "DELETE", err: answered(status)}
	}
	delErr := func(err error) call { return call{method: "DELETE", err: err} }
	get := func(status string) call { return call{method: "GET", link: status} }
	getErr := func(err error) call { return call{method: "GET", err: err} }

	type run struct {
		calls []call
		gates int
		want  link // id left out
	}
	note := func(r ledger.Record) link { return link{record: r, touched: true} }
	noteWhy := func(r ledger.Record, text string) link { return link{record: r, text: text, touched: true} }
	back := func(r ledger.Record, text string) link { return link{record: r, text: text, touched: true, back: true} }
	done := func(r ledger.Record, status, text string) link {
		return link{record: r, status: status, text: text, touched: true, finished: true}
	}
	for _, tt := range []struct {
		name     string
		attempts int // default 3
		runs     []run
	}{
		{"204 at once", 0, []run{
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},
		{"404 at once", 0, []run{
			{[]call{del(404)}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 404}, "", "")},
		}},
		{"400 at once", 0, []run{
			{[]call{del(400)}, 0, done(ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 400}, "", textNo)},
		}},
		{"3xx at once", 0, []run{
			{[]call{del(302)}, 0, done(ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 302}, "", textNo)},
		}},
		{"422 is settled in the same run", 0, []run{
			{[]call{del(422), get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", textNo)},
		}},
		{"422 of a cancelled link", 0, []run{
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 1, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"422 of a link that is gone", 0, []run{
			{[]call{del(422), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 422}, "", "")},
		}},
		{"500, then 204", 0, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 204}, "", "")},
		}},
		{"cut, then 422: our own cancel", 0, []run{
			{[]call{delErr(errCut)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1}, errCut.Error())},
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"unsent, then 422: not ours", 0, []run{
			{[]call{delErr(errUnsent)}, 0, noteWhy(ledger.Record{Attempts: 1}, errUnsent.Error())},
			{[]call{del(422), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 2, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"cut, then 404 is settled: ours", 0, []run{
			{[]call{delErr(errCut)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1}, errCut.Error())},
			{[]call{del(404), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 404}, "cancelled", "")},
		}},
		{"cut, then 404 is settled: gone", 0, []run{
			{[]call{delErr(errCut)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1}, errCut.Error())},
			{[]call{del(404), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.NotFound, Ambiguous: true, Attempts: 2, HTTPStatus: 404}, "", noteGone)},
		}},
		{"400 after an ambiguous attempt is settled: rejected", 0, []run{
			{[]call{del(502)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 502}, textNo)},
			{[]call{del(400), get("active")}, 0, done(ledger.Record{Outcome: ledger.Rejected, Ambiguous: true, Attempts: 2, HTTPStatus: 400}, "active", textNo)},
		}},
		{"400 after an ambiguous attempt is settled: cancelled", 0, []run{
			{[]call{del(502)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 502}, textNo)},
			{[]call{del(400), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 400}, "cancelled", "")},
		}},

		{"a settling GET is sent again later, and no DELETE", 0, []run{
			{[]call{del(422), getErr(answered(500))}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{getErr(errCut)}, 0, note(ledger.Record{Settling: true, Attempts: 2, HTTPStatus: 422})},
			{[]call{get("expired")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 3, HTTPStatus: 422}, "expired", "")},
		}},
		{"a failed GET makes nothing ambiguous", 0, []run{
			{[]call{del(422), getErr(errCut)}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.AlreadyCancelled, Attempts: 2, HTTPStatus: 422}, "cancelled", "")},
		}},
		{"a settling GET is never answered", 0, []run{
			{[]call{del(422), getErr(answered(500))}, 0, noteWhy(ledger.Record{Settling: true, Attempts: 1, HTTPStatus: 422}, textNo)},
			{[]call{getErr(answered(200))}, 0, note(ledger.Record{Settling: true, Attempts: 2, HTTPStatus: 422})},
			{[]call{getErr(errCut)}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 3, HTTPStatus: 422}, "unknown", noteUnknown)},
		}},
		{"a settling GET waits out holds", 0, []run{
			{
				[]call{del(422), getErr(answered(429)), getErr(told(503, time.Second)), getErr(answered(401)), get("paid")}, 0,
				done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", textNo),
			},
		}},

		{"failed after a last look", 2, []run{
			{[]call{delErr(errUnsent)}, 0, noteWhy(ledger.Record{Attempts: 1}, errUnsent.Error())},
			{[]call{delErr(errUnsent), get("active")}, 0, done(ledger.Record{Outcome: ledger.Failed, Attempts: 2}, "active", errUnsent.Error())},
		}},
		{"the last look shows it cancelled", 2, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{delErr(errUnsent), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2}, "cancelled", "")},
		}},
		{"the last look fails", 1, []run{
			{[]call{del(500), getErr(errCut)}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "", textNo)},
		}},
		{"the last look waits out holds", 1, []run{
			{
				[]call{del(500), getErr(answered(429)), getErr(answered(403)), get("cancelled")}, 0,
				done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "cancelled", ""),
			},
		}},
		{"the last look finds it gone", 1, []run{
			{[]call{del(500), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "", textNo)},
		}},

		{"429 uses up nothing", 0, []run{
			{[]call{del(429), delErr(told(429, time.Hour)), del(429), del(429), del(429), del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},
		{"429 is not ambiguous", 0, []run{
			{[]call{del(429), del(404)}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 404}, "", "")},
		}},
		{"401 uses up nothing", 0, []run{
			{[]call{del(401), del(401), del(401), del(401), del(404)}, 0, done(ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 404}, "", "")},
		}},
		{"503 with Retry-After is ambiguous and uses up nothing", 0, []run{
			{
				[]call{delErr(told(503, 0)), delErr(told(503, 0)), delErr(told(503, 0)), del(422), get("cancelled")}, 0,
				done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 422}, "cancelled", ""),
			},
		}},

		{"a friendly 200, and cancelled", 0, []run{
			{[]call{del(200), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "cancelled", "")},
		}},
		{"a friendly 200, still active, is sent again", 0, []run{
			{[]call{del(200), get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "answered 200, but the link is still active")},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 204}, "", "")},
		}},
		{"friendly to the end", 2, []run{
			{[]call{del(200), get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 200}, "answered 200, but the link is still active")},
			{[]call{del(200), get("active"), get("active")}, 0, done(ledger.Record{Outcome: ledger.Failed, Ambiguous: true, Attempts: 2, HTTPStatus: 200}, "active", "answered 200, but the link is still active")},
		}},
		{"a friendly 200, and a GET that fails: that is sent again", 0, []run{
			{[]call{del(200), getErr(errCut)}, 0, note(ledger.Record{Settling: true, Ambiguous: true, Attempts: 1, HTTPStatus: 200})},
			{[]call{get("active")}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 2, HTTPStatus: 200}, "answered 200, but the link is still active")},
			{[]call{del(422), get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Ambiguous: true, Attempts: 3, HTTPStatus: 422}, "paid", textNo)},
		}},

		{"given back after a 429", 0, []run{
			{[]call{del(429)}, 1, back(ledger.Record{HTTPStatus: 429}, textNo)},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},
		{"given back after a 503 with Retry-After", 0, []run{
			{[]call{delErr(told(503, 0))}, 1, back(ledger.Record{Ambiguous: true, HTTPStatus: 503}, textNo)},
			{[]call{del(404), getErr(answered(404))}, 0, done(ledger.Record{Outcome: ledger.NotFound, Ambiguous: true, Attempts: 1, HTTPStatus: 404}, "", noteGone)},
		}},
		{"given back before the settling GET", 0, []run{
			{[]call{del(422)}, 1, back(ledger.Record{Settling: true, HTTPStatus: 422}, textNo)},
			{[]call{get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", "")},
		}},
		{"given back in the settling GET's hold", 0, []run{
			{[]call{del(422), getErr(answered(429))}, 2, back(ledger.Record{Settling: true, HTTPStatus: 422}, textNo)},
			{[]call{get("paid")}, 0, done(ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}, "paid", "")},
		}},
		{"given back before the last look: no DELETE any more", 1, []run{
			{[]call{del(500)}, 1, back(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 1, HTTPStatus: 500}, "cancelled", "")},
		}},
		{"given back in a 403's hold", 0, []run{
			{[]call{del(403)}, 1, back(ledger.Record{HTTPStatus: 403}, textNo)},
			{[]call{del(204)}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, "", "")},
		}},

		{"403 again and again, and the key can read: rejected", 0, []run{
			{[]call{del(403), del(403), get("active")}, 0, done(ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 403}, "", textNo)},
		}},
		{"403 again and again, of a bad key", 0, []run{
			{[]call{del(403), del(403), getErr(answered(403)), del(403), getErr(answered(401))}, 5, back(ledger.Record{HTTPStatus: 403}, textNo)},
		}},
		{"403 after an ambiguous attempt is settled", 0, []run{
			{[]call{del(500)}, 0, noteWhy(ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, textNo)},
			{[]call{del(403), del(403), get("cancelled"), get("cancelled")}, 0, done(ledger.Record{Outcome: ledger.Cancelled, Ambiguous: true, Attempts: 2, HTTPStatus: 403}, "cancelled", "")},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := script{attempts: tt.attempts}
			if s.attempts == 0 {
				s.attempts = 3
			}
			var record ledger.Record
			for i, run := range tt.runs {
				s.calls, s.gates = run.calls, run.gates
				s.forbidden = nil // as in another process
				got := *s.run(t, &link{id: "l1", record: record})
				run.want.id = "l1"
				run.want.ambiguous, run.want.settled = forMetrics(run.calls, run.want)
				if diff := cmp.Diff(run.want, got, cmp.AllowUnexported(link{})); diff != "" {
					t.Fatalf("run %d: %s", i+1, diff)
				}
				record = got.record
			}
			if len(s.reports) != len(s.requests) {
				t.Errorf("%d requests, %d reports to the limiter", len(s.requests), len(s.reports))
			}
		})
	}
}

// forMetrics is what metrics are told of the calls of one run with this end: how many
// DELETEs may have been applied unseen, and whether a GET told the outcome.
func forMetrics(calls []call, end link) (ambiguous int, settled bool) {
	for _, c := range calls {
		var api *plexy.Error
		unclear := c.status == 200 || errors.Is(c.err, errCut) || errors.As(c.err, &api) && api.Status >= 500
		if c.method == "DELETE" && unclear {
			ambiguous++
		}
	}
	// The GET behind a 403 tells of the key, not of the link.
	ofKey := end.record.Outcome == ledger.Rejected && end.record.HTTPStatus == 403
	return ambiguous, end.finished && calls[len(calls)-1].method == "GET" && !ofKey
}

// A link that is forbidden twice, with a proper answer of another one in
// between, is refused itself.
func TestForbidden(t *testing.T) {
	f := newForbidden()
	forbidden := call{method: "DELETE", err: answered(403)}

	// The first time, and nothing else is known.
	one := script{attempts: 3, forbidden: f, gates: 1, calls: []call{forbidden}}
	l1 := one.run(t, &link{id: "l1"})
	if l1.finished || !l1.back {
		t.Fatalf("after one 403: %+v", l1)
	}
	// Another link is cancelled: the key is good.
	other := script{attempts: 3, forbidden: f, calls: []call{{method: "DELETE", status: 204}}}
	other.run(t, &link{id: "l2"})
	one = script{attempts: 3, forbidden: f, calls: []call{forbidden}}
	l1 = one.run(t, &link{id: "l1"})
	if l1.record.Outcome != ledger.Rejected || l1.record.HTTPStatus != 403 || l1.text != textNo {
		t.Errorf("after a second 403: %+v", l1)
	}
	if len(f.since) != 0 {
		t.Errorf("still remembered: %v", f.since)
	}

	// Its own proper answers prove nothing of other links' right.
	f.again("l3")
	f.proper("l3")
	if f.again("l3") {
		t.Error("a link's own answer counted as another's")
	}

	// The key may cancel, but not read: known at once where the DELETE was answered.
	unknown := ledger.Record{Outcome: ledger.NotCancellable, Attempts: 1, HTTPStatus: 422}
	f = newForbidden()
	refused := script{attempts: 3, forbidden: f, gates: 2, calls: []call{
		{method: "DELETE", err: answered(422)}, {method: "GET", err: answered(403)},
	}}
	l := refused.run(t, &link{id: "l1"})
	if l.record != unknown || l.status != unknownStatus {
		t.Errorf("after a 422 and a 403 to the GET: %+v", l)
	}
	if last := refused.reports[len(refused.reports)-1]; last.Kind != ratelimit.Unused {
		t.Errorf("a key that may cancel is reported as %v", last.Kind)
	}

	// A link that is settling since an earlier run may not be read.
	settling := &link{id: "l1", record: ledger.Record{Settling: true, HTTPStatus: 422}, text: textNo}
	first := script{attempts: 3, forbidden: f, gates: 1, calls: []call{{method: "GET", err: answered(403)}}}
	l = first.run(t, settling)
	if !l.back || !l.record.Settling || l.record.Attempts != 0 {
		t.Fatalf("after one 403 to the GET: %+v", l)
	}
	alone := script{attempts: 3, forbidden: f, calls: []call{{method: "GET", err: answered(403)}}}
	l = alone.run(t, &link{id: "l1", record: l.record, text: l.text})
	if l.finished || !l.record.Settling || l.record.Attempts != 1 {
		t.Errorf("after a second 403 with no other link left: %+v", l)
	}
	f.proper("l2")
	told := script{attempts: 3, forbidden: f, calls: []call{{method: "GET", err: answered(403)}}}
	l = told.run(t, &link{id: "l1", record: ledger.Record{Settling: true, HTTPStatus: 422}, text: textNo})
	if l.record != unknown || l.status != unknownStatus {
		t.Errorf("after a 403 to the GET and another link's answer: %+v", l)
	}

	// It does not grow for ever.
	for i := range 30_000 {
		f.again(fmt.Sprint("x", i))
	}
	if len(f.since) > 10_001 {
		t.Errorf("%d links remembered", len(f.since))
	}
}

func TestBadIDIsNeverSent(t *testing.T) {
	client, err := plexy.New(plexy.Config{BaseURL: "http://127.0.0.1:1", Key: key(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"..", "a/b", "", strings.Repeat("x", 200)} {
		s := script{attempts: 3, forbidden: newForbidden()}
		c := canceler{
			api: client, limiter: scriptLimiter{&s}, attempts: 3, observe: scriptObserver{&s}, forbidden: s.forbidden,
			calls: t.Context(), gate: func() (ratelimit.Slot, error) { return ratelimit.Slot{}, errNoSlot },
			first: func() bool { t.Error("counted as an answer"); return true },
		}
		l := &link{id: id}
		c.run(l, ratelimit.Slot{})
		if l.record != (ledger.Record{Outcome: ledger.Rejected, Attempts: 1}) || l.text == "" {
			t.Errorf("id %q: %+v", id, l)
		}
		if diff := cmp.Diff([]ratelimit.Answer{{Kind: ratelimit.Unused}}, s.reports); diff != "" || len(s.requests) > 0 {
			t.Errorf("id %q: requests %v, reports %s", id, s.requests, diff)
		}
	}
}

func TestBadKeyIsToldOnce(t *testing.T) {
	for _, status := range []int{401, 403} {
		s := script{attempts: 3, gates: 3, calls: []call{
			{method: "DELETE", err: answered(status)}, {method: "DELETE", err: answered(401)}, {method: "DELETE", err: answered(401)},
		}}
		s.run(t, &link{id: "l1"})
		if len(s.badKey) != 1 {
			t.Errorf("%d as the first answer: told %d times", status, len(s.badKey))
		}
	}
	s := script{attempts: 3, calls: []call{
		{method: "DELETE", err: answered(429)}, {method: "DELETE", err: answered(401)}, {method: "DELETE", status: 204},
	}}
	s.run(t, &link{id: "l1"})
	if len(s.badKey) != 0 {
		t.Error("a 401 that is not the first answer was told as such")
	}
}

// A call that the worker cuts at its end says nothing of the API, but was sent.
func TestCutCall(t *testing.T) {
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

// What the limiter and the metrics are told.
func TestReports(t *testing.T) {
	s := script{attempts: 3, calls: []call{
		{method: "DELETE", err: told(429, time.Minute)},
		{method: "DELETE", err: answered(401)},
		{method: "DELETE", err: answered(422)},
		{method: "GET", err: answered(503)},
	}}
	s.run(t, &link{id: "l1"})
	s.calls = []call{{method: "GET", err: errUnsent}}
	s.run(t, &link{id: "l1", record: ledger.Record{Settling: true, HTTPStatus: 422}})
	s.calls = []call{{method: "GET", link: "paid"}}
	s.run(t, &link{id: "l1", record: ledger.Record{Settling: true, HTTPStatus: 422}})
	if diff := cmp.Diff([]string{"DELETE 429", "DELETE 401", "DELETE 422", "GET 503", "GET 0", "GET 200"}, s.requests); diff != "" {
		t.Error(diff)
	}
	want := []ratelimit.Answer{
		{Kind: ratelimit.Throttled, Link: "l1", RetryAfter: time.Minute, HasRetryAfter: true},
		{Kind: ratelimit.Unauthorized, Link: "l1"},
		{Kind: ratelimit.Proper, Link: "l1"},
		{Kind: ratelimit.Transient, Link: "l1"},
		{Kind: ratelimit.Transient, Link: "l1"},
		{Kind: ratelimit.Proper, Link: "l1"},
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
