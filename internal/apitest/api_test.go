// Package apitest tests the HTTP API against its own description. It is a module of its own, so that
// the product does not depend on what reads OpenAPI.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
	"linkcancel/web"
)

// Tokens of those who look, and of those who may change something.
const viewer, operator = "a-token-of-the-test", "an-operator-of-the-test"

// api is a server with its Redis.
type api struct {
	testing.TB
	url    string
	broker *broker.Broker
	ledger *ledger.Ledger
	router routers.Router

	mu      sync.Mutex
	visited map[string]bool // operations
}

func newAPI(t testing.TB, b *broker.Broker) *api {
	t.Helper()
	a := &api{TB: t, broker: b, ledger: ledger.New(b.Client()), visited: map[string]bool{}}
	server, listener, err := web.Listen(t.Context(), web.Config{
		Redis: b.Client(), Ledger: a.ledger, Log: slog.New(slog.DiscardHandler),
		Access: web.Access{Viewer: viewer, Operator: operator, Actions: true, Import: true},
	}, "127.0.0.1:0")
	testutil.Must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	a.url = "http://" + listener.Addr().String()
	a.router = a.description()
	return a
}

// description reads and checks the API's own description.
func (a *api) description() routers.Router {
	a.Helper()
	_, body := a.raw(http.MethodGet, "/openapi.json", nil, nil)
	doc, err := openapi3.NewLoader().LoadFromData(body)
	testutil.Must(a, err)
	testutil.Must(a, doc.Validate(context.Background()))
	doc.Servers = openapi3.Servers{{URL: a.url + "/api/v1"}}
	router, err := gorillamux.NewRouter(doc)
	testutil.Must(a, err)
	return router
}

func init() {
	whole := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		text, err := io.ReadAll(body)
		return string(text), err
	}
	for _, kind := range []string{"text/csv", "application/jsonl", "text/event-stream"} {
		openapi3filter.RegisterBodyDecoder(kind, whole)
	}
}

// raw sends a request as an operator.
func (a *api) raw(method, path string, body []byte, header http.Header) (*http.Response, []byte) {
	a.Helper()
	r, err := http.NewRequest(method, a.url+"/api/v1"+path, bytes.NewReader(body))
	testutil.Must(a, err)
	r.Header.Set("Authorization", "Bearer "+operator)
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := http.DefaultClient.Do(r)
	testutil.Must(a, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	testutil.Must(a, err)
	return answer, text
}

// call sends a request, and checks request and answer against the description. odd: the request is
// not as described, on purpose.
func (a *api) call(method, path, kind, body string, want int, odd bool, header ...string) []byte {
	a.Helper()
	r, err := http.NewRequest(method, a.url+"/api/v1"+path, strings.NewReader(body))
	testutil.Must(a, err)
	r.Header.Set("Authorization", "Bearer "+operator)
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	route, params, err := a.router.FindRoute(r)
	testutil.Must(a, err)
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route, Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if err := openapi3filter.ValidateRequest(context.Background(), input); (err != nil) != odd {
		a.Errorf("%s %s: the request is odd: %v, not %v", method, path, err, odd)
	}
	r.Body = io.NopCloser(strings.NewReader(body)) // it was read
	answer, err := http.DefaultClient.Do(r)
	testutil.Must(a, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	testutil.Must(a, err)
	if answer.StatusCode != want {
		a.Errorf("%s %s: %s, not %d: %s", method, path, answer.Status, want, text)
	}
	output := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: answer.StatusCode, Header: answer.Header, Options: input.Options}
	output.SetBodyBytes(text)
	if err := openapi3filter.ValidateResponse(context.Background(), output); err != nil {
		a.Errorf("%s %s: the answer is not as described: %v\n%s", method, path, err, text)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.visited[route.Operation.OperationID] = true
	return text
}

// each tests on the embedded and on a real Redis.
func each(t *testing.T, test func(a *api)) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		redistest.Flush(t, b.Client())
		test(newAPI(t, b))
	})
}

