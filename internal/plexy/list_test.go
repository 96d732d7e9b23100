package plexy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

const otherID = "pl_00000000000000000000000000000001"

// documentedPage is the documented link and one with the least that a link has.
const documentedPage = `[` + documented + `,{"id":"` + otherID + `"}]`

var documentedLinks = []Link{
	{
		ID: testID, Status: "active", Amount: 1000000, Currency: "KZT",
		CreatedAt: time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), ExpiresAt: time.Date(2025, 3, 14, 0, 0, 0, 0, time.UTC),
	},
	{ID: otherID},
}

func TestListEnvelopes(t *testing.T) {
	for body, want := range map[string]Page{
		`{"data":` + documentedPage + `,"page":1,"size":50,"total":120000}`:       {Links: documentedLinks, Total: 120000, HasTotal: true},
		`{"items":` + documentedPage + `}`:                                        {Links: documentedLinks},
		`{"paymentLinks":` + documentedPage + `,"total":"7"}`:                     {Links: documentedLinks, Total: 7, HasTotal: true},
		`{"total":0,"results":` + documentedPage + `,"next":null,"meta":{"a":1}}`: {Links: documentedLinks, HasTotal: true},
		" \n" + documentedPage + "\n":                                             {Links: documentedLinks},
		// Other values under a likely name are not a list.
		`{"data":{"count":1},"items":` + documentedPage + `}`: {Links: documentedLinks},
		`{"data":null,"results":` + documentedPage + `}`:      {Links: documentedLinks},
		`{"data":[]}`: {},
		// Beside a total a null is an empty array.
		`{"data":null,"total":0}`:              {HasTotal: true},
		`{"total":"3","items":null,"data":{}}`: {Total: 3, HasTotal: true},
		// Spring's, and lists in an object of their own.
		`{"content":` + documentedPage + `,"totalElements":130,"totalPages":2,"last":false}`: {Links: documentedLinks, Total: 130, HasTotal: true},
		`{"content":[],"totalElements":0}`:                                                   {HasTotal: true},
		`{"content":null,"totalElements":0}`:                                                 {HasTotal: true},
		`{"data":{"items":` + documentedPage + `}}`:                                          {Links: documentedLinks},
		`{"data": {"items" : ` + documentedPage + ` ,"total": 130 } , "total":7}`:            {Links: documentedLinks, Total: 130, HasTotal: true},
		`{"success":true,"data":{"content":` + documentedPage + `},"total":"7"}`:             {Links: documentedLinks, Total: 7, HasTotal: true},
		`{"data":{"data":` + documentedPage + `,"totalElements":9}}`:                         {Links: documentedLinks, Total: 9, HasTotal: true},
		`{"data":{"paymentLinks":[]}}`:                                                       {},
		`{"data":{"results":null,"total":0}}`:                                                {HasTotal: true},
		`{"items":null,"data":{"items":` + documentedPage + `},"total":2}`:                   {Links: documentedLinks, Total: 2, HasTotal: true},
		`{"data":{"items":[{"id":"x"}],"total":3},"items":` + documentedPage + `}`:           {Links: documentedLinks},
		`[]`:                     {},
		`{"items":[],"total":3}`: {Total: 3, HasTotal: true},
		// An unreadable total is ignored.
		`{"items":[],"total":-1}`:    {},
		`{"items":[],"total":1.5}`:   {},
		`{"items":[],"total":null}`:  {},
		`{"items":[],"total":{}}`:    {},
		`{"items":[],"total":"all"}`: {},
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			fmt.Fprint(w, body)
		})
		if want.Links == nil {
			want.Links = []Link{}
		}
		got, err := c.List(t.Context(), 1, 50)
		if err != nil {
			t.Errorf("%.80s: %v", body, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%.80s: %s", body, diff)
		}
	}
}

