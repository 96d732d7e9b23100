// Package browser tests the page in a real Chromium. It is a module of its own, so that the product
// depends on none of what it needs.
package browser

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/testutil"
	"linkcancel/web"
)

// chromium returns the browser. In CI there must be one.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("there is no chromium")
	}
	t.Skip("left out: the page in a browser (apt-get install chromium to have it)")
	return ""
}

// Tokens of those who look, and of those who may change something.
const viewer, operator = "a-token-of-the-test", "an-operator-of-the-test"

// site is a page with its Redis.
type site struct {
	*testing.T
	ledger *ledger.Ledger
	broker *broker.Broker
	url    string // with the token
	brief  bool   // as demo serves it
	stop   func()
}

// newSite makes a page with an embedded Redis.
func newSite(t *testing.T) *site {
	t.Helper()
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	return newSiteOn(t, b)
}

func newSiteOn(t *testing.T, b *broker.Broker) *site {
	t.Helper()
	s := &site{T: t, broker: b, ledger: ledger.New(b.Client()), brief: true}
	s.stop = s.serve("127.0.0.1:0")
	t.Cleanup(s.stop)
	return s
}

// serve serves the page until stop is called.
func (s *site) serve(address string) (stop func()) {
	s.Helper()
	server, listener, err := web.Listen(s.Context(), web.Config{
		Redis: s.broker.Client(), Ledger: s.ledger, Log: slog.New(slog.DiscardHandler),
		Access: web.Access{Viewer: viewer, Operator: operator, Actions: true}, Hosts: []string{"links.test"}, Brief: s.brief,
	}, address)
	testutil.Must(s, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	s.url = server.URL(viewer)
	return sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			s.Error(err)
		}
	})
}

// address is that of a page, with the token of a viewer.
func (s *site) address(path string) string { return s.addressFor(viewer, path) }

func (s *site) addressFor(token, path string) string {
	base, _, _ := strings.Cut(s.url, "/?")
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return base + path + separator + "token=" + token
}

// batch makes a batch whose first links have outcomes.
func (s *site) batch(id, name string, links, ended int) {
	s.Helper()
	created := time.Now().Add(-10 * time.Minute)
	_, err := importer.MakeBatch(s.Context(), s.ledger, &importer.Links{IDs: testutil.LinkIDs(links)}, importer.BatchConfig{
		ID: id, Source: importer.SourceImport, Name: name, File: name, By: history.By{Actor: "ann@desk", Reason: "ticket 17"}, Created: created,
		Restore: func(chunk, n int) ([]ledger.Record, map[int]string, error) {
			records, texts := make([]ledger.Record, n), map[int]string{}
			for i := range records {
				position := chunk*ledger.ChunkLinks + i
				if position >= ended {
					break
				}
				records[i] = ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: uint32(position * 500 / max(1, ended))}
				switch position % 50 {
				case 7:
					records[i].Outcome, records[i].HTTPStatus, texts[i] = ledger.Rejected, 400, "code 3: bad request"
				case 13:
					records[i].Outcome, records[i].Attempts, records[i].HTTPStatus, texts[i] = ledger.Failed, 12, 500, "code 1: internal server error"
				case 21:
					records[i].Outcome = ledger.AlreadyCancelled
				case 33:
					records[i].Outcome, records[i].HTTPStatus = ledger.NotFound, 404
				}
			}
			return records, texts, nil
		},
	})
	testutil.Must(s, err)
}

// hostileBatch makes a batch whose texts are all the same. One link is rejected with it.
func (s *site) hostileBatch(id, text string) {
	s.Helper()
	_, err := importer.MakeBatch(s.Context(), s.ledger, &importer.Links{IDs: testutil.LinkIDs(3)}, importer.BatchConfig{
		ID: id, Source: importer.SourceImport, Name: text, File: text, By: history.By{Actor: text, Reason: text},
		Restore: func(_, n int) ([]ledger.Record, map[int]string, error) {
			records := make([]ledger.Record, n)
			records[0] = ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 400, After: 3}
			return records, map[int]string{0: text}, nil
		},
	})
	testutil.Must(s, err)
}

