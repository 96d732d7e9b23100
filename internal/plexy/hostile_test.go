package plexy

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"linkcancel/internal/testutil"
)

// Whatever a server sends without an end: the call ends, with an error or with
// the status, long before its timeout, and takes in little of it.
func TestEndlessAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string][2]string{
		"status line":     {"HTTP/1.1 200 ", "O"},
		"header":          {ok + "X: ", "x"},
		"headers":         {ok, "X: x\r\n"},
		"1xx":             {"", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"},
		"body":            {ok + "\r\n", `{"a":1},`},
		"long body":       {ok + "Content-Length: 999999999999\r\n\r\n[", "["},
		"chunk size":      {ok + "Transfer-Encoding: chunked\r\n\r\n", "0"},
		"chunk extension": {ok + "Transfer-Encoding: chunked\r\n\r\n1;", "x"},
		"tiny chunks":     {ok + "Transfer-Encoding: chunked\r\n\r\n", "1;xxxxxxxxxxxxxxx\r\nx\r\n"},
		"chunks":          {ok + "Transfer-Encoding: chunked\r\n\r\n", "4\r\n[[[[\r\n"},
		"trailer":         {ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", "x"},
		"trailers":        {ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: x\r\n"},
		"after a 204":     {"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		"no HTTP":         {"", "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			c := newTestClient(t, endless(t, answer[0], answer[1], &sent), 30*time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := c.Get(ctx, testID); err == nil || ctx.Err() != nil {
				t.Errorf("Get = %v", err)
			}
			// A DELETE that got its status line has it for good.
			if status, err := c.Cancel(ctx, testID); status == 0 && err == nil || ctx.Err() != nil {
				t.Errorf("Cancel = %d, %v", status, err)
			}
			c.CloseIdle()
			// What the two systems buffer is counted too.
			if n := sent.Load(); n > 32<<20 {
				t.Errorf("%d MiB were taken in", n>>20)
			}
		})
	}
}

// endless serves connections with first and then the same again and again.
func endless(t *testing.T, first, again string, sent *atomic.Int64) (url string) {
	t.Helper()
	again = strings.Repeat(again, 1+4096/len(again))
	addr := testutil.ListenTCP(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096)) // the request
		_, err := conn.Write([]byte(first))
		for err == nil {
			var n int
			n, err = conn.Write([]byte(again))
			sent.Add(int64(n))
		}
	})
	return "http://" + addr + "/v1"
}

func pack(t *testing.T, text string) string {
	t.Helper()
	var packed strings.Builder
	w := gzip.NewWriter(&packed)
	fmt.Fprint(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

// Some servers pack their answers though nobody asked for it.
func TestGzip(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", map[bool]string{true: "gzip", false: "X-GZIP"}[r.Method == http.MethodGet])
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, pack(t, `{"code":5,"message":"the link is paid","type":"validationError"}`))
		case strings.HasSuffix(r.URL.Path, testID):
			fmt.Fprint(w, pack(t, documented))
		default:
			fmt.Fprint(w, pack(t, documentedPage))
		}
	})
	if link, err := c.Get(t.Context(), testID); err != nil || link.Status != "active" {
		t.Errorf("Get = %+v, %v", link, err)
	}
	if page, err := c.List(t.Context(), 0, 0); err != nil || len(page.Links) != 2 {
		t.Errorf("List = %+v, %v", page, err)
	}
	status, err := c.Cancel(t.Context(), testID)
	var e *Error
	if status != 422 || !errors.As(err, &e) || !e.Proven || e.Message != "the link is paid" {
		t.Errorf("Cancel = %d, %v", status, err)
	}
}

