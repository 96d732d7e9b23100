package browser

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

// press presses keys, one after the other.
func (b *tab) press(keys ...string) {
	b.Helper()
	for _, key := range keys {
		b.do(chromedp.KeyEvent(key))
	}
}

// focused describes what has the focus.
func (b *tab) focused() string {
	b.Helper()
	return get(b, chromedp.Evaluate[string](`(() => { const e = document.activeElement; return [e.tagName, e.name || "", (e.textContent || "").trim()].join(" ") })()`))
}

// tabTo presses the tab key until something has the focus.
func (b *tab) tabTo(want string) {
	b.Helper()
	for range 80 {
		b.press(kb.Tab)
		if strings.HasPrefix(b.focused(), want) {
			return
		}
	}
	b.Fatalf("the tab key does not reach %q; it is at %q", want, b.focused())
}

// Lookup, pause and abort need no mouse.
func TestKeyboard(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", 4, 1)
	b := newTab(t)
	b.do(chromedp.Navigate(s.addressFor(operator, "/")), chromedp.WaitVisible(chromedp.CSS("main")))
	b.press(kb.Tab)
	if !strings.Contains(b.focused(), "Skip to the content") {
		t.Errorf("first is %s", b.focused())
	}
	b.tabTo("INPUT q")
	b.press(testutil.LinkID(2), kb.Enter)
	b.until("1 link before it")
	b.tabTo("A  stale.csv")
	b.press(kb.Enter)
	b.until("What you can do")

	b.tabTo("INPUT reason")
	b.press("lunch")
	time.Sleep(1500 * time.Millisecond) // an event comes, and takes nothing away
	b.tabTo("BUTTON  Pause")
	b.press(kb.Enter)
	b.until("paused: by operator@127.0.0.1: lunch")
	if e, err := s.ledger.History(t.Context(), "march"); err != nil || e[len(e)-1].Reason != "lunch" {
		t.Errorf("%+v, %v", e, err)
	}

	b.tabTo("SUMMARY  Abort it")
	b.press(kb.Enter)
	b.tabTo("INPUT name")
	b.press("stale", kb.Enter)
	b.until("The batch was not aborted: you typed")
	b.tabTo("A  Back")
	b.press(kb.Enter)
	b.until("What you can do")
	b.tabTo("SUMMARY  Abort it")
	b.press(kb.Enter)
	b.tabTo("INPUT name")
	b.press("stale.csv", kb.Enter)
	testutil.Until(t, "the batch to be aborted", func() bool { return get(b, chromedp.Evaluate[bool](`document.querySelector("h1 .aborted") !== null`)) })
	if batch, err := s.ledger.Get(t.Context(), "march"); err != nil || batch.State != ledger.AbortedState || batch.Counts[ledger.Aborted] != 3 {
		t.Errorf("%+v, %v", batch, err)
	}
	b.mu.Lock()
	b.problems = nil // the refused form is one for the browser
	b.mu.Unlock()
}

// A browser that reaches the page by plain http sends no Sec-Fetch-Site, and its forms work.
func TestPlainHTTP(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", 4, 1)
	b := newTab(t, chromedp.Flag("host-resolver-rules", "MAP links.test 127.0.0.1"))
	b.do(chromedp.Navigate(strings.Replace(s.addressFor(operator, "/batches/march"), "127.0.0.1", "links.test", 1)), chromedp.WaitVisible(chromedp.CSS("main")),
		chromedp.Click(chromedp.CSS(`form[action$="/pause"] button`)))
	b.until("paused: by operator@127.0.0.1")
}

// hostile are texts that run something in a browser that takes them for markup.
var hostile = []string{
	`<script>window.ran=1;alert(1)</script>`, `"><img src=x onerror="window.ran=1">`, `' onmouseover='window.ran=1' autofocus onfocus='window.ran=1`,
	`</title></script><script>window.ran=1</script>`, `<svg/onload=window.ran=1>`, `<iframe srcdoc="<script>top.ran=1</script>">`,
	`<a href="javascript:window.ran=1" autofocus>`, `<style>@import 'http://127.0.0.1:1/x'</style>`, `<base href="http://127.0.0.1:1/">`,
	"\u202e\u0000<b>x", `{{constructor.constructor('window.ran=1')()}}`, `<details open ontoggle=window.ran=1>`, `</main><img src=x onerror=window.ran=1>`,
}

