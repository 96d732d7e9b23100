package web

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"golang.org/x/net/html"

	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/testutil"
)

const token = "a-token-of-the-test"

// site is a server with its Redis.
type site struct {
	*testing.T
	*Server
	redis  *miniredis.Miniredis
	rdb    redis.UniversalClient
	ledger *ledger.Ledger
	http   http.Handler
}

func newSite(t *testing.T) *site {
	t.Helper()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	cfg := Config{Redis: rdb, Ledger: ledger.New(rdb), Access: Access{Viewer: token}, Hosts: []string{"links.example.com"}, Log: slog.New(slog.DiscardHandler)}
	s := newServer(cfg, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9465})
	return &site{T: t, Server: s, redis: server, rdb: rdb, ledger: cfg.Ledger, http: s.handler()}
}

// batch makes a batch of links, of which one is rejected with a text.
func (s *site) batch(id, name, text string, links int) {
	s.Helper()
	_, err := importer.MakeBatch(s.Context(), s.ledger, &importer.Links{IDs: testutil.LinkIDs(links)}, importer.BatchConfig{
		ID: id, Source: importer.SourceImport, Name: name, File: name, By: history.By{Actor: name, Reason: text},
		Restore: func(chunk, n int) ([]ledger.Record, map[int]string, error) {
			records := make([]ledger.Record, n)
			if chunk == 0 {
				records[0] = ledger.Record{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 400}
			}
			return records, map[int]string{0: text}, nil
		},
	})
	testutil.Must(s, err)
}

// ask sends a request with the token, changed by some functions.
func (s *site) ask(method, path string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	s.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:9465"+path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	s.http.ServeHTTP(w, r)
	return w
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Set(name, value)
		}
	}
}

var pages = []string{"/", "/?state=ready&source=import", "/batches/march", "/batches/march/links", "/batches/march/links?outcome=rejected&page=1", "/rate", "/sweeps", "/activity", "/link?q=" + testutil.LinkID(0)}

func TestPages(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"/", "/rate", "/sweeps", "/activity", "/link", "/link?q=pl_none"} {
		w := s.ask("GET", path)
		if w.Code != 200 || !strings.Contains(w.Body.String(), `class="empty"`) {
			t.Errorf("%s with nothing there: %d", path, w.Code)
		}
	}
	s.batch("march", "stale.csv", "code 3", 250)
	for _, path := range pages {
		w := s.ask("GET", path)
		if w.Code != 200 || !strings.Contains(w.Body.String(), "</html>") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	time.Sleep(freshFor)
	for path, want := range map[string][]string{
		"/":                                   {`href="/batches/march"`, "stale.csv", ">250<", ">249<", "no worker is running"},
		"/batches/march":                      {"import of stale.csv, by stale.csv", "rejected, 400", "code 3", "linkcancel batch pause march", "queued 250 links of stale.csv (code 3)", `<rect class="rejected"`},
		"/batches/march/links":                {testutil.LinkID(0), testutil.LinkID(99), `rel="next"`},
		"/batches/march/links?page=3":         {testutil.LinkID(249), `rel="prev"`},
		"/batches/march/links?outcome=failed": {"There is no such link on this page."},
		"/activity":                           {`<a href="/batches/march">march</a>`, "queued 250 links"},
		"/link?q=" + testutil.LinkID(0):       {`<a href="/batches/march">stale.csv</a>`, "rejected", "code 3"},
		"/link?q=https://checkout.plexypay.com/" + testutil.LinkID(249): {"248 links before it"},
		"/link?q=pl_none": {"It is in no batch that is still kept.", "linkcancel link show pl_none --live"},
		"/link?q=a%20b%20c%20d%20e%20f%20g%20h%20i%20j%20k": {"These are 11 links: look for at most 10 at once."},
		"/link?q=..%2fx":        {"is not the id or the URL of a link"},
		"/batches/march/report": {"link,outcome,", testutil.LinkID(0) + ",rejected,400"},
		"/batches/march/report?format=jsonl&outcome=rejected": {`"outcome":"rejected"`},
	} {
		body := s.ask("GET", path).Body.String()
		for _, text := range want {
			if !strings.Contains(body, text) {
				t.Errorf("%s: %q is missing in %s", path, text, body)
			}
		}
	}
	for path, code := range map[string]int{
		"/batches/april": 404, "/batches/april/links": 404, "/batches/april/report": 404, "/?state=odd": 404, "/?source=odd": 404,
		"/batches/march/links?outcome=odd": 404, "/batches/march/links?page=0": 404, "/batches/march/links?page=x": 404, "/batches/march/links?page=99999999": 404,
		"/batches/march/report?format=xml": 404, "/batches/march/report?outcome=odd": 404, "/none": 404, "/static/none.css": 404, "/static/": 404,
		"/static/..%2fserver.go": 404, "/live?page=/none": 404, "/live?page=http://evil/": 404, "/live?page=x": 404,
	} {
		if w := s.ask("GET", path); w.Code != code {
			t.Errorf("%s: %d, not %d", path, w.Code, code)
		}
	}
}

