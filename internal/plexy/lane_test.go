package plexy

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// countingServer knows what became of its connections. They are pipes, and it lives in a bubble: on a
// busy machine, Go's transport gives up a connection whose request took more than 50 ms to write.
type countingServer struct {
	t      *testing.T
	client *Client
	dialed chan net.Conn
	dials  atomic.Int32

	mu      sync.Mutex
	changed sync.Cond
	opened  int
	closed  int
	idle    map[net.Conn]bool
}

func countConnections(t *testing.T, handler http.HandlerFunc) *countingServer {
	t.Helper()
	s := &countingServer{t: t, idle: make(map[net.Conn]bool), dialed: make(chan net.Conn)}
	s.changed.L = &s.mu
	server := http.Server{Handler: handler, ConnState: s.note}
	go func() { _ = server.Serve(s) }()
	t.Cleanup(func() { _ = server.Close() })
	s.client = newTestClient(t, "http://127.0.0.1:1", 30*time.Second)
	s.client.lanes.dial = s.dial
	return s
}

func (s *countingServer) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	s.dialed <- &numbered{there, int(s.dials.Add(1))}
	return here, nil
}

// numbered is a connection with an address of its own.
type numbered struct {
	net.Conn
	n int
}

func (c *numbered) RemoteAddr() net.Addr { return &net.TCPAddr{Port: c.n} }

// Accept, Close and Addr make it a net.Listener.
func (s *countingServer) Accept() (net.Conn, error) {
	conn, ok := <-s.dialed
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *countingServer) Close() error   { close(s.dialed); return nil }
func (s *countingServer) Addr() net.Addr { return &net.TCPAddr{} }

func (s *countingServer) note(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.opened++
	case http.StateClosed, http.StateHijacked:
		s.closed++
	}
	s.idle[conn] = state == http.StateIdle
	s.changed.Broadcast()
}

// wait returns when so many connections are closed and idle.
func (s *countingServer) wait(closed, idle int) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	late := false
	defer time.AfterFunc(20*time.Second, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.changed.Broadcast()
	}).Stop()
	for {
		n := 0
		for _, is := range s.idle {
			if is {
				n++
			}
		}
		if s.closed == closed && n == idle {
			return
		}
		if late {
			s.t.Fatalf("%d connections are closed and %d idle, want %d and %d", s.closed, n, closed, idle)
		}
		s.changed.Wait()
	}
}

// calls makes n calls at a time.
func (s *countingServer) calls(n int, call func() error) {
	s.t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := call(); err != nil {
				s.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// together answers the first n requests only when all of them are there, so that
// each needs a connection of its own.
func together(n int, handler http.HandlerFunc) http.HandlerFunc {
	var arrived atomic.Int32
	all := make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request) {
		if arrived.Add(1) == int32(n) {
			close(all)
		}
		<-all
		handler(w, r)
	}
}

// A connection is kept after an answer of the API itself, and closed after any
// other and after a failure.
func TestConnections(t *testing.T) {
	proven := func(code int) string { return fmt.Sprintf(`{"code":%d,"message":"no","type":"apiError"}`, code) }
	long := strings.Replace(documented, "{", `{"x":"`+strings.Repeat("x", maxBody-len(documented)-7)+`",`, 1)
	cancel := func(c *Client, ctx context.Context) { _, _ = c.Cancel(ctx, testID) }
	get := func(c *Client, ctx context.Context) { _, _ = c.Get(ctx, testID) }
	list := func(c *Client, ctx context.Context) { _, _ = c.List(ctx, 1, 50) }
	fresh := func(c *Client, ctx context.Context) { _, _ = c.Cancel(Fresh(ctx), testID) }
	for _, test := range []struct {
		name    string
		call    func(*Client, context.Context)
		handler http.HandlerFunc
		kept    bool
	}{
		{"204", cancel, reply(204, ""), true},
		{"proven 404", cancel, reply(404, proven(4)), true},
		{"proven 422", cancel, reply(422, proven(5)), true},
		{"proven 401", cancel, reply(401, proven(2)), true},
		{"link", get, reply(200, documented), true},
		{"longest link", get, reply(200, long), true},
		{"proven 404 to a GET", get, reply(404, proven(4)), true},
		{"page", list, reply(200, documentedPage), true},
		{"Fresh", fresh, reply(204, ""), false},
		{"proven 500", cancel, reply(500, proven(1)), false},
		{"proven 503 to a GET", get, reply(503, proven(1)), false},
		{"502 page", cancel, reply(502, "<html>"), false},
		{"404 page", cancel, reply(404, "<html>"), false},
		{"empty 404", cancel, reply(404, ""), false},
		{"empty 404 to a GET", get, reply(404, ""), false},
		{"empty 404 to a list", list, reply(404, ""), false},
		{"429 page", cancel, reply(429, "slow down"), false},
		{"302", cancel, reply(302, ""), false},
		{"200", cancel, reply(200, ""), false},
		{"200 page", cancel, reply(200, "<html>"), false},
		{"202", cancel, reply(202, "{}"), false},
		{"200 page to a GET", get, reply(200, "<html>"), false},
		{"204 to a GET", get, reply(204, ""), false},
		{"another link", get, reply(200, strings.Replace(documented, testID, "pl_other", 1)), false},
		{"longer than a link", get, reply(200, long+" "), false},
		{"8 MiB", cancel, reply(404, strings.Repeat("x", 8<<20)), false},
		{"unusable page", list, reply(200, `{"data":null}`), false},
		{"cut off", get, cutAfter(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), false},
		{"no answer", cancel, cutAfter(t, "HTTP"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := countConnections(t, test.handler)
				for range 3 {
					test.call(s.client, t.Context())
				}
				switch {
				case test.kept:
					s.wait(0, 1)
				case test.name == "Fresh": // the last one is a good one
					s.wait(2, 1)
				default:
					s.wait(3, 0)
				}
				s.client.CloseIdle()
				if want := map[bool]int{true: 1, false: 3}[test.kept]; s.opened != want {
					t.Errorf("%d connections, want %d", s.opened, want)
				}
				s.wait(s.opened, 0)
			})
		})
	}
}