// Nothing is unpacked beyond the limits, of which 10 MB may be 10 GB, and what
// cannot be unpacked proves nothing.
func TestGzipIsBounded(t *testing.T) {
	missing := `{"code":4,"message":"not found","type":"apiError"}`
	whole := pack(t, missing)
	for name, body := range map[string]string{
		"no gzip":    missing,
		"cut":        whole[:len(whole)-9],
		"bad sum":    whole[:len(whole)-5] + string([]byte{^whole[len(whole)-5]}) + whole[len(whole)-4:],
		"more":       whole + "x",
		"bomb":       pack(t, missing+strings.Repeat(" ", 8<<20)),
		"long":       whole + strings.Repeat(pack(t, ""), 1+maxBody/len(pack(t, ""))),
		"two layers": pack(t, whole),
	} {
		a := &answer{method: http.MethodGet, status: 404, header: http.Header{"Content-Encoding": {"gzip"}}, limit: maxBody, scrub: newScrubber(testKey)}
		a.body = []byte(body[:min(len(body), maxBody+1)])
		a.unpack()
		if len(a.body) > maxBody+1 {
			t.Errorf("%s: %d bytes", name, len(a.body))
		}
		e := a.apiError()
		if e.Proven {
			t.Errorf("%s: proven", name)
		}
		checkClean(t, e)
		if name != "bomb" && name != "two layers" && !strings.Contains(e.Message, "cannot be unpacked: ") {
			t.Errorf("%s: %q", name, e.Message)
		}
	}
	// What is read can be unpacked, though it is not all that came.
	read := whole + pack(t, "")
	cutOff := &answer{status: 404, header: http.Header{"Content-Encoding": {"gzip"}}, limit: len(read) - 1, scrub: newScrubber(testKey), body: []byte(read)}
	if cutOff.unpack(); cutOff.apiError().Proven {
		t.Error("cut between two parts: proven")
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(w, documented)
	})
	if _, err := c.Get(t.Context(), testID); !isAPIError(err, 200) {
		t.Errorf("Get = %v", err)
	}
}

// A page that is small on the way must not become large in memory.
func TestListOfManyEntries(t *testing.T) {
	for body, want := range map[string]string{
		"[" + strings.Repeat("{},", maxEntries) + "{}]":                                 "more than 100000 entries",
		`{"data":[` + strings.Repeat("5,", maxEntries) + "{}]}":                         "more than 100000 entries",
		strings.Repeat("[", 1<<20):                                                      "not a page of payment links",
		strings.Repeat(`{"data":`, 20_000):                                              "not a page of payment links",
		"[" + strings.Repeat(`{"a":`, 11_000) + "1" + strings.Repeat("}", 11_000) + "]": "not a page of payment links",
	} {
		if _, err := decodePage([]byte(body), maxPage, newScrubber("")); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("%.40s…: %.300v, want %s", body, err, want)
		}
	}
	long := `{"id":"pl_1","x":"` + strings.Repeat("x", maxBody) + `"}`
	p, err := decodePage([]byte("["+long+`,{"id":"pl_2"}]`), maxPage, newScrubber(""))
	if err != nil || len(p.Links) != 1 || p.Links[0].ID != "pl_2" || p.Unusable != 1 {
		t.Errorf("an entry that is longer than any link: %+v, %v", p, err)
	}
	// 8 bytes an entry, each of which was a map of 400 bytes.
	body := []byte("[" + strings.Repeat(`{"a":1},`, maxEntries-1) + "{}]")
	if most := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, _ = decodePage(body, maxPage, newScrubber(""))
		}
	}); most.AllocedBytesPerOp() > 1000*maxEntries {
		t.Errorf("%d MB were allocated for a page of %d kB", most.AllocedBytesPerOp()>>20, len(body)>>10)
	}
}

// What a certificate or a status line says is shown as one clean, short line.
func TestTransportErrorIsClean(t *testing.T) {
	c := newTestClient(t, oddCertificate(t, "\x1b[31mevil\u009b\x00\n."+strings.Repeat("x", 300)), 5*time.Second)
	_, err := c.Cancel(t.Context(), testID)
	checkClean(t, transportError(t, err).Err)
	c = serve(t, cutAfter(t, "HTTP/1.1 2\x1b[31m "+strings.Repeat("\u202e", 1000)+"\r\n\r\n"))
	_, err = c.Cancel(t.Context(), testID)
	checkClean(t, transportError(t, err).Err)
	_, err = c.Get(t.Context(), testID)
	checkClean(t, transportError(t, err).Err)
	inner := fmt.Errorf("a\x1b[31mb\u202e: %w", http.ErrHandlerTimeout)
	if err := newScrubber("").error(inner); !errors.Is(err, http.ErrHandlerTimeout) || err.Error() != "a [31mb : "+http.ErrHandlerTimeout.Error() {
		t.Errorf("got %q", err)
	}
}

