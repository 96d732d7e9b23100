package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profileAddr is where a worker that is profiled listens.
const profileAddr = "127.0.0.1:19464"

// metricsFlags are off unless the worker is to be profiled.
func (b *bench) metricsFlags() []string {
	if b.profile == "" {
		return []string{"--metrics-addr", "off"}
	}
	return []string{"--metrics-addr", profileAddr, "--pprof"}
}

// saveProfile takes the CPU profile of the running worker. The profile is of
// profileSeconds: the returned function waits for it.
func (b *bench) saveProfile(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		path := filepath.Join(b.profile, fmt.Sprintf("worker-%s.pprof", time.Now().Format("150405.000")))
		if err := fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", profileAddr, b.profileSeconds), path); err != nil {
			fmt.Fprintln(os.Stderr, "no profile:", err)
			return
		}
		fmt.Println("profile:", path)
	}()
	return func() { <-done }
}

// fetch writes what a URL gives to a file. It asks until the server is there.
func fetch(ctx context.Context, url, path string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			select {
			case <-time.After(5 * time.Millisecond):
				continue
			case <-ctx.Done():
				return err
			}
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(f, resp.Body)
		return err
	}
}
