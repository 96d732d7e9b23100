// Package testutil holds the small helpers that tests of several packages share.
package testutil

import (
	"fmt"
	"iter"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Must fails the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Collect returns all values of a sequence. An error fails the test.
func Collect[T any](t testing.TB, seq iter.Seq2[T, error]) (all []T) {
	t.Helper()
	for v, err := range seq {
		Must(t, err)
		all = append(all, v)
	}
	return all
}

// LinkID returns the n-th of the ids that tests give to payment links.
func LinkID(n int) string { return fmt.Sprintf("pl_%032x", n) }

// LinkIDs returns the first n of these ids.
func LinkIDs(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = LinkID(i)
	}
	return all
}

// Until polls ok every 10 ms and fails the test after a minute. In a synctest bubble
// it takes no real time.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	UntilWithin(t, time.Minute, 10*time.Millisecond, what, ok)
}

// UntilWithin polls ok at an interval and fails the test after a timeout.
func UntilWithin(t testing.TB, timeout, interval time.Duration, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	over := time.NewTimer(timeout)
	defer over.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-over.C:
			t.Fatalf("waited %v for %s", timeout, what)
		}
	}
}

// Advance lets time pass in a synctest bubble. What the bubble's goroutines have written by then can be read.
func Advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// ListenTCP accepts connections on a free loopback port and handles each one in a
// goroutine of its own. A connection is closed when handle returns. At the end of the
// test, the listener and all connections are closed and the goroutines have ended.
func ListenTCP(t testing.TB, handle func(net.Conn)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var handlers sync.WaitGroup
	open := map[net.Conn]bool{}
	ended := false
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		ended = true
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		handlers.Wait()
	})
	handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			if ended {
				_ = conn.Close()
			}
			mu.Unlock()
			handlers.Go(func() {
				handle(conn)
				_ = conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	return listener.Addr().String()
}

// ClosedPort returns a loopback port on which nobody listens.
func ClosedPort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// ClosedAddr returns a loopback address on which nobody listens.
func ClosedAddr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(ClosedPort(t)))
}

// Log is a text that a logger writes while a test reads it. The zero value is empty.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns the text.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Take returns the text and empties it.
func (l *Log) Take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}
