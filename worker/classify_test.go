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

// answered is an answer of the API that is not what was asked for.
func answered(status int) *plexy.Error {
	return &plexy.Error{Method: "DELETE", Status: status, Code: "7", Message: "no"}
}

// told is such an answer with Retry-After.
func told(status int, after time.Duration) *plexy.Error {
	e := answered(status)
	e.RetryAfter, e.HasRetryAfter = after, true
	return e
}

var (
	errUnsent = &plexy.TransportError{Method: "DELETE", Err: errors.New("connection refused")}
	errCut    = &plexy.TransportError{Method: "DELETE", Sent: true, Err: errors.New("reset")}
)

const textNo = "code 7: no" // of answered

func TestClassifyCancel(t *testing.T) {
	var (
		settle    = verdict{step: stepSettle, text: textNo, kind: ratelimit.Proper}
		rejected  = verdict{step: stepDone, outcome: ledger.Rejected, text: textNo, kind: ratelimit.Proper}
		transient = verdict{step: stepRetry, ambiguous: true, text: textNo, kind: ratelimit.Transient}
	)
	for _, row := range []struct {
		statuses []int // the errors are made of them; 0: err as it is
		err      error
		want     verdict
		after    *verdict // if an earlier attempt was ambiguous; nil: the same
	}{
		{statuses: []int{204}, want: verdict{step: stepDone, outcome: ledger.Cancelled, kind: ratelimit.Proper}},
		{statuses: []int{200, 201, 202, 206, 299}, want: verdict{step: stepSettle, ambiguous: true, kind: ratelimit.Proper}},
		{statuses: []int{404}, want: verdict{step: stepDone, outcome: ledger.NotFound, kind: ratelimit.Proper}, after: &settle},
		{statuses: []int{422, 409, 410}, want: settle},
		{statuses: []int{400, 405, 402, 406, 411, 413, 418, 451, 499}, want: rejected, after: &settle},
		{statuses: []int{300, 301, 302, 303, 304, 307, 308}, want: rejected, after: &settle},
		{statuses: []int{401}, want: verdict{step: stepWait, text: textNo, kind: ratelimit.Unauthorized}},
		{statuses: []int{403}, want: verdict{step: stepForbidden, text: textNo, kind: ratelimit.Unauthorized}},
		{statuses: []int{429}, want: verdict{step: stepWait, text: textNo, kind: ratelimit.Throttled}},
		{
			err:  told(429, 7*time.Second),
			want: verdict{step: stepWait, status: 429, text: textNo, kind: ratelimit.Throttled, retryAfter: 7 * time.Second, hasRetry: true},
		},
		{
			err:  told(503, 0),
			want: verdict{step: stepWait, status: 503, ambiguous: true, text: textNo, kind: ratelimit.Throttled, hasRetry: true},
		},
		{
			err:  told(500, time.Second), // only a 503 is an invitation
			want: verdict{step: stepRetry, status: 500, ambiguous: true, text: textNo, kind: ratelimit.Transient, retryAfter: time.Second, hasRetry: true},
		},
		{statuses: []int{408, 425, 500, 501, 502, 503, 504, 520, 599}, want: transient},
		{err: errUnsent, want: verdict{step: stepRetry, text: errUnsent.Error(), kind: ratelimit.Transient}},
		{err: errCut, want: verdict{step: stepRetry, ambiguous: true, text: errCut.Error(), kind: ratelimit.Transient}},
		{
			err:  fmt.Errorf("wrapped: %w", errUnsent),
			want: verdict{step: stepRetry, text: "wrapped: " + errUnsent.Error(), kind: ratelimit.Transient},
		},
		{ // nobody knows: it may have been sent
			err:  errors.New("odd"),
			want: verdict{step: stepRetry, ambiguous: true, text: "odd", kind: ratelimit.Transient},
		},
	} {
		for _, ambiguous := range []bool{false, true} {
			statuses := row.statuses
			if statuses == nil {
				statuses = []int{0}
			}
			for _, status := range statuses {
				err, want := row.err, row.want
				if ambiguous && row.after != nil {
					want = *row.after
				}
				if status != 0 {
					want.status = status
					if status/100 != 2 {
						err = answered(status)
					}
				}
				got := classifyCancel(status, err, ambiguous)
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(verdict{})); diff != "" {
					t.Errorf("DELETE answered %d, %v; ambiguous before: %v\n%s", status, err, ambiguous, diff)
				}
			}
		}
	}
}

