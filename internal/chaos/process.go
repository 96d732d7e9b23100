package main

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a program that runs beside this one.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; after done

	mu      sync.Mutex
	blessed bool // its end is our doing
}

// start starts a program. Its output goes to the end of the file log.
func start(log string, env []string, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, out, out
	p.cmd.SysProcAttr = deathSignal() // it must not outlive this program
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// alive says whether the program runs.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends s. With end the program's end is our doing from now on.
func (p *process) signal(s syscall.Signal, end bool) {
	p.mu.Lock()
	p.blessed = p.blessed || end
	p.mu.Unlock()
	_ = p.cmd.Process.Signal(s) // one that has ended has ended
}

// ours says whether the program's end is our doing.
func (p *process) ours() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blessed
}

// ended waits for the program's end, at most so long.
func (p *process) ended(most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// kill ends the program as a crash does, and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL, true)
	<-p.done
}

// code is the exit code of a program that has ended, -1 if a signal ended it.
func (p *process) code() int { return p.cmd.ProcessState.ExitCode() }
