package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// call sends one request through the handler itself, with the key "key". A cut
// connection is status 0.
func call(s *Server, method, path string) (status int, body string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Authorization", "key")
	aborted := func() (aborted bool) {
		defer func() {
			if p := recover(); p == http.ErrAbortHandler {
				aborted = true
			} else if p != nil {
				panic(p)
			}
		}()
		s.ServeHTTP(w, r)
		return false
	}()
	if aborted {
		return 0, ""
	}
	return w.Code, w.Body.String()
}

func link1(s *Server, method, id string) int {
	status, _ := call(s, method, "/v1/payment-links/"+id)
	return status
}

func TestCancelAndGet(t *testing.T) {
	s := New(Config{Links: 3, IDs: []string{"mine", "mine"}})
	ids := s.IDs()
	if len(ids) != 4 || ids[3] != "mine" {
		t.Fatalf("IDs = %v", ids)
	}
	for _, id := range ids {
		if status, ok := s.Status(id); status != "active" || !ok {
			t.Errorf("Status(%s) = %q, %v", id, status, ok)
		}
		if status, body := call(s, "DELETE", "/v1/payment-links/"+id); status != 204 || body != "" {
			t.Errorf("DELETE = %d %q", status, body)
		}
		status, body := call(s, "DELETE", "/v1/payment-links/"+id)
		if want := `{"code":5,"message":"payment link cannot be cancelled: it is cancelled","source":"payment-links","type":"validationError"}`; status != 422 || body != want {
			t.Errorf("second DELETE = %d %s", status, body)
		}
		if status, _ := s.Status(id); status != "cancelled" || s.Applied(id) != 1 {
			t.Errorf("status %q, applied %d", status, s.Applied(id))
		}
		status, body = call(s, "GET", "/v1/payment-links/"+id)
		var d document
		if err := json.Unmarshal([]byte(body), &d); status != 200 || err != nil || d.ID != id || d.Status != "cancelled" {
			t.Errorf("GET = %d %s", status, body)
		}
	}
	status, body := call(s, "DELETE", "/v1/payment-links/other")
	if want := `{"code":4,"message":"payment link not found","source":"payment-links","type":"apiError"}`; status != 404 || body != want {
		t.Errorf("unknown link: %d %s", status, body)
	}
	if s.Applied("other") != 0 {
		t.Error("an unknown link was changed")
	}
}

func TestDocument(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := New(Config{Seed: 1, Links: 200, Expired: 0.3, Now: func() time.Time { return now }})
	absent, null := 0, 0
	for _, id := range s.IDs() {
		_, body := call(s, "GET", "/v1/payment-links/"+id)
		var fields map[string]any
		if err := json.Unmarshal([]byte(body), &fields); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"amount", "autoClearing", "createdAt", "currency", "customerId", "description", "id", "metadata", "orderReference", "status", "updatedAt", "url", "validation", "createdBy"} {
			if _, ok := fields[name]; !ok {
				t.Fatalf("%s is missing in %s", name, body)
			}
		}
		created, err := time.Parse(time.RFC3339, fields["createdAt"].(string))
		if err != nil || created.After(now) || fields["url"] != "https://checkout.plexypay.com/"+id || fields["amount"].(float64) < 100 {
			t.Errorf("implausible: %s", body)
		}
		switch expires, ok := fields["expiresAt"]; {
		case !ok:
			absent++
		case expires == nil:
			null++
		default:
			at, err := time.Parse(time.RFC3339, expires.(string))
			if err != nil || !at.After(created) || fields["status"] == "expired" && at.After(now) {
				t.Errorf("implausible: %s", body)
			}
		}
	}
	if absent == 0 || null == 0 {
		t.Errorf("expiresAt: %d absent, %d null; want both forms", absent, null)
	}
	id := s.IDs()[0]
	s.SetStatus(id, "active")
	now = now.Add(time.Hour)
	link1(s, "DELETE", id)
	if _, body := call(s, "GET", "/v1/payment-links/"+id); !strings.Contains(body, `"updatedAt":"2026-03-01T13:00:00Z"`) {
		t.Errorf("updatedAt does not follow: %s", body)
	}
}

