package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
)

// verification makes a batch whose links are only read.
func (f *fleet) verification(id string, links ...string) ledger.Batch {
	f.t.Helper()
	b, err := importer.MakeBatch(f.t.Context(), f.l, &ids{links: links}, importer.BatchConfig{ID: id, Source: ledger.SourceVerify, Parent: "b1", Population: int64(len(links))})
	must(f.t, err)
	return b
}

// onlyReads fails the test at a request that is not a GET.
func onlyReads(t *testing.T, api Canceler) Canceler {
	return through{api, func(_ context.Context, method, id string) error {
		if method != "GET" {
			t.Errorf("%s %s", method, id)
		}
		return nil
	}}
}

// checkVerified holds the results of a verification against the statuses of the links. unknown: may be the result.
func (f *fleet) checkVerified(id string, s *sandbox.Server, unknown bool) {
	f.t.Helper()
	for link, r := range f.records(id) {
		is, _ := s.Status(link)
		want := ledger.NotPayable
		switch is {
		case "active":
			want = ledger.StillPayable
		case "odd":
			want = ledger.Unknown
		}
		o := r.Record.Outcome
		if o != want && !(unknown && o == ledger.Unknown) || o != ledger.Unknown && r.LinkStatus != is || r.Record.Ambiguous || o == ledger.Unknown && r.Error == "" {
			f.t.Errorf("%s is %q: %+v", link, is, r)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]sandbox.Config{
		"a good API":                   {},
		"faults":                       {Faults: sandbox.Faults{Error500: .1, HTML502: .05, Cut: .05, CutBefore: .05}},
		"empty 404s":                   {EmptyErrors: true},
		"an outage":                    {Gateway: sandbox.Gateway{Answer: says(t, "503:html"), Share: 1, From: time.Second, For: 20 * time.Second}},
		"a gateway that knows no link": {Gateway: sandbox.Gateway{Answer: says(t, "404:html"), Share: .5, From: time.Second, For: 25 * time.Second}},
		"a gateway that says 200":      {Gateway: sandbox.Gateway{Answer: says(t, "200:html"), Share: .5, From: time.Second, For: 25 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				cfg.Seed, cfg.Links, cfg.Latency = 1, 300, 20*time.Millisecond
				cfg.Paid, cfg.Expired, cfg.Cancelled, cfg.Missing = .1, .1, .5, .1
				api := sandbox.New(cfg)
				api.SetStatus(api.IDs()[3], "odd")
				f.verification("v1", api.IDs()...)
				f.watched(Config{Rate: 50, Concurrency: 8}, onlyReads(t, memory{api}))
				f.feed(50)
				f.done("v1")
				f.checkVerified("v1", api, false)
			})
		})
	}
}

// A replica of the API may lag behind: a link counts as payable if it is seen so twice.
func TestVerifyReadsAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(50)})
		for _, id := range api.IDs() {
			api.SetStatus(id, "cancelled")
		}
		late, payable := api.IDs()[7], api.IDs()[9]
		api.SetStatus(late, "active")
		api.SetStatus(payable, "active")
		f.verification("v1", api.IDs()...)
		f.watched(Config{Rate: 50, Concurrency: 8}, onlyReads(t, memory{api}))
		f.feed(50)
		f.until("all but two", func() bool { return f.get("v1").Counts[ledger.NotPayable] == 48 })
		api.SetStatus(late, "cancelled")
		f.done("v1")
		f.want("v1", ledger.Counts{ledger.NotPayable: 49, ledger.StillPayable: 1})
		if r := f.records("v1")[payable]; r.Record.Outcome != ledger.StillPayable || r.Record.Attempts != 2 || r.LinkStatus != "active" {
			t.Errorf("%+v", r)
		}
	})
}

// A link that was payable once and is never shown again is not called unknown.
func TestVerifySeenOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(20)})
		for _, id := range api.IDs() {
			api.SetStatus(id, "cancelled")
		}
		once, never := api.IDs()[3], api.IDs()[5]
		api.SetStatus(once, "active")
		refused := says(t, "403:html")
		refused.Method = http.MethodGet
		refuse := func(id string) {
			for range 20 {
				api.Script(id, refused)
			}
		}
		refuse(never)
		f.verification("v1", api.IDs()...)
		f.watched(Config{Rate: 50, Concurrency: 8}, onlyReads(t, memory{api}))
		f.feed(50)
		f.until("all but two", func() bool { return f.get("v1").Counts[ledger.NotPayable] == 18 })
		refuse(once)
		f.done("v1")
		f.want("v1", ledger.Counts{ledger.NotPayable: 18, ledger.StillPayable: 1, ledger.Unknown: 1})
		if r := f.records("v1")[once]; r.Record.Outcome != ledger.StillPayable || r.LinkStatus != "active" || r.Error != noteSeenOnce {
			t.Errorf("%+v", r)
		}
	})
}