func TestGuards(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", "code 3", 3)
	noToken := header("Authorization", "")
	for name, tt := range map[string]struct {
		method, path string
		change       []func(*http.Request)
		want         int
	}{
		"another host":                {"GET", "/", []func(*http.Request){header("Host", "evil.example.com")}, 421},
		"another host with a port":    {"GET", "/", []func(*http.Request){header("Host", "evil.example.com:9465")}, 421},
		"another address":             {"GET", "/", []func(*http.Request){header("Host", "10.0.0.1:9465")}, 421},
		"no host":                     {"GET", "/", []func(*http.Request){header("Host", "")}, 421},
		"another host, for the style": {"GET", "/static/style.css", []func(*http.Request){header("Host", "evil.example.com")}, 421},
		"localhost":                   {"GET", "/", []func(*http.Request){header("Host", "localhost:9465")}, 200},
		"IPv6":                        {"GET", "/", []func(*http.Request){header("Host", "[::1]:9465")}, 200},
		"its name":                    {"GET", "/", []func(*http.Request){header("Host", "LINKS.example.com")}, 200},
		"no token":                    {"GET", "/", []func(*http.Request){noToken}, 401},
		"no token, for the stream":    {"GET", "/live?page=/", []func(*http.Request){noToken}, 401},
		"no token, for a report":      {"GET", "/batches/march/report", []func(*http.Request){noToken}, 401},
		"another token":               {"GET", "/", []func(*http.Request){header("Authorization", "Bearer other")}, 401},
		"another token in the query":  {"GET", "/?token=other", []func(*http.Request){noToken}, 401},
		"another cookie":              {"GET", "/", []func(*http.Request){noToken, header("Cookie", "linkcancel_9465=other")}, 401},
		"a cookie of another port":    {"GET", "/", []func(*http.Request){noToken, header("Cookie", "linkcancel_9466="+token)}, 401},
		"its cookie, another token":   {"GET", "/", []func(*http.Request){header("Authorization", "Bearer other"), header("Cookie", "linkcancel_9465="+token)}, 401},
		"its cookie":                  {"GET", "/", []func(*http.Request){noToken, header("Cookie", "linkcancel_9465="+token)}, 200},
		"the style":                   {"GET", "/static/style.css", []func(*http.Request){noToken}, 200},
		"a cross-site POST":           {"POST", "/batches/march/pause", []func(*http.Request){header("Sec-Fetch-Site", "cross-site")}, 403},
		"a POST of another origin":    {"POST", "/batches/march/pause", []func(*http.Request){header("Origin", "http://evil.example.com")}, 403},
		"a POST":                      {"POST", "/batches/march/pause", nil, 404},
		"a PUT":                       {"PUT", "/rate", nil, 404},
		"a DELETE":                    {"DELETE", "/batches/march", nil, 404},
		"a POST to a page":            {"POST", "/", nil, 404},
		"HEAD":                        {"HEAD", "/", nil, 200},
	} {
		w := s.ask(tt.method, tt.path, tt.change...)
		if w.Code != tt.want {
			t.Errorf("%s: %d, not %d", name, w.Code, tt.want)
		}
		h := w.Header()
		if h.Get("Content-Security-Policy") != policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("%s: headers %v", name, h)
		}
		for key := range h {
			if strings.HasPrefix(key, "Access-Control-") {
				t.Errorf("%s: %s", name, key)
			}
		}
		if strings.Contains(w.Body.String(), token) {
			t.Errorf("%s: the token is shown", name)
		}
	}
	// The token in the query becomes a cookie, and never leads to another site.
	for path, to := range map[string]string{"/?token=" + token: "/", "/batches/march?outcome=x&token=" + token: "/batches/march?outcome=x"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = "127.0.0.1"
		var err error
		r.URL, err = url.ParseRequestURI(path)
		testutil.Must(t, err)
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, r)
		cookies := w.Result().Cookies()
		if got := w.Header().Get("Location"); w.Code != 303 || got != to || len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode {
			t.Errorf("%s: %d to %q, %v", path, w.Code, got, cookies)
		}
	}
	s.cfg.Access = Access{}
	if w := s.ask("GET", "/", noToken); w.Code != 200 {
		t.Errorf("without a token of the server: %d", w.Code)
	}
}

