// Package redistest runs Redis for tests: the embedded one, and a real redis-server if the
// machine has it.
package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/testutil"
)

// Each runs a test on the embedded Redis and on a real one, and with TEST_CLUSTER=1 (make
// failover) also on a cluster. Without a redis-server it skips the real one, except in CI.
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
	if os.Getenv("TEST_CLUSTER") == "1" {
		t.Run("cluster", func(t *testing.T) { test(t, Open(t, StartCluster(t, 3, false).URL())) })
	}
}

// Bubble runs a test on the embedded Redis in a synctest bubble.
func Bubble(t *testing.T, test func(t *testing.T, b *broker.Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := broker.Embedded()
		t.Cleanup(func() { _ = b.Close() })
		test(t, b)
	})
	// go-redis keeps timers in a sync.Pool. Timers of a bubble must not be reused
	// outside of it; two collections empty the pool.
	runtime.GC()
	runtime.GC()
}

// Have reports whether this machine has a redis-server. In CI it must.
func Have(t testing.TB) bool {
	t.Helper()
	_, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal("no redis-server: CI must install it, or tests are left out")
	}
	return err == nil
}

// Flush empties a Redis, including every server of a cluster.
func Flush(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	each(t, rdb, func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
}

// Keys returns all matching keys of a Redis, including every server of a cluster, sorted.
func Keys(t testing.TB, rdb redis.UniversalClient, match string) []string {
	t.Helper()
	var mu sync.Mutex
	var all []string
	each(t, rdb, func(ctx context.Context, c *redis.Client) error {
		keys, err := c.Keys(ctx, match).Result()
		mu.Lock()
		defer mu.Unlock()
		all = append(all, keys...)
		return err
	})
	slices.Sort(all)
	return all
}

func each(t testing.TB, rdb redis.UniversalClient, do func(context.Context, *redis.Client) error) {
	t.Helper()
	var err error
	switch c := rdb.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(context.Background(), do)
	case *redis.Client:
		err = do(context.Background(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
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

// Start runs a redis-server on a free port for the length of the test and returns its URL.
// It does not persist unless args say so.
func Start(t testing.TB, args ...string) string {
	t.Helper()
	s := NewServer(t, args...)
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s.URL()
}

// Server is a redis-server that can be stopped and started again on its files.
type Server struct {
	dir     string
	config  string // path of a file, "" for none
	args    []string
	machine *Machine // nil: this one
	port    int
	cmd     *exec.Cmd
}

// NewServer returns a server with additional arguments. Start starts it.
func NewServer(t testing.TB, args ...string) *Server { return NewServerOn(t, nil, args...) }

// NewServerOn is NewServer on a machine, or on this one if m is nil.
func NewServerOn(t testing.TB, m *Machine, args ...string) *Server {
	return &Server{dir: t.TempDir(), machine: m, args: args}
}

// URL returns the URL of the server after its first start.
func (s *Server) URL() string { return "redis://" + s.addr() + "/0" }

// URLOn returns the URL of the server on one of its machine's networks.
func (s *Server) URLOn(n *Network) string {
	return fmt.Sprintf("redis://%s:%d/0", n.Address(s.machine), s.port)
}

func (s *Server) host() string {
	if s.machine == nil {
		return "127.0.0.1"
	}
	return s.machine.address
}

func (s *Server) addr() string { return fmt.Sprintf("%s:%d", s.host(), s.port) }

// Start starts the server, on the same port as before, and waits until it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	for try := 0; ; try++ {
		if s.port == 0 {
			s.port = testutil.ClosedPort(t)
		}
		bind := "127.0.0.1"
		if s.machine != nil {
			bind = "0.0.0.0" // nobody else has its networks
		}
		args := append([]string{"--port", fmt.Sprint(s.port), "--bind", bind, "--protected-mode", "no", "--dir", s.dir,
			"--save", "", "--appendonly", "no", "--logfile", filepath.Join(s.dir, "redis.log")}, s.args...)
		if s.config != "" {
			args = append([]string{s.config}, args...)
		}
		s.cmd = s.machine.command("redis-server", args...)
		// The server must not outlive a killed test.
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
		conn, err := net.DialTimeout("tcp", s.addr(), time.Second)
		if err != nil {
			continue // refused
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

// Kill kills the server.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Stop stops the server with SIGTERM. It does nothing if the server has ended.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// StartReplica starts a replica of a server for the length of the test and waits until it
// is in sync.
func StartReplica(t testing.TB, of *Server, args ...string) *Server {
	t.Helper()
	return startReplica(t, nil, of, args...)
}

func startReplica(t testing.TB, m *Machine, of *Server, args ...string) *Server {
	t.Helper()
	s := NewServerOn(t, m, append([]string{"--replicaof", of.host() + " " + fmt.Sprint(of.port)}, args...)...)
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	master := of.client(t)
	testutil.Until(t, "the replica", func() bool {
		info, err := master.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, fmt.Sprintf("port=%d,state=online", s.port))
	})
	return s
}

// Freeze suspends the server, which looks like a network that drops all packets. Thaw resumes it.
func (s *Server) Freeze(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal redis-server: %v", err)
	}
}

// Crash kills a server whose replicas have been disconnected for lag. What it wrote in that
// time is lost when one of them is promoted. With 0, writes in flight still arrive.
func Crash(t testing.TB, server *Server, lag time.Duration, replicas ...*Server) {
	t.Helper()
	if lag > 0 {
		for _, one := range replicas {
			one.Freeze(t) // so that they do not reconnect
		}
		if err := server.client(t).ClientKillByFilter(t.Context(), "type", "replica").Err(); err != nil {
			t.Fatal(err)
		}
		<-time.After(lag)
	}
	server.Kill(t)
	if lag > 0 {
		for _, one := range replicas {
			one.Thaw(t)
		}
	}
}

// client opens a connection to this server for the length of the test.
func (s *Server) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}