// A key that may not read links leaves them unknown, and holds nothing.
func TestVerifyMayNotRead(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(150), GetsForbidden: true})
		before := map[string]string{}
		for _, id := range api.IDs()[:100] {
			before[id], _ = api.Status(id)
		}
		f.verification("v1", api.IDs()[100:]...)
		f.batch("b1", api.IDs()[:100]...)
		_, h := f.watched(Config{Rate: 50, Concurrency: 8}, memory{api})
		f.feed(50)
		f.done("b1")
		f.done("v1")
		f.check("b1", api, before)
		f.want("v1", ledger.Counts{ledger.Unknown: 50})
		if all := h.heard(); len(all) > 0 {
			t.Errorf("held: %+v", all)
		}
	})
}

// A wrong base URL answers 404 for each link. It must not look as if none were payable.
func TestVerifyElsewhere(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(1)}) // another merchant's, say
		f.verification("v1", names(60)[1:]...)
		empty := through{memory{api}, func(_ context.Context, method, id string) error {
			return &plexy.Error{Method: method, Status: 404, Code: "4", Message: "not found", Proven: true}
		}}
		f.watched(Config{Rate: 50, Concurrency: 8}, noList{empty})
		f.feed(50)
		pass(5 * time.Minute)
		if got := f.get("v1"); got.Counts.Sum() > 0 {
			t.Errorf("%+v", got.Counts)
		}
	})
}

// noList is an API without a list.
type noList struct{ Canceler }

func (noList) List(context.Context, int, int) (plexy.Page, error) {
	return plexy.Page{}, &plexy.Error{Method: "GET", Status: 404, Code: "4", Message: "not found", Proven: true}
}

// A task and its batch must agree that links are cancelled, or that they are read.
func TestVerifyAndCancelAreApart(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{IDs: names(20), KeepRequests: 100})
		for id, b := range map[string]ledger.Batch{"v1": f.verification("v1", api.IDs()[:10]...), "b1": f.batch("b1", api.IDs()[10:]...)} {
			f.start(&b, 50)
			links, err := f.l.Links(t.Context(), id, 0)
			must(t, err)
			f.enqueue(task.Slice{Batch: id, Incarnation: b.Incarnation(), Links: links, Verify: id == "b1"})
		}
		f.watched(Config{Rate: 50, Concurrency: 8}, memory{api})
		f.until("an empty queue", func() bool { return f.queued() == 0 })
		if all := api.Requests(); len(all) > 0 {
			t.Errorf("sent %+v", all)
		}
	})
}

// What keeps workers of earlier releases from cancelling the links of a verification: each of them
// takes tasks of the queue cancel only, and leaves one of another type alone, one in a newer format
// than 2, and a batch in one.
func TestVerifyIsNewToOlderReleases(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		b := f.verification("v1", names(3)...)
		stop := f.feed(50)
		var info *asynq.TaskInfo
		f.until("a task", func() bool {
			all, err := asynq.NewInspectorFromRedisClient(f.b.Client()).ListPendingTasks(task.QueueVerify)
			if err == nil && len(all) > 0 {
				info = all[0]
			}
			return info != nil
		})
		stop()
		s, err := task.Parse(info.Payload)
		must(t, err)
		format, err := f.b.Client().HGet(t.Context(), "lc:{v1}", "v").Result()
		must(t, err)
		if info.Type == task.TypeCancel || s.V <= 2 || format != "3" || !s.Verify || s.Incarnation != b.Incarnation() {
			t.Errorf("type %s, payload %s, format %s", info.Type, info.Payload, format)
		}
	})
}