// Hostile texts of users, files and the API run nothing, also when an event brings them.
func TestHostileTexts(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	for i, text := range hostile {
		id := "b" + string(rune('a'+i))
		s.hostileBatch(id, text)
		_, _, err := s.ledger.Pause(ctx, id, history.By{Actor: text, Reason: text})
		testutil.Must(t, err)
		testutil.Must(t, s.ledger.Heartbeat(ctx, ledger.WorkerBeat{ID: text, API: text, Version: text, Key: text, Cause: text, Rate: 5}))
		testutil.Must(t, ratelimit.HoldFleet(ctx, s.broker.Client(), time.Time{}, history.By{Actor: text, Reason: text}))
		testutil.Must(t, s.ledger.NoteCommandSweep(ctx, ledger.SweepRun{Due: time.Now(), Error: text, Batch: text, Counts: ledger.SweepCounts{By: text, LeftOut: map[string]int64{text: 1}}}, history.By{Actor: text}, ""))
	}
	b := newTab(t)
	testutil.Must(t, chromedp.Listen(b.ctx, func(event any) {
		if e, ok := event.(*page.EventJavascriptDialogOpening); ok {
			t.Errorf("a dialog: %s", e.Message)
		}
	}))
	b.do(chromedp.Navigate(s.addressFor(operator, "/")), chromedp.WaitVisible(chromedp.CSS("main")))
	visit := func(path string) {
		b.do(chromedp.Navigate(s.addressFor(operator, path)), chromedp.WaitVisible(chromedp.CSS("main")))
		if get(b, chromedp.Evaluate[bool](`"ran" in window || [...document.querySelectorAll("main *")].some((e) => /^(SCRIPT|IFRAME|IMG|BASE|STYLE)$/.test(e.tagName))`)) {
			t.Errorf("%s: something ran, or is there", path)
		}
	}
	for _, path := range []string{"/", "/rate", "/sweeps", "/activity"} {
		visit(path)
	}
	for i, text := range hostile {
		id := "b" + string(rune('a'+i))
		for _, path := range []string{"/batches/" + id, "/batches/" + id + "/links", "/link?q=" + url.QueryEscape(text), "/?state=" + url.QueryEscape(text), "/batches/" + url.PathEscape(text)} {
			visit(path)
		}
	}
	// By an event of an open page.
	b.do(chromedp.Navigate(s.addressFor(operator, "/batches/ba")), chromedp.WaitVisible(chromedp.CSS("main")))
	_, _, err := s.ledger.Resume(ctx, "ba", history.By{Actor: "ann"})
	testutil.Must(t, err)
	_, _, err = s.ledger.Pause(ctx, "ba", history.By{Actor: hostile[1], Reason: hostile[4]})
	testutil.Must(t, err)
	b.until("paused: by " + hostile[1])
	if get(b, chromedp.Evaluate[bool](`"ran" in window`)) {
		t.Error("something ran")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, problem := range b.problems {
		if !strings.Contains(problem, "404") { // pages that are not there
			t.Error(problem)
		}
	}
}

// A browser opens six connections to a server. A seventh tab is live all the same.
func TestSevenTabs(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", 9, 1)
	first := newTab(t)
	tabs := []*tab{first}
	for range 6 {
		tabs = append(tabs, first.another())
	}
	for _, b := range tabs {
		b.do(chromedp.Navigate(s.address("/batches/march")), chromedp.WaitVisible(chromedp.CSS("main")))
		b.until("11%")
	}
	for position := 1; position < 9; position++ {
		c := s.ledger.Commit(t.Context(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Position: position, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}}}})
		testutil.Must(t, c[0].Err)
	}
	for i, b := range tabs {
		b.until("100%")
		if hidden := get(b, chromedp.Evaluate[bool](`document.hidden`)); hidden {
			t.Logf("tab %d is hidden", i)
		}
		b.quiet()
	}
}

