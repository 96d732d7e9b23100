package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/producer/sweep"
)

func TestSelectionFlags(t *testing.T) {
	days := func(n int) *span { s := span(n) * span(24*time.Hour); return &s }
	const day = 24 * time.Hour
	for _, test := range []struct {
		flags selectionFlags
		want  sweep.Selection
	}{
		{selectionFlags{}, sweep.Selection{Expired: true, Grace: day}},
		{selectionFlags{Expired: true}, sweep.Selection{Expired: true, Grace: day}},
		{selectionFlags{Grace: days(0)}, sweep.Selection{Expired: true}},
		{selectionFlags{OlderThan: days(30)}, sweep.Selection{OlderThan: 30 * day, Grace: day}},
		{selectionFlags{Expired: true, OlderThan: days(30)}, sweep.Selection{Expired: true, OlderThan: 30 * day, Grace: day}},
		{selectionFlags{Expired: true, OlderThan: days(30), Grace: days(2)}, sweep.Selection{Expired: true, OlderThan: 30 * day, Grace: 2 * day}},
	} {
		test.flags.Status, test.flags.Max = " Active ", 5
		test.want.Status, test.want.Max = "Active", 5
		got, err := test.flags.selection("")
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%+v: %v %s", test.flags, err, diff)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%+v: %v", test.flags, err)
		}
	}
}

// However many statuses the API has, the plan stays short and adds up.
func TestPrintPlanOfManyStatuses(t *testing.T) {
	p := sweep.Plan{Listed: 1000, Requests: 1, Passes: 1, Unusable: 2, Settled: 7, Selected: 12}
	for i := range 25 {
		p.ByStatus = append(p.ByStatus, sweep.StatusCount{Status: fmt.Sprint("status-", i), Links: 40})
	}
	p.ByStatus[1].Status = ""
	var b strings.Builder
	printPlan(&b, sweep.Selection{Status: "active", OlderThan: time.Hour}, p)
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, want := range map[int]string{
		0:  "Listed 1,000 links, and 2 entries without a usable id (1 page)",
		2:  "  (no status)                           40",
		21: "  5 other statuses                     200",
		22: "Left out",
		26: "  waiting in an unfinished batch         0",
		27: "  finished in another batch meanwhile    7",
		28: "Selected                                12",
	} {
		if len(lines) != 29 || lines[i] != want {
			t.Fatalf("line %d of %d, want %q:\n%s", i, len(lines), want, &b)
		}
	}
}

