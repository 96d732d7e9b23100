// Package redistest gives tests a Redis of their own: the embedded one, and a
// real redis-server where the machine has it.
package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"linkcancel/internal/broker"
)

// Each runs a test on the embedded Redis and on a real one. Without a
// redis-server the second part is left out, but never in CI; make test says so.
func Each(t *testing.T, test func(t *testing.T, b *broker.Broker)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		b := broker.Embedded()
		t.Cleanup(func() { _ = b.Close() })
		test(t, b)
	})
	if !Have(t) {
		return
	}
	t.Run("redis", func(t *testing.T) { test(t, Open(t, Start(t))) })
}

// Have says whether this machine has a redis-server. In CI it must.
func Have(t testing.TB) bool {
	t.Helper()
	_, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal("no redis-server: CI must install it, or tests are left out")
	}
	return err == nil
}

// Open connects to a Redis.
func Open(t testing.TB, url string) *broker.Broker {
	t.Helper()
	b, err := broker.Open(context.Background(), broker.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// Start runs a redis-server on a free port for the length of the test, without
// persistence unless args say otherwise, and returns its URL.
func Start(t testing.TB, args ...string) string {
	t.Helper()
	s := &Server{dir: t.TempDir(), args: args}
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s.URL()
}

// Server is a redis-server that can be stopped and started again on its files.
type Server struct {
	dir  string
	args []string
	port int
	cmd  *exec.Cmd
}

// NewServer makes a server with further arguments; Start starts it.
func NewServer(t testing.TB, args ...string) *Server {
	return &Server{dir: t.TempDir(), args: args}
}

// URL is where the server listens, after its first start.
func (s *Server) URL() string { return fmt.Sprintf("redis://127.0.0.1:%d/0", s.port) }

// Start starts the server, on the same port as before if there was one, and
// waits until it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	for try := 0; ; try++ {
		if s.port == 0 {
			s.port = freePort(t)
		}
		args := append([]string{"--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
			"--save", "", "--appendonly", "no", "--logfile", filepath.Join(s.dir, "redis.log")}, s.args...)
		s.cmd = exec.Command("redis-server", args...)
		// The server must not outlive a test that is killed.
		s.cmd.SysProcAttr = deathSignal()
		if err := s.cmd.Start(); err != nil {
			t.Fatalf("start redis-server: %v", err)
		}
		if s.answers() {
			return
		}
		s.Kill(t)
		if try == 3 {
			log, _ := os.ReadFile(filepath.Join(s.dir, "redis.log"))
			t.Fatalf("redis-server does not answer on port %d:\n%s", s.port, log)
		}
	}
}

func (s *Server) answers() bool {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
		if err != nil {
			continue // refused at once: ask again
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte("PING\r\n"))
		reply := make([]byte, 64)
		n, _ := conn.Read(reply)
		_ = conn.Close()
		if strings.HasPrefix(string(reply[:n]), "+PONG") {
			return true
		}
	}
	return false
}

// Kill ends the server as a crash does.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Stop ends the server as an operator does.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