func TestClassifySettle(t *testing.T) {
	// What a link's status means, by what the DELETE was answered.
	type means struct {
		ambiguous bool
		status    string
		want      ledger.Outcome // None: active after a 2xx, cancel again
	}
	refused := func(o ledger.Outcome) []means {
		return []means{
			{false, "cancelled", ledger.AlreadyCancelled},
			{false, "canceled", ledger.AlreadyCancelled},
			{false, "CANCELLED", ledger.AlreadyCancelled},
			{true, "cancelled", ledger.Cancelled},
			{true, "Canceled", ledger.Cancelled},
			{false, "active", o}, {true, "active", o},
			{false, "paid", o}, {true, "paid", o},
			{false, "expired", o}, {true, "something new", o},
		}
	}
	for _, row := range []struct {
		deletes []int
		means   []means
	}{
		{[]int{422, 409, 410, 404}, refused(ledger.NotCancellable)},
		{[]int{400, 405, 403, 418, 302, 307}, refused(ledger.Rejected)},
		{[]int{200, 202}, []means{ // classifyCancel marks a 2xx as ambiguous
			{true, "cancelled", ledger.Cancelled},
			{true, "active", ledger.None},
			{true, "Active", ledger.None},
			{true, "paid", ledger.NotCancellable},
			{true, "expired", ledger.NotCancellable},
		}},
		{[]int{500, 503, 0}, []means{ // the last look before a link is failed
			{true, "cancelled", ledger.Cancelled},
			{false, "cancelled", ledger.AlreadyCancelled},
		}},
	} {
		for _, status := range row.deletes {
			for _, m := range row.means {
				want := verdict{step: stepDone, outcome: m.want, status: status, linkStatus: m.status, kind: ratelimit.Proper}
				if m.want == ledger.None {
					want.step, want.ambiguous = stepRetry, true
					want.text = fmt.Sprintf("answered %d, but the link is still active", status)
				}
				got := classifySettle(status, m.ambiguous, plexy.Link{Status: m.status}, nil)
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(verdict{})); diff != "" {
					t.Errorf("GET shows %s after a %d; ambiguous %v\n%s", m.status, status, m.ambiguous, diff)
				}
			}
		}
	}

	// Answers to the GET that are not the link. None of them makes the DELETE ambiguous.
	for _, row := range []struct {
		err  error
		want verdict
	}{
		{answered(401), verdict{step: stepWait, status: 401, text: textNo, kind: ratelimit.Unauthorized}},
		{answered(403), verdict{step: stepForbidden, status: 403, text: textNo, kind: ratelimit.Unauthorized}},
		{answered(429), verdict{step: stepWait, status: 429, text: textNo, kind: ratelimit.Throttled}},
		{told(429, time.Minute), verdict{step: stepWait, status: 429, text: textNo, kind: ratelimit.Throttled, retryAfter: time.Minute, hasRetry: true}},
		{told(503, time.Minute), verdict{step: stepWait, status: 503, text: textNo, kind: ratelimit.Throttled, retryAfter: time.Minute, hasRetry: true}},
		{answered(503), verdict{step: stepRetry, status: 503, text: textNo, kind: ratelimit.Transient}},
		{answered(500), verdict{step: stepRetry, status: 500, text: textNo, kind: ratelimit.Transient}},
		{answered(408), verdict{step: stepRetry, status: 408, text: textNo, kind: ratelimit.Transient}},
		{answered(425), verdict{step: stepRetry, status: 425, text: textNo, kind: ratelimit.Transient}},
		{errUnsent, verdict{step: stepRetry, text: errUnsent.Error(), kind: ratelimit.Transient}},
		{errCut, verdict{step: stepRetry, text: errCut.Error(), kind: ratelimit.Transient}},
		// Proper answers that tell nothing of the link.
		{answered(200), verdict{step: stepRetry, status: 200, text: textNo, kind: ratelimit.Proper}},
		{answered(302), verdict{step: stepRetry, status: 302, text: textNo, kind: ratelimit.Proper}},
		{answered(400), verdict{step: stepRetry, status: 400, text: textNo, kind: ratelimit.Proper}},
		{answered(410), verdict{step: stepRetry, status: 410, text: textNo, kind: ratelimit.Proper}},
		{answered(422), verdict{step: stepRetry, status: 422, text: textNo, kind: ratelimit.Proper}},
	} {
		for _, ambiguous := range []bool{false, true} {
			got := classifySettle(422, ambiguous, plexy.Link{}, row.err)
			if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(verdict{})); diff != "" {
				t.Errorf("GET: %v; ambiguous %v\n%s", row.err, ambiguous, diff)
			}
		}
	}
	for ambiguous, note := range map[bool]string{false: "", true: noteGone} {
		want := verdict{step: stepDone, outcome: ledger.NotFound, status: 422, text: note, kind: ratelimit.Proper}
		got := classifySettle(422, ambiguous, plexy.Link{}, answered(404))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(verdict{})); diff != "" {
			t.Errorf("GET answered 404; ambiguous %v\n%s", ambiguous, diff)
		}
	}
}