// Every endpoint is as its description says, when it works and when it refuses.
func TestDescription(t *testing.T) {
	each(t, func(a *api) {
		const jsonKind, csvKind = "application/json", "text/csv"
		links := `{"links":["` + testutil.LinkID(1) + `","https://checkout.plexypay.com/` + testutil.LinkID(2) + `","` + testutil.LinkID(1) + `"],"name":"two","reason":"a test"}`
		var made struct{ Total, Duplicates, Pending int64 }
		testutil.Must(a, json.Unmarshal(a.call("POST", "/batches?id=march", jsonKind, links, 201, false), &made))
		b, err := a.ledger.Get(context.Background(), "march")
		testutil.Must(a, err)
		entries, err := a.ledger.History(context.Background(), "march")
		testutil.Must(a, err)
		if ids := testutil.Collect(a, a.ledger.AllLinks(context.Background(), b)); made.Total != 2 || made.Duplicates != 1 || b.Name != "two" || entries[0].Reason != "a test" || strings.Join(ids, " ") != testutil.LinkID(1)+" "+testutil.LinkID(2) {
			a.Errorf("%+v, %+v, %q, %+v", made, b, ids, entries)
		}
		a.call("POST", "/batches?id=march", jsonKind, links, 200, false)
		a.call("POST", "/batches?id=march", jsonKind, `{"links":["pl_1"]}`, 409, false)
		a.call("POST", "/batches?name=april.csv&id=april", csvKind, "id,note\npl_3,a\npl_4,b\n", 201, false)
		a.call("POST", "/batches?dry_run=true", csvKind, "id,note\npl_3,a\npl_4,b\n", 200, false)
		a.call("POST", "/batches?skip_invalid=true&max=9&no_canary=true&column=id&any_id=true", csvKind, "id,note\npl_3,a\n,b\n", 201, false)
		a.call("POST", "/batches", csvKind, "id,note\npl_3,a\n,b\n", 422, false)
		a.call("POST", "/batches?max=1", csvKind, "id\npl_3\npl_4\n", 422, false)
		a.call("POST", "/batches", jsonKind, `{"links":["pl_1","a b/c"]}`, 422, false)
		a.call("POST", "/batches", jsonKind, `{"links":[]}`, 422, false)
		a.call("POST", "/batches", jsonKind, `{"links":[1]}`, 422, true)
		a.call("POST", "/batches", jsonKind, `{"links":["pl_1"]`, 400, true)
		a.call("POST", "/batches", jsonKind, `{"links":["pl_1"],"name":1}`, 400, true)
		a.call("POST", "/batches", jsonKind, `[]`, 400, true)
		a.call("POST", "/batches?id=a%20b", jsonKind, links, 400, false)
		a.call("POST", "/batches", "text/plain", "pl_1", 415, true)

		a.call("GET", "/batches", "", "", 200, false)
		a.call("GET", "/batches?state=ready&source=import&page_size=1", "", "", 200, false)
		a.call("GET", "/batches?page_size=0", "", "", 400, true)
		a.call("GET", "/batches?page_token=x", "", "", 400, false)
		a.call("GET", "/batches/march", "", "", 200, false)
		a.call("GET", "/batches/none", "", "", 404, false)
		a.call("GET", "/batches/march/report", "", "", 200, false)
		a.call("GET", "/batches/march/report?format=jsonl&outcome=failed,rejected", "", "", 200, false)
		a.call("GET", "/batches/march/report?format=xml", "", "", 400, true)
		a.call("GET", "/batches/none/report", "", "", 404, false)

		a.call("POST", "/batches/march/pause", jsonKind, `{"reason":"lunch"}`, 200, false)
		a.call("POST", "/batches/march/pause", jsonKind, `{"why":"lunch"}`, 400, false)
		a.call("POST", "/batches/none/pause", jsonKind, `{}`, 404, false)
		a.call("POST", "/batches/march/resume", jsonKind, `{}`, 200, false)
		c := a.ledger.Commit(context.Background(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{
			{Position: 0, Record: ledger.Record{Outcome: ledger.Failed, Attempts: 1, HTTPStatus: 500}, Error: "code 1"},
			{Position: 1, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}},
		}}})
		testutil.Must(a, c[0].Err)
		a.call("GET", "/batches/march/events", "", "", 200, false)
		a.call("GET", "/batches/none/events", "", "", 404, false)
		a.call("POST", "/batches/march/pause", jsonKind, `{}`, 409, false)
		a.call("POST", "/batches/march/retry", jsonKind, `{"outcomes":["failed"],"reason":"again"}`, 201, false)
		a.call("POST", "/batches/march/retry", jsonKind, `{}`, 200, false)
		a.call("POST", "/batches/march/retry", jsonKind, `{"outcomes":["cancelled"]}`, 400, false)
		a.call("POST", "/batches/march/retry", jsonKind, `{"outcomes":["rejected"]}`, 409, false)
		a.call("POST", "/batches/march/verify", jsonKind, `{"sample":"50%","reason":"the audit"}`, 201, false)
		a.call("POST", "/batches/march/verify", jsonKind, `{"sample":"none"}`, 400, false)
		a.call("POST", "/batches/april/verify", jsonKind, `{}`, 409, false)
		a.call("GET", "/batches/march-verify", "", "", 200, false)
		a.call("POST", "/batches/march/retry", jsonKind, `{"still_payable":true}`, 409, false)
		a.call("POST", "/batches/april/retry", jsonKind, `{"still_payable":true}`, 409, false)
		a.call("PUT", "/batches/april/priority", jsonKind, `{"priority":"high","reason":"the deadline"}`, 200, false)
		a.call("PUT", "/batches/april/priority", jsonKind, `{"priority":"urgent"}`, 400, false)
		a.call("PUT", "/batches/march/priority", jsonKind, `{"priority":"low"}`, 409, false)
		a.call("POST", "/batches/april/pause", jsonKind, `{}`, 200, false)
		a.call("POST", "/batches/april/resume", jsonKind, `{"pause_above":"5%"}`, 200, false)
		a.call("POST", "/batches?verify=5%25&pause_above=20&priority=low&not_before=2099-01-01T22:00:00Z", jsonKind, links, 201, false)
		a.call("POST", "/batches?not_before=2020-01-01T22:00:00Z", jsonKind, links, 400, false)
		a.call("POST", "/batches?not_before=later", jsonKind, links, 400, true)
		a.call("POST", "/batches/april/abort", jsonKind, `{"reason":"the wrong file"}`, 200, false)
		a.call("POST", "/batches/april/abort", jsonKind, `{}`, 200, false)
		a.call("POST", "/batches/march/abort", jsonKind, `{}`, 409, false)

		a.call("GET", "/links/"+testutil.LinkID(1), "", "", 200, false)
		a.call("GET", "/links/"+url.PathEscape("https://checkout.plexypay.com/pl_1"), "", "", 200, false)
		a.call("GET", "/links/a%20b", "", "", 400, false)
		a.call("GET", "/rate", "", "", 200, false)
		a.call("PUT", "/rate", jsonKind, `{"limit":"30/m"}`, 200, false)
		a.call("PUT", "/rate", jsonKind, `{"limit":"fast"}`, 400, false)
		a.call("PUT", "/rate", jsonKind, `{}`, 400, true)
		a.call("POST", "/rate/hold", jsonKind, `{"for":"15m","reason":"maintenance"}`, 200, false)
		a.call("POST", "/rate/hold", jsonKind, `{"for":"-1s"}`, 400, false)
		a.call("POST", "/rate/release", jsonKind, `{}`, 200, false)
		a.call("PUT", "/rate/window", jsonKind, `{"window":"22:00-06:00","timezone":"Asia/Almaty"}`, 200, false)
		a.call("PUT", "/rate/window", jsonKind, `{"window":"22-06"}`, 400, false)
		a.call("PUT", "/rate/window", jsonKind, `{"window":"22:00-06:00","timezone":"Mars"}`, 400, false)
		a.call("POST", "/rate/release", jsonKind, `{"once":true}`, 200, false)
		a.call("GET", "/rate", "", "", 200, false)
		a.call("PUT", "/rate/window", jsonKind, `{"window":"off"}`, 200, false)
		a.call("GET", "/sweeps", "", "", 200, false)
		testutil.Must(a, a.ledger.NoteCommandSweep(context.Background(), ledger.SweepRun{Due: time.Now(), OK: true, Batch: "april", Counts: ledger.SweepCounts{Listed: 5, By: "ann"}}, history.By{Actor: "ann"}, ""))
		a.call("GET", "/sweeps", "", "", 200, false)
		a.call("GET", "/activity", "", "", 200, false)
		a.call("GET", "/activity?batch=march", "", "", 200, false)
		a.call("GET", "/activity?batch=a%20b", "", "", 400, false)

		// A worker and a hold have documents of their own.
		testutil.Must(a, a.ledger.Heartbeat(context.Background(), ledger.WorkerBeat{ID: "w1", Rate: 5, API: "api.example.com"}))
		a.call("GET", "/batches/march", "", "", 200, false)

		var doc struct {
			Paths map[string]map[string]struct {
				ID string `json:"operationId"`
			}
		}
		_, text := a.raw("GET", "/openapi.json", nil, nil)
		testutil.Must(a, json.Unmarshal(text, &doc))
		operations := 0
		for path, methods := range doc.Paths {
			for method, o := range methods {
				if operations++; !a.visited[o.ID] {
					a.Errorf("%s %s was not tested", method, path)
				}
			}
		}
		if operations < 16 {
			a.Errorf("%d operations", operations)
		}
	})
}