func TestShares(t *testing.T) {
	const n = 20_000
	s := New(Config{Seed: 7, Links: n, Paid: 0.1, Expired: 0.2, Cancelled: 0.05, Missing: 0.01})
	count := map[string]float64{}
	for _, id := range s.IDs() {
		status, _ := s.Status(id)
		if count[status]++; count[status] > 1 {
			continue
		}
		wantDelete, wantGet := 422, 200
		switch status {
		case "active":
			wantDelete = 204
		case "":
			wantDelete, wantGet = 404, 404
		}
		if got := link1(s, "DELETE", id); got != wantDelete {
			t.Errorf("DELETE of a link %q = %d", status, got)
		}
		if got := link1(s, "GET", id); got != wantGet {
			t.Errorf("GET of a link %q = %d", status, got)
		}
	}
	for status, want := range map[string]float64{"paid": 0.1, "expired": 0.2, "cancelled": 0.05, "": 0.01, "active": 0.64} {
		if got := count[status] / n; got < want-0.01 || got > want+0.01 {
			t.Errorf("share of %q: %.3f, want %.3f", status, got, want)
		}
	}
}

func TestPaths(t *testing.T) {
	s := New(Config{IDs: []string{"a b", "é", "a/b", "100%", "."}})
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{"DELETE", "/v1/payment-links/a%20b", 204},
		{"DELETE", "/v1/payment-links/%C3%A9", 204},
		{"DELETE", "/v1/payment-links/a%2Fb", 204},
		{"DELETE", "/v1/payment-links/100%25", 204},
		{"DELETE", "/v1/payment-links/a/b", 404},
		{"DELETE", "/v1/payment-links", 405},
		{"DELETE", "/v1/payment-links/", 405},
		{"GET", "/v1/payment-links/", 200},
		{"POST", "/v1/payment-links/a%20b", 405},
		{"POST", "/v1/payment-links/none", 405},
		{"GET", "/v1/payment-linksx", 404},
		{"GET", "/payment-links", 404},
		{"GET", "/", 404},
	} {
		if got, body := call(s, test.method, test.path); got != test.want {
			t.Errorf("%s %s = %d %s, want %d", test.method, test.path, got, body, test.want)
		}
	}
	s = New(Config{Prefix: "/pay/v2", IDs: []string{"a"}})
	if got, _ := call(s, "DELETE", "/pay/v2/payment-links/a"); got != 204 {
		t.Errorf("other prefix: %d", got)
	}
}