func TestClassifyVerify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status string
		err    error
		step   step
		want   ledger.Outcome
		kind   ratelimit.Kind
	}{
		{"active", nil, stepDone, ledger.StillPayable, ratelimit.OK},
		{"Active", nil, stepDone, ledger.StillPayable, ratelimit.OK},
		{"canceled", nil, stepDone, ledger.NotPayable, ratelimit.OK},
		{"CANCELLED", nil, stepDone, ledger.NotPayable, ratelimit.OK},
		{"paid", nil, stepDone, ledger.NotPayable, ratelimit.OK},
		{"expired", nil, stepDone, ledger.NotPayable, ratelimit.OK},
		{"frozen", nil, stepDone, ledger.Unknown, ratelimit.OK},
		{"", answered(404), stepDone, ledger.NotPayable, ratelimit.OK},
		{"", unproven(404), stepPlain, ledger.None, ratelimit.Unproven},
		{"", unproven(302), stepPlain, ledger.None, ratelimit.Unproven},
		{"", unproven(410), stepPlain, ledger.None, ratelimit.Unproven},
		{"", answered(410), stepRetry, ledger.None, ratelimit.OK},
		{"", answered(422), stepRetry, ledger.None, ratelimit.OK},
		{"", answered(500), stepRetry, ledger.None, ratelimit.Transient},
		{"", answered(403), stepBarred, ledger.None, ratelimit.Unused},
		{"", unproven(403), stepAttribute, ledger.None, ratelimit.Unauthorized},
		{"", answered(401), stepAttribute, ledger.None, ratelimit.Unauthorized},
		{"", answered(429), stepAttribute, ledger.None, ratelimit.Throttled},
		{"", errCut, stepRetry, ledger.None, ratelimit.Transient},
		{"", errUnsent, stepRetry, ledger.None, ratelimit.Transient},
		{"", errLocal, stepLocal, ledger.None, ratelimit.Unused},
	} {
		name := fmt.Sprint(tt.status, tt.err)
		got := classifyVerify(plexy.Link{Status: tt.status}, tt.err)
		if got.step != tt.step || got.outcome != tt.want || got.kind != tt.kind || got.ambiguous || got.linkStatus != tt.status {
			t.Errorf("%s: %+v", name, got)
		}
		// Nothing but the API itself shows that a link takes no payments.
		var api *plexy.Error
		if got.outcome == ledger.NotPayable && errors.As(tt.err, &api) && !api.Proven {
			t.Errorf("%s: not payable", name)
		}
	}
}

func TestNextVerify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		phase   phase
		step    step
		outcome ledger.Outcome
		status  int
		past
		want action
	}{
		{verifying, stepDone, ledger.NotPayable, 200, past{}, decide},
		{verifying, stepDone, ledger.Unknown, 200, past{}, decide},
		{verifying, stepDone, ledger.StillPayable, 200, past{}, retryPlain},
		{verifying, stepDone, ledger.StillPayable, 200, past{payable: true}, decide},
		{verifying, stepDone, ledger.StillPayable, 200, past{last: true}, decide},
		{verifying, stepRetry, 0, 500, past{}, retry},
		{verifying, stepRetry, 0, 500, past{last: true}, endUnverified},
		{verifying, stepPlain, 0, 404, past{plains: 1}, retryPlain},
		{verifying, stepPlain, 0, 404, past{plains: maxPlains}, confirmNow},
		{verifying, stepPlain, 0, 404, past{plains: maxPlains, payable: true}, retryPlain},
		{verifying, stepPlain, 0, 404, past{plains: maxPlains, payable: true, last: true}, endUnverified},
		{verifying, stepPlain, 0, 302, past{plains: maxPlains}, retryPlain},
		{verifying, stepPlain, 0, 404, past{plains: maxPlains, last: true}, endUnverified},
		{verifying, stepBarred, 0, 403, past{attempts: 1}, retryPlain},
		{verifying, stepBarred, 0, 403, past{attempts: 2}, endUnverified},
		{verifying, stepAttribute, 0, 401, past{}, attribute},
		{verifying, stepLocal, 0, 0, past{}, giveBack},
		{confirming, stepPlain, 0, 404, past{sameKind: true}, acceptPlain},
		{confirming, stepPlain, 0, 404, past{}, retryPlain},
		{confirming, stepDone, ledger.NotPayable, 200, past{}, decide},
		{confirming, stepDone, ledger.StillPayable, 200, past{}, retryPlain},
	} {
		tt.verify = true
		if got := next(tt.phase, verdict{step: tt.step, outcome: tt.outcome, status: tt.status, proven: tt.step == stepBarred}, tt.past); got != tt.want {
			t.Errorf("%+v: action %d, want %d", tt, got, tt.want)
		}
	}
}