// What is not understood makes no batch.
func TestRefusals(t *testing.T) {
	each(t, func(a *api) {
		one := `{"links":["` + testutil.LinkID(1) + `"]}`
		for name, tt := range map[string]struct {
			path, body string
			key        []string
			want       int
			says       string
		}{
			"half a character":          {"", `{"links":["pl_\ud800"]}`, nil, 422, "links[0]"},
			"a replaced character":      {"?any_id=true", `{"links":["pl_1","pl_\ufffd"]}`, nil, 422, "links[1]"},
			"bytes":                     {"", "{\"links\":[\"ab\xffc\"]}", nil, 422, "links[0]"},
			"a null":                    {"?skip_invalid=true", `{"links":["` + testutil.LinkID(1) + `","a1\u0000"]}`, nil, 422, "links[1]"},
			"an empty one":              {"?skip_invalid=true", `{"links":["` + testutil.LinkID(1) + `",""]}`, nil, 422, "links[1]"},
			"separators":                {"", `{"links":["a;b","c;d"]}`, nil, 422, "links[0]"},
			"a name with half a one":    {"", `{"links":["pl_1"],"name":"\udc00"}`, nil, 400, "Unicode"},
			"an empty parameter":        {"?dry_run=", one, nil, 400, "empty"},
			"one without a value":       {"?dry_run", one, nil, 400, "empty"},
			"a broken escape":           {"?dry_run=%zz", one, nil, 400, "query"},
			"a semicolon":               {"?dry_run=true;id=q1", one, nil, 400, "query"},
			"an unknown one":            {"?dryrun=true", one, nil, 400, "dryrun"},
			"one twice":                 {"?dry_run=true&dry_run=false", one, nil, 400, "twice"},
			"no boolean":                {"?dry_run=1", one, nil, 400, "true or false"},
			"no number":                 {"?max=x", one, nil, 400, "max"},
			"two keys":                  {"", one, []string{"a", "b"}, 400, "twice"},
			"an empty key":              {"", one, []string{" "}, 400, "empty"},
			"a key and an id":           {"?id=x", one, []string{"a"}, 400, "not both"},
			"a key and an id in JSON":   {"", `{"id":"x","links":["pl_1"]}`, []string{"a"}, 400, "not both"},
			"two ids":                   {"?id=x", `{"id":"y","links":["pl_1"]}`, nil, 400, "not that"},
			"an id twice":               {"", `{"id":"x","id":"y","links":["pl_1"]}`, nil, 400, "twice"},
			"an id after the links":     {"", `{"links":["pl_1"],"id":"x"}`, nil, 400, "id"},
			"something after":           {"", one + "x", nil, 400, "document"},
			"an end in the middle":      {"", one[:len(one)-1], nil, 400, "breaks off"},
			"a name after and before":   {"", `{"name":"a","links":["pl_1"],"name":"b"}`, nil, 400, "twice"},
			"a field that is unknown":   {"", `{"links":["pl_1"],"max":3}`, nil, 400, "unknown"},
			"links that are not a list": {"", `{"links":"pl_1"}`, nil, 400, "links"},
			"a link that is not a text": {"", `{"links":[["pl_1"]]}`, nil, 422, "links[0]"},
		} {
			header := http.Header{"Content-Type": {"application/json"}}
			if tt.key != nil {
				header["Idempotency-Key"] = tt.key
			}
			answer, text := a.raw("POST", "/batches"+tt.path, []byte(tt.body), header)
			if answer.StatusCode != tt.want || !strings.Contains(string(text), tt.says) {
				a.Errorf("%s: %s: %s", name, answer.Status, text)
			}
		}
		if all, err := a.ledger.List(context.Background()); err != nil || len(all) > 0 {
			a.Errorf("%d batches, %v", len(all), err)
		}
		for request, want := range map[string]int{
			"HEAD /batches": 405, "DELETE /batches": 405, "GET /rate/hold": 405, "PATCH /rate": 405, "GET /none": 404,
			"GET /batches?state=x": 400, "GET /batches?source=%ff": 400, "GET /batches?page_size=1001": 400, "GET /rate?x=1": 400, "POST /rate/hold?x=1": 400,
		} {
			method, path, _ := strings.Cut(request, " ")
			answer, text := a.raw(method, path, nil, nil)
			if answer.StatusCode != want || want == 405 && answer.Header.Get("Allow") == "" {
				a.Errorf("%s: %s: %s", request, answer.Status, text)
			}
		}
	})
}