func checkClean(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if len(text) > maxMessage || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

// oddCertificate serves TLS with a certificate for another host.
func oddCertificate(t *testing.T, host string) (url string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host, Organization: []string{host}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(reply(204, ""))
	server.Config.ErrorLog = discardLog()
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// Against the router of the standard library, which cleans paths, redirects and
// decodes: an id reaches its own link and nothing else, or is not sent.
func FuzzIDReachesItsLink(f *testing.F) {
	for _, id := range []string{
		testID, "", ".", "..", "...", "..;", "..;/", "..%2f", "%2e%2e", "%252e", "a/b", "a//b", `a\b`, "a?b", "a#b", "a b", "a\tb", "é", "\xff",
		"a\x00", "a\r\nHost: x", ";", ":", "+&=@$,", "{id}", "{$}", "／", "．．", "\u202e", "*", "~", "'\"<>", "http://h/a", "//h/a", "pl_" + strings.Repeat("0", 125),
	} {
		f.Add(id)
	}
	var reached atomic.Pointer[[]string]
	note := func(what string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			all := append(append([]string{}, *reached.Load()...), what+" "+r.Method+" "+r.PathValue("id")+"?"+r.URL.RawQuery)
			reached.Store(&all)
			w.WriteHeader(http.StatusNoContent)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/payment-links/{id}", note("link"))
	mux.HandleFunc("/v1/payment-links", note("collection"))
	mux.HandleFunc("/v1/payment-links/{$}", note("collection"))
	mux.HandleFunc("/", note("other"))
	server := httptest.NewServer(mux)
	f.Cleanup(server.Close)
	key, err := NewKey(testKey)
	if err != nil {
		f.Fatal(err)
	}
	c, err := New(Config{BaseURL: server.URL + "/v1", Key: key, Timeout: 30 * time.Second})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.CloseIdle)
	f.Fuzz(func(t *testing.T, id string) {
		reached.Store(&[]string{})
		status, err := c.Cancel(t.Context(), id)
		got := *reached.Load()
		if errors.Is(err, ErrBadID) {
			if status != 0 || len(got) != 0 {
				t.Fatalf("id %q: %d, and %q was reached", id, status, got)
			}
			return
		}
		if status != http.StatusNoContent || err != nil || len(got) != 1 || got[0] != "link DELETE "+id+"?" {
			t.Fatalf("id %q: %d, %v, and %q was reached", id, status, err, got)
		}
	})
}

// Whatever comes as a link: without an error it is the one that was asked for,
// has a status, and its texts are clean.
func FuzzLink(f *testing.F) {
	for _, body := range []string{"", "{}", documented, `{"id":"` + testID + `","status":"paid"}`, `{"id":"` + testID + `","status":"\u001b"}`, `{"id":"other","status":"a"}`, `[[`, `{"status":1}`, `{"external_id":"` + testID + `","status":"sk_0123456789"}`} {
		f.Add([]byte(body))
	}
	const key = "sk_0123456789"
	scrub := newScrubber(key)
	f.Fuzz(func(t *testing.T, body []byte) {
		link, err := decodeLink(body, testID, scrub)
		texts := []string{link.Status, link.Currency}
		switch {
		case err != nil:
			texts = []string{err.Error()}
		case link.ID != testID || link.Status == "":
			t.Fatalf("%+v", link)
		}
		for _, text := range texts {
			if strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, key) {
				t.Fatalf("%q is not clean", text)
			}
		}
	})
}