// fill makes what a busy fleet has.
func (s *site) fill() {
	s.Helper()
	ctx := s.Context()
	s.batch("march", "stale links of March, with a rather long name.csv", 2400, 1500)
	s.batch("april", "april.csv", 600, 600)
	s.batch("may", "may.csv", 100, 0)
	b, err := s.ledger.Get(ctx, "march")
	testutil.Must(s, err)
	testutil.Must(s, s.ledger.Start(ctx, &b, 1, 50, "worker-1"))
	_, _, err = s.ledger.Pause(ctx, "may", history.By{Actor: "ann@desk", Reason: "the wrong column"})
	testutil.Must(s, err)
	testutil.Must(s, s.ledger.Heartbeat(ctx, ledger.WorkerBeat{ID: "worker-1", Rate: 50, API: "api.plexypay.com", Version: "v1.0.0", Key: "1a2b3c", InFlight: 3, TookMillis: 41}))
	testutil.Must(s, ratelimit.SetFleetRate(ctx, s.broker.Client(), 50, history.By{Actor: "bob@desk"}))
	testutil.Must(s, s.ledger.NoteCommandSweep(ctx, ledger.SweepRun{
		Due: time.Now(), Started: time.Now(), Ended: time.Now(), OK: true, Batch: "april",
		Counts: ledger.SweepCounts{Listed: 9000, Selected: 600, By: "ann@desk", LeftOut: map[string]int64{"status": 8000, "not_expired": 400}},
	}, history.By{Actor: "ann@desk"}, "9,000 listed, 600 selected: batch april"))
}

// tab is a tab of a browser of its own.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // what the browser has complained about
}

func newTab(t *testing.T, options ...chromedp.ExecAllocatorOption) *tab {
	t.Helper()
	options = append(append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.NoSandbox), options...)
	ctx, cancelBrowser := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancelBrowser)
	ctx, cancelTab := chromedp.NewContext(ctx)
	t.Cleanup(cancelTab)
	return watched(t, ctx)
}

// watched is a tab whose complaints are noted.
func watched(t *testing.T, ctx context.Context) *tab {
	t.Helper()
	b := &tab{T: t, ctx: ctx}
	testutil.Must(t, chromedp.Listen(ctx, b.note))
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	b.do(command(log.Enable, cdp.Empty{}), command(runtime.Enable, cdp.Empty{}))
	return b
}

// another is another tab of the same browser.
func (b *tab) another() *tab {
	b.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	b.Cleanup(cancel)
	return watched(b.T, ctx)
}

// note notes what the browser complains about.
func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, fmt.Sprintf("%+v", e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			b.problems = append(b.problems, fmt.Sprintf("console: %+v", e.Args))
		}
	}
}

// command is an action that sends a command to the browser.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, c, params)
		return chromedp.Void{}, err
	}
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	testutil.Must(b, chromedp.Do(b.ctx, actions...))
}

// get runs an action that has a result.
func get[T any](b *tab, action chromedp.Action[T]) T {
	b.Helper()
	value, err := chromedp.Run(b.ctx, action)
	testutil.Must(b, err)
	return value
}

// text is the text of the page.
func (b *tab) text() string {
	b.Helper()
	return get(b, chromedp.Evaluate[string](`document.body?.innerText ?? ""`))
}

// until waits for a text on the page.
func (b *tab) until(want string) {
	b.Helper()
	for deadline := time.Now().Add(15 * time.Second); !strings.Contains(b.text(), want); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%q does not come up in:\n%s", want, b.text())
		}
	}
}

// quiet checks that the browser had nothing to complain about.
func (b *tab) quiet() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, problem := range b.problems {
		b.Error(problem)
	}
}

//go:embed testdata/axe-core/axe.min.js
var axe string

