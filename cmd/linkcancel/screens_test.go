package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/status"
)

// TestDocsScreens holds docs/screens.md to what the program prints. UPDATE=1 writes it.
func TestDocsScreens(t *testing.T) {
	const path = "../../docs/screens.md"
	var b strings.Builder
	b.WriteString(`# Screens

What the program prints, and what it asks the reader to do. A test holds this page to the program.
`)
	section := func(title, about, text string) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```\n%s\n```\n", title, about, strings.TrimRight(text, "\n"))
	}
	section("Confirmation", "`linkcancel run stale.csv --skip-invalid`", screenPreview(t)+question{}.about(300).prompt())
	section("A batch for the workers", "`linkcancel import stale.csv`: with the links that wait elsewhere, and what the workers have to do already", screenImport(t)+question{}.about(1500).prompt())
	section("Dry run", "`linkcancel run stale.csv --skip-invalid --dry-run`", screenPreview(t)+screenRehearsed())
	for _, columns := range []int{60, 80, 120} {
		section(fmt.Sprintf("Progress at %d columns", columns), "While links are cancelled, and while sending is on hold", screenProgress(columns))
	}
	section("Result with problems", "The reasons, what may still be payable, and the next command", screenResult(false))
	section("After Ctrl-C", "Requests in flight are finished, and the report is written", screenResult(true))
	section("After a closed terminal", "`linkcancel run stale.csv`, when a run of the same file has not ended", screenUnfinished())
	section("The same with --yes, or without a terminal", "`linkcancel run stale.csv --yes`", screenRefused())
	section("Sweep status", "`linkcancel sweep status`", screenSweeps())
	section("Check", "`linkcancel check`, when all is well", screenCheck(t, http.StatusOK, ""))
	section("Check: the key is refused", "The API answers, and does not accept the key", screenCheck(t, http.StatusUnauthorized, `{"code":2,"message":"invalid api key"}`))
	section("Check: something else answers", "A proxy, or a wrong URL", screenCheck(t, http.StatusNotFound, "<html><head><title>404 Not Found</title></head></html>"))
	section("Check: the API is down", "The URL is right, and the API has a problem", screenCheck(t, http.StatusServiceUnavailable, `{"code":1,"message":"service unavailable"}`))
	section("Check: Redis, clocks and workers", "One problem of each kind", screenRedis())
	got := b.String()
	want, err := os.ReadFile(path)
	if string(want) == got {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("docs/screens.md is out of step (%v): make docs\n%s", err, cmp.Diff(string(want), got))
	}
	if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// input reads a file of n links in a second column, with a duplicate and six bad rows.
func input(t *testing.T, n int) (*importer.CSV, importer.Stats) {
	var text strings.Builder
	text.WriteString("Заказ,Ссылка\n")
	for i := range n {
		fmt.Fprintf(&text, "%d,pl_%032x\n", i, i)
	}
	text.WriteString("0,pl_00000000000000000000000000000000\n")
	for range 6 {
		text.WriteString("x,a/b\n")
	}
	src, err := importer.OpenCSV(importer.CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(text.String()), SkipInvalid: true})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := countAll(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	return src, stats
}

func screenPreview(t *testing.T) string {
	src, stats := input(t, 300)
	var b strings.Builder
	preview{files: []string{"stale.csv"}, about: src.About, api: plexy.DefaultBaseURL, key: "1a2b3c from PLEXY_API_KEY", rate: 10}.print(&b, stats)
	return b.String()
}

func screenImport(t *testing.T) string {
	src, stats := input(t, 1500)
	var b strings.Builder
	preview{
		files: []string{"stale.csv", "more.csv"}, about: src.About, api: plexy.DefaultBaseURL, rate: 20, ahead: 4000,
		elsewhere: map[string]int64{"march": 120, "sweep-2026-03-01": 3},
	}.print(&b, stats)
	return b.String()
}

// troubled is a batch with problems.
func troubled() ledger.Batch {
	b := ledger.Batch{
		ID: "20260301-120000-0a1b2c", State: ledger.Done, Source: importer.SourceRun, Name: "stale.csv", Total: 594, Duplicates: 1, Invalid: 6,
		Started: time.Unix(0, 0), Finished: time.Unix(61, 0),
	}
	b.Counts[ledger.Cancelled], b.Counts[ledger.AlreadyCancelled], b.Counts[ledger.NotFound] = 500, 3, 4
	b.Counts[ledger.NotCancellable], b.Counts[ledger.Rejected], b.Counts[ledger.Failed] = 45, 20, 22
	return b
}

func screenProgress(columns int) string {
	b := troubled()
	b.State, b.Total = ledger.Running, 1_234_567
	p := &progress{batch: b, movement: func(ledger.Batch) status.Movement { return status.Movement{Beside: "limit 15/s of 20/s"} }}
	at := time.Unix(1000, 0)
	for s := range 10 {
		p.pace.Add(at.Add(time.Duration(s)*time.Second), int64(s)*15)
	}
	plain := &terminal{unicode: true}
	text := fit(plain, columns, p.segments(plain)) + "\n"
	p.movement = func(ledger.Batch) status.Movement {
		return status.Movement{Stopped: "on hold: outage, next try in 3 s: GET answered 503 (Service Unavailable)"}
	}
	return text + fit(plain, columns, p.segments(plain))
}