// A page of the list begins where the one before ended.
func TestPages(t *testing.T) {
	each(t, func(a *api) {
		want := map[string]bool{}
		for n := range 7 {
			id := fmt.Sprintf("b%d", n)
			want[id] = true
			a.call("POST", "/batches?id="+id, "application/json", `{"links":["pl_1"]}`, 201, false)
		}
		for token, pages := "", 0; ; pages++ {
			var list struct {
				Batches []struct{ Batch string }
				Next    string `json:"next_page_token"`
			}
			testutil.Must(a, json.Unmarshal(a.call("GET", "/batches?page_size=2&page_token="+token, "", "", 200, false), &list))
			for _, b := range list.Batches {
				if !want[b.Batch] {
					a.Errorf("%s is there twice", b.Batch)
				}
				delete(want, b.Batch)
			}
			if token = list.Next; token == "" {
				if pages != 3 || len(want) > 0 {
					a.Errorf("%d pages, without %v", pages+1, want)
				}
				return
			}
		}
	})
}

// The same key at once is one batch.
func TestIdempotency(t *testing.T) {
	each(t, func(a *api) {
		body := `{"links":["` + strings.Join(testutil.LinkIDs(5000), `","`) + `"]}`
		var group sync.WaitGroup
		var mu sync.Mutex
		codes, ids := map[int]int{}, map[string]int{}
		for range 6 {
			group.Go(func() {
				answer, text := a.raw("POST", "/batches", []byte(body), http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"5f2b9a0e-1c9b-4a53-9d27-6a2f0f4f0a11"}})
				var b struct {
					Batch   string
					Existed bool
				}
				if err := json.Unmarshal(text, &b); err != nil || b.Existed != (answer.StatusCode == 200) {
					t.Errorf("%s: %s", answer.Status, text)
				}
				mu.Lock()
				defer mu.Unlock()
				codes[answer.StatusCode]++
				ids[b.Batch]++
			})
		}
		group.Wait()
		if codes[201] != 1 || codes[200] != 5 || len(ids) != 1 {
			a.Errorf("%v, %v", codes, ids)
		}
		answer, text := a.raw("POST", "/batches", []byte(`{"links":["pl_1"]}`), http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"5f2b9a0e-1c9b-4a53-9d27-6a2f0f4f0a11"}})
		if answer.StatusCode != 409 {
			a.Errorf("other links: %s: %s", answer.Status, text)
		}
	})
}