// violation is what axe has found.
type violation struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// accessible checks a page by the rules of WCAG 2.2, A and AA.
func (b *tab) accessible(name string) {
	b.Helper()
	result := get(b, chromedp.Evaluate[string](axe+`;axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}).then((r) => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise))
	var found []violation
	testutil.Must(b, json.Unmarshal([]byte(result), &found))
	for _, v := range found {
		b.Errorf("%s: %s (%s): %+v", name, v.Help, v.ID, v.Nodes)
	}
}

var pages = []string{"/", "/?state=done", "/batches/march", "/batches/april", "/batches/may", "/batches/march/links?outcome=failed", "/rate", "/sweeps", "/activity", "/batches/none", "/link", "/link?q=" + testutil.LinkID(0)}

// Every page can be used by all, light and dark, wide and narrow.
func TestAccessible(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := newTab(t)
	for _, look := range []struct {
		name   string
		width  int64
		scheme string
	}{{"light", 1440, "light"}, {"dark", 768, "dark"}, {"narrow", 320, "light"}, {"narrow and dark", 320, "dark"}} {
		for _, path := range pages {
			// Operators see the same, and forms.
			b.do(chromedp.EmulateViewport(look.width, 900),
				command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}}}),
				chromedp.Navigate(s.addressFor(operator, path)), chromedp.WaitVisible(chromedp.CSS("main")),
				chromedp.Evaluate[chromedp.Void](`for (const d of document.querySelectorAll("details")) d.open = true`))
			b.accessible(path + " " + look.name)
			if wide := get(b, chromedp.Evaluate[int64](`document.documentElement.scrollWidth`)); wide > look.width {
				t.Errorf("%s %s: the page is %d wide", path, look.name, wide)
			}
		}
	}
}

// An open page follows the batch, without an error in the console, to the end of the server.
func TestLive(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", 4, 1)
	b := newTab(t)
	b.do(chromedp.Navigate(s.address("/batches/march")))
	b.until("no worker is running")
	b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("h1").dataset.mine = "1"`))
	commit := func(position int) {
		c := s.ledger.Commit(t.Context(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Position: position, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}}}})
		testutil.Must(t, c[0].Err)
	}
	commit(1)
	b.until("50%")
	title, marked := get(b, chromedp.Title()), get(b, chromedp.Evaluate[bool](`document.querySelector("h1").dataset.mine === "1"`))
	if title != "50% · stale.csv · linkcancel" || !marked {
		t.Errorf("the title is %q; the page is the same: %v", title, marked)
	}
	if address := get(b, chromedp.Location()); strings.Contains(address, "token") {
		t.Errorf("the address is %s", address)
	}
	_, _, err := s.ledger.Pause(t.Context(), "march", history.By{Actor: "ann@desk", Reason: "lunch"})
	testutil.Must(t, err)
	b.until("paused: by ann@desk: lunch")
	_, _, err = s.ledger.Resume(t.Context(), "march", history.By{Actor: "ann@desk"})
	testutil.Must(t, err)
	commit(2)
	commit(3)
	b.until("100%")
	b.until("May be payable")
	s.stop()
	b.until("The server has ended. These are its last numbers.")
	b.quiet()
}

// Without JavaScript the page is there, and loads itself again.
func TestWithoutJavaScript(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", 4, 1)
	b := newTab(t)
	b.do(command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}), chromedp.Navigate(s.address("/batches/march")), chromedp.WaitVisible(chromedp.CSS("main")))
	c := s.ledger.Commit(t.Context(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Position: 1, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}}}})
	testutil.Must(t, c[0].Err)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		percent, _ := chromedp.Run(b.ctx, chromedp.Text(chromedp.CSS(`[data-live="percent"]`))) // it may be loading
		if percent == "50%" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it still shows %q", percent)
		}
	}
	b.quiet()
}

// A site whose name leads to this machine gets nothing.
func TestRebinding(t *testing.T) {
	s := newSite(t)
	s.fill()
	base, _, _ := strings.Cut(s.url, "/?")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(base, "http://"))
	testutil.Must(t, err)
	b := newTab(t, chromedp.Flag("host-resolver-rules", "MAP evil.test 127.0.0.1"))
	answer, err := chromedp.RunResponse(b.ctx, chromedp.Navigate("http://evil.test:"+port+"/?token=a-token-of-the-test"))
	testutil.Must(t, err)
	if answer.Status != http.StatusMisdirectedRequest || strings.Contains(b.text(), "march") {
		t.Errorf("%d: %s", answer.Status, b.text())
	}
}
