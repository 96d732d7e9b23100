package web

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
	"linkcancel/internal/testutil"
)

const operator = "an-operator-of-the-test"

// newOperated is a site where operators may change things.
func newOperated(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.cfg.Access.Operator, s.cfg.Access.Actions = operator, true
	return s
}

// post sends a form as an operator, from the page itself.
func (s *site) post(path string, form url.Values, change ...func(*http.Request)) *httptest.ResponseRecorder {
	s.Helper()
	r := httptest.NewRequest("POST", "http://127.0.0.1:9465"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Cookie", "linkcancel_9465="+operator)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	s.http.ServeHTTP(w, r)
	return w
}

// does checks that a change was made, and leads to a page.
func (s *site) does(path string, form url.Values, to string) {
	s.Helper()
	w := s.post(path, form)
	if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != to {
		s.Errorf("%s %v: %d to %q, not to %q: %s", path, form, w.Code, got, to, w.Body)
	}
}

// refuses checks that a change was refused, with a text and the way back.
func (s *site) refuses(path string, form url.Values, status int, text string) {
	s.Helper()
	w := s.post(path, form)
	if body := w.Body.String(); w.Code != status || !strings.Contains(body, text) || !strings.Contains(body, ">Back<") {
		s.Errorf("%s %v: %d, not %d with %q: %s", path, form, w.Code, status, text, body)
	}
}

func (s *site) get(id string) ledger.Batch {
	s.Helper()
	b, err := s.ledger.Get(s.Context(), id)
	testutil.Must(s, err)
	return b
}

// latest is the latest entry of a history.
func (s *site) latest(owner string) history.Entry {
	s.Helper()
	entries, err := s.ledger.History(s.Context(), owner)
	testutil.Must(s, err)
	return entries[len(entries)-1]
}

// Every change needs an operator, a server that allows it, and a form of this page.
func TestWhoMayChange(t *testing.T) {
	paths := []string{
		"/batches/march/pause", "/batches/march/resume", "/batches/march/abort", "/batches/march/retry", "/rate", "/rate/hold", "/rate/release",
		"/", "/batches/march", "/batches/none/pause", "/none", "/live", "/link", "/static/style.css",
	}
	viewer := header("Cookie", "linkcancel_9465="+token)
	for name, tt := range map[string]struct {
		actions bool
		change  []func(*http.Request)
		want    int
	}{
		"not allowed":                    {false, nil, 404},
		"not allowed, as a viewer":       {false, []func(*http.Request){viewer}, 404},
		"not allowed, as nobody":         {false, []func(*http.Request){header("Cookie", "")}, 404},
		"as a viewer":                    {true, []func(*http.Request){viewer}, 403},
		"as a viewer with a program":     {true, []func(*http.Request){header("Cookie", ""), header("Authorization", "Bearer "+token)}, 403},
		"as nobody":                      {true, []func(*http.Request){header("Cookie", "")}, 401},
		"of another site":                {true, []func(*http.Request){header("Sec-Fetch-Site", "cross-site")}, 403},
		"of another site on this host":   {true, []func(*http.Request){header("Sec-Fetch-Site", "same-site")}, 403},
		"of another origin":              {true, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Origin", "http://127.0.0.1:9466")}, 403},
		"of an origin that hides":        {true, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Origin", "null")}, 403},
		"of nowhere":                     {true, []func(*http.Request){header("Sec-Fetch-Site", "")}, 403},
		"of another host":                {true, []func(*http.Request){header("Host", "evil.example.com")}, 421},
		"of a program that has a cookie": {true, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Authorization", "Basic x")}, 403},
		// With a bearer token a request counts as one of a program, so its cookie must not count.
		"of nowhere, with another token too":      {true, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Authorization", "Bearer x")}, 401},
		"of nowhere, with an empty token too":     {true, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Authorization", "Bearer ")}, 401},
		"of nowhere, with the viewer's token too": {true, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Authorization", "Bearer "+token)}, 403},
		"of this page, with another token too":    {true, []func(*http.Request){header("Authorization", "Bearer x")}, 401},
	} {
		s := newOperated(t)
		s.cfg.Access.Actions = tt.actions
		s.batch("march", "stale.csv", "code 3", 3)
		before := s.redis.Dump()
		for _, path := range paths {
			for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
				change := append([]func(*http.Request){func(r *http.Request) { r.Method = method }}, tt.change...)
				w := s.post(path, url.Values{"name": {"march"}, "pending": {"3"}, "for": {"1h"}, "limit": {"1/s"}, "rejected": {"1"}}, change...)
				if w.Code != tt.want {
					t.Errorf("%s: %s %s: %d, not %d", name, method, path, w.Code, tt.want)
				}
			}
		}
		if after := s.redis.Dump(); after != before {
			t.Errorf("%s: something was changed", name)
		}
	}
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	for name, change := range map[string][]func(*http.Request){
		"a browser on plain http":  {header("Sec-Fetch-Site", ""), header("Origin", "http://127.0.0.1:9465")},
		"a program with its token": {header("Sec-Fetch-Site", ""), header("Cookie", ""), header("Authorization", "Bearer "+operator)},
	} {
		if w := s.post("/batches/march/pause", nil, change...); w.Code != http.StatusSeeOther {
			t.Errorf("%s: %d: %s", name, w.Code, w.Body)
		}
	}
}

// Operators may change things, and yet make no batch of links that they send, unless the server allows it.
func TestWhoMayImport(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		s := newOperated(t)
		s.cfg.Access.Import = allowed
		for path, want := range map[string]int{"/api/v1/batches?dry_run=true": 200, "/api/v1/batches?id=march": 201} {
			w := s.ask("POST", path, header("Authorization", "Bearer "+operator), header("Content-Type", "text/csv"), func(r *http.Request) {
				r.Body = io.NopCloser(strings.NewReader("id\n" + testutil.LinkID(1) + "\n"))
			})
			if !allowed {
				want = 404
			}
			if w.Code != want || !allowed && !strings.Contains(w.Body.String(), "linkcancel serve --allow-import") {
				t.Errorf("%s, allowed: %v: %d, not %d: %s", path, allowed, w.Code, want, w.Body)
			}
		}
		if all, err := s.ledger.List(t.Context()); err != nil || (len(all) == 1) != allowed {
			t.Errorf("allowed: %v: %d batches, %v", allowed, len(all), err)
		}
	}
}

// Only operators see forms. Viewers get the commands.
func TestForms(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	for _, path := range pages {
		for who, forms := range map[string]bool{token: false, operator: strings.HasPrefix(path, "/batches/march") && !strings.Contains(path, "links") || path == "/rate"} {
			body := s.ask("GET", path, header("Authorization", "Bearer "+who)).Body.String()
			if got := strings.Contains(body, `method="post"`); got != forms {
				t.Errorf("%s for %s: has forms: %v", path, who, got)
			}
		}
	}
	shapes := map[string]bool{} // their streams differ, too
	for _, who := range []string{token, operator, token} {
		var e event
		testutil.Must(t, json.Unmarshal(s.ask("GET", "/live?page=/batches/march&once", header("Authorization", "Bearer "+who)).Body.Bytes(), &e))
		shapes[e.Shape] = true
	}
	if len(shapes) != 2 {
		t.Errorf("%d shapes for viewers and operators", len(shapes))
	}
}

func TestPauseAndResume(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	for range 2 { // a double click
		s.does("/batches/march/pause", url.Values{"reason": {" lunch\n"}}, "/batches/march")
	}
	e := s.latest("march")
	if b := s.get("march"); b.State != ledger.Paused || e.Number != 2 || e.Actor != "operator@192.0.2.1" || e.Reason != "lunch" || e.Auto {
		t.Errorf("%s, %+v", b.State, e)
	}
	for range 2 {
		s.does("/batches/march/resume", nil, "/batches/march")
	}
	if b := s.get("march"); b.State != ledger.Ready || s.latest("march").Number != 3 {
		t.Errorf("%s, %+v", b.State, s.latest("march"))
	}
	s.refuses("/batches/march/pause", url.Values{"reason": {strings.Repeat("x", 501)}}, 400, "the reason has 501 characters")
	s.refuses("/batches/march/pause", url.Values{"reason": {strings.Repeat("x", maxForm)}}, 400, "The form cannot be read.")
	if w := s.post("/batches/april/pause", nil); w.Code != 404 {
		t.Errorf("a batch that is not there: %d", w.Code)
	}
	s.redis.SetError("LOADING Redis is loading the dataset in memory")
	s.refuses("/batches/march/pause", nil, 503, "Redis cannot be reached")
	s.redis.SetError("")
	s.does("/batches/march/abort", url.Values{"name": {"march"}, "pending": {"2"}}, "/batches/march")
	s.refuses("/batches/march/pause", nil, 409, "cannot be paused: it is aborted")
	s.refuses("/batches/march/resume", nil, 409, "cannot be resumed: it is aborted")
}

func TestAbort(t *testing.T) {
	s := newOperated(t)
	s.batch("march", " <b>stale.csv ", "code 3", 3)
	for _, form := range []url.Values{
		{"pending": {"2"}}, {"name": {""}, "pending": {"2"}}, {"name": {"stale.csv"}, "pending": {"2"}}, {"name": {"MARCH"}, "pending": {"2"}},
	} {
		s.refuses("/batches/march/abort", form, 400, "The batch was not aborted: you typed")
	}
	for _, pending := range []string{"", "1", "x", "-1"} {
		s.refuses("/batches/march/abort", url.Values{"name": {"march"}, "pending": {pending}}, 409, "2 links are pending now")
	}
	if b := s.get("march"); b.State != ledger.Ready {
		t.Fatal(b.State)
	}
	for range 2 {
		s.does("/batches/march/abort", url.Values{"name": {"<b>stale.csv"}, "pending": {"2"}, "reason": {"the wrong file"}}, "/batches/march")
	}
	if b := s.get("march"); b.State != ledger.AbortedState || b.Counts[ledger.Aborted] != 2 || b.Counts[ledger.Rejected] != 1 {
		t.Errorf("%+v", b)
	}
	entries, err := s.ledger.History(t.Context(), "march")
	testutil.Must(t, err)
	if e := entries[1]; e.Action != history.Abort || e.Reason != "the wrong file" || e.Actor != "operator@192.0.2.1" {
		t.Errorf("%+v", entries)
	}
}

func TestRetry(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	body := s.ask("GET", "/batches/march", header("Authorization", "Bearer "+operator)).Body.String()
	if !strings.Contains(body, `name="rejected" value="1"`) || strings.Contains(body, `name="failed"`) {
		t.Error(body)
	}
	s.refuses("/batches/march/retry", nil, 400, "choose at least one outcome")
	s.refuses("/batches/march/retry", url.Values{"cancelled": {"1"}}, 400, "choose at least one outcome")
	s.refuses("/batches/march/retry", url.Values{"rejected": {"x"}}, 400, "The form cannot be read.")
	s.refuses("/batches/march/retry", url.Values{"rejected": {"0"}}, 409, "there are 1 link of this kind now")
	s.refuses("/batches/march/retry", url.Values{"failed": {"0"}}, 409, "the batch has no link with this outcome")
	for range 2 { // a double click makes one batch
		s.does("/batches/march/retry", url.Values{"rejected": {"1"}, "reason": {"again"}}, "/batches/march-retry")
	}
	if b := s.get("march-retry"); b.Total != 1 || b.Parent != "march" || b.By != "operator@192.0.2.1" || s.latest("march-retry").Reason != "again" {
		t.Errorf("%+v", b)
	}
	if body := s.ask("GET", "/batches/march").Body.String(); !strings.Contains(body, `<a href="/batches/march-retry">`) {
		t.Errorf("its retry is not shown: %s", body)
	}
}

func TestRate(t *testing.T) {
	s := newOperated(t)
	fleet := func() status.Fleet {
		f, err := status.ReadFleet(t.Context(), s.rdb, s.ledger)
		testutil.Must(t, err)
		return f
	}
	s.does("/rate", url.Values{"limit": {" 30/m "}, "reason": {"slow API"}}, "/rate")
	if f := fleet(); f.Ceiling.String() != "30/m" || !f.Override {
		t.Errorf("%+v", f)
	}
	for _, text := range []string{"", "0/s", "-1", "fast", "1e9/s"} {
		s.refuses("/rate", url.Values{"limit": {text}}, 400, "The limit was not changed")
	}
	s.does("/rate/hold", url.Values{"for": {"15m"}, "reason": {"<b>"}}, "/rate")
	if h := fleet().Hold; h.Reason != ratelimit.ReasonManual || time.Until(h.Until) < 14*time.Minute || time.Until(h.Until) > 15*time.Minute {
		t.Errorf("%+v", h)
	}
	s.does("/rate/hold", url.Values{"for": {"4h"}}, "/rate") // longer
	if h := fleet().Hold; time.Until(h.Until) < 3*time.Hour {
		t.Errorf("%+v", h)
	}
	s.does("/rate/hold", url.Values{"for": {"released"}}, "/rate")
	if h := fleet().Hold; h.Reason != ratelimit.ReasonManual || !h.Until.IsZero() {
		t.Errorf("%+v", h)
	}
	for _, text := range []string{"", "0s", "-1h", "1", "9000h", "forever"} {
		s.refuses("/rate/hold", url.Values{"for": {text}}, 400, "Sending was not held")
	}
	for range 2 {
		s.does("/rate/release", nil, "/rate")
	}
	if h := fleet().Hold; h.Reason != ratelimit.ReasonNone {
		t.Errorf("%+v", h)
	}
	s.does("/rate", url.Values{"limit": {"AUTO"}}, "/rate")
	if fleet().Override {
		t.Error("the limit is still set")
	}
	body := s.ask("GET", "/rate").Body.String()
	for _, text := range []string{"operator@192.0.2.1", "set the limit: 30/m (slow API)", "put sending on hold", "(&lt;b&gt;)"} {
		if !strings.Contains(body, text) {
			t.Errorf("%q is missing in the history: %s", text, body)
		}
	}
}

// A proxy names the users. From elsewhere its header is refused.
func TestProxy(t *testing.T) {
	s := newOperated(t)
	s.cfg.Access = Access{Actions: true, Proxy: &Proxy{Header: "X-Forwarded-User", From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Operators: []string{"ann"}}}
	s.batch("march", "stale.csv", "code 3", 3)
	none := header("Cookie", "")
	from := func(address string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = address } }
	user := func(names ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["X-Forwarded-User"] = names }
	}
	for name, tt := range map[string]struct {
		change []func(*http.Request)
		get    int
		post   int
	}{
		"an operator":             {[]func(*http.Request){from("10.0.0.7:1"), user("ann")}, 200, 303},
		"by IPv4 in IPv6":         {[]func(*http.Request){from("[::ffff:10.0.0.7]:1"), user("ann")}, 200, 303},
		"a user":                  {[]func(*http.Request){from("10.0.0.7:1"), user("bob")}, 200, 403},
		"an operator from afar":   {[]func(*http.Request){from("10.0.1.7:1"), user("ann")}, 401, 401},
		"a user from afar":        {[]func(*http.Request){from("192.0.2.1:1"), user("bob")}, 401, 401},
		"an empty name from afar": {[]func(*http.Request){from("192.0.2.1:1"), user("")}, 401, 401},
		"an empty name":           {[]func(*http.Request){from("10.0.0.7:1"), user("")}, 401, 401},
		"two names":               {[]func(*http.Request){from("10.0.0.7:1"), user("ann", "bob")}, 401, 401},
		"no name":                 {[]func(*http.Request){from("10.0.0.7:1")}, 401, 401},
		"no address":              {[]func(*http.Request){from("@"), user("ann")}, 401, 401},
	} {
		change := append([]func(*http.Request){none, header("Authorization", "")}, tt.change...)
		if w := s.ask("GET", "/batches/march", change...); w.Code != tt.get {
			t.Errorf("%s: %d, not %d: %s", name, w.Code, tt.get, w.Body)
		}
		if w := s.post("/batches/march/pause", nil, change...); w.Code != tt.post {
			t.Errorf("%s: POST: %d, not %d: %s", name, w.Code, tt.post, w.Body)
		}
	}
	if e := s.latest("march"); e.Actor != "ann" {
		t.Errorf("%+v", e)
	}
	if body := s.ask("GET", "/", header("Authorization", ""), from("10.0.0.7:1"), user("<b>")).Body.String(); !strings.Contains(body, `<p class="user">&lt;b&gt;</p>`) {
		t.Errorf("the user is not shown: %s", body)
	}
	s.cfg.Access.Proxy.Operators = []string{"*"}
	if w := s.post("/batches/march/resume", nil, none, from("10.0.0.7:1"), user("bob")); w.Code != 303 {
		t.Errorf("all are operators: %d", w.Code)
	}
	s.cfg.Access.Operator = operator // beside the proxy, a program has a token
	if w := s.post("/batches/march/pause", nil, none, from("192.0.2.1:1"), header("Authorization", "Bearer "+operator)); w.Code != 303 {
		t.Errorf("with a token: %d", w.Code)
	}
}

// What a person cannot see does not keep her from aborting a batch.
func TestTypedName(t *testing.T) {
	for name, typed := range map[string]string{
		"March  stale.csv": "March stale.csv", "caf\u00e9": "cafe\u0301", `a\b "c"`: `a\b "c"`, "": "march",
	} {
		s := newOperated(t)
		s.batch("march", name, "code 3", 3)
		body := s.ask("GET", "/batches/march", header("Authorization", "Bearer "+operator)).Body.String()
		if !strings.Contains(body, "Type <strong>") {
			t.Error(body)
		}
		s.does("/batches/march/abort", url.Values{"name": {typed}, "pending": {"2"}}, "/batches/march")
	}
}

// Several clicks at once make one retry, and lead to it.
func TestRetryAtOnce(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() { s.does("/batches/march/retry", url.Values{"rejected": {"1"}}, "/batches/march-retry") })
	}
	group.Wait()
	all, err := s.ledger.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("%d batches, %v", len(all), err)
	}
}

// Only forms change something.
func TestOnlyForms(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	for _, kind := range []string{"application/json", "text/plain", "multipart/form-data; boundary=x"} {
		if w := s.post("/batches/march/pause", url.Values{"reason": {"x"}}, header("Content-Type", kind)); w.Code != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d", kind, w.Code)
		}
	}
	if b := s.get("march"); b.State != ledger.Ready {
		t.Error(b.State)
	}
}