// A connection that is cut leaves nothing behind.
func TestCut(t *testing.T) {
	each(t, func(a *api) {
		for _, kind := range []string{"text/csv", "application/json"} {
			reader, writer := io.Pipe()
			r, err := http.NewRequest("POST", a.url+"/api/v1/batches?id=cut", reader)
			testutil.Must(a, err)
			r.Header.Set("Authorization", "Bearer "+operator)
			r.Header.Set("Content-Type", kind)
			done := make(chan struct{})
			go func() {
				defer close(done)
				answer, err := http.DefaultClient.Do(r)
				if err == nil {
					t.Errorf("%s: %s", kind, answer.Status)
					_ = answer.Body.Close()
				}
			}()
			head, row := "id\n", "%s\n"
			if kind == "application/json" {
				head, row = `{"links":[`, `"%s",`
			}
			_, _ = io.WriteString(writer, head)
			for n := range 12_000 {
				_, _ = fmt.Fprintf(writer, row, testutil.LinkID(n))
			}
			testutil.Until(t, "the batch to be begun", func() bool {
				b, err := a.ledger.Get(context.Background(), "cut")
				return err == nil && b.State == ledger.Importing
			})
			_ = writer.CloseWithError(io.ErrClosedPipe)
			<-done
			testutil.Until(t, "nothing to be left", func() bool {
				keys := redistest.Keys(t, a.broker.Client(), "lc:*")
				return len(keys) == 0
			})
		}
	})
}