// The connections of many calls are kept, up to the limit, and few calls use few of them.
func TestConnectionsAreUsedLastInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, kept = 7, 5
		var mu sync.Mutex
		from := map[string]int{}
		s := countConnections(t, together(many, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			from[r.RemoteAddr]++
			mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
		}))
		s.client.lanes.most = kept
		call := func() error { _, err := s.client.Cancel(t.Context(), testID); return err }
		s.calls(many, call)
		s.wait(many-kept, kept)
		for range 20 {
			s.calls(1, call)
		}
		if len(from) != many {
			t.Errorf("%d connections, want %d", len(from), many)
		}
		for address, n := range from {
			if n != 1 && n != 21 {
				t.Errorf("%s had %d requests", address, n)
			}
		}
		s.client.CloseIdle()
		s.wait(many, 0)
	})
}

// pipes answers requests over pipes, for bubbles: 204 to each.
type pipes struct {
	mu    sync.Mutex
	conns []*pipeConn
}

type pipeConn struct {
	net.Conn
	first, last time.Time // requests
	closed      time.Time
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	conn := &pipeConn{Conn: there}
	p.mu.Lock()
	p.conns = append(p.conns, conn)
	p.mu.Unlock()
	go func() {
		defer there.Close()
		for reader := bufio.NewReader(there); ; {
			if _, err := http.ReadRequest(reader); err != nil {
				conn.closed = time.Now()
				return
			}
			if conn.last = time.Now(); conn.first.IsZero() {
				conn.first = conn.last
			}
			fmt.Fprint(there, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}()
	return here, nil
}

// A busy client leaves every connection after two minutes, and not all of them
// at one time. In between nothing is dialled.
func TestConnectionAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t, "http://127.0.0.1:1", 10*time.Second)
		var p pipes
		c.lanes.dial = p.dial
		const busy = 10 * time.Minute
		for begin := time.Now(); time.Since(begin) < busy; time.Sleep(time.Second) {
			if status, err := c.Cancel(t.Context(), testID); status != 204 || err != nil {
				t.Fatalf("Cancel = %d, %v", status, err)
			}
		}
		c.CloseIdle()
		synctest.Wait()
		ages := map[time.Duration]bool{}
		for i, conn := range p.conns {
			age := conn.last.Sub(conn.first)
			if age > laneAge || i < len(p.conns)-1 && age < laneAge-laneSpread-time.Second {
				t.Errorf("connection %d was used for %v", i, age)
			}
			if conn.closed.IsZero() {
				t.Errorf("connection %d is open", i)
			}
			ages[age] = true
		}
		if n := len(p.conns); n < 5 || n > 7 {
			t.Errorf("%d connections in %v", n, busy)
		}
		if len(ages) < 2 {
			t.Errorf("all connections were used for the same time: %v", ages)
		}
	})
}

// A connection that nobody uses is closed after half a minute, under others that are used.
func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t, "http://127.0.0.1:1", 10*time.Second)
		var p pipes
		c.lanes.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			time.Sleep(time.Millisecond) // so that all calls dial
			return p.dial(ctx, network, address)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _, _ = c.Cancel(t.Context(), testID) })
		}
		wg.Wait()
		begin := time.Now()
		for time.Since(begin) < idleTimeout+2*time.Second {
			time.Sleep(time.Second)
			if _, err := c.Cancel(t.Context(), testID); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		open := 0
		for _, conn := range p.conns {
			if conn.closed.IsZero() {
				open++
			} else if idle := conn.closed.Sub(conn.last); idle != idleTimeout {
				t.Errorf("closed after %v", idle)
			}
		}
		if len(p.conns) != 3 || open != 1 {
			t.Errorf("%d of %d connections are open, want 1 of 3", open, len(p.conns))
		}
	})
}

