package worker

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// answered is an answer of the API itself that is not what was asked for.
func answered(status int) *plexy.Error {
	return &plexy.Error{Method: "DELETE", Status: status, Code: "7", Message: "no", Proven: status/100 > 3}
}

// unproven is an answer of something in front of the API.
func unproven(status int) *plexy.Error {
	return &plexy.Error{Method: "DELETE", Status: status, Message: "a page", Kind: fmt.Sprintf("%d k", status)}
}

// retryAfter is an answer of the API itself with Retry-After.
func retryAfter(status int, after time.Duration) *plexy.Error {
	e := answered(status)
	e.RetryAfter, e.HasRetryAfter = after, true
	return e
}

var (
	errUnsent = &plexy.TransportError{Method: "DELETE", Err: errors.New("connection refused")}
	errCut    = &plexy.TransportError{Method: "DELETE", Sent: true, Err: errors.New("reset")}
	errLocal  = &plexy.TransportError{Method: "DELETE", Local: true, Err: errors.New("too many open files")}
)

const textNo = "code 7: no" // of answered

// base is what every verdict takes over from an error.
func base(err error) verdict {
	var api *plexy.Error
	if !errors.As(err, &api) {
		return verdict{text: err.Error(), saw: err.Error(), kind: ratelimit.Transient}
	}
	v := verdict{
		status: api.Status, text: textNo, saw: api.Saw(), proven: api.Proven,
		retryAfter: api.RetryAfter, hasRetry: api.HasRetryAfter, kind: ratelimit.OK,
	}
	if !api.Proven {
		v.text, v.plain, v.kind = api.Saw(), api.Kind, ratelimit.Unproven
	}
	return v
}

func TestClassifyCancel(t *testing.T) {
	t.Parallel()
	settle := func(v verdict) verdict { v.step = stepSettle; return v }
	done := func(o ledger.Outcome) func(verdict) verdict {
		return func(v verdict) verdict { v.step, v.outcome = stepDone, o; return v }
	}
	plain := func(v verdict) verdict { v.step = stepPlain; return v }
	attribute := func(kind ratelimit.Kind, ambiguous bool) func(verdict) verdict {
		return func(v verdict) verdict { v.step, v.kind, v.ambiguous = stepAttribute, kind, ambiguous; return v }
	}
	retry := func(ambiguous bool) func(verdict) verdict {
		return func(v verdict) verdict {
			v.step, v.kind, v.ambiguous = stepRetry, ratelimit.Transient, ambiguous
			return v
		}
	}
	local := func(v verdict) verdict { v.step, v.kind = stepLocal, ratelimit.Unused; return v }

	for _, row := range []struct {
		errs  []error
		want  func(verdict) verdict
		after func(verdict) verdict // if an earlier attempt was ambiguous; nil: the same
	}{
		{each(answered, 404), done(ledger.NotFound), settle},
		{each(answered, 422, 409, 410), settle, nil},
		{each(answered, 400, 405, 402, 406, 411, 413, 418, 451, 499), done(ledger.Rejected), settle},
		// What something in front of the API says decides nothing at once.
		{each(unproven, 404, 400, 405, 407, 402, 421, 451, 300, 301, 302, 303, 304, 307, 308), plain, nil},
		{each(unproven, 422, 409, 410), settle, nil},
		{append(each(answered, 401, 403), each(unproven, 401, 403)...), attribute(ratelimit.Unauthorized, false), nil},
		{append(each(answered, 429), unproven(429), retryAfter(429, 7*time.Second)), attribute(ratelimit.Throttled, false), nil},
		{[]error{retryAfter(503, 0), retryAfter(503, time.Minute)}, attribute(ratelimit.Throttled, true), nil},
		{[]error{retryAfter(500, time.Second)}, retry(true), nil}, // only a 503 is an invitation
		{append(each(answered, 408, 425, 500, 501, 502, 503, 504, 520, 599), each(unproven, 408, 500, 502, 503)...), retry(true), nil},
		{[]error{errUnsent}, retry(false), nil},
		{[]error{errCut}, retry(true), nil},
		{[]error{fmt.Errorf("wrapped: %w", errUnsent)}, retry(false), nil},
		{[]error{errLocal}, local, nil},
		{[]error{errors.New("odd")}, retry(true), nil}, // nobody knows: it may have been sent
	} {
		for _, err := range row.errs {
			for _, ambiguous := range []bool{false, true} {
				want := row.want(base(err))
				if ambiguous && row.after != nil {
					want = row.after(base(err))
				}
				got := classifyCancel(0, err, ambiguous)
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(verdict{})); diff != "" {
					t.Errorf("DELETE: %v; ambiguous before: %v\n%s", err, ambiguous, diff)
				}
			}
		}
	}
	for status := 200; status < 300; status++ {
		want := verdict{step: stepSettle, ambiguous: true, status: status, saw: fmt.Sprint(status), kind: ratelimit.Unproven}
		if status == 204 {
			want = verdict{step: stepDone, outcome: ledger.Cancelled, proven: true, status: 204, kind: ratelimit.OK}
		}
		for _, ambiguous := range []bool{false, true} {
			if diff := cmp.Diff(want, classifyCancel(status, nil, ambiguous), cmp.AllowUnexported(verdict{})); diff != "" {
				t.Errorf("DELETE answered %d\n%s", status, diff)
			}
		}
	}
}