func TestKey(t *testing.T) {
	s := New(Config{IDs: []string{"a"}, Key: "secret"})
	status, body := call(s, "DELETE", "/v1/payment-links/a")
	if status != 401 || !strings.Contains(body, `"code":`) || s.Applied("a") != 0 {
		t.Errorf("wrong key: %d %s", status, body)
	}
	s.SetKey("key")
	if got := link1(s, "DELETE", "a"); got != 204 {
		t.Errorf("right key: %d", got)
	}
	s.SetKey("")
	if got := link1(s, "GET", "a"); got != 200 {
		t.Errorf("any key: %d", got)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/v1/payment-links/a", nil))
	if w.Code != 401 {
		t.Errorf("no key: %d", w.Code)
	}
}

func TestList(t *testing.T) {
	s := New(Config{Seed: 3, Links: 230, Paid: 0.2, Missing: 0.1})
	get := func(query string) (l listing) {
		t.Helper()
		status, body := call(s, "GET", "/v1/payment-links"+query)
		if err := json.Unmarshal([]byte(body), &l); status != 200 || err != nil {
			t.Fatalf("%s: %d %s", query, status, body)
		}
		return l
	}
	for _, filter := range []string{"", "active", "paid", "nonsense"} {
		var want, got []string
		for _, id := range s.IDs() {
			if status, ok := s.Status(id); ok && (filter == "" || filter == status) {
				want = append(want, id)
			}
		}
		for page := 1; ; page++ {
			l := get(fmt.Sprintf("?page=%d&size=30&status=%s", page, filter))
			if l.Total != len(want) || l.Page != page || l.Size != 30 {
				t.Fatalf("%q page %d: total %d, page %d, size %d", filter, page, l.Total, l.Page, l.Size)
			}
			if len(l.Data) == 0 {
				break
			}
			for _, d := range l.Data {
				got = append(got, d.ID)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", filter, diff)
		}
	}
	// The list follows what happens to links.
	head, there := get("").Data[0].ID, get("").Total
	s.SetStatus(head, "")
	s.SetStatus("new", "active")
	s.SetStatus("newer", "")
	if l := get("?page=5"); l.Total != there || l.Data[len(l.Data)-1].ID != "new" {
		t.Errorf("after changes: total %d, not %d, at the end %s", l.Total, there, l.Data[len(l.Data)-1].ID)
	}
	s.SetStatus(head, "paid")
	s.SetStatus("newer", "active")
	if l := get(""); l.Total != there+2 || l.Data[0].ID != head || l.Data[0].Status != "paid" {
		t.Errorf("after changes: total %d, not %d, at the head %s %s", l.Total, there+2, l.Data[0].ID, l.Data[0].Status)
	}
	if l := get(""); l.Page != 1 || l.Size != 50 || len(l.Data) != 50 {
		t.Errorf("defaults: page %d, size %d, %d links", l.Page, l.Size, len(l.Data))
	}
	if l := get("?size=1000"); len(l.Data) != 50 {
		t.Errorf("the size is not capped: %d", len(l.Data))
	}
	for _, query := range []string{"?page=0", "?page=x", "?size=-1", "?page=99999999999"} {
		if status, body := call(s, "GET", "/v1/payment-links"+query); status != 400 || !strings.Contains(body, `"code":3`) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	if _, body := call(s, "GET", "/v1/payment-links?page=99"); !strings.Contains(body, `"data":[]`) {
		t.Errorf("an empty page: %s", body)
	}
}

func TestOutage(t *testing.T) {
	s := New(Config{IDs: []string{"a"}})
	s.SetOutage(503)
	if status, body := call(s, "DELETE", "/v1/payment-links/a"); status != 503 || !strings.Contains(body, `"code":1`) {
		t.Errorf("%d %s", status, body)
	}
	if got, _ := call(s, "GET", "/v1/payment-links"); got != 503 {
		t.Errorf("list: %d", got)
	}
	s.SetOutage(0)
	if got := link1(s, "DELETE", "a"); got != 204 || s.Applied("a") != 1 {
		t.Errorf("after it: %d", got)
	}
}

func TestScript(t *testing.T) {
	s := New(Config{IDs: []string{"a", "b"}})
	s.Script("a",
		Answer{Status: 500, Apply: true},
		Answer{},
		Answer{Status: 409, Body: `{"code":9}`, Header: map[string]string{"Retry-After": "3"}},
		Answer{Cut: true},
		Answer{Method: "GET", Status: 418, Body: "tea"})
	s.Script("unknown", Answer{Status: 202, Apply: true})
	var got []int
	for range 4 {
		got = append(got, link1(s, "DELETE", "a"))
	}
	got = append(got, link1(s, "DELETE", "a"), link1(s, "GET", "a"), link1(s, "GET", "a"),
		link1(s, "DELETE", "b"), link1(s, "DELETE", "unknown"), link1(s, "DELETE", "unknown"))
	want := []int{500, 422, 409, 0, 422, 418, 200, 204, 202, 404}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s.Applied("a") != 1 {
		t.Errorf("applied %d times", s.Applied("a"))
	}
	s.Script("b", Answer{Status: 429, Body: "[]", Header: map[string]string{"Retry-After": "3"}})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("DELETE", "/v1/payment-links/b", nil)
	r.Header.Set("Authorization", "key")
	s.ServeHTTP(w, r)
	if w.Header().Get("Retry-After") != "3" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("headers: %v", w.Header())
	}
}

func TestSetStatus(t *testing.T) {
	s := New(Config{Links: 1})
	id := s.IDs()[0]
	s.SetStatus(id, "refunded")
	if got := link1(s, "DELETE", id); got != 422 {
		t.Errorf("DELETE of a refunded link = %d", got)
	}
	s.SetStatus(id, "")
	if _, ok := s.Status(id); ok || link1(s, "GET", id) != 404 {
		t.Error("the link is not missing")
	}
	s.SetStatus("new", "active")
	if got := link1(s, "DELETE", "new"); got != 204 {
		t.Errorf("DELETE of a new link = %d", got)
	}
}

func TestRate(t *testing.T) {
	now := time.Unix(1_700_000_000, 500_000_000)
	cfg := Config{IDs: []string{"a"}, Rate: 10, RetryAfter: 1500 * time.Millisecond, Now: func() time.Time { return now }}
	s := New(cfg)
	burst := func(n int) (allowed int) {
		for range n {
			if link1(s, "GET", "a") == 200 {
				allowed++
			}
		}
		return allowed
	}
	if got := burst(15); got != 10 {
		t.Errorf("%d allowed at once, want 10", got)
	}
	now = now.Add(999 * time.Millisecond)
	if got := burst(5); got != 0 {
		t.Errorf("%d allowed within the same second", got)
	}
	now = now.Add(time.Millisecond)
	if got := burst(15); got != 10 {
		t.Errorf("%d allowed in the next second, want 10", got)
	}
	if got := s.Counts().ByStatus[429]; got != 15 {
		t.Errorf("%d were throttled", got)
	}
	retryAfter := func() string {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("DELETE", "/v1/payment-links/a", nil)
		r.Header.Set("Authorization", "key")
		s.ServeHTTP(w, r)
		if w.Code != 429 {
			t.Errorf("status %d", w.Code)
		}
		return w.Header().Get("Retry-After")
	}
	if got := retryAfter(); got != "2" {
		t.Errorf("Retry-After %q", got)
	}
	cfg.RetryAfterDate, cfg.Rate = true, 0.5
	s = New(cfg)
	if got := burst(3); got != 1 {
		t.Errorf("%d allowed at half a request a second", got)
	}
	at, err := http.ParseTime(retryAfter())
	if wait := at.Sub(now); err != nil || wait < 1500*time.Millisecond || wait > 2500*time.Millisecond {
		t.Errorf("Retry-After in %v, %v", wait, err)
	}
	now = now.Add(2 * time.Second)
	if got := burst(3); got != 1 {
		t.Errorf("%d allowed after 2 s", got)
	}
	s.SetRate(0)
	if got := burst(1000); got != 1000 {
		t.Errorf("%d allowed without a limit", got)
	}
}

func TestCountsAndRequests(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s := New(Config{IDs: []string{"a", "b"}, KeepRequests: 3, Now: func() time.Time { return now }})
	step := func(method, id string) {
		now = now.Add(300 * time.Millisecond)
		link1(s, method, id)
	}
	step("GET", "a")
	step("DELETE", "a")
	step("DELETE", "a")
	step("GET", "none")
	step("DELETE", "b")
	start := time.Unix(1_700_000_000, 0)
	want := []Request{
		{Time: start.Add(900 * time.Millisecond), Method: "DELETE", ID: "a", Status: 422},
		{Time: start.Add(1200 * time.Millisecond), Method: "GET", ID: "none", Status: 404},
		{Time: start.Add(1500 * time.Millisecond), Method: "DELETE", ID: "b", Status: 204, Applied: true},
	}
	if diff := cmp.Diff(want, s.Requests()); diff != "" {
		t.Error(diff)
	}
	wantCounts := Counts{
		Total: 5, PeakPerSecond: 4,
		ByMethod: map[string]int{"GET": 2, "DELETE": 3},
		ByStatus: map[int]int{200: 1, 204: 2, 404: 1, 422: 1},
		ByFault:  map[string]int{},
	}
	if diff := cmp.Diff(wantCounts, s.Counts()); diff != "" {
		t.Error(diff)
	}
	if got := New(Config{}).Requests(); len(got) != 0 {
		t.Errorf("kept %v", got)
	}
}

func TestLog(t *testing.T) {
	var log strings.Builder
	s := New(Config{IDs: []string{"a"}, Log: &log, Now: func() time.Time { return time.Unix(1, 2) }})
	s.Script("a", Answer{Cut: true, Apply: true})
	link1(s, "DELETE", "a")
	link1(s, "GET", "%22%0A")
	if log.Len() != 0 {
		t.Error("the log is not buffered")
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	want := `{"t":1000000002,"method":"DELETE","id":"a","status":0,"fault":"script","applied":true}
{"t":1000000002,"method":"GET","id":"\"\n","status":404,"fault":"","applied":false}
`
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Error(diff)
	}
	link1(s, "GET", "a")
	s.Close()
	if strings.Count(log.String(), "\n") != 3 {
		t.Error("Close did not flush")
	}
}

// overTCP serves s over a connection, with a client that does not repeat.
func overTCP(t *testing.T, s *Server) func(ctx context.Context, method, id string) (int, error) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Cleanup(s.Close) // before the server's Close, which waits for requests
	return func(ctx context.Context, method, id string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, method, server.URL+"/v1/payment-links/"+id, nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "key")
		resp, err := server.Client().Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
}