// What is wrong with the dates of a list is on the screen, with and without a dry
// run, in the JSON, and in the exit code.
func TestSweepDatesAreTold(t *testing.T) {
	t.Parallel()
	const fine, bad = `"2025-03-14T00:00:00Z"`, `"soon\u001b[31m"`
	for name, test := range map[string]struct {
		expiries []string
		code     int
		json     string
		told     []string // regular expressions
	}{
		"without a zone": {[]string{`"2025-03-14"`, `"2025-03-14 00:00:00"`, fine}, 0, `"selected":3`, []string{
			`Warning: dates of links name no time zone: each counts as the latest instant that it can mean \(links: 2, example: 2025-03-14\)\n`,
			`(?m)^Selected +3$`,
		}},
		"some unreadable": {[]string{bad, fine, fine}, 0, `"unreadable_expiry":1,`, []string{
			`Warning: dates of links cannot be read: these links are not selected \(unreadable: 1, readable: 2, example: soon \[31m\)\n`,
			`(?m)^  with an expiry that cannot be read +1$`, `(?m)^Selected +2$`,
		}},
		"most unreadable": {[]string{bad, fine, `{"at":1}`}, 1, `"unreadable_expiry":2,`, []string{
			`\(unreadable: 2, readable: 1, example: soon \[31m\)\n`, `(?m)^  with an expiry that cannot be read +2$`,
			`the sweep cannot read the expiry of 2 of 3 links, such as \\?"soon \[31m\\?": nothing was done(\nhint: |","hint":")--older-than TIME`,
		}},
		"none": {[]string{`null`, `0`}, 0, `"no_expiry":2,`, []string{
			`Warning: the sweep selects by expiry, and no link of the wanted status has one \(status: active, links: 2\)\n`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var links []string
			for i, expiry := range test.expiries {
				links = append(links, fmt.Sprintf(`{"id":"pl_%032x","status":"active","expiresAt":%s}`, i, expiry))
			}
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"data":{"items":[%s],"total":%d}}`, strings.Join(links, ","), len(links))
			}))
			defer api.Close()
			p := program{t: t, dir: t.TempDir(), env: []string{
				"PLEXY_API_KEY=" + apiKey, "PLEXY_BASE_URL=" + api.URL, "LINKCANCEL_REDIS_URL=" + redistest.Start(t),
			}}
			for _, flags := range [][]string{{"--dry-run"}, {"--dry-run", "--json"}, {"--yes"}} {
				cmd := p.command(append([]string{"sweep", "--rate", "1000/s"}, flags...)...)
				var out, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errs
				_ = cmd.Run()
				shown := out.String() + errs.String()
				checkShown(t, name, shown)
				if code := cmd.ProcessState.ExitCode(); code != test.code {
					t.Errorf("%v: exit %d, want %d: %s", flags, code, test.code, shown)
				}
				for _, want := range test.told {
					if !regexp.MustCompile(want).MatchString(shown) {
						t.Errorf("%v: %s is not in %s", flags, want, shown)
					}
				}
				if flags[len(flags)-1] == "--json" && !strings.Contains(out.String(), test.json) {
					t.Errorf("%s is not in %s", test.json, &out)
				}
			}
		})
	}
}

func TestListProgressLine(t *testing.T) {
	held := ratelimit.Status{}
	p := newListProgress(&strings.Builder{})
	p.limit = func() ratelimit.Status { return held }
	line := func(now sweep.ListProgress) string {
		p.update(now)
		return p.line()
	}
	failed := errors.New("GET answered 500")
	for _, test := range []struct {
		now  sweep.ListProgress
		hold ratelimit.Hold
		want string
	}{
		{sweep.ListProgress{Pass: 1}, ratelimit.Hold{}, "Reading the list: 0 links, 0 pages"},
		{sweep.ListProgress{Pass: 1, Requests: 1, Links: 50, InPass: 50, Total: 1200}, ratelimit.Hold{}, "Reading the list: 50 links of 1,200, 1 page"},
		{sweep.ListProgress{Pass: 1, Requests: 3, Links: 150, InPass: 150, Total: 50}, ratelimit.Hold{}, "Reading the list: 150 links, 3 pages"},
		{sweep.ListProgress{Pass: 2, Requests: 30, Links: 1200, InPass: 20, Total: 1200}, ratelimit.Hold{}, "Reading the list again, for links that moved: 20 links of 1,200, 30 pages"},
		{sweep.ListProgress{Pass: 1, Err: failed}, ratelimit.Hold{}, "Reading the list: 0 links, 0 pages  again: GET answered 500"},
		{sweep.ListProgress{Pass: 1, Err: failed, Wait: time.Hour}, ratelimit.Hold{}, "Reading the list: 0 links, 0 pages  again in 1 h 00 min: GET answered 500"},
		{sweep.ListProgress{Pass: 1, Err: failed, Wait: time.Hour}, ratelimit.Hold{Reason: ratelimit.ReasonManual}, "Reading the list: 0 links, 0 pages  on hold: manual"},
	} {
		held.Hold = test.hold
		if got := line(test.now); got != test.want {
			t.Errorf("%+v: %q, want %q", test.now, got, test.want)
		}
	}
}

func TestMoney(t *testing.T) {
	for _, tt := range []struct {
		amount   int64
		currency string
		want     string
	}{
		{0, "KZT", "-"},
		{587_600, "KZT", "5,876.00 KZT"},
		{5, "USD", "0.05 USD"},
		{1_234_567, "JPY", "1,234,567 JPY"},
		{1_234_567, "KWD", "1,234.567 KWD"},
		{1_234, "???", "1,234 minor units ???"},
		{1_234, "", "1,234 minor units"},
	} {
		if got := money(sweep.Link{Amount: tt.amount, Currency: tt.currency}); got != tt.want {
			t.Errorf("%d %s: %q, want %q", tt.amount, tt.currency, got, tt.want)
		}
	}
}