// A call that ends while it dials leaves no dial behind.
func TestDialEndsWithItsCall(t *testing.T) {
	c := newTestClient(t, "http://127.0.0.1:1", 30*time.Second)
	begun, ended := make(chan struct{}), make(chan struct{})
	c.lanes.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := c.Cancel(ctx, testID)
	if e := transportError(t, err); e.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v", e)
	}
	<-ended
}

// A server that moves is followed at once if the old one fails: each kept
// connection costs one answer at most.
func TestServerMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const busy = 5
		var moved atomic.Bool
		var elsewhere atomic.Int32
		s := countConnections(t, together(busy, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(map[bool]int{true: 503, false: 204}[moved.Load()])
		}))
		other := countConnections(t, func(w http.ResponseWriter, _ *http.Request) {
			elsewhere.Add(1)
			w.WriteHeader(http.StatusNoContent)
		})
		s.client.lanes.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if moved.Load() {
				return other.dial(ctx, network, address)
			}
			return s.dial(ctx, network, address)
		}
		s.calls(busy, func() error { _, err := s.client.Cancel(t.Context(), testID); return err })
		moved.Store(true)
		var statuses []int
		for range 10 {
			status, _ := s.client.Cancel(t.Context(), testID)
			statuses = append(statuses, status)
		}
		if got, want := fmt.Sprint(statuses), "[503 204 204 204 204 204 204 204 204 204]"; got != want {
			t.Errorf("one call at a time: %s, want %s", got, want)
		}
		if status, err := s.client.Cancel(Fresh(t.Context()), testID); status != 204 || err != nil {
			t.Errorf("Fresh: %d, %v", status, err)
		}
		if elsewhere.Load() != 10 {
			t.Errorf("%d requests reached the new server, want 10", elsewhere.Load())
		}
		var failed atomic.Int32
		s.calls(50, func() error {
			if status, _ := s.client.Cancel(t.Context(), testID); status != 204 {
				failed.Add(1)
			}
			return nil
		})
		if failed.Load() > busy-1 {
			t.Errorf("%d more calls failed, of %d kept connections", failed.Load(), busy-1)
		}
	})
}

// Trouble with one kept connection closes the idle ones, but an API that fails now and then costs
// no more than its own connections for a while, and neither does one that fails on new connections.
func TestTroubleClosesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLanes(10, &url.URL{})
		fill := func() {
			for range 3 {
				l.put(&lane{transport: l.transport(), expires: time.Now().Add(laneAge)})
			}
		}
		check := func(what string, want int) {
			t.Helper()
			if n := len(l.idle); n != want {
				t.Errorf("%s: %d idle lanes, want %d", what, n, want)
			}
		}
		fill()
		l.discard(&lane{transport: l.transport()})
		check("a new connection", 3)
		l.discard(l.take(false))
		check("a kept connection", 0)
		time.Sleep(purgeInterval - time.Nanosecond)
		fill()
		l.discard(l.take(false))
		check("another one soon after", 2)
		time.Sleep(time.Nanosecond)
		l.discard(l.take(false))
		check("and later", 0)
	})
}

// What a new connection costs is little: it resumes the TLS session.
func TestNewConnectionsResumeTLS(t *testing.T) {
	var resumed []bool
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.TLS.DidResume)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	server.StartTLS()
	t.Cleanup(server.Close)
	c := newTestClient(t, server.URL, 10*time.Second)
	c.lanes.tls.RootCAs = x509.NewCertPool()
	c.lanes.tls.RootCAs.AddCert(server.Certificate())
	for range 3 {
		if status, err := c.Cancel(t.Context(), testID); status != 500 {
			t.Fatalf("Cancel = %d, %v", status, err)
		}
	}
	if got := fmt.Sprint(resumed); got != "[false true true]" {
		t.Errorf("resumed: %s", got)
	}
}

// BenchmarkCancel measures calls of 50 goroutines against a server of this process.
func BenchmarkCancel(b *testing.B) {
	server := httptest.NewServer(reply(204, ""))
	defer server.Close()
	key, err := NewKey(testKey)
	if err != nil {
		b.Fatal(err)
	}
	c, err := New(Config{BaseURL: server.URL, Key: key})
	if err != nil {
		b.Fatal(err)
	}
	defer c.CloseIdle()
	b.ReportAllocs()
	next := make(chan struct{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range next {
				if _, err := c.Cancel(b.Context(), testID); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		next <- struct{}{}
	}
	close(next)
	wg.Wait()
}
