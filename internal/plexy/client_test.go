package plexy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"linkcancel/internal/testutil"
)

const (
	testKey = "sk_test_0123456789/\"abc"
	testID  = "pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f"
)

func newTestClient(t *testing.T, base string, timeout time.Duration) *Client {
	t.Helper()
	key, err := NewKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{BaseURL: base, Key: key, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newTestClient(t, server.URL+"/v1", 30*time.Second)
}

// reply answers every request in the same way.
func reply(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func TestRequest(t *testing.T) {
	type request struct {
		Method, URI, Key, Agent, Encoding string
		Length                            int64
		Proto                             string
	}
	var got request
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = request{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.UserAgent(),
			r.Header.Get("Accept-Encoding"), r.ContentLength, r.Proto}
		w.WriteHeader(http.StatusNoContent)
	})
	status, err := c.Cancel(t.Context(), `b"cé+&=:@`)
	if status != http.StatusNoContent || err != nil {
		t.Fatalf("Cancel = %d, %v", status, err)
	}
	want := request{"DELETE", "/v1/payment-links/b%22c%C3%A9+&=:@", testKey, "linkcancel", "", 0, "HTTP/1.1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Get(t.Context(), testID); err == nil {
		t.Error("Get took an empty answer for a link")
	}
	want.Method, want.URI = "GET", "/v1/payment-links/"+testID
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCancelStatuses(t *testing.T) {
	for _, status := range []int{200, 202, 204, 206, 299} {
		c := serve(t, reply(status, ""))
		if got, err := c.Cancel(t.Context(), testID); got != status || err != nil {
			t.Errorf("%d: Cancel = %d, %v", status, got, err)
		}
	}
	for _, status := range []int{300, 304, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503} {
		c := serve(t, reply(status, `{"code":"5","message":"no","source":"x","type":"validationError"}`))
		got, err := c.Cancel(t.Context(), testID)
		var e *Error
		if got != status || !errors.As(err, &e) {
			t.Errorf("%d: Cancel = %d, %v", status, got, err)
			continue
		}
		want := &Error{Method: "DELETE", Status: status, Code: "5", Message: "no", Type: "validationError", Source: "x"}
		if status == http.StatusNotModified { // has no body
			want = &Error{Method: "DELETE", Status: status}
		}
		want.Proven = status == 422 // see TestProof
		if diff := cmp.Diff(want, e, cmpopts.IgnoreFields(Error{}, "Kind"), cmpopts.IgnoreUnexported(Error{})); diff != "" {
			t.Errorf("%d: %s", status, diff)
		}
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{Method: "DELETE", Status: 422, Code: "5", Type: "validationError", Message: "the link is paid"}
	if got, want := e.Error(), "DELETE answered 422 (Unprocessable Entity): code 5, validationError: the link is paid"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (&Error{Method: "GET", Status: 599}).Error(), "GET answered 599"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A redirect is never followed, of whatever kind it is, wherever it points and
// however odd it is; so the key goes nowhere else either.
func TestRedirect(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for _, status := range []int{300, 301, 302, 303, 305, 307, 308} {
		for _, location := range []string{other.URL, strings.Replace(other.URL, "http:", "", 1), "/v1/other", "", "http://[::1/%zz"} {
			var here atomic.Int32
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				here.Add(1)
				if location != "" {
					w.Header().Set("Location", location)
				}
				w.WriteHeader(status)
			})
			if got, err := c.Cancel(t.Context(), testID); got != status || !isAPIError(err, status) {
				t.Errorf("%d to %q: Cancel = %d, %v", status, location, got, err)
			}
			if _, err := c.Get(t.Context(), testID); !isAPIError(err, status) {
				t.Errorf("%d to %q: Get = %v", status, location, err)
			}
			if _, err := c.List(t.Context(), 1, 50); !isAPIError(err, status) {
				t.Errorf("%d to %q: List = %v", status, location, err)
			}
			if here.Load() != 3 || elsewhere.Load() != 0 {
				t.Errorf("%d to %q: %d requests, %d elsewhere", status, location, here.Load(), elsewhere.Load())
			}
		}
	}
}

func isAPIError(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

func TestSwitchingProtocols(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		t.Cleanup(func() { conn.Close() })
	})
	if _, err := c.Cancel(t.Context(), testID); !isAPIError(err, 101) {
		t.Errorf("Cancel = %v", err)
	}
}