// each makes an error of every status.
func each(answer func(int) *plexy.Error, statuses ...int) (errs []error) {
	for _, status := range statuses {
		errs = append(errs, answer(status))
	}
	return errs
}

func TestClassifyShown(t *testing.T) {
	t.Parallel()
	// What a link's status means, by what the DELETE was answered.
	const again = ledger.None // the DELETE is sent again
	for _, row := range []struct {
		deletes []int
		proven  bool
		want    map[string]ledger.Outcome // by status; cancelled ones are the same for all
	}{
		{[]int{422, 409, 410, 404}, true, map[string]ledger.Outcome{
			"active": ledger.NotCancellable, "paid": ledger.NotCancellable, "expired": ledger.NotCancellable, "something new": ledger.NotCancellable,
		}},
		{[]int{400, 405, 418}, true, map[string]ledger.Outcome{
			"active": ledger.Rejected, "paid": ledger.Rejected, "something new": ledger.Rejected,
		}},
		// The key was refused, and the one that read the link may be another.
		{[]int{401, 403}, true, map[string]ledger.Outcome{
			"active": again, "something new": again, "paid": ledger.NotCancellable, "expired": ledger.NotCancellable,
		}},
		// Not by the API itself: only what cannot be paid any more has ended.
		{[]int{422, 409, 410, 404, 400, 405, 302, 500, 503, 0}, false, map[string]ledger.Outcome{
			"active": again, "Active": again, "something new": again,
			"paid": ledger.NotCancellable, "charged": ledger.NotCancellable, "EXPIRED": ledger.NotCancellable,
		}},
		{[]int{200, 202}, false, map[string]ledger.Outcome{
			"active": again, "Active": again, "paid": ledger.NotCancellable, "expired": ledger.NotCancellable,
		}},
	} {
		for _, status := range row.deletes {
			for _, ambiguous := range []bool{false, true} {
				r := refusal{status: status, proven: row.proven, ambiguous: ambiguous}
				for shown, outcome := range row.want {
					v := classifySettle(r, plexy.Link{Status: shown}, nil)
					if v.outcome != outcome || (v.step == stepRetry) != (outcome == again) || v.linkStatus != shown || !v.proven || v.kind != ratelimit.OK {
						t.Errorf("GET shows %q after %+v: %+v", shown, r, v)
					}
					if again := outcome == again; again && v.ambiguous != is2xx(status) {
						t.Errorf("GET shows %q after %+v: ambiguous %v", shown, r, v.ambiguous)
					}
				}
				want := ledger.AlreadyCancelled
				if ambiguous {
					want = ledger.Cancelled
				}
				for _, shown := range []string{"cancelled", "canceled", "CANCELLED"} {
					if v := classifySettle(r, plexy.Link{Status: shown}, nil); v.step != stepDone || v.outcome != want || v.status != status {
						t.Errorf("GET shows %q after %+v: %+v", shown, r, v)
					}
				}
			}
		}
	}
}