// 200,000 links take hardly more memory than 2,000.
func TestConstantMemory(t *testing.T) {
	if !redistest.Have(t) {
		t.Skip("left out: there is no redis-server")
	}
	peaks := map[string]map[int]int64{}
	for _, kind := range []string{"text/csv", "application/json"} {
		peaks[kind] = map[int]int64{}
		for _, links := range []int{2_000, 200_000} {
			peaks[kind][links] = peakOf(t, kind, links)
		}
		if more := peaks[kind][200_000] - peaks[kind][2_000]; more > 20<<20 {
			t.Errorf("%s: 200,000 links take %d MB more than 2,000", kind, more>>20)
		}
	}
	t.Logf("peaks in MB: %v", peaks)
}

// Requests for a batch share the readings of Redis.
func TestManyRequests(t *testing.T) {
	if !redistest.Have(t) {
		t.Skip("left out: there is no redis-server")
	}
	server := redistest.NewServer(t)
	server.Start(t)
	a := newAPI(t, redistest.Open(t, server.URL()))
	a.call("POST", "/batches?id=march", "application/json", `{"links":["`+strings.Join(testutil.LinkIDs(2000), `","`)+`"]}`, 201, false)
	commands := func() (n int) {
		info, err := a.broker.Client().Info(context.Background(), "stats").Result()
		testutil.Must(t, err)
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		_, err = fmt.Sscan(rest, &n)
		testutil.Must(t, err)
		return n
	}
	a.raw("GET", "/batches/march", nil, nil)
	before, began, sent := commands(), time.Now(), 0
	for ; time.Since(began) < 3*time.Second; sent++ {
		a.raw("GET", "/batches/march", nil, nil)
	}
	took := time.Since(began).Seconds()
	rate := float64(commands()-before-1) / took
	t.Logf("%.0f requests and %.1f commands of Redis a second", float64(sent)/took, rate)
	if rate > 20 {
		t.Errorf("%.1f commands of Redis a second", rate)
	}
}

