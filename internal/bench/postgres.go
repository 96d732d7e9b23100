package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgres is a PostgreSQL server of its own.
type postgres struct {
	*process
	dir  string
	port int
}

// postgresTool finds a program of PostgreSQL, which Debian keeps out of PATH.
func postgresTool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// startPostgres starts a PostgreSQL that does not wait for the disk, as Redis
// does not. As root it runs as the user postgres or nobody, since it refuses root.
func (b *bench) startPostgres(ctx context.Context) (*postgres, error) {
	dir, err := os.MkdirTemp(b.dir, "postgres-")
	if err != nil {
		return nil, err
	}
	var attr *syscall.SysProcAttr
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			if u, err = user.Lookup("nobody"); err != nil {
				return nil, err
			}
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
		if err := os.Chmod(b.dir, 0o711); err != nil { // the user must get to dir
			return nil, err
		}
	}
	initdb := exec.CommandContext(ctx, postgresTool("initdb"), "-D", dir, "-U", "bench", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C")
	initdb.SysProcAttr, initdb.Dir = attr, "/"
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a database: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	server := exec.Command(postgresTool("postgres"), "-D", dir, "-p", strconv.Itoa(port), "-h", "127.0.0.1", "-k", "",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
		"-c", "shared_buffers=256MB", "-c", "max_connections=200", "-c", "log_min_messages=fatal")
	server.SysProcAttr, server.Dir = attr, "/"
	p, err := start(server)
	if err != nil {
		return nil, err
	}
	pg := &postgres{process: p, dir: dir, port: port}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(ctx, pg.url())
		if err == nil {
			return pg, conn.Close(ctx)
		}
		if time.Since(began) > 20*time.Second {
			pg.close()
			return nil, fmt.Errorf("PostgreSQL does not answer: %w: %s", err, p.lastWords())
		}
	}
}

func (p *postgres) url() string {
	return fmt.Sprintf("postgres://bench@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

func (p *postgres) close() {
	_ = p.cmd.Process.Signal(syscall.SIGINT) // it does not wait for connections
	_ = p.wait()
	_ = os.RemoveAll(p.dir)
}

// usedCPU is the processor time of the server and all its children, in seconds.
func (p *postgres) usedCPU() float64 {
	total := cpuTime(p.cmd.Process.Pid, true)
	for _, child := range children(p.cmd.Process.Pid) {
		total += cpuTime(child, false)
	}
	return total
}

// children are the processes that a process has now.
func children(pid int) []int {
	var all []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		list, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(list)) {
			n, _ := strconv.Atoi(field)
			all = append(all, n)
		}
	}
	return all
}

// cpuTime is the processor time of a process, in seconds, with that of its
// children that have ended if dead is set.
func cpuTime(pid int, dead bool) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in brackets may hold anything; state follows it.
	_, after, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(after)
	const user, system, deadUser, deadSystem, ticks = 11, 12, 13, 14, 100
	indexes := []int{user, system}
	if dead {
		indexes = append(indexes, deadUser, deadSystem)
	}
	total := 0.0
	for _, i := range indexes {
		n, _ := strconv.ParseFloat(fields[i], 64)
		total += n / ticks
	}
	return total
}