// When Redis is killed, an open page says so, and goes on when it is back.
func TestRedisKilled(t *testing.T) {
	if !redistest.Have(t) {
		t.Skip("left out: there is no redis-server")
	}
	server := redistest.NewServer(t, "--appendonly", "yes", "--appendfsync", "always")
	server.Start(t)
	s := newSiteOn(t, redistest.Open(t, server.URL()))
	s.batch("march", "stale.csv", 4, 1)
	b := newTab(t)
	b.do(chromedp.Navigate(s.address("/batches/march")))
	b.until("25%")
	server.Kill(t)
	killed := time.Now()
	b.until("Redis cannot be reached since")
	t.Logf("said after %v", time.Since(killed).Round(10*time.Millisecond))
	if text := b.text(); !strings.Contains(text, "25%") {
		t.Errorf("the last numbers are gone: %s", text)
	}
	server.Start(t)
	testutil.Until(t, "Redis to be back", func() bool {
		c := s.ledger.Commit(t.Context(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Position: 1, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}}}})
		return c[0].Err == nil
	})
	b.until("50%")
	// The batch may be read before the fleet is, whose last reading failed.
	testutil.Until(t, "the page no longer to say that Redis is away", func() bool {
		return get(b, chromedp.Evaluate[bool](`document.getElementById("down").hidden`))
	})
	b.quiet()
}

// A person who uses a form is not disturbed, and then sees what has changed.
func TestFormInUse(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", 4, 1)
	b := newTab(t)
	b.do(chromedp.Navigate(s.addressFor(operator, "/batches/march")), chromedp.WaitVisible(chromedp.CSS("main")))
	b.tabTo("INPUT reason")
	b.press("lunch")
	_, _, err := s.ledger.Pause(t.Context(), "march", history.By{Actor: "ann@desk", Reason: "mine"})
	testutil.Must(t, err)
	b.until("paused (by ann@desk: mine)") // the texts are up to date
	if value := get(b, chromedp.Evaluate[string](`document.querySelector("main [name=reason]").value`)); value != "lunch" {
		t.Errorf("the field has %q", value)
	}
	b.press(kb.Backspace, kb.Backspace, kb.Backspace, kb.Backspace, kb.Backspace)
	b.do(chromedp.Evaluate[chromedp.Void](`document.activeElement.blur()`))
	b.until("Resume")

	// It is deleted.
	batch, err := s.ledger.Get(t.Context(), "march")
	testutil.Must(t, err)
	_, _, err = s.ledger.AbortNow(t.Context(), batch, history.By{Actor: "ann@desk"})
	testutil.Must(t, err)
	batch, err = s.ledger.Get(t.Context(), "march")
	testutil.Must(t, err)
	testutil.Must(t, s.ledger.Delete(t.Context(), batch, history.By{Actor: "ann@desk"}, time.Hour))
	b.until("It may have been deleted")
}

// A page whose server ends and comes back goes on, with what a person has typed.
func TestServerReturns(t *testing.T) {
	s := newSite(t)
	s.brief = false
	s.batch("march", "stale.csv", 4, 1)
	address := strings.TrimPrefix(strings.SplitN(s.url, "/?", 2)[0], "http://")
	s.stop()
	stop := s.serve(address)
	b := newTab(t)
	b.do(chromedp.Navigate(s.addressFor(operator, "/batches/march")), chromedp.WaitVisible(chromedp.CSS("main")))
	b.until("25%")
	b.tabTo("INPUT reason")
	b.press("lunch")
	stop()
	b.until("The server has not answered since")
	c := s.ledger.Commit(t.Context(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Position: 1, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}}}})
	testutil.Must(t, c[0].Err)
	t.Cleanup(s.serve(address))
	b.until("50%")
	shown := get(b, chromedp.Evaluate[bool](`!document.getElementById("down").hidden`))
	if value := get(b, chromedp.Evaluate[string](`document.querySelector("main [name=reason]").value`)); value != "lunch" || shown {
		t.Errorf("the field has %q; the note is there: %v", value, shown)
	}
}
