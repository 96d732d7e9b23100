package sandbox

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ask sends one request without a key and returns the whole answer.
func ask(s *Server, method, path string) *http.Response {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Result()
}

func TestParseAnswer(t *testing.T) {
	type want struct {
		Status                                   int
		Type, Server, Location, RetryAfter, Body string
	}
	const gateway, json, html = "gateway/1.0", "application/json", "text/html; charset=utf-8"
	page := func(title string) string {
		return "<html>\r\n<head><title>" + title + "</title></head>\r\n<body><center><h1>" + title + "</h1></center></body>\r\n</html>\r\n"
	}
	for text, want := range map[string]want{
		"404":         {404, html, gateway, "", "", page("404 Not Found")},
		"404:html":    {404, html, gateway, "", "", page("404 Not Found")},
		"404:text":    {404, "text/plain; charset=utf-8", gateway, "", "", "default backend - 404"},
		"404:json":    {404, json, gateway, "", "", `{"message":"no Route matched with those values"}`},
		"404:grpc":    {404, json, gateway, "", "", `{"code":5,"message":"Not Found","details":[]}`},
		"404:empty":   {404, "", gateway, "", "", ""},
		"404:api":     {404, json, "", "", "", `{"code":4,"message":"not found","source":"payment-links","type":"apiError"}`},
		"302:empty":   {302, "", gateway, loginURL, "", ""},
		"302:html":    {302, html, gateway, loginURL, "", page("302 Found")},
		"403:html":    {403, html, gateway, "", "", page("403 Forbidden")},
		"421:html":    {421, html, gateway, "", "", page("421 Misdirected Request")},
		"451":         {451, html, gateway, "", "", page("451 Unavailable For Legal Reasons")},
		"499:json":    {499, json, gateway, "", "", `{"message":"Status 499"}`},
		"422:json":    {422, json, gateway, "", "", `{"message":"Unprocessable Entity"}`},
		"422:grpc":    {422, json, gateway, "", "", `{"code":2,"message":"Unprocessable Entity","details":[]}`},
		"200:html":    {200, html, gateway, "", "", friendlyPage},
		"204":         {204, "", gateway, "", "", ""},
		"304:empty":   {304, "", gateway, "", "", ""},
		"429:api:20s": {429, json, "", "", "20", `{"code":2,"message":"too many requests","source":"payment-links","type":"apiError"}`},
		"503:api:7":   {503, json, "", "", "7", `{"code":1,"message":"service unavailable","source":"payment-links","type":"apiError"}`},
		"429:1500ms":  {429, html, gateway, "", "2", page("429 Too Many Requests")},
		"429::0":      {429, html, gateway, "", "0", page("429 Too Many Requests")},
	} {
		a, err := ParseAnswer(text, BodyHTML)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		resp := ask(New(Config{Gateway: Gateway{Answer: a, Share: 1}}), "DELETE", "/v1/payment-links/a")
		var body strings.Builder
		if err := resp.Write(&body); err != nil {
			t.Error(err)
		}
		_, rest, _ := strings.Cut(body.String(), "\r\n\r\n")
		h := resp.Header
		got := want
		got.Status, got.Type, got.Server, got.Location, got.RetryAfter, got.Body = resp.StatusCode, h.Get("Content-Type"), h.Get("Server"), h.Get("Location"), h.Get("Retry-After"), rest
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestParseAnswerRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":              `"" is not a status`,
		"html":          `"html" is not a status`,
		"100":           `"100" is not a status`,
		"600:html":      `"600" is not a status`,
		"404:nonsense":  `"nonsense" is not a body`,
		"204:html":      "a 204 has no body",
		"429:api:soon":  `Retry-After: "soon" is not a duration`,
		"429:api:-1s":   `Retry-After: "-1s" is not a duration`,
		"429:api:1:2":   `"2" is too much`,
		"429:20:api":    `"api" is too much`,
		"429:api:1s:2s": `"2s" is too much`,
	} {
		if _, err := ParseAnswer(text, BodyHTML); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func answerOf(t *testing.T, text string) Answer {
	t.Helper()
	a, err := ParseAnswer(text, BodyHTML)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A gateway answers everything, does nothing, and needs no key.
func TestGateway(t *testing.T) {
	var log strings.Builder
	g := Gateway{Answer: answerOf(t, "404:html"), Share: 1}
	g.Answer.Apply = true
	s := New(Config{IDs: []string{"a"}, Key: "another", Rate: 1, Gateway: g, Log: &log, KeepRequests: 1})
	for _, path := range []string{"/v1/payment-links/a", "/v1/payment-links/none", "/v1/payment-links", "/v1/payment-links?page=4", "/else"} {
		for _, method := range []string{"GET", "DELETE"} {
			if status, body := call(s, method, path); status != 404 || !strings.HasPrefix(body, "<html>") {
				t.Errorf("%s %s = %d %s", method, path, status, body)
			}
		}
	}
	if s.Applied("a") != 0 || s.Requests()[0].Fault != "gateway" || s.Counts().ByFault["gateway"] != 10 {
		t.Errorf("applied %d, %+v, %+v", s.Applied("a"), s.Requests(), s.Counts())
	}
	s.Close()
	if got := strings.Count(log.String(), `"status":404,"fault":"gateway","applied":false}`); got != 10 {
		t.Errorf("log: %s", &log)
	}
	s.SetGateway(Gateway{})
	s.SetKey("")
	if got := link1(s, "DELETE", "a"); got != 204 {
		t.Errorf("without it: %d", got)
	}
}

func TestGatewaySpares(t *testing.T) {
	paths := []string{"DELETE /a", "GET /a", "GET ", "GET ?page=3", "GET ?page=4", "GET ?page=9"}
	for name, test := range map[string]struct {
		gateway Gateway
		want    []int
	}{
		"all":          {Gateway{}, []int{418, 418, 418, 418, 418, 418}},
		"spares gets":  {Gateway{SpareGets: true}, []int{418, 200, 418, 418, 418, 418}},
		"spares lists": {Gateway{SpareLists: true}, []int{418, 418, 200, 200, 200, 200}},
		"from page 4":  {Gateway{Page: 4}, []int{204, 200, 200, 200, 418, 418}},
	} {
		test.gateway.Answer, test.gateway.Share = Answer{Status: 418}, 1
		s := New(Config{IDs: []string{"a"}, Gateway: test.gateway})
		var got []int
		for _, request := range paths {
			method, path, _ := strings.Cut(request, " ")
			status, _ := call(s, method, "/v1/payment-links"+path)
			got = append(got, status)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// It comes and goes by the clock of the server.
func TestGatewayPeriod(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	later := Gateway{Answer: Answer{Status: 418}, Share: 1, From: 2 * time.Hour}
	s := New(Config{IDs: []string{"a"}, Now: func() time.Time { return now },
		Gateway: Gateway{Answer: Answer{Status: 418}, Share: 1, From: 5 * time.Second, For: 10 * time.Second}})
	for _, step := range []struct {
		after time.Duration
		set   *Gateway
		want  int
	}{
		{0, nil, 200}, {4999 * time.Millisecond, nil, 200}, {5 * time.Second, nil, 418}, {14999 * time.Millisecond, nil, 418},
		{15 * time.Second, nil, 200}, {time.Hour, &later, 200}, {2 * time.Hour, nil, 418}, {200 * time.Hour, nil, 418},
		{201 * time.Hour, &Gateway{}, 200},
	} {
		now = start.Add(step.after)
		if step.set != nil {
			s.SetGateway(*step.set)
		}
		if got := link1(s, "GET", "a"); got != step.want {
			t.Errorf("after %v: %d", step.after, got)
		}
	}
}

// Which requests are hit depends on seed, method, id and how often the id was
// asked for, not on the order of the requests.
func TestGatewayShare(t *testing.T) {
	const n = 2000
	cfg := Config{Seed: 3, Links: n, Gateway: Gateway{Answer: Answer{Status: 418}, Share: 0.3}}
	sorted := make([]int, n)
	for i := range sorted {
		sorted[i] = i
	}
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	one := New(cfg)
	alone := outcomes(one, sorted, 1)
	if diff := cmp.Diff(alone, outcomes(New(cfg), order, 8)); diff != "" {
		t.Errorf("scheduling changes the answers: %s", diff)
	}
	hit, mixed := 0.0, 0
	for _, statuses := range alone {
		deletes := 0
		for i, status := range statuses {
			if status == 418 {
				hit++
			}
			if i%2 == 0 && status == 418 {
				deletes++
			}
		}
		if deletes > 0 && deletes < 4 {
			mixed++
		}
	}
	if got := hit / (8 * n); got < 0.28 || got > 0.32 || mixed < n/2 {
		t.Errorf("share %.3f, %d links were hit now and then", got, mixed)
	}
	cfg.Seed++
	if other := New(cfg); cmp.Equal(slices.Collect(hits(one)), slices.Collect(hits(other))) {
		t.Error("the seed changes nothing")
	}
}

// hits yields for each link whether its next DELETE meets the gateway.
func hits(s *Server) func(func(bool) bool) {
	return func(yield func(bool) bool) {
		for _, id := range s.IDs() {
			if !yield(link1(s, "DELETE", id) == 418) {
				return
			}
		}
	}
}

// By link: always, for every method, or never. So are links that nobody knows.
func TestGatewaySticky(t *testing.T) {
	s := New(Config{Seed: 3, Gateway: Gateway{Answer: Answer{Status: 418}, Share: 0.5, Sticky: true}})
	hit := 0
	for i := range 1000 {
		id := fmt.Sprint("unknown-", i)
		first := link1(s, "DELETE", id)
		if first == 418 {
			hit++
		}
		for range 3 {
			if link1(s, "DELETE", id) != first || link1(s, "GET", id) != first {
				t.Fatalf("%s was hit now and then", id)
			}
		}
	}
	if hit < 450 || hit > 550 {
		t.Errorf("%d of 1000 were hit", hit)
	}
}

func TestGatewayCheck(t *testing.T) {
	for want, g := range map[string]Gateway{
		"":                         {Share: 0.5, From: time.Second, For: time.Second, Page: 4},
		"share 1.5 of the gateway": {Share: 1.5},
		"share -1 of the gateway":  {Share: -1},
		"time of the gateway":      {For: -1},
		"page of the gateway":      {Page: -1},
	} {
		if err := g.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", g, err)
		}
	}
}

func TestPoison(t *testing.T) {
	locked := answerOf(t, "429:api:20")
	s := New(Config{Seed: 1, IDs: []string{"a", "b"}, Poison: map[string]Answer{"a": locked}, KeepRequests: 1})
	for range 5 {
		if d, g := link1(s, "DELETE", "a"), link1(s, "GET", "a"); d != 429 || g != 429 {
			t.Errorf("%d, %d", d, g)
		}
	}
	if s.Requests()[0].Fault != "poison" {
		t.Errorf("%+v", s.Requests())
	}
	if got := link1(s, "DELETE", "b"); got != 204 {
		t.Errorf("another link: %d", got)
	}
	s.Script("a", Answer{Status: 500})
	if got := []int{link1(s, "DELETE", "a"), link1(s, "DELETE", "a")}; got[0] != 500 || got[1] != 429 {
		t.Errorf("with a script: %d", got)
	}
	s.SetPoison("a", Answer{Status: 401, Method: "DELETE"})
	if d, g := link1(s, "DELETE", "a"), link1(s, "GET", "a"); d != 401 || g != 200 {
		t.Errorf("DELETE alone: %d, %d", d, g)
	}
	s.SetPoison("a", Answer{})
	if got := link1(s, "DELETE", "a"); got != 204 || s.Applied("a") != 1 {
		t.Errorf("after it: %d", got)
	}
}

func TestPoisonLinks(t *testing.T) {
	choose := func(seed uint64) (*Server, []string, []string) {
		s := New(Config{Seed: seed, Links: 200, Paid: 0.5})
		return s, s.PoisonLinks(3, Answer{Status: 429}), s.PoisonLinks(2, Answer{Status: 401})
	}
	s, first, second := choose(1)
	_, again, _ := choose(1)
	_, other, _ := choose(2)
	if !slices.Equal(first, again) || slices.Equal(first, other) {
		t.Errorf("%v, %v, %v", first, again, other)
	}
	all := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(first), second...))))
	if len(all) != 5 {
		t.Errorf("%v and %v are not 5 links", first, second)
	}
	for i, id := range append(first, second...) {
		want := 429
		if i >= 3 {
			want = 401
		}
		if status, _ := s.Status(id); status != "active" || link1(s, "DELETE", id) != want {
			t.Errorf("%s is %s", id, status)
		}
	}
	if rest := s.PoisonLinks(1000, Answer{Status: 503}); len(rest) < 50 || len(rest) > 150 {
		t.Errorf("%d more", len(rest))
	}
}

func TestEmptyErrors(t *testing.T) {
	s := New(Config{IDs: []string{"a"}, EmptyErrors: true, Poison: map[string]Answer{"p": answerOf(t, "404:api")}})
	link1(s, "DELETE", "a")
	for _, test := range []struct {
		method, path string
		want         int
		empty        bool
	}{
		{"DELETE", "/v1/payment-links/a", 422, true},
		{"DELETE", "/v1/payment-links/none", 404, true},
		{"GET", "/v1/payment-links/none", 404, true},
		{"GET", "/v1/payment-links?page=0", 400, true},
		{"GET", "/v1/nowhere", 404, true},
		{"POST", "/v1/payment-links", 405, false},
		{"GET", "/v1/payment-links/p", 404, false},
	} {
		status, body := call(s, test.method, test.path)
		if status != test.want || (body == "") != test.empty {
			t.Errorf("%s %s = %d %q", test.method, test.path, status, body)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("DELETE", "/v1/payment-links/a", nil)
	r.Header.Set("Authorization", "key")
	s.ServeHTTP(w, r)
	if len(w.Header()) != 0 {
		t.Errorf("headers: %v", w.Header())
	}
	s.SetFaults(Faults{BadRequest: 1})
	if status, body := call(s, "DELETE", "/v1/payment-links/a"); status != 400 || body != "" {
		t.Errorf("%d %s", status, body)
	}
}

func TestForbidden(t *testing.T) {
	const body = `{"code":2,"message":"access denied","source":"keys","type":"apiError"}`
	s := New(Config{Seed: 9, Links: 1000, ForbiddenLinks: 0.5, KeepRequests: 2})
	refused := 0
	for _, id := range s.IDs() {
		first, text := call(s, "DELETE", "/v1/payment-links/"+id)
		if first == 403 {
			if refused++; text != body {
				t.Fatal(text)
			}
		}
		if d, g := link1(s, "DELETE", id), link1(s, "GET", id); (d == 403) != (first == 403) || (g == 403) != (first == 403) {
			t.Fatalf("%s: %d, then %d and %d", id, first, d, g)
		}
	}
	if refused < 450 || refused > 550 {
		t.Errorf("%d of 1000 are forbidden", refused)
	}
	s = New(Config{IDs: []string{"a"}, GetsForbidden: true, ListForbidden: true, KeepRequests: 2})
	if g, text := call(s, "GET", "/v1/payment-links/a"); g != 403 || text != body {
		t.Errorf("GET: %d %s", g, text)
	}
	if l, text := call(s, "GET", "/v1/payment-links?page=2"); l != 403 || text != body {
		t.Errorf("list: %d %s", l, text)
	}
	if faults := []string{s.Requests()[0].Fault, s.Requests()[1].Fault}; !slices.Equal(faults, []string{"forbidden_get", "forbidden_list"}) {
		t.Errorf("%q", faults)
	}
	if got := link1(s, "DELETE", "a"); got != 204 {
		t.Errorf("DELETE: %d", got)
	}
}

// After a move, connections that were there before lead to the old server, and
// stay open; new ones lead to the API.
func TestMove(t *testing.T) {
	var log strings.Builder
	s := New(Config{IDs: []string{"a", "b"}, KeepRequests: 10, Log: &log})
	server := httptest.NewUnstartedServer(s)
	server.Config.ConnContext = s.ConnContext
	server.Start()
	defer server.Close()
	client := func() func(method, id string) int {
		transport := &http.Transport{MaxConnsPerHost: 1}
		t.Cleanup(transport.CloseIdleConnections)
		return func(method, id string) int {
			req, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/v1/payment-links/"+id, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "key")
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if err := resp.Write(new(strings.Builder)); err != nil { // to the end: the connection is kept
				t.Fatal(err)
			}
			return resp.StatusCode
		}
	}
	old := client()
	got := []int{old("GET", "a")}
	s.Move()
	fresh := client()
	got = append(got, old("DELETE", "a"), old("GET", "a"), fresh("DELETE", "a"), old("DELETE", "b"), fresh("DELETE", "b"))
	s.Move()
	got = append(got, fresh("GET", "b"), client()("GET", "b"))
	if want := []int{200, 503, 503, 204, 503, 204, 503, 200}; !slices.Equal(got, want) {
		t.Errorf("%d, want %d", got, want)
	}
	var conns []uint32
	var faults []string
	for _, q := range s.Requests() {
		conns, faults = append(conns, q.Conn), append(faults, q.Fault)
	}
	if want := []uint32{1, 1, 1, 2, 1, 2, 2, 3}; !slices.Equal(conns, want) {
		t.Errorf("connections %d, want %d", conns, want)
	}
	if want := []string{"", "moved", "moved", "", "moved", "", "moved", ""}; !slices.Equal(faults, want) {
		t.Errorf("faults %q", faults)
	}
	if err := s.Flush(); err != nil || !strings.Contains(log.String(), `"status":503,"fault":"moved","applied":false,"conn":2}`) {
		t.Errorf("%v, log: %s", err, &log)
	}
	// A request whose connection is not known reaches the API.
	if got := link1(s, "GET", "a"); got != 200 {
		t.Errorf("without a connection: %d", got)
	}
}