// Each page has one address. Others lead nowhere, with or without a token.
func TestUncleanPaths(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	for _, path := range []string{"//batches/march", "/batches/../rate", "/static/../rate", "/batches/march/", "/batches/./march", "//evil.example.com/%2f.."} {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "/", nil)
			r.Host = "127.0.0.1:9465"
			r.URL = &url.URL{Path: path, RawQuery: "token=" + token}
			w := httptest.NewRecorder()
			s.http.ServeHTTP(w, r)
			if w.Code != 404 || strings.Contains(w.Body.String()+w.Header().Get("Location"), token) {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
}

// A person who follows a link on another site gets there, though the browser leaves out the cookie.
func TestLinkElsewhere(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", "code 3", 3)
	follow := []func(*http.Request){header("Authorization", ""), header("Sec-Fetch-Site", "cross-site"), header("Sec-Fetch-Mode", "navigate")}
	w := s.ask("GET", "/batches/march?token="+token, follow...)
	if body := w.Body.String(); len(w.Result().Cookies()) != 1 || !strings.Contains(body, `content="0; url=/batches/march"`) || strings.Contains(body, token) {
		t.Errorf("with a token: %d %s", w.Code, body)
	}
	w = s.ask("GET", "/batches/march?x=1", follow...)
	if body := w.Body.String(); !strings.Contains(body, `content="0; url=/batches/march?x=1"`) || strings.Contains(body, "stale.csv") {
		t.Errorf("without one: %d %s", w.Code, body)
	}
	if w := s.ask("GET", "/batches/march", header("Authorization", ""), header("Sec-Fetch-Site", "same-origin"), header("Sec-Fetch-Mode", "navigate")); w.Code != 401 || strings.Contains(w.Body.String(), "url=") {
		t.Errorf("on this site: %d %s", w.Code, w.Body)
	}
}

// The page of a batch that is deleted says so.
func TestDeletedWhileOpen(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", "code 3", 3)
	if w := s.ask("GET", "/live?page=/batches/march&once"); w.Code != 200 {
		t.Fatal(w.Code)
	}
	_, _, err := s.ledger.AbortNow(t.Context(), s.get("march"), history.By{Actor: "ann"})
	testutil.Must(t, err)
	testutil.Must(t, s.ledger.Delete(t.Context(), s.get("march"), history.By{Actor: "ann"}, time.Hour))
	s.reader.expire()
	if w := s.ask("GET", "/live?page=/batches/march&once"); w.Code != 404 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	if w := s.ask("GET", "/batches/march"); w.Code != 404 || !strings.Contains(w.Body.String(), "It may have been deleted") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// hostile are texts that must never become markup.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `javascript:alert(1)`, `</title><script>alert(1)</script>`,
	`{{.}}<svg/onload=alert(1)>`, "\u202e<b>\u0000", `&lt;script&gt;`, `<!--`, `]]><script>`, `</main></html>`, `"data-live="pending`,
}

// Texts of users and of the API stay texts on every page.
func TestHostileTexts(t *testing.T) {
	count := func(page string) map[string]int {
		tags := map[string]int{}
		z := html.NewTokenizer(strings.NewReader(page))
		for {
			switch z.Next() {
			case html.ErrorToken:
				return tags
			case html.StartTagToken, html.SelfClosingTagToken:
				token := z.Token()
				tags[token.Data]++
				for _, a := range token.Attr {
					if strings.HasPrefix(a.Key, "on") || strings.HasPrefix(strings.TrimSpace(a.Val), "javascript:") {
						t.Errorf("%s", token)
					}
					tags[token.Data+" "+a.Key]++
				}
			}
		}
	}
	harmless := map[string]map[string]int{}
	for i, text := range append([]string{"plain"}, hostile...) {
		s := newOperated(t)
		s.cfg.Title = text
		s.batch("march", text, text, 3)
		_, _, err := s.ledger.Pause(t.Context(), "march", history.By{Actor: text, Reason: text})
		testutil.Must(t, err)
		testutil.Must(t, ratelimit.HoldFleet(t.Context(), s.rdb, time.Time{}, history.By{Actor: text, Reason: text}))
		testutil.Must(t, s.ledger.Heartbeat(t.Context(), ledger.WorkerBeat{ID: text, API: text, Version: text, Key: text, Cause: text}))
		testutil.Must(t, s.ledger.NoteCommandSweep(t.Context(), ledger.SweepRun{Due: time.Now(), Error: text, Batch: text, Counts: ledger.SweepCounts{By: text, LeftOut: map[string]int64{text: 1}}}, history.By{Actor: text}, ""))
		for _, path := range pages {
			w := s.ask("GET", path, header("Authorization", "Bearer "+operator))
			if w.Code != 200 {
				t.Fatalf("%q: %s: %d", text, path, w.Code)
			}
			got := count(w.Body.String())
			if i == 0 {
				harmless[path] = got
				continue
			}
			for tag, n := range got {
				if n != harmless[path][tag] {
					t.Errorf("%q: %s has %d of %s, not %d", text, path, n, tag, harmless[path][tag])
				}
			}
		}
	}
}

// next reads the next event of a stream.
func next(t *testing.T, lines *bufio.Scanner) (e event) {
	t.Helper()
	for lines.Scan() {
		if doc, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			testutil.Must(t, json.Unmarshal([]byte(doc), &e))
			return e
		}
	}
	t.Fatalf("the stream has ended: %v", lines.Err())
	return e
}