func TestBadIDSendsNothing(t *testing.T) {
	var requests atomic.Int32
	c := serve(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	for _, id := range []string{"", ".", "..", "a/b", "a?b", "a#b", "a%2fb", `a\b`, " a", "a\n", strings.Repeat("a", 129), "\xff"} {
		status, err := c.Cancel(t.Context(), id)
		if status != 0 || !errors.Is(err, ErrBadID) {
			t.Errorf("Cancel(%q) = %d, %v", id, status, err)
		}
		if _, err := c.Get(t.Context(), id); !errors.Is(err, ErrBadID) {
			t.Errorf("Get(%q) = %v", id, err)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// cutAfter answers with text as it is and cuts the connection.
func cutAfter(t *testing.T, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(conn, text)
		conn.Close()
	}
}

func TestCutWithoutAnswer(t *testing.T) {
	for _, text := range []string{"", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\nContent-Le"} {
		c := serve(t, cutAfter(t, text))
		status, err := c.Cancel(t.Context(), testID)
		if e := transportError(t, err); status != 0 || !e.Sent || e.Method != "DELETE" {
			t.Errorf("after %q: Cancel = %d, %#v", text, status, err)
		}
		_, err = c.Get(t.Context(), testID)
		if e := transportError(t, err); !e.Sent || e.Method != "GET" {
			t.Errorf("after %q: Get = %#v", text, err)
		}
	}
}

func transportError(t *testing.T, err error) *TransportError {
	t.Helper()
	var e *TransportError
	if !errors.As(err, &e) {
		t.Fatalf("%v (%T) is not a *TransportError", err, err)
	}
	return e
}

// Once the status has come, a DELETE is decided. A GET needs its body if it is
// a 2xx, and only then.
func TestCutInBody(t *testing.T) {
	const rest = "Content-Length: 100\r\n\r\n{\"status\":\"active\""
	c := serve(t, cutAfter(t, "HTTP/1.1 200 OK\r\n"+rest))
	if status, err := c.Cancel(t.Context(), testID); status != 200 || err != nil {
		t.Errorf("Cancel = %d, %v", status, err)
	}
	_, err := c.Get(t.Context(), testID)
	if e := transportError(t, err); !e.Sent {
		t.Errorf("Get = %#v", err)
	}
	c = serve(t, cutAfter(t, "HTTP/1.1 404 Not Found\r\n"+rest))
	if status, err := c.Cancel(t.Context(), testID); status != 404 || !isAPIError(err, 404) {
		t.Errorf("Cancel = %d, %v", status, err)
	}
	if _, err := c.Get(t.Context(), testID); !isAPIError(err, 404) {
		t.Errorf("Get = %v", err)
	}
}

func TestTimeout(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	c := newTestClient(t, server.URL, 20*time.Millisecond)
	status, err := c.Cancel(t.Context(), testID)
	if e := transportError(t, err); status != 0 || !e.Sent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Cancel = %d, %#v", status, err)
	}
	if !strings.Contains(err.Error(), "no answer within 20ms") {
		t.Errorf("the error does not tell the timeout: %v", err)
	}
}

// A body that never ends is inside the timeout as well.
func TestTimeoutInBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	c := newTestClient(t, server.URL, 100*time.Millisecond)
	if status, err := c.Cancel(t.Context(), testID); status != 200 || err != nil {
		t.Errorf("Cancel = %d, %v", status, err)
	}
	if _, err := c.Get(t.Context(), testID); !transportError(t, err).Sent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get = %#v", err)
	}
}

func TestContextEnds(t *testing.T) {
	arrived := make(chan struct{}, 1)
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := c.Cancel(ctx, testID)
	if e := transportError(t, err); !e.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("in flight: %#v", err)
	}
	_, err = c.Cancel(ctx, testID) // has ended before
	if e := transportError(t, err); e.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("before the request: %#v", err)
	}
}

func TestNotSent(t *testing.T) {
	c := newTestClient(t, "http://"+testutil.ClosedAddr(t), time.Second)
	if _, err := c.Cancel(t.Context(), testID); transportError(t, err).Sent {
		t.Errorf("dial: %v", err)
	}
	c = newTestClient(t, "https://linkcancel.invalid", time.Second)
	c.lanes.dial = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.DNSError{Err: "no such host", Name: "linkcancel.invalid", IsNotFound: true}
	}
	if _, err := c.Cancel(t.Context(), testID); transportError(t, err).Sent {
		t.Errorf("DNS: %v", err)
	}

	var requests atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	c = newTestClient(t, server.URL, 5*time.Second) // does not know the certificate
	_, err := c.Cancel(t.Context(), testID)
	if e := transportError(t, err); e.Sent || requests.Load() != 0 {
		t.Errorf("TLS: %v, %d requests", err, requests.Load())
	}
	if want := "DELETE was not sent: "; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %q, want %q first", err, want)
	}
	if !strings.HasSuffix(err.Error(), "let SSL_CERT_FILE name the CA's file)") {
		t.Errorf("%q has no hint", err)
	}
}

// A server that offers HTTP/2 gets HTTP/1.1; one that is older than TLS 1.2 gets nothing.
func TestTLS(t *testing.T) {
	var proto string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto = r.Proto
		w.WriteHeader(http.StatusNoContent)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := newTestClient(t, server.URL, 5*time.Second)
	c.lanes.tls.RootCAs = roots
	if status, err := c.Cancel(t.Context(), testID); status != 204 || err != nil || proto != "HTTP/1.1" {
		t.Errorf("Cancel = %d, %v over %s", status, err, proto)
	}

	old := httptest.NewUnstartedServer(reply(204, ""))
	old.Config.ErrorLog = discardLog()
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	t.Cleanup(old.Close)
	c = newTestClient(t, old.URL, 5*time.Second)
	c.lanes.tls.RootCAs = roots
	if _, err := c.Cancel(t.Context(), testID); transportError(t, err).Sent {
		t.Errorf("TLS 1.1: %v", err)
	}
}

func TestHeaderFlood(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
	})
	if _, err := c.Cancel(t.Context(), testID); !transportError(t, err).Sent {
		t.Error(err)
	}
}
