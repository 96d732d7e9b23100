package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a real redis-server that keeps its data in an AOF.
type server struct {
	dir  string
	port int
	rdb  *redis.Client // of the suite itself: past every proxy

	mu   sync.Mutex
	proc *process
}

// startRedis starts a server on a free port. Its files go to data, its log to dir.
func startRedis(dir, data string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{dir: data, port: port}
	s.rdb = redis.NewClient(&redis.Options{Addr: s.addr(), MaxRetries: 3, DialerRetries: 1, DisableIdentity: true, Protocol: 2})
	return s, s.start(dir)
}

func (s *server) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }
func (s *server) url() string  { return "redis://" + s.addr() + "/0" }

// start starts the server, again on what its AOF holds, and waits until it answers.
//
// appendfsync is always: with everysec Redis may put the write of its AOF off
// for as long as an fsync takes, and a kill then loses what was acknowledged.
// What is to be proved here is that linkcancel loses nothing.
func (s *server) start(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	s.proc, err = start(filepath.Join(dir, "redis.log"), environment(), "redis-server",
		"--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--dir", s.dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil && s.proc.alive() {
		if s.rdb.Ping(ctx).Err() == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("redis-server does not answer on port %d: see %s", s.port, filepath.Join(dir, "redis.log"))
}

// kill ends the server as a crash does.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc.kill()
}

func (s *server) close() {
	_ = s.rdb.Close()
	s.kill()
}

// info is a number of INFO.
func (s *server) info(ctx context.Context, section, field string) (n int64, err error) {
	text, err := s.rdb.Info(ctx, section).Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			_, err = fmt.Sscan(value, &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("INFO %s has no %s", section, field)
}

// freePort returns a port that nobody listens on. It is below the range from which
// Linux takes the source ports of connections (32768 and up), so the port is still
// free when a server is restarted on it.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 16384 + rand.IntN(16384)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// again listens, and tries again while the port is in use: a process that is just being started
// holds a copy of every socket for a moment, also of one that its parent has closed.
func again(listen func() error) (err error) {
	for range 100 {
		if err = listen(); !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