// One odd entry or field does not spoil the others.
func TestListEntries(t *testing.T) {
	for entry, want := range map[string]*Link{
		`{"id":7}`: {ID: "7"},
		`{"id":"pl_1","status":"Cancelled","amount":"50"}`: {ID: "pl_1", Status: "Cancelled", Amount: 50},
		`{"id":"pl_1","status":7,"amount":1.5,"currency":{},"createdAt":[],"expiresAt":false}`: {
			ID: "pl_1", Status: "7", CreatedNote: DateNote{Unreadable: true, Text: "[]"}, ExpiresNote: DateNote{Unreadable: true, Text: "false"},
		},
		`{"id":"pl_1","createdAt":"2025-03-01","expiresAt":"2025-03-14T00:00:00"}`: {
			ID: "pl_1", CreatedAt: time.Date(2025, 3, 2, 12, 0, 0, 0, time.UTC), ExpiresAt: time.Date(2025, 3, 14, 12, 0, 0, 0, time.UTC),
			CreatedNote: DateNote{NoZone: true, Text: "2025-03-01"}, ExpiresNote: DateNote{NoZone: true, Text: "2025-03-14T00:00:00"},
		},
		`{"id":"pl_1","createdAt":"","expiresAt":null}`:                                                         {ID: "pl_1"},
		`{"id":"pl_1","expiresAt":"2025-03-14T05:30:00.123+05:30"}`:                                             {ID: "pl_1", ExpiresAt: time.Date(2025, 3, 14, 0, 0, 0, 123e6, time.UTC)},
		`{"id":"pl_1","status":"a` + "\u001b[31m\u202eb\u0000" + `c"}`:                                          {ID: "pl_1", Status: "a [31m b c"},
		`{"id":"pl_1","status":"` + strings.Repeat("é", 50) + `","currency":"` + strings.Repeat("K", 99) + `"}`: {ID: "pl_1", Status: strings.Repeat("é", 32), Currency: strings.Repeat("K", 64)},
		`{"id":"pl_1","status":"` + strings.ReplaceAll(testKey, `"`, `\"`) + `"}`:                               {ID: "pl_1", Status: redacted},
		`{"ID":"pl_1"}`:              nil,
		`{"id":""}`:                  nil,
		`{"id":".."}`:                nil,
		`{"id":"a/b"}`:               nil,
		`{"id":"pl_1\n"}`:            nil,
		`{"id":"pl_\ud800"}`:         nil,
		`{"id":"pl_` + "\xff" + `"}`: nil,
		`{"id":"` + strings.Repeat("x", 129) + `"}`: nil,
		`{"id":["pl_1"]}`: nil,
		`{}`:              nil,
		`null`:            nil,
		`"pl_1"`:          nil,
		`[{"id":"pl_1"}]`: nil,
		`5`:               nil,
	} {
		entry = strings.NewReplacer("\x00", `\u0000`, "\x1b", `\u001b`).Replace(entry)
		p, err := decodePage([]byte(`{"data":[`+entry+`,{"id":"last"}]}`), maxPage, newScrubber(testKey))
		if err != nil {
			t.Errorf("%s: %v", entry, err)
			continue
		}
		wantPage := Page{Links: []Link{{ID: "last"}}, Unusable: 1}
		if want != nil {
			wantPage = Page{Links: []Link{*want, {ID: "last"}}}
		}
		if diff := cmp.Diff(wantPage, p); diff != "" {
			t.Errorf("%s: %s", entry, diff)
		}
	}
}

func TestListRequest(t *testing.T) {
	var requests []string
	date := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization"))
		w.Header().Set("Date", date.Format(http.TimeFormat))
		fmt.Fprint(w, `[]`)
	})
	for _, q := range [][2]int{{0, 0}, {0, 100}, {1, 0}, {12, 34}} {
		p, err := c.List(t.Context(), q[0], q[1])
		if err != nil || !p.Date.Equal(date) {
			t.Errorf("%v: %v, %v", q, p.Date, err)
		}
	}
	var want []string
	for _, query := range []string{"", "?size=100", "?page=1", "?page=12&size=34"} {
		want = append(want, "GET /v1/payment-links"+query+" "+testKey)
	}
	if diff := cmp.Diff(want, requests); diff != "" {
		t.Error(diff)
	}
}