func TestErrorText(t *testing.T) {
	for want, e := range map[string]*plexy.Error{
		"code 5: paid": {Status: 422, Code: "5", Message: "paid"},
		"code 5":       {Status: 422, Code: "5"},
		"Bad Gateway":  {Status: 502, Message: "Bad Gateway"},
		"HTTP 502":     {Status: 502},
	} {
		if got := errorText(e); got != want {
			t.Errorf("errorText(%+v) = %q, want %q", e, got, want)
		}
	}
}

// Every answer is one of a kind that the limiter knows, and a link with an
// outcome has had a proper one.
func TestEveryStatusIsClassified(t *testing.T) {
	for status := 100; status < 1000; status++ {
		for _, ambiguous := range []bool{false, true} {
			var err error
			if status/100 != 2 {
				err = answered(status)
			}
			v := classifyCancel(status, err, ambiguous)
			if (v.outcome != ledger.None) != (v.step == stepDone) {
				t.Errorf("%d: step %d with outcome %v", status, v.step, v.outcome)
			}
			if v.step == stepDone && v.kind != ratelimit.Proper || v.kind == ratelimit.Unused {
				t.Errorf("%d: step %d, kind %v", status, v.step, v.kind)
			}
			if v.outcome == ledger.Cancelled && status != 204 {
				t.Errorf("%d: cancelled without proof", status)
			}
			if ambiguous && (v.outcome == ledger.NotFound || v.outcome == ledger.AlreadyCancelled) {
				t.Errorf("%d: %v, though it may be the echo of our own cancel", status, v.outcome)
			}
			answer := v.answer("l1")
			if answer.Kind != v.kind || answer.Link != "l1" {
				t.Errorf("%d: answer %+v", status, answer)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	for n := 1; n <= 200; n++ {
		most := backoffMost
		if n <= 9 {
			most = min(most, 2*time.Second<<(n-1))
		}
		var largest time.Duration
		for range 300 {
			d := backoff(n)
			if d < 0 || d >= most {
				t.Fatalf("backoff(%d) = %v, want 0 to %v", n, d, most)
			}
			largest = max(largest, d)
		}
		if largest < most*8/10 {
			t.Errorf("backoff(%d): %v at most in 300 draws, want nearly %v", n, largest, most)
		}
	}
}

// ---- the table of answers in README.md

const (
	answersBegin = "<!-- answers -->\n"
	answersEnd   = "<!-- /answers -->"
)

// TestREADMEAnswers keeps the table of answers in README.md as the code has it;
// UPDATE=1 writes it.
func TestREADMEAnswers(t *testing.T) {
	const path = "../README.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), answersBegin)
	old, tail, ok2 := strings.Cut(rest, answersEnd)
	if !ok || !ok2 {
		t.Fatalf("README.md has no place for the table of answers: add the lines %q and %q, then UPDATE=1 go test -run TestREADME ./worker", strings.TrimSpace(answersBegin), answersEnd)
	}
	table := renderAnswers(t)
	if old == table {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("README.md differs from the code: make docs writes it.\n%s", cmp.Diff(old, table))
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
	for _, row := range []struct {
		label    string
		statuses []int
		errs     []error
		also     string
	}{
		{label: "204", statuses: []int{204}},
		{label: "any other 2xx", statuses: statusesBut(200, 300, 204), also: "a proxy's friendly page is no proof"},
		{label: "3xx", statuses: statusesBut(300, 400), also: "a redirect is never followed"},
		{label: "404", statuses: []int{404}},
		{label: "409, 410, 422", statuses: []int{409, 410, 422}, also: "the DELETE is not sent again"},
		{label: "400, 405, any other 4xx", statuses: statusesBut(400, 500, 401, 403, 404, 408, 409, 410, 422, 425, 429), also: "with the API's code and message"},
		{label: "401", statuses: []int{401}, also: "the key is wrong, not the link"},
		{label: "403", statuses: []int{403}, also: "a link that gets it twice, while another link got a proper answer in between, is `rejected`"},
		{label: "429", statuses: []int{429}, errs: []error{told(429, time.Second)}},
		{label: "503 with `Retry-After`", errs: []error{told(503, time.Second)}},
		{label: "408, 425, any other 5xx", statuses: append(statusesBut(500, 600), 408, 425)},
		{label: "no connection: dial, DNS, TLS", errs: []error{errUnsent}, also: "nothing was sent"},
		{label: "no answer: time-out, reset, cut off", errs: []error{errCut}},
	} {
		var texts []string
		add := func(status int, err error) {
			text := describe(classifyCancel(status, err, false), classifyCancel(status, err, true))
			if !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
		for _, status := range row.statuses {
			if described[status] != "" {
				t.Errorf("%d stands in the rows %q and %q", status, described[status], row.label)
			}
			described[status] = row.label
			var err error
			if status/100 != 2 {
				err = answered(status)
			}
			add(status, err)
		}
		for _, err := range row.errs {
			add(0, err)
		}
		if len(texts) != 1 {
			t.Errorf("the row %q has answers of %d kinds: %q", row.label, len(texts), texts)
		}
		if row.also != "" {
			texts[0] += "; " + row.also
		}
		fmt.Fprintf(&b, "| %s | %s |\n", row.label, texts[0])
	}
	for status := 200; status < 600; status++ {
		if described[status] == "" {
			t.Errorf("%d (%s) stands in no row", status, http.StatusText(status))
		}
	}

	b.WriteString("\n*Ask for the link* is a GET; it decides:\n\n| the GET shows | outcome |\n|---|---|\n")
	shown := func(deleted int, ambiguous bool, status string) string {
		v := classifySettle(deleted, ambiguous, plexy.Link{Status: status}, nil)
		if v.step == stepRetry {
			return "the DELETE is sent again"
		}
		return "`" + v.outcome.String() + "`"
	}
	fmt.Fprintf(&b, "| cancelled | %s if an attempt of ours may have done it, else %s |\n",
		shown(422, true, "cancelled"), shown(422, false, "cancelled"))
	fmt.Fprintf(&b, "| active, paid, expired or any other status | %s, with that status; after a refusal such as 400: %s; still active after a 2xx: %s |\n",
		shown(422, false, "paid"), shown(400, true, "paid"), shown(200, true, "active"))
	gone := classifySettle(422, true, plexy.Link{}, answered(404))
	fmt.Fprintf(&b, "| 404 | `%s`; after an attempt that may have been applied with the note \"%s\" |\n", gone.outcome, gone.text)
	never := script{attempts: 1, calls: []call{{"DELETE", 422, answered(422), ""}, {"GET", 0, errCut, ""}}}
	l := never.run(t, &link{id: "l1"})
	fmt.Fprintf(&b, "| no usable answer, as often as it is tried | `%s`, status `%s` |\n\n", l.record.Outcome, l.status)
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
	case stepWait, stepForbidden:
		text = "send again after the hold; no attempt is used up"
		if v.kind == ratelimit.Unauthorized {
			text = "this worker stops until the key is good (hold `unauthorized`); no attempt is used up"
		} else if v.kind == ratelimit.Throttled {
			text = "too fast: all stop for `Retry-After` or a growing time (hold `throttled`), the rate is cut; no attempt is used up"
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