func screenResult(interrupted bool) string {
	s := summary{Batch: troubled(), Result: status.Result{
		Statuses: status.LinkStatuses{"expired": 40, "paid": 5}, Payable: 42, Unknown: 22,
		Reasons: []status.ReasonCount{
			{Outcome: ledger.NotFound, HTTPStatus: 404, Text: "code 4: payment link not found", Links: 4},
			{Outcome: ledger.Rejected, HTTPStatus: 400, Text: "code 3: invalid request params", Links: 20},
			{Outcome: ledger.Failed, HTTPStatus: 500, Text: "code 1: service unavailable", Links: 20},
			{Outcome: ledger.Failed, Text: "connection refused", Links: 2},
		},
	}, interrupted: interrupted, skipped: 6}
	if interrupted {
		s.State, s.Total, s.Finished = ledger.Running, 831, time.Time{}
		s.Payable, s.Unknown = 279, 259
	}
	var b strings.Builder
	a := &cliApp{stderr: &b}
	_ = a.finished(&b, s, "stale.csv.20260301-120000-0a1b2c.csv")
	return strings.TrimLeft(b.String(), "\n")
}

func screenRehearsed() string {
	const id = "pl_00000000000000000000000000000000"
	var b strings.Builder
	probe{text: linkText(id, plexy.Link{Status: "active", ExpiresAt: time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)})}.printRehearsed(&b)
	return b.String()
}

func screenUnfinished() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stale.csv has an unfinished run: %s.\n", doneText(63, 300))
	preview{api: plexy.DefaultBaseURL, key: "1a2b3c from PLEXY_API_KEY", rate: 10}.printAPI(&b, 237)
	b.WriteString(resumeQuestion(237).prompt())
	return b.String()
}

func screenRefused() string {
	var b strings.Builder
	a := &cliApp{stdout: &b, stderr: &b}
	a.report(context.Background(), refuseSecond("stale.csv", doneText(63, 300), "stale.csv.20260301-120000-0a1b2c.csv", "linkcancel run stale.csv"))
	return b.String()
}

func screenSweeps() string {
	due := time.Date(2026, 3, 1, 21, 0, 0, 0, time.UTC)
	ended := due.Add(23 * time.Second)
	next := due.Add(24 * time.Hour)
	view := status.ViewOf(ledger.Batch{ID: "sweep-2026-03-02", State: ledger.Done, Total: 204})
	view.Outcomes["cancelled"], view.Outcomes["not_found"] = 200, 4
	view.Pending = 0
	var b strings.Builder
	printSweeps(&b, status.SweepsView{
		Schedule: "0 2 * * * Asia/Almaty", Next: &next,
		Last: &status.SweepRunView{
			Due: &due, Started: &due, Ended: &ended, OK: true, By: "host-1-ab", Listed: 4919, Selected: 204, Batch: &view,
			LeftOut: map[string]int64{"status": 4500, "not_expired": 200, "waiting": 15},
		},
		Command: &status.SweepRunView{Due: &due, Started: &due, Ended: &ended, By: "ann@ops1", Error: "the API refused the key: GET answered 401 (Unauthorized)"},
	}, due.Add(10*time.Hour))
	return b.String()
}

var took = regexp.MustCompile(`answered in \d+ ms`)

// screenCheck is what check prints about an API that gives one answer.
func screenCheck(t *testing.T, code int, body string) string {
	const id = "pl_00000000000000000000000000000000"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(body, "<") {
			w.Header().Set("Content-Type", "text/html")
		}
		w.WriteHeader(code)
		link := `{"id":"` + id + `","status":"active"}`
		switch {
		case body != "":
			_, _ = w.Write([]byte(body))
		case strings.HasSuffix(r.URL.Path, id):
			_, _ = w.Write([]byte(link))
		default:
			_, _ = w.Write([]byte(`{"data":[` + link + `],"total":1}`))
		}
	}))
	defer server.Close()
	t.Setenv("PLEXY_API_KEY", "sk-screens-0123456789")
	var b strings.Builder
	k := &checker{a: &cliApp{stdout: &b, stderr: &b, secrets: &clean.Secrets{}}}
	c := checkCmd{apiFlags: apiFlags{BaseURL: server.URL + "/v1", Timeout: 5 * time.Second}}
	c.checkAPI(context.Background(), k.a, k)
	text := strings.ReplaceAll(b.String(), server.URL, "https://api.example.com")
	return took.ReplaceAllString(text, "answered in 40 ms")
}

func screenRedis() string {
	var b strings.Builder
	k := &checker{a: &cliApp{stdout: &b}}
	now := time.Unix(1000, 0)
	k.failed("Redis", fmt.Errorf("Redis at redis://127.0.0.1:6379/0 %w: dial tcp 127.0.0.1:6379: connect: connection refused", broker.ErrNoAnswer))
	k.add("policy", warning, "Redis may evict links when memory is short (maxmemory-policy allkeys-lru): set it to noeviction", "")
	k.add("permissions", problem, "NOPERM User linkcancel has no permissions to run the 'eval' command (EVAL: grant +eval)", permissionAdvice)
	k.clock("Redis clock", now, now.Add(9*time.Second))
	k.add("workers", problem, "they work for https://other.example.com/v1, and --base-url is https://api.plexypay.com/v1", fleetAdvice)
	return b.String()
}
