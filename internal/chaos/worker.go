package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// worker is a worker that is started again whenever it ends, as systemd or Kubernetes would.
type worker struct {
	name    string
	way     *proxy // nil: see round.way
	metrics string // its address
	log     string
	args    []string
	env     []string
	round   *round

	fault sync.Mutex // one fault of the process at a time

	mu      sync.Mutex
	proc    *process
	from    int64 // where its log begins
	closing bool
	gone    chan struct{} // closed when it is not started again
}

// restartAfter is how long a worker that ended stays away.
const restartAfter = 500 * time.Millisecond

func (r *round) startWorker(n int) (*worker, error) {
	name := fmt.Sprintf("worker-%d", n)
	way, url, err := r.way(name)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	w := &worker{
		name: name, way: way, metrics: fmt.Sprintf("127.0.0.1:%d", port), log: filepath.Join(r.dir, name+".log"),
		round: r, gone: make(chan struct{}),
		env: r.environment(url),
		args: []string{"worker", "--rate", fmt.Sprintf("%d/s", r.plan.rate), "--attempts", strconv.Itoa(attempts), "--timeout", callTimeout.String(),
			"--metrics-addr", fmt.Sprintf("127.0.0.1:%d", port), "--pprof"},
	}
	if r.plan.sweeps {
		w.args = append(w.args, "--sweep-cron", "* * * * *", "--sweep-older-than", fmt.Sprintf("%dd", sweepOlder))
	}
	w.args = append(w.args, r.extra...)
	go w.supervise()
	return w, nil
}

// supervise starts the worker until it is closed.
func (w *worker) supervise() {
	defer close(w.gone)
	for {
		w.mu.Lock()
		if w.closing {
			w.mu.Unlock()
			return
		}
		w.from = w.size()
		proc, err := start(w.log, w.env, w.round.program(), w.args...)
		w.proc = proc
		w.mu.Unlock()
		if err != nil {
			w.round.fail(fmt.Errorf("start %s: %w", w.name, err))
			return
		}
		<-proc.done
		// A worker that finds no Redis at its start says so and ends.
		if !proc.ours() && w.began() {
			w.round.violate(violation{rule: "a worker ends only on request", what: fmt.Sprintf("%s ended without a request: %v", w.name, proc.err), log: w.log})
		}
		time.Sleep(restartAfter)
	}
}

// process is the present process; nil if there is none.
func (w *worker) process() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proc == nil || !w.proc.alive() {
		return nil
	}
	return w.proc
}

// graceful is how long the end of a worker may take: its drain timeout of 6 s and
// its reserves; the stop grace of the deployment files is 15 s.
const graceful = 15 * time.Second

// end ends a process as an operator does, and checks that it obeys.
func (w *worker) end(p *process) {
	p.signal(syscall.SIGTERM, true)
	began := time.Now()
	if !p.ended(graceful) {
		w.round.violate(violation{rule: "a worker ends within its grace of 15 s", what: fmt.Sprintf("%s did not end within %v of SIGTERM", w.name, time.Since(began).Round(time.Second)), log: w.log})
		p.kill()
		return
	}
	if code := p.code(); code != 0 && w.began() {
		w.round.violate(violation{rule: "a worker ends well", what: fmt.Sprintf("%s ended with exit code %d after SIGTERM", w.name, code), log: w.log})
	}
}

// close ends the worker for good.
func (w *worker) close() {
	w.mu.Lock()
	w.closing = true
	p := w.proc
	w.mu.Unlock()
	if p != nil && p.alive() {
		w.end(p)
	}
	<-w.gone
	w.way.close()
}

func (w *worker) size() int64 {
	info, err := os.Stat(w.log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// began says whether the latest process came to work.
func (w *worker) began() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, _ := os.ReadFile(w.log)
	return bytes.Contains(b[min(int64(len(b)), w.from):], []byte("worker started"))
}

// get reads a page of the worker's metrics server.
func (w *worker) get(path string) ([]byte, error) {
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + w.metrics + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return body, err
}

// dump writes down what the worker's goroutines do, and returns the file's name.
func (w *worker) dump() string {
	b, err := w.get("/debug/pprof/goroutine?debug=1")
	file := strings.TrimSuffix(w.log, ".log") + ".goroutines"
	if err != nil || os.WriteFile(file, b, 0o600) != nil {
		return ""
	}
	return file
}

// goroutines counts the worker's goroutines, without those that wait on purpose: one
// that has sent a link is kept for the next.
func (w *worker) goroutines() (n int, err error) {
	b, err := w.get("/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		var same int
		lines := strings.Split(strings.TrimSpace(stack), "\n")
		if strings.HasPrefix(lines[0], "goroutine profile:") {
			lines = lines[1:]
		}
		if len(lines) < 2 || strings.Contains(lines[1], "worker.(*Worker).sendLinks") {
			continue
		}
		if _, err := fmt.Sscan(lines[0], &same); err != nil {
			return 0, fmt.Errorf("read the goroutines of %s: %w", w.name, err)
		}
		n += same
	}
	return n, nil
}

// gauge reads a whole number from the worker's metrics.
func (w *worker) gauge(name string) (int, error) {
	b, err := w.get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int(n), err
		}
	}
	return 0, fmt.Errorf("%s shows no %s", w.name, name)
}

// ready says whether the worker takes work.
func (w *worker) ready() bool {
	_, err := w.get("/readyz")
	return err == nil
}
