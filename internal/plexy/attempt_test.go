package plexy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/testutil"
)

// fickleServer keeps a connection after its first request, and closes it, without
// an answer, when it has read the second one.
type fickleServer struct {
	listener net.Listener
	done     sync.WaitGroup

	mu       sync.Mutex
	requests map[string]int // by method and path
}

func newFickleServer(t *testing.T) *fickleServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fickleServer{listener: listener, requests: make(map[string]int)}
	s.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.done.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *fickleServer) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for n := range 2 {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.requests[r.Method+" "+r.URL.Path]++
		s.mu.Unlock()
		if n == 0 {
			// A proven answer: the client keeps the connection.
			body := fmt.Sprintf(`{"id":%q,"status":"active"}`, path.Base(r.URL.Path))
			status := "200 OK"
			if r.Method == http.MethodDelete {
				status, body = "422 Unprocessable Entity", `{"code":5,"message":"no","type":"validationError"}`
			}
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
		}
	}
}

func (s *fickleServer) url() string { return "http://" + s.listener.Addr().String() }

// close waits until every connection is served, and returns the requests seen.
func (s *fickleServer) close() map[string]int {
	s.listener.Close()
	s.done.Wait()
	return s.requests
}

func TestOneRequestPerCall(t *testing.T) {
	s := newFickleServer(t)
	c := newTestClient(t, s.url(), 10*time.Second)
	const calls = 100
	var lost int
	for i := range calls {
		id := fmt.Sprint("link", i)
		var err error
		if i%4 == 3 {
			_, err = c.Cancel(t.Context(), id)
		} else {
			_, err = c.Get(t.Context(), id)
		}
		if err != nil {
			if isAPIError(err, 422) {
				continue
			}
			lost++
			if !transportError(t, err).Sent {
				t.Errorf("call %d: the request was sent: %v", i, err)
			}
		}
	}
	if lost == 0 {
		t.Error("no connection died: the test shows nothing")
	}
	c.CloseIdle()
	requests := s.close()
	for what, n := range requests {
		if n != 1 {
			t.Errorf("%s arrived %d times", what, n)
		}
	}
	if len(requests) != calls {
		t.Errorf("%d different requests arrived, want %d", len(requests), calls)
	}
}

// The same with other connections idle, which the transport would replay on.
func TestOneRequestPerCallWithIdleConnections(t *testing.T) {
	s := newFickleServer(t)
	c := newTestClient(t, s.url(), 10*time.Second)
	const calls = 200
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range calls / 4 {
				_, _ = c.Get(t.Context(), fmt.Sprintf("link%d-%d", worker, i))
			}
		})
	}
	wg.Wait()
	c.CloseIdle()
	requests := s.close()
	for what, n := range requests {
		if n != 1 {
			t.Errorf("%s arrived %d times", what, n)
		}
	}
	if len(requests) != calls {
		t.Errorf("%d different requests arrived, want %d", len(requests), calls)
	}
}

// This is what the guard is for. Should it fail one day, Go has stopped
// replaying, and the guard can go.
func TestTransportReplays(t *testing.T) {
	s := newFickleServer(t)
	transport := newLanes(1, &url.URL{}).transport()
	for i := range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprint(s.url(), "/", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		for err == nil {
			_, err = resp.Body.Read(buf)
		}
		resp.Body.Close()
	}
	transport.CloseIdleConnections()
	if n := s.close()["GET /1"]; n != 2 {
		t.Errorf("the second GET arrived %d times, want 2", n)
	}
}

// The transport writes on its second connection without another look at the
// context: the guard must have closed it by then.
func TestGuardClosesSecondConnection(t *testing.T) {
	var guard onceGuard
	guard.init()
	ctx, cancel := guard.guard(t.Context(), time.Minute)
	defer cancel(nil)
	trace := httptrace.ContextClientTrace(ctx)
	pipe := func() net.Conn {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		go func() { _, _ = there.Read(make([]byte, 1)) }()
		return here
	}
	first, second := pipe(), pipe()
	trace.GotConn(httptrace.GotConnInfo{Conn: first})
	if _, err := first.Write([]byte{1}); err != nil {
		t.Errorf("the first connection is closed: %v", err)
	}
	trace.WroteHeaders()
	trace.GotConn(httptrace.GotConnInfo{Conn: second})
	if _, err := second.Write([]byte{1}); err == nil {
		t.Error("the second connection takes a request")
	}
	if !guard.replayed.Load() || context.Cause(ctx) != errLost {
		t.Errorf("replayed %v, %v", guard.replayed.Load(), context.Cause(ctx))
	}
}

// A connection that the server closed while it was idle costs nothing: the
// client dials anew, as nothing was written.
func TestIdleConnectionClosed(t *testing.T) {
	closed := make(chan struct{}, 2)
	addr := testutil.ListenTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			fmt.Fprint(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		}
		conn.Close()
		closed <- struct{}{}
	})
	c := newTestClient(t, "http://"+addr, 10*time.Second)
	for range 2 {
		if status, err := c.Cancel(t.Context(), testID); status != 204 || err != nil {
			t.Fatalf("Cancel = %d, %v", status, err)
		}
		<-closed
	}
}