// A stream follows a batch, an absence of Redis, and the end of the server.
func TestStream(t *testing.T) {
	s := newSite(t)
	s.cfg.Brief = true
	s.batch("march", "stale.csv", "code 3", 3)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+listener.Addr().String()+"/live?page=/batches/march", nil)
	testutil.Must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	testutil.Must(t, err)
	defer answer.Body.Close()
	if kind := answer.Header.Get("Content-Type"); answer.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("%d, %s", answer.StatusCode, kind)
	}
	lines := bufio.NewScanner(answer.Body)
	first := next(t, lines)
	if first.Texts["pending"] != "2" || first.Texts["percent"] != "33%" || first.Title != "33% · stale.csv" || first.Down != "" {
		t.Errorf("%+v", first)
	}
	c := s.ledger.Commit(t.Context(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Position: 1, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}}}})
	testutil.Must(t, c[0].Err)
	second := next(t, lines)
	if second.Texts["pending"] != "1" || second.Sizes["b.cancelled"] != "33.33" || second.Shape != first.Shape {
		t.Errorf("%+v after %+v", second, first)
	}
	s.redis.SetError("LOADING Redis is loading the dataset in memory")
	if e := next(t, lines); e.Down == "" || e.Texts["pending"] != "1" {
		t.Errorf("without Redis: %+v", e)
	}
	s.redis.SetError("")
	if e := next(t, lines); e.Down != "" {
		t.Errorf("with Redis again: %+v", e)
	}
	_, _, err = s.ledger.Pause(t.Context(), "march", history.By{Actor: "ann"})
	testutil.Must(t, err)
	if e := next(t, lines); e.Shape == first.Shape || e.Texts["now"] != "paused (by ann)" {
		t.Errorf("paused: %+v", e)
	}
	stop()
	for !next(t, lines).Ended {
	}
	if _, err := io.ReadAll(answer.Body); err != nil {
		t.Error(err)
	}
	testutil.Must(t, <-served)
}

