//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// cmdType runs a command on a terminal of its own, and types an answer as soon as
// it asks. AHEAD is typed before the command starts: "" is nothing.
func cmdType(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 4, "type AHEAD ANSWER CODE COMMAND [ARG…]")
	ts.Check(ts.Exec("env"))
	environ := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	path := ""
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if file := filepath.Join(dir, args[3]); path == "" && executable(file) {
			path = file
		}
	}
	keyboard, terminal, err := openTerminal()
	ts.Check(err)
	defer keyboard.Close()
	defer terminal.Close()
	if args[0] != "" {
		_, err := keyboard.WriteString(args[0] + "\n")
		ts.Check(err)
	}
	var stdout bytes.Buffer
	asked := &questionSeen{asked: make(chan struct{})}
	cmd := exec.Command(path, args[4:]...)
	cmd.Env, cmd.Dir = environ, ts.MkAbs(".")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &stdout, asked
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-asked.asked:
		_, err := keyboard.WriteString(args[1] + "\n")
		ts.Check(err)
		err = <-ended
		showOutput(ts, args[2], stdout.String(), asked.String(), err)
	case err := <-ended:
		showOutput(ts, args[2], stdout.String(), asked.String(), err)
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		ts.Fatalf("it asks nothing: %s", asked)
	}
}

// showOutput makes the output of a command that of the script's last command.
func showOutput(ts *testscript.TestScript, code, stdout, stderr string, err error) {
	ts.Check(os.WriteFile(ts.MkAbs(".stdout"), []byte(stdout), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(".stderr"), []byte(stderr), 0o600))
	ts.Check(ts.Exec("sh", "-c", "cat .stdout; cat .stderr >&2; rm .stdout .stderr"))
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		ts.Fatalf("%v", err)
	}
	checkExit(ts, code, err)
	checkSecrets(ts)
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// questionSeen is standard error, and knows when a question stands there.
type questionSeen struct {
	mu    sync.Mutex
	text  bytes.Buffer
	once  sync.Once
	asked chan struct{}
}

func (q *questionSeen) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.text.Write(p)
	if text := q.text.String(); strings.HasSuffix(text, "[y/N] ") || strings.HasSuffix(text, "[Y/n] ") || strings.HasSuffix(text, " to go ahead: ") {
		q.once.Do(func() { close(q.asked) })
	}
	return len(p), nil
}

func (q *questionSeen) String() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.text.String()
}

// openTerminal opens a pseudo-terminal.
func openTerminal() (keyboard, terminal *os.File, err error) {
	keyboard, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return keyboard, terminal, err
}

func TestAgrees(t *testing.T) {
	for _, tt := range []struct {
		links  int64
		answer string
		want   bool
	}{
		{0, "y", true}, {0, "YES", true}, {0, "", false}, {0, "1", false}, {0, "yy", false},
		{12345, "12345", true}, {12345, "12 345", true}, {12345, "12,345", true}, {12345, "12.345", true}, {12345, "12\u00a0345", true},
		{12345, "y", false}, {12345, "", false}, {12345, "1234", false}, {12345, "12345 ", true}, {12345, "-12345", false}, {12345, "12345y", false},
	} {
		if got := (question{links: tt.links}).agrees(tt.answer); got != tt.want {
			t.Errorf("%d links, %q: %v", tt.links, tt.answer, got)
		}
	}
}