func TestListErrors(t *testing.T) {
	for body, want := range map[string]string{
		"":                                "it is empty",
		"null":                            "null",
		`"list"`:                          `"list"`,
		"<html>Welcome</html>":            "<html>Welcome</html>",
		"{}":                              "no array named data, items, paymentLinks, results, content, nor one of them in an object named data",
		`{"data":{"data":{"items":[]}}}`:  "no array named",
		`{"items":{"data":[]}}`:           "no array named",
		`{"result":{"items":[]}}`:         "no array named",
		`{"data":{"items":{},"total":1}}`: "no array named",
		`{"data":{"items":null}}`:         "no array named",
		`{"data":[1],"data":"x"}`:         "no array named",
		`{"data":"{\"items\":[]}"}`:       "no array named",
		`{"content":"<html>"}`:            "no array named",
		`{"total":3}`:                     "no array named",
		`{"links":[]}`:                    "no array named",
		`{"data":{}}`:                     "no array named",
		`{"data":{},"total":1}`:           "no array named",
		// Servers of all kinds send a null under such a name.
		`{"data":null}`:                       "no array named",
		`{"data":null,"error":"no route"}`:    "no array named",
		`{"results":null,"total":null}`:       "no array named",
		`{"items":null,"total":-1,"data":{}}`: "no array named",
		`{"Data":[]}`:                         "no array named",
		`[{"id":"pl_1"}`:                      "not a page of payment links",
		`{"data":[{"id":"pl_1"}}`:             "not a page of payment links",
		`[] x`:                                "not a page of payment links",
		`{"data":[],"x":"` + strings.Repeat("x", maxPage) + `"}`: "longer than 16 MiB",
	} {
		c := serve(t, reply(200, body))
		_, err := c.List(t.Context(), 1, 50)
		if !isAPIError(err, 200) || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("%.80s: %.300v, want %s", body, err, want)
		}
	}
	for _, status := range []int{301, 400, 401, 403, 404, 429, 500, 503} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			fmt.Fprint(w, documentedPage) // an error with a list is an error
		})
		_, err := c.List(t.Context(), 0, 0)
		var e *Error
		if !isAPIError(err, status) || !errors.As(err, &e) || !e.HasRetryAfter || e.RetryAfter != 7*time.Second {
			t.Errorf("%d: %v", status, err)
		}
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"data":[]}`)
	})
	_, err := c.List(t.Context(), 0, 0)
	if e := transportError(t, err); !e.Sent {
		t.Errorf("cut off: %v", err)
	}
}

// A page may be far longer than a link.
func TestListLongPage(t *testing.T) {
	var b bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&b, `%s{"id":"pl_%032x","description":%q}`, map[bool]string{true: ","}[i > 0], i, strings.Repeat("x", 500))
	}
	c := serve(t, reply(200, `{"items":[`+b.String()+`]}`))
	p, err := c.List(t.Context(), 0, 0)
	if err != nil || len(p.Links) != 3000 || p.Links[2999].ID != fmt.Sprintf("pl_%032x", 2999) {
		t.Errorf("%d links, %v", len(p.Links), err)
	}
}

// Whatever comes: an id that is kept can address nothing but a link, texts are
// clean, and the same array in another envelope gives the same page.
func FuzzPage(f *testing.F) {
	for _, body := range []string{
		"", "null", "[]", "{}", documentedPage, `{"data":` + documentedPage + `,"total":2}`, `{"items":[{"id":".."},5]}`,
		`{"results":null,"total":"3"}`, `[{"id":"a","status":"` + "\u202e" + `"}]`, `[{"id":"pl_` + "\xff" + `"}]`, `[` + `[`,
	} {
		f.Add([]byte(body))
	}
	const key = "sk_0123456789"
	scrub := newScrubber(key)
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decodePage(body, maxPage, scrub)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) || strings.Contains(err.Error(), key) {
				t.Fatalf("%q is not clean", err)
			}
			return
		}
		if p.Total < 0 || !p.HasTotal && p.Total != 0 {
			t.Fatalf("total %d, %v", p.Total, p.HasTotal)
		}
		for _, link := range p.Links {
			if err := CheckID(link.ID); err != nil {
				t.Fatalf("%q: %v", link.ID, err)
			}
			for _, text := range []string{link.Status, link.Currency} {
				if len(text) > maxWord || strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, key) {
					t.Fatalf("%q is not clean", text)
				}
			}
		}
		var entries []json.RawMessage
		if json.Unmarshal(body, &entries) != nil {
			return
		}
		if len(entries) != len(p.Links)+p.Unusable {
			t.Fatalf("%d links and %d unusable of %d", len(p.Links), p.Unusable, len(entries))
		}
		for _, name := range envelopes {
			for _, form := range []string{`{"other":{},%q:%s}`, `{"data": {"other":{},%q: %s } }`} {
				wrapped, err := decodePage(fmt.Appendf(nil, form, name, body), maxPage, scrub)
				if diff := cmp.Diff(p, wrapped); err != nil || diff != "" && entries != nil {
					t.Fatalf("%s in %s: %v %s", name, form, err, diff)
				}
			}
		}
	})
}