// Redis is read for those who look, once for all of them, and not at all for nobody.
func TestReadings(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", "code 3", 3)
	calls := 0
	s.redis.Server().SetPreHook(nil)
	s.rdb.AddHook(counter{&calls})
	began := time.Now()
	for range 100 {
		s.ask("GET", "/live?page=/batches/march&once")
	}
	took := time.Since(began)
	// The records, the history, the batch and the fleet, once in each freshFor that began.
	if readings := 1 + int(took/freshFor); calls > 25*readings {
		t.Errorf("%d commands for 100 looks within %v", calls, took)
	}
	calls = 0
	time.Sleep(2 * freshFor)
	if calls != 0 {
		t.Errorf("%d commands for nobody", calls)
	}
}

// counter counts commands.
type counter struct{ n *int }

func (counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { *c.n++; return next(ctx, cmd) }
}
func (c counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { *c.n += len(cmds); return next(ctx, cmds) }
}

// At most 64 streams are open. The next one gets a 503, and its page asks every few seconds.
func TestManyStreams(t *testing.T) {
	s := newSite(t)
	for range maxStreams {
		if !s.hub.enter() {
			t.Fatal("no stream is free")
		}
	}
	if w := s.ask("GET", "/live?page=/"); w.Code != 503 || w.Header().Get("Retry-After") != "5" {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
	if w := s.ask("GET", "/live?page=/&once"); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	s.hub.leave()
	if n := s.hub.open(); n != maxStreams-1 {
		t.Errorf("%d streams", n)
	}
}

// Without any reading, a page says that Redis is away. With one, it shows it.
func TestRedisAway(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", "code 3", 3)
	for _, path := range []string{"/", "/batches/march", "/rate", "/sweeps"} {
		s.redis.SetError("")
		s.reader.expire()
		s.ask("GET", path)
		s.redis.SetError("LOADING Redis is loading the dataset in memory")
		s.reader.expire()
		if w := s.ask("GET", path); w.Code != 200 || strings.Contains(w.Body.String(), `role="status" hidden`) {
			t.Errorf("%s: %d: %s", path, w.Code, w.Body)
		}
	}
	fresh := newServer(s.cfg, s.addr)
	s.http = fresh.handler()
	for _, path := range []string{"/", "/batches/march", "/rate", "/sweeps", "/activity"} {
		if w := s.ask("GET", path); w.Code != 503 || !strings.Contains(w.Body.String(), "Redis cannot be reached") {
			t.Errorf("%s: %d: %s", path, w.Code, w.Body)
		}
	}
}

// What Redis answers may show a secret.
func TestErrorsHideSecrets(t *testing.T) {
	s := newOperated(t)
	s.batch("march", "stale.csv", "code 3", 3)
	s.cfg.Secrets = &clean.Secrets{}
	s.cfg.Secrets.Add("hunter2-hunter2")
	for _, text := range []string{"ERR unknown command AUTH hunter2-hunter2", "WRONGPASS hunter2-hunter2 is wrong"} {
		s.redis.SetError(text)
		s.reader.expire()
		for _, w := range []*httptest.ResponseRecorder{s.ask("GET", "/activity"), s.ask("GET", "/live?once&page=/activity"), s.post("/batches/march/pause", nil)} {
			if body := w.Body.String(); w.Code < 500 || strings.Contains(body, "hunter2") || !strings.Contains(body, "[redacted]") {
				t.Errorf("%d: %s", w.Code, body)
			}
		}
	}
}

// Many clients that are slow block nobody else.
func TestSlowClients(t *testing.T) {
	s := newSite(t)
	s.batch("march", "stale.csv", "code 3", 3)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	for range 500 {
		c, err := net.Dial("tcp", listener.Addr().String())
		testutil.Must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")) // and no more
		testutil.Must(t, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+listener.Addr().String()+"/batches/march", nil)
	testutil.Must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	testutil.Must(t, err)
	_ = answer.Body.Close()
	if answer.StatusCode != 200 {
		t.Error(answer.Status)
	}
	stop()
	testutil.Must(t, <-served)
}
