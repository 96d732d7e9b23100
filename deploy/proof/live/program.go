// Package live proves dashboard, rules and metrics on a real Prometheus, with
// real workers under load.
package live

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long something that must happen is waited for.
const patience = 150 * time.Second

// program is a program in the background.
type program struct {
	name string
	log  string // file of its output
	cmd  *exec.Cmd
	once sync.Once
}

// start starts a program for the length of the test life, of which t is a part.
// When life fails the program's last words are shown.
func start(t, life *testing.T, dir, name string, env []string, path string, args ...string) *program {
	t.Helper()
	p := &program{name: name, log: filepath.Join(dir, name+".log"), cmd: exec.Command(path, args...)}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append(os.Environ(), env...), out, out
	p.cmd.SysProcAttr = deathSignal() // it must not outlive a test that is killed
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	life.Cleanup(func() {
		p.end(syscall.SIGTERM)
		if life.Failed() {
			b := p.output()
			life.Logf("%s:\n%s", name, b[max(0, len(b)-3000):])
		}
	})
	return p
}

// endAtMost is how long a program may take to end before it is killed.
const endAtMost = 20 * time.Second

// end sends a signal, and waits for the program's end.
func (p *program) end(s os.Signal) {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(s)
		kill := time.AfterFunc(endAtMost, func() { _ = p.cmd.Process.Kill() })
		defer kill.Stop()
		_ = p.cmd.Wait()
	})
}

func (p *program) output() []byte {
	b, _ := os.ReadFile(p.log)
	return b
}

// run runs a command to its end and returns its standard output.
func run(t *testing.T, env []string, path string, args ...string) []byte {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", filepath.Base(path), args, err, out, errs.Bytes())
	}
	return out
}

// until polls until something is true. now describes the present state.
func until(t *testing.T, what string, done func() (ok bool, now any)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, now := done()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v for %s; now: %v", patience, what, now)
		case <-ticker.C:
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port)
}
