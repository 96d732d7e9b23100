package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a program that the benchmark started.
type process struct {
	name  string
	cmd   *exec.Cmd
	errs  bytes.Buffer
	lines chan string   // of its standard output; those that nobody wants are dropped
	read  chan struct{} // closed when the output has ended
	peak  atomic.Int64  // highest resident memory seen, in bytes
	end   sync.Once
	ended chan struct{}
	err   error
}

// endAtMost is how long a program may take to end before it is killed.
const endAtMost = 20 * time.Second

// start starts a program.
func start(cmd *exec.Cmd) (*process, error) {
	p := &process{
		name: filepath.Base(cmd.Path), cmd: cmd,
		lines: make(chan string, 16), read: make(chan struct{}), ended: make(chan struct{}),
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = &p.errs
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // it must not outlive a benchmark that is killed
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		defer close(p.read)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			select {
			case p.lines <- scanner.Text():
			default:
			}
		}
	}()
	go p.watchMemory()
	return p, nil
}

// self is this program as another process: see processes.
func self(args ...string) *exec.Cmd { return exec.Command("/proc/self/exe", args...) }

// run runs a program to its end.
func run(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	p, err := start(cmd)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	return p, p.wait()
}

// watchMemory follows the peak of the resident memory. What the kernel reports
// of a child that has ended would count what its parent had before the exec.
func (p *process) watchMemory() {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if peak := residentPeak(p.cmd.Process.Pid); peak > p.peak.Load() {
			p.peak.Store(peak)
		}
		select {
		case <-ticker.C:
		case <-p.ended:
			return
		}
	}
}

// residentPeak is VmHWM in bytes, 0 if the process is gone.
func residentPeak(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10
}

// line waits for a line that the program writes.
func (p *process) line(ctx context.Context) (string, error) {
	select {
	case line := <-p.lines:
		return line, nil
	case <-p.read:
		_ = p.wait()
		return "", fmt.Errorf("%s has ended: %s", p.name, p.lastWords())
	case <-ctx.Done():
		return "", fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
	}
}

// lastWords are what a program that has ended wrote to standard error.
func (p *process) lastWords() string {
	b := bytes.TrimSpace(p.errs.Bytes())
	return string(b[max(0, len(b)-2000):])
}

// wait waits for a program that ends when its work is done.
func (p *process) wait() error {
	p.end.Do(func() {
		<-p.read
		if err := p.cmd.Wait(); err != nil {
			p.err = fmt.Errorf("%s: %w: %s", p.name, err, p.lastWords())
		}
		close(p.ended)
	})
	<-p.ended
	return p.err
}

// stop asks the program to end, and waits.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(endAtMost, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	return p.wait()
}

// kill ends the program at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.wait()
}

// cpu is the processor time that the ended program used, in seconds.
func (p *process) cpu() float64 {
	state := p.cmd.ProcessState
	return (state.UserTime() + state.SystemTime()).Seconds()
}
