package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// The kinds of Redis that a round may have.
const (
	oneServer    = "single"
	withSentinel = "sentinel" // a master, two replicas and three Sentinels
	withCluster  = "cluster"  // three masters with a replica each
)

// database is the Redis of a round.
type database struct {
	kind      string
	servers   []*server // in a cluster, the three masters come first
	sentinels []*server
	rdb       redis.UniversalClient // of the suite itself: past every proxy
}

// server is a real redis-server.
type server struct {
	log  string
	dir  string
	port int
	args []string
	rdb  *redis.Client

	mu   sync.Mutex
	proc *process
}

// startRedis starts a Redis of some kind on free ports. Its files go to data, its logs to dir.
func startRedis(ctx context.Context, kind, dir, data string) (*database, error) {
	d := &database{kind: kind}
	var err error
	switch kind {
	case withSentinel:
		err = d.startSentinel(ctx, dir, data)
	case withCluster:
		err = d.startCluster(ctx, dir, data)
	default:
		var s *server
		if s, err = newServer(dir, data, "redis", freePort, keeping...); err == nil {
			d.servers, d.rdb = []*server{s}, s.rdb
			err = s.start()
		}
	}
	return d, err
}

// keeping lets a server keep its data in an AOF.
//
// appendfsync is always: with everysec Redis may put the write of its AOF off
// for as long as an fsync takes, and a kill then loses what was acknowledged.
// What is to be proved here is that linkcancel loses nothing.
var keeping = []string{"--save", "", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"}

// newServer makes a server with a port from free.
func newServer(dir, data, name string, free func() (int, error), args ...string) (*server, error) {
	port, err := free()
	if err != nil {
		return nil, err
	}
	s := &server{log: filepath.Join(dir, name+".log"), dir: filepath.Join(data, name), port: port, args: args}
	s.rdb = redis.NewClient(&redis.Options{Addr: s.addr(), MaxRetries: 3, DialerRetries: 1, DisableIdentity: true, Protocol: 2})
	return s, os.MkdirAll(s.dir, 0o700)
}

func (s *server) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// url is what the processes are given.
func (d *database) url() string {
	switch d.kind {
	case withSentinel:
		return "redis-sentinel://" + strings.Join(addrs(d.sentinels), ",") + "/" + masterName + "/0"
	case withCluster:
		return "redis-cluster://" + strings.Join(addrs(d.servers), ",")
	}
	return "redis://" + d.servers[0].addr() + "/0"
}

func addrs(servers []*server) (all []string) {
	for _, s := range servers {
		all = append(all, s.addr())
	}
	return all
}

// start starts the server, again on what its folder holds, and waits until it answers.
func (s *server) start(args ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	args = slices.Concat(s.args, []string{"--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--dir", s.dir}, args)
	var err error
	if s.proc, err = start(s.log, environment(), "redis-server", args...); err != nil {
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
	return fmt.Errorf("redis-server does not answer on port %d: see %s", s.port, s.log)
}

// kill ends the server as a crash does.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.kill()
	}
}

// freeze stops the server, and thaw lets it go on.
func (s *server) freeze() { s.proc.signal(syscall.SIGSTOP, false) }
func (s *server) thaw()   { s.proc.signal(syscall.SIGCONT, false) }

func (d *database) close() {
	if d.rdb != nil {
		_ = d.rdb.Close()
	}
	for _, s := range slices.Concat(d.sentinels, d.servers) {
		_ = s.rdb.Close()
		s.kill()
	}
}

// info reads a section of INFO.
func (s *server) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := s.rdb.Info(ctx, section).Result()
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields, err
}

// clients is how many clients all servers have.
func (d *database) clients(ctx context.Context) (sum int64, err error) {
	for _, s := range d.servers {
		info, err := s.info(ctx, "clients")
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(info["connected_clients"], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the number of clients: %w", err)
		}
		sum += n
	}
	return sum, nil
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