// Answers to the GET that are not the link. None of them makes the DELETE ambiguous.
func TestClassifySettle(t *testing.T) {
	t.Parallel()
	steps := map[step][]error{
		stepAttribute: {answered(401), answered(403), unproven(403), answered(429), retryAfter(429, time.Minute), retryAfter(503, time.Minute)},
		stepRetry:     {answered(503), answered(500), answered(408), answered(425), unproven(502), errUnsent, errCut, answered(400), answered(410), answered(422)},
		stepPlain:     {unproven(200), unproven(302), unproven(404), unproven(400)},
		stepLocal:     {errLocal},
	}
	for step, errs := range steps {
		for _, err := range errs {
			for _, ambiguous := range []bool{false, true} {
				v := classifySettle(refusal{status: 422, proven: true, ambiguous: ambiguous}, plexy.Link{}, err)
				if v.step != step || v.ambiguous || v.outcome != ledger.None || step == stepRetry && v.proven && v.kind == ratelimit.OK {
					t.Errorf("GET: %v: %+v, want step %d", err, v, step)
				}
			}
		}
	}
	for ambiguous, note := range map[bool]string{false: "", true: noteGone} {
		v := classifySettle(refusal{status: 422, proven: true, ambiguous: ambiguous}, plexy.Link{}, answered(404))
		if v.step != stepDone || v.outcome != ledger.NotFound || v.status != 422 || v.text != note || !v.proven {
			t.Errorf("GET answered 404; ambiguous %v: %+v", ambiguous, v)
		}
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*plexy.Error{
		"code 5: paid":       {Status: 422, Code: "5", Message: "paid", Proven: true},
		"code 5":             {Status: 422, Code: "5", Proven: true},
		"502, “Bad Gateway”": {Status: 502, Message: "Bad Gateway"},
		"502, empty":         {Status: 502},
	} {
		if got := errorText(e); got != want {
			t.Errorf("errorText(%+v) = %q, want %q", e, got, want)
		}
	}
}

// No outcome is based on an answer that the API did not give, and every answer is
// one of a kind that the limiter knows.
func TestEveryStatusIsClassified(t *testing.T) {
	t.Parallel()
	for status := 100; status < 1000; status++ {
		for _, ambiguous := range []bool{false, true} {
			for _, answer := range []func(int) *plexy.Error{answered, unproven} {
				var err error
				if status/100 != 2 {
					err = answer(status)
				}
				v := classifyCancel(status, err, ambiguous)
				if (v.outcome != ledger.None) != (v.step == stepDone) {
					t.Errorf("%d: step %d with outcome %v", status, v.step, v.outcome)
				}
				if v.step == stepDone && (v.kind != ratelimit.OK || !v.proven) || v.kind == ratelimit.Unused {
					t.Errorf("%d: step %d, kind %v, proven %v", status, v.step, v.kind, v.proven)
				}
				if v.outcome == ledger.Cancelled && status != 204 {
					t.Errorf("%d: cancelled without proof", status)
				}
				if ambiguous && (v.outcome == ledger.NotFound || v.outcome == ledger.AlreadyCancelled) {
					t.Errorf("%d: %v, though it may be the echo of our own cancel", status, v.outcome)
				}
			}
		}
	}
}

// ---- the table of answers in docs/answers.md

const (
	answersBegin = "<!-- answers -->\n"
	answersEnd   = "<!-- /answers -->"
)

// TestDocsAnswers keeps the table of answers in docs/answers.md as the code has it;
// UPDATE=1 writes it.
func TestDocsAnswers(t *testing.T) {
	t.Parallel()
	const path = "../docs/answers.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), answersBegin)
	old, tail, ok2 := strings.Cut(rest, answersEnd)
	if !ok || !ok2 {
		t.Fatalf("docs/answers.md has no place for the table of answers: add the lines %q and %q, then UPDATE=1 go test -run TestDocs ./worker", strings.TrimSpace(answersBegin), answersEnd)
	}
	table := renderAnswers(t)
	if old == table {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("docs/answers.md differs from the code: make docs writes it.\n%s", cmp.Diff(old, table))
	}
	if err := os.WriteFile(path, []byte(head+answersBegin+table+answersEnd+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func renderAnswers(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n| answer to DELETE | what linkcancel does |\n|---|---|\n")
	described := map[int]string{} // by status
	others := statusesBut(400, 500, 401, 403, 404, 408, 409, 410, 422, 425, 429)
	for _, row := range []struct {
		label string
		errs  []error
		also  string
	}{
		{label: "404 in the API's own form", errs: each(answered, 404), also: "with the API's code and message"},
		{label: "400, 405, any other 4xx in the API's own form", errs: each(answered, others...), also: "with the API's code and message"},
		{label: "409, 410, 422, in whatever form", errs: append(each(answered, 409, 410, 422), each(unproven, 409, 410, 422)...)},
		{label: "3xx, 404, 400, 405, any other 4xx, not in the API's own form", errs: append(each(unproven, append(others, 404)...), each(unproven, statusesBut(300, 400)...)...), also: "a redirect is never followed"},
		{label: "401, 403", errs: append(each(answered, 401, 403), each(unproven, 401, 403)...)},
		{label: "429", errs: append(each(answered, 429), unproven(429), retryAfter(429, time.Second))},
		{label: "503 with `Retry-After`", errs: []error{retryAfter(503, time.Second)}},
		{label: "408, 425, any other 5xx", errs: each(answered, append(statusesBut(500, 600), 408, 425)...)},
		{label: "no connection: dial, DNS, TLS", errs: []error{errUnsent}, also: "nothing was sent"},
		{label: "no answer: timeout, reset, cut off", errs: []error{errCut}},
		{label: "not sent: this machine has no descriptors, ports or memory left", errs: []error{errLocal}},
	} {
		var texts []string
		for _, err := range row.errs {
			var api *plexy.Error
			if errors.As(err, &api) {
				described[api.Status] = row.label
			}
			text := describe(classifyCancel(0, err, false), classifyCancel(0, err, true))
			if !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
		if len(texts) != 1 {
			t.Errorf("the row %q has answers of %d kinds: %q", row.label, len(texts), texts)
		}
		if row.also != "" {
			texts[0] += "; " + row.also
		}
		if row.label == "404 in the API's own form" { // after the 2xx
			fmt.Fprintf(&b, "| 204 | %s; the first three of a batch are checked with a GET |\n", describe(classifyCancel(204, nil, false), classifyCancel(204, nil, true)))
			fmt.Fprintf(&b, "| any other 2xx | %s; a proxy's success page does not prove anything |\n", describe(classifyCancel(200, nil, false), classifyCancel(200, nil, true)))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", row.label, texts[0])
	}
	for status := 300; status < 600; status++ {
		if described[status] == "" {
			t.Errorf("%d (%s) is in no row", status, http.StatusText(status))
		}
	}

	b.WriteString("\n*Ask for the link* is a GET; it decides:\n\n| the GET shows | outcome |\n|---|---|\n")
	shown := func(r refusal, status string) string {
		v := classifySettle(r, plexy.Link{Status: status}, nil)
		if v.step == stepRetry {
			return "the DELETE is sent again"
		}
		return "`" + v.outcome.String() + "`"
	}
	fmt.Fprintf(&b, "| cancelled | %s if an attempt of ours may have done it, else %s |\n",
		shown(refusal{422, true, true}, "cancelled"), shown(refusal{422, true, false}, "cancelled"))
	fmt.Fprintf(&b, "| paid, expired | %s, with that status; after a refusal such as 400 in the API's own form: %s |\n",
		shown(refusal{422, false, false}, "paid"), shown(refusal{400, true, true}, "paid"))
	fmt.Fprintf(&b, "| active or any other status | after an answer in the API's own form %s, with that status; after any other: %s |\n",
		shown(refusal{422, true, false}, "active"), shown(refusal{422, false, false}, "active"))
	gone := classifySettle(refusal{422, true, true}, plexy.Link{}, answered(404))
	fmt.Fprintf(&b, "| 404 in the API's own form | `%s`; after an attempt that may have been applied with the note \"%s\" |\n", gone.outcome, gone.text)
	never := func(status int, err error) *link {
		s := script{attempts: 1, calls: []call{{"DELETE", status, err, ""}, {"GET", 0, errCut, ""}}}
		return s.run(t, &link{id: "l1", record: ledger.Record{Ambiguous: status == 400}})
	}
	refused, rejected, stopped := never(422, answered(422)), never(400, answered(400)), never(422, unproven(422))
	fmt.Fprintf(&b, "| no usable answer, as often as it is tried | after an answer in the API's own form `%s`, or `%s` if it was such as 400 or 401, status `%s`; after any other: `%s` |\n\n",
		refused.record.Outcome, rejected.record.Outcome, refused.status, stopped.record.Outcome)
	return b.String()
}

// describe says in a row what is done after an answer; after is what is done if
// an earlier attempt may have been applied.
func describe(v, after verdict) string {
	var text string
	switch v.step {
	case stepDone:
		text = "`" + v.outcome.String() + "`"
	case stepSettle:
		text = "ask for the link"
	case stepRetry:
		text = "try again later, with backoff; an attempt is used up"
	case stepPlain:
		text = "try again after 5 s, then 15 s; an attempt is used up each time; the third decides only as described below"
	case stepLocal:
		text = "try again after a second; no attempt is used up"
	case stepAttribute:
		text = "ask whether others get it too; if so, all stop for `Retry-After` or a growing time (hold `throttled`), the rate is cut and no attempt is used up; if not, this link waits for `Retry-After` and an attempt is used up"
		if v.kind == ratelimit.Unauthorized {
			text = "ask whether others get it too; if so, this worker stops until the key is good (hold `unauthorized`) and no attempt is used up; if not, an attempt is used up, and the second one in the API's own form makes it `rejected`"
		}
	}
	if v.ambiguous && v.step != stepSettle {
		text += "; the attempt may have been applied, and is remembered so"
	}
	if after.step != v.step || after.outcome != v.outcome {
		text += "; if an earlier attempt may have been applied: " + describe(after, after)
	}
	return text
}

// statusesBut is from … to-1 without those.
func statusesBut(from, to int, but ...int) (all []int) {
	for s := from; s < to; s++ {
		if !slices.Contains(but, s) && s != http.StatusRequestTimeout && s != http.StatusTooEarly {
			all = append(all, s)
		}
	}
	return all
}