// The security of the page holds for the API.
func TestWhoMay(t *testing.T) {
	each(t, func(a *api) {
		a.call("POST", "/batches?id=march", "application/json", `{"links":["pl_1"]}`, 201, false)
		for path, method := range map[string]string{
			"/batches": "POST", "/batches/march/pause": "POST", "/batches/march/abort": "POST", "/batches/march/retry": "POST", "/batches/march/resume": "POST",
			"/rate": "PUT", "/rate/hold": "POST", "/rate/release": "POST",
		} {
			for name, tt := range map[string]struct {
				header http.Header
				want   int
			}{
				"a viewer":            {http.Header{"Authorization": {"Bearer " + viewer}}, 403},
				"nobody":              {http.Header{"Authorization": {"Bearer x"}}, 401},
				"another site":        {http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
				"another origin":      {http.Header{"Origin": {"http://evil.example.com"}}, 403},
				"a cookie of nowhere": {http.Header{"Authorization": {""}, "Cookie": {fmt.Sprintf("linkcancel_%s=%s", a.url[strings.LastIndex(a.url, ":")+1:], operator)}}, 403},
			} {
				answer, text := a.raw(method, path, []byte(`{}`), tt.header)
				if answer.StatusCode != tt.want || answer.Header.Get("Content-Type") != "application/problem+json" {
					a.Errorf("%s: %s %s: %s, %s", name, method, path, answer.Status, text)
				}
				for header := range answer.Header {
					if strings.HasPrefix(header, "Access-Control-") {
						a.Errorf("%s: %s", name, header)
					}
				}
			}
		}
		answer, _ := a.raw("GET", "/batches", nil, http.Header{"Authorization": {"Bearer x"}})
		if answer.StatusCode != 401 {
			a.Errorf("nobody reads: %s", answer.Status)
		}
		if b, err := a.ledger.Get(context.Background(), "march"); err != nil || b.State != ledger.Ready {
			a.Errorf("%s, %v", b.State, err)
		}
		entries, err := a.ledger.History(context.Background(), history.Rate)
		if err != nil || len(entries) > 0 {
			a.Errorf("%v, %v", entries, err)
		}
	})
}

// Whatever is sent, the API answers, and never with 5xx.
func FuzzAPI(f *testing.F) {
	b := broker.Embedded()
	f.Cleanup(func() { _ = b.Close() })
	a := newAPI(f, b)
	routes := []string{
		"POST /batches", "GET /batches", "GET /batches/{x}", "GET /batches/{x}/report", "GET /batches/{x}/events", "POST /batches/{x}/pause", "POST /batches/{x}/resume",
		"POST /batches/{x}/abort", "POST /batches/{x}/retry", "GET /links/{x}", "GET /rate", "PUT /rate", "POST /rate/hold", "POST /rate/release", "GET /sweeps", "GET /activity",
	}
	a.raw("POST", "/batches?id=march", []byte(`{"links":["pl_1","pl_2"]}`), http.Header{"Content-Type": {"application/json"}})
	c := a.ledger.Commit(context.Background(), []ledger.Group{{Batch: "march", Entries: []ledger.Entry{{Record: ledger.Record{Outcome: ledger.Failed}}, {Position: 1, Record: ledger.Record{Outcome: ledger.Failed}}}}})
	testutil.Must(f, c[0].Err)
	for i := range routes {
		for _, body := range []string{`{}`, `{"reason":"x"}`, `{"links":["pl_1",""]}`, `{"limit":"1/s"}`, `{"for":"1h"}`, `{"outcomes":["failed"]}`, `[`, "id\npl_1\n", "\x00\xff", `{"links":"x"}`, `{"reason":null}`} {
			f.Add(uint8(i), "march", "state=ready&page_size=3", "application/json", body)
		}
		f.Add(uint8(i), "../x", "max=-1&dry_run=2&format=\x00", "text/csv", "a,b\n\"")
		f.Add(uint8(i), "%2e%2e", "page_token=MSBi&outcome=,&id="+strings.Repeat("x", 80), "", "")
		f.Add(uint8(i), "pl_\u202e", "batch=%00&column=9999999999999999999&name=\xff", "multipart/form-data", strings.Repeat("[", 20000))
	}
	f.Fuzz(func(t *testing.T, route uint8, x, query, kind, body string) {
		method, path, _ := strings.Cut(routes[int(route)%len(routes)], " ")
		r, err := http.NewRequestWithContext(t.Context(), method, a.url+"/api/v1"+strings.ReplaceAll(path, "{x}", url.PathEscape(x)), strings.NewReader(body))
		if err != nil {
			t.Skip()
		}
		r.URL.RawQuery = url.PathEscape(query)
		if strings.ContainsAny(query, "=&%") {
			r.URL.RawQuery = strings.Map(func(c rune) rune {
				if c <= ' ' || c == 0x7f || c == '#' || c > 0x7e {
					return '_'
				}
				return c
			}, query)
		}
		if strings.ContainsFunc(kind, func(c rune) bool { return c < ' ' || c > '~' }) {
			kind = ""
		}
		r.Header = http.Header{"Authorization": {"Bearer " + operator}, "Content-Type": {kind}}
		client := http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s %s: %v", method, r.URL, err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		if answer.StatusCode >= 500 || err != nil {
			t.Errorf("%s %s %q: %s: %s %v", method, r.URL, body, answer.Status, text, err)
		}
		if answer.StatusCode >= 400 && answer.Header.Get("Content-Type") == "application/problem+json" && !json.Valid(text) {
			t.Errorf("%s is not JSON", text)
		}
	})
}

func TestMain(m *testing.M) {
	if args := os.Getenv("APITEST_SERVE"); args != "" {
		serve(args)
		return
	}
	os.Exit(m.Run())
}
