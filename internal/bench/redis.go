package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisServer is a redis-server of its own for one measurement.
type redisServer struct {
	*process
	dir    string
	addr   string
	client *redis.Client
}

// startRedis starts a redis-server on a free port, without persistence unless args say otherwise.
func (b *bench) startRedis(ctx context.Context, args ...string) (*redisServer, error) {
	dir, err := os.MkdirTemp(b.dir, "redis-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := start(exec.Command("redis-server", append([]string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1",
		"--dir", dir, "--save", "", "--appendonly", "no", "--loglevel", "warning"}, args...)...))
	if err != nil {
		return nil, err
	}
	r := &redisServer{process: p, dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", port)}
	r.client = redis.NewClient(&redis.Options{Addr: r.addr, DisableIdentity: true, Protocol: 2})
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if err = r.client.Ping(ctx).Err(); err == nil {
			return r, nil
		}
		if time.Since(began) > 10*time.Second {
			r.close()
			return nil, fmt.Errorf("redis-server does not answer: %w: %s", err, p.lastWords())
		}
	}
}

func (r *redisServer) url() string { return "redis://" + r.addr + "/0" }

func (r *redisServer) close() {
	_ = r.client.Close()
	r.kill() // nothing of it is needed again
	_ = os.RemoveAll(r.dir)
}

func (r *redisServer) usage(ctx context.Context) (usage, error) {
	info, err := r.client.Info(ctx, "cpu", "memory", "commandstats").Result()
	if err != nil {
		return usage{}, fmt.Errorf("ask Redis what it used: %w", err)
	}
	var u usage
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "used_cpu_sys" || name == "used_cpu_user":
			seconds, _ := strconv.ParseFloat(value, 64)
			u.cpu += seconds
		case name == "used_memory":
			n, _ := strconv.ParseInt(value, 10, 64)
			u.memory += n
		case name == "mem_clients_normal": // buffers of connections are no data
			n, _ := strconv.ParseInt(value, 10, 64)
			u.memory -= n
		case strings.HasPrefix(name, "cmdstat_"):
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			n, _ := strconv.ParseInt(calls, 10, 64)
			u.commands += n
		}
	}
	return u, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (r *redisServer) hostPort() (host, port string) {
	host, port, _ = strings.Cut(r.addr, ":")
	return host, port
}

// watchCommands counts the commands that clients send to a quiet Redis; not
// those inside scripts. MONITOR makes a busy Redis slow.
func (r *redisServer) watchCommands(ctx context.Context, length time.Duration) (int, error) {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(length)); err != nil {
		return 0, err
	}
	n := -1 // +OK
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), " lua] ") {
			n++
		}
	}
	if err := lines.Err(); !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("read its commands: %w", err)
	}
	return n, nil
}
