package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/sandbox"
)

type demoCmd struct {
	Links    int            `default:"1000" help:"Links to cancel."`
	Rate     ratelimit.Rate `default:"100/s" help:"Maximum rate: N/s, N/m or N/h; by default ${default}." placeholder:"N/s"`
	Attempts int            `default:"6" help:"Attempts per link before it counts as failed."`
	Serve    bool           `help:"Serve a page with the progress, on this machine."`
	Report   string         `help:"Write the report here; by default into a temporary folder." placeholder:"FILE"`
}

// demoSeed gives the same links and the same faults each time.
const demoSeed = 1

func (c demoCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	a.quiet()
	if c.Links < 1 || c.Links > 1_000_000 {
		return usagef("--links %d: use 1 to 1000000", c.Links)
	}
	api := sandbox.New(sandbox.Config{
		Seed: demoSeed, Links: c.Links,
		Paid: 0.03, Expired: 0.04, Cancelled: 0.02, Missing: 0.02,
		Faults:  sandbox.Faults{Error500: 0.02, HTML502: 0.01, Cut: 0.01, CutBefore: 0.01},
		Latency: 5 * time.Millisecond, Jitter: 30 * time.Millisecond,
	})
	defer api.Close()
	url, stop, err := serveLocal("127.0.0.1:0", api)
	if err != nil {
		return err
	}
	defer stop()
	folder, err := os.MkdirTemp("", "linkcancel-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	file := filepath.Join(folder, "stale-links.csv")
	if err := writeSample(file, api.IDs()); err != nil {
		return err
	}
	key, err := plexy.NewKey("demo-key")
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "A sandbox API at %s: some links are paid, expired or gone, and some answers get lost.\nThe sample: %s\n\n", url, file)
	run := runCmd{
		Files: []string{file}, Report: c.Report, Serve: c.Serve,
		apiFlags:     apiFlags{BaseURL: url, Timeout: 15 * time.Second},
		sendFlags:    sendFlags{Rate: c.Rate, Burst: 1, Concurrency: 50, Attempts: c.Attempts, DrainTimeout: 6 * time.Second},
		metricsFlags: metricsFlags{MetricsAddr: "off"},
	}
	if a.DryRun {
		defer os.RemoveAll(folder)
	}
	a.Yes = true // the links are those of the sandbox
	client, err := run.client(key, run.Concurrency)
	if err != nil {
		return err
	}
	return run.start(ctx, a, key, client)
}

// serveLocal serves the sandbox API and returns its base URL.
func serveLocal(addr string, api *sandbox.Server) (url string, stop func(), err error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return "", nil, hint(fmt.Errorf("serve the sandbox API: %w", err), "choose another address with --addr")
	}
	server := &http.Server{Handler: withReadiness(api), ConnContext: api.ConnContext, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until stop closes it
	return "http://" + listener.Addr().String() + sandbox.DefaultPrefix, func() { _ = server.Close() }, nil
}

// writeSample writes links as a database might: with other columns and some rows twice.
func writeSample(path string, ids []string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the sample: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	w := csv.NewWriter(f)
	_ = w.Write([]string{"order", "customer", "payment_link"}) // errors show at Flush
	for i, id := range ids {
		row := []string{fmt.Sprintf("ORD-%05d", i+1), "Customer " + strconv.Itoa(i%97+1), "https://checkout.plexypay.com/" + id}
		_ = w.Write(row)
		if i%100 == 99 {
			_ = w.Write(row)
		}
	}
	w.Flush()
	return w.Error()
}
