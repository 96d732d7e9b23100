package main

import (
	"bufio"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
)

// TestCrashRecovery kills one of two workers CRASHES times and tells how long its
// links wait for the other, for docs/testing.md (make failover).
func TestCrashRecovery(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("CRASHES"))
	if n == 0 {
		return // it measures, and tests nothing
	}
	binary := shippedBinary(t)
	var mu sync.Mutex
	var took []time.Duration
	t.Run("crashes", func(t *testing.T) {
		for i := range n {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				d := crash(t, binary, 40+10*i) // at another moment between two renewals
				if d == 0 {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, d.Round(100*time.Millisecond))
			})
		}
	})
	slices.Sort(took)
	t.Logf("from the kill to the links' being taken up: %v", took)
}

// crash kills a worker in the middle of a batch, after so many requests, and
// returns how long it took the other to take its links up.
func crash(t *testing.T, binary string, after int) time.Duration {
	url := redistest.Start(t)
	api := sandbox.New(sandbox.Config{Links: after + 100, Latency: 200 * time.Millisecond})
	server := httptest.NewServer(api)
	t.Cleanup(func() { api.Close(); server.Close() })
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(binary, args...)
		cmd.Env = append(os.Environ(), "LINKCANCEL_REDIS_URL="+url, "PLEXY_BASE_URL="+server.URL+"/v1", "PLEXY_API_KEY="+apiKey)
		return cmd
	}
	began := time.Now()
	takenUp := make(chan struct{})
	worker := func(seen func(line string)) *exec.Cmd {
		cmd := command("worker", "--metrics-addr", "off", "--rate", "10/s")
		out, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		go func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				seen(lines.Text())
			}
		}()
		return cmd
	}
	first := worker(func(string) {})
	worker(func(line string) {
		if strings.Contains(line, "reason=orphaned") {
			select {
			case <-takenUp:
			default:
				close(takenUp)
			}
		}
	})
	links := command("import", "-", "--yes")
	links.Stdin = strings.NewReader("id\n" + strings.Join(api.IDs(), "\n"))
	if out, err := links.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for api.Counts().Total < after {
		if time.Since(began) > time.Minute {
			t.Fatalf("%d requests within a minute", api.Counts().Total)
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	l := ledger.New(redistest.Open(t, url).Client())
	for waiting := true; waiting; {
		select {
		case <-takenUp:
			waiting = false
		case <-time.After(50 * time.Millisecond):
			if b, err := l.Resolve(t.Context(), "latest"); err == nil && b.State == ledger.Done {
				t.Log("it had no links in hand")
				return 0
			}
		}
		if time.Since(killed) > 2*time.Minute {
			t.Fatal("the links of the worker that was killed were not taken up within two minutes")
		}
	}
	took := time.Since(killed)
	if took > 45*time.Second {
		t.Errorf("it took %v", took)
	}
	return took
}
