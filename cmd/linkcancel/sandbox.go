package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"linkcancel/internal/sandbox"
	"linkcancel/producer"
)

type sandboxCmd struct {
	Addr     string  `default:"127.0.0.1:8080" help:"Serve here." placeholder:"HOST:PORT"`
	Seed     uint64  `default:"1" help:"Decides the links and the faults."`
	Links    int     `default:"1000" help:"Links that are made up."`
	Load     string  `help:"Also hold the links of this CSV file, all active." placeholder:"FILE"`
	WriteCSV string  `name:"write-csv" help:"Write the links to this CSV file." placeholder:"FILE"`
	Key      string  `env:"SANDBOX_API_KEY" help:"The only API key that is accepted; any by default."`
	Paid     float64 `default:"0.03" help:"Share of paid links."`
	Expired  float64 `default:"0.04" help:"Share of expired links."`
	// Cancelled and Missing are as in sandbox.Config.
	Cancelled float64 `default:"0.02" help:"Share of links cancelled already."`
	Missing   float64 `default:"0.02" help:"Share of links that are not there."`

	Error500    float64 `name:"error-500" help:"Share of answers that are 500."`
	HTML502     float64 `name:"html-502" help:"Share of answers that are 502 with HTML."`
	Cut         float64 `help:"Share of connections that are cut after the cancel was applied."`
	CutBefore   float64 `help:"Share of connections that are cut before it."`
	Hang        float64 `help:"Share of requests that are never answered."`
	HangApplied bool    `help:"Apply the cancel of requests that are never answered."`
	BadRequest  float64 `help:"Share of answers that are 400."`
	Forbidden   float64 `help:"Share of answers that are 403."`
	Friendly    float64 `help:"Share of answers that are 200 with HTML, and do nothing."`
	FaultyGets  bool    `help:"Let GET requests fail too."`
	FaultyLists bool    `help:"Let requests for the list fail too."`

	Latency        time.Duration `help:"Time for each answer."`
	Jitter         time.Duration `help:"Up to so much more."`
	Limit          float64       `help:"Requests a second that are allowed; above: 429." placeholder:"N"`
	RetryAfter     time.Duration `default:"1s" help:"Retry-After of a 429."`
	RetryAfterDate bool          `help:"Send Retry-After as a date."`
	PageSize       int           `default:"50" help:"Links on a page of the list at most."`
	RequestLog     string        `help:"Write a line of JSON for each request." placeholder:"FILE"`
}

func (c sandboxCmd) Run(a *app) (err error) {
	var ids []string
	if c.Load != "" {
		if ids, err = loadIDs(c.Load); err != nil {
			return err
		}
	}
	cfg := sandbox.Config{
		Seed: c.Seed, Links: c.Links, IDs: ids, Key: c.Key,
		Paid: c.Paid, Expired: c.Expired, Cancelled: c.Cancelled, Missing: c.Missing,
		Faults: sandbox.Faults{
			Error500: c.Error500, HTML502: c.HTML502, Cut: c.Cut, CutBefore: c.CutBefore, Hang: c.Hang, HangApplied: c.HangApplied,
			BadRequest: c.BadRequest, Forbidden: c.Forbidden, Friendly: c.Friendly, Gets: c.FaultyGets, Lists: c.FaultyLists,
		},
		Latency: c.Latency, Jitter: c.Jitter, Rate: c.Limit, RetryAfter: c.RetryAfter, RetryAfterDate: c.RetryAfterDate, PageSize: c.PageSize,
	}
	if c.RequestLog != "" {
		f, err := os.OpenFile(c.RequestLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return usagef("write the request log: %w", err)
		}
		defer f.Close()
		cfg.Log = f
	}
	api := sandbox.New(cfg)
	defer func() {
		if flushErr := api.Flush(); err == nil {
			err = flushErr
		}
	}()
	defer api.Close()
	if c.WriteCSV != "" {
		if err := writeIDs(c.WriteCSV, api.IDs()); err != nil {
			return err
		}
	}
	url, stop, err := serveLocal(c.Addr, withReadiness(api))
	if err != nil {
		return err
	}
	defer stop()
	key := "test"
	if c.Key != "" {
		key = "KEY" // theirs, which is not shown
	}
	fmt.Fprintf(a.stdout, "Serving %s at %s\nTry: PLEXY_API_KEY=%s linkcancel run FILE --base-url %s\n", plural(int64(len(api.IDs())), "link"), url, key, url)
	<-a.ctx.Done()
	n := api.Counts()
	fmt.Fprintf(a.stdout, "Served %s; the fullest second had %d.\n", plural(int64(n.Total), "request"), n.PeakPerSecond)
	return nil
}

// withReadiness lets linkcancel healthcheck ask whether the pretend API is up,
// without a key and without a trace in its log. No http.ServeMux: it would clean
// the paths, and odd paths are what a sandbox is for.
func withReadiness(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			api.ServeHTTP(w, r)
		}
	})
}

func loadIDs(path string) ([]string, error) {
	src, err := producer.OpenCSV(producer.CSVConfig{Paths: []string{path}})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	var ids []string
	for {
		id, err := src.Next()
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
}

func writeIDs(path string, ids []string) error {
	f, err := os.Create(path)
	if err != nil {
		return usagef("write the links: %w", err)
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, "payment_link_id")
	for _, id := range ids {
		fmt.Fprintln(w, id)
	}
	if err := w.Flush(); err != nil {
		_ = f.Close()
		return fmt.Errorf("write the links: %w", err)
	}
	return f.Close()
}
