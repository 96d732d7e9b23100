package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/sandbox"
)

type sandboxCmd struct {
	Addr     string  `default:"127.0.0.1:8080" help:"Serve here." placeholder:"HOST:PORT"`
	Seed     uint64  `default:"1" help:"Decides the links and the faults."`
	Links    int     `default:"1000" help:"Number of generated links."`
	Load     string  `help:"Also hold the links of this CSV file, all active." placeholder:"FILE"`
	WriteCSV string  `name:"write-csv" help:"Write the links to this CSV file." placeholder:"FILE"`
	Key      string  `env:"SANDBOX_API_KEY" help:"The only API key that is accepted; any by default."`
	Paid     float64 `default:"0.03" help:"Share of paid links."`
	Expired  float64 `default:"0.04" help:"Share of expired links."`
	// Cancelled and Missing are as in sandbox.Config.
	Cancelled float64 `default:"0.02" help:"Share of links cancelled already."`
	Missing   float64 `default:"0.02" help:"Share of missing links."`

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

	Gateway           string        `help:"Let a gateway answer instead of the API, such as 404:html." placeholder:"STATUS[:BODY]"`
	GatewayShare      float64       `default:"1" help:"Share of the requests that the gateway answers."`
	GatewaySticky     bool          `help:"Let it answer all requests for a share of the links."`
	GatewayFrom       time.Duration `help:"Begin with the gateway this long after the start."`
	GatewayFor        time.Duration `help:"End it after this long; 0 means never."`
	GatewayPage       int           `help:"Let it answer only this page of the list and later ones." placeholder:"N"`
	GatewaySpareGets  bool          `help:"Let GET requests for links pass it."`
	GatewaySpareLists bool          `help:"Let requests for the list pass it."`
	Poison            []string      `sep:"none" help:"Let N active links always get one answer, such as 1:429:api:20s; can be repeated." placeholder:"N:STATUS[:BODY][:RETRY_AFTER]"`
	EmptyErrors       bool          `help:"Send the API's 400, 404 and 422 without a body."`
	ForbiddenLinks    float64       `help:"Share of links for which everything is answered 403."`
	GetsForbidden     bool          `help:"Answer 403 to all GET requests for links."`
	ListForbidden     bool          `help:"Answer 403 to all requests for the list."`
	MoveAfter         time.Duration `help:"Simulate a move to another server this long after the start: older connections get 503." placeholder:"DURATION"`

	Latency        time.Duration `help:"Time for each answer."`
	Jitter         time.Duration `help:"Maximum random time that is added to it."`
	Limit          float64       `help:"Allowed requests per second; others get 429." placeholder:"N"`
	RetryAfter     time.Duration `default:"1s" help:"Retry-After of a 429."`
	RetryAfterDate bool          `help:"Send Retry-After as a date."`
	PageSize       int           `default:"50" help:"Links on a page of the list at most."`
	RequestLog     string        `help:"Write a line of JSON for each request, within a second." placeholder:"FILE"`
}

func (c sandboxCmd) Run(ctx context.Context, a *cliApp) (err error) {
	cfg, err := c.config()
	if err != nil {
		return err
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
	poisoned, err := c.poison(api)
	if err != nil {
		return err
	}
	url, stop, err := serveLocal(c.Addr, api)
	if err != nil {
		return err
	}
	defer stop()
	if c.WriteCSV != "" {
		if err := writeIDs(c.WriteCSV, api.IDs()); err != nil {
			return err
		}
	}
	key := "test"
	if c.Key != "" {
		key = "KEY" // theirs, which is not shown
	}
	fmt.Fprintf(a.stdout, "Serving %s at %s\nTry: PLEXY_API_KEY=%s linkcancel run FILE --base-url %s\n%s", humanize.Plural(int64(len(api.IDs())), "link"), url, key, url, poisoned)
	c.serve(ctx, api)
	n := api.Counts()
	fmt.Fprintf(a.stdout, "Served %s; the fullest second had %d.\n", humanize.Plural(int64(n.Total), "request"), n.PeakPerSecond)
	return nil
}

// config is what the flags say.
func (c sandboxCmd) config() (cfg sandbox.Config, err error) {
	cfg = sandbox.Config{
		Seed: c.Seed, Links: c.Links, Key: c.Key,
		Paid: c.Paid, Expired: c.Expired, Cancelled: c.Cancelled, Missing: c.Missing,
		Faults: sandbox.Faults{
			Error500: c.Error500, HTML502: c.HTML502, Cut: c.Cut, CutBefore: c.CutBefore, Hang: c.Hang, HangApplied: c.HangApplied,
			BadRequest: c.BadRequest, Forbidden: c.Forbidden, Friendly: c.Friendly, Gets: c.FaultyGets, Lists: c.FaultyLists,
		},
		Gateway: sandbox.Gateway{
			Share: c.GatewayShare, Sticky: c.GatewaySticky, From: c.GatewayFrom, For: c.GatewayFor, Page: c.GatewayPage,
			SpareGets: c.GatewaySpareGets, SpareLists: c.GatewaySpareLists,
		},
		EmptyErrors: c.EmptyErrors, ForbiddenLinks: c.ForbiddenLinks, GetsForbidden: c.GetsForbidden, ListForbidden: c.ListForbidden,
		Latency: c.Latency, Jitter: c.Jitter, Rate: c.Limit, RetryAfter: c.RetryAfter, RetryAfterDate: c.RetryAfterDate, PageSize: c.PageSize,
	}
	if c.Gateway != "" {
		if cfg.Gateway.Answer, err = sandbox.ParseAnswer(c.Gateway, sandbox.BodyHTML); err != nil {
			return cfg, usagef("--gateway: %w", err)
		}
	}
	if err := cfg.Gateway.Check(); err != nil {
		return cfg, usagef("%w", err)
	}
	if c.MoveAfter < 0 {
		return cfg, usagef("--move-after is negative")
	}
	if c.Load != "" {
		cfg.IDs, err = loadIDs(c.Load)
	}
	return cfg, err
}

// poison poisons links and says which.
func (c sandboxCmd) poison(api *sandbox.Server) (poisoned string, err error) {
	for _, text := range c.Poison {
		count, answer, _ := strings.Cut(text, ":")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 {
			return "", usagef("--poison %s: it begins with a number of links, as in 1:429", text)
		}
		a, err := sandbox.ParseAnswer(answer, sandbox.BodyAPI)
		if err != nil {
			return "", usagef("--poison %s: %w", text, err)
		}
		ids := api.PoisonLinks(n, a)
		if len(ids) < n {
			return "", usagef("--poison %s: only %s left", text, humanize.Plural(int64(len(ids)), "active link"))
		}
		const shown = 5
		more := ""
		if n > shown {
			more = fmt.Sprintf(" and %d more", n-shown)
		}
		poisoned += fmt.Sprintf("Always %s: %s%s\n", answer, strings.Join(ids[:min(n, shown)], ", "), more)
	}
	return poisoned, nil
}

// serve does what has its time until ctx ends.
func (c sandboxCmd) serve(ctx context.Context, api *sandbox.Server) {
	if c.MoveAfter > 0 {
		defer time.AfterFunc(c.MoveAfter, api.Move).Stop()
	}
	flush := time.NewTicker(time.Second / 2)
	defer flush.Stop()
	for {
		select {
		case <-flush.C:
			_ = api.Flush() // the error stays for the last one
		case <-ctx.Done():
			return
		}
	}
}

// withReadiness answers linkcancel healthcheck without a key or a line in the log. An http.ServeMux
// would clean the paths, and the sandbox must see odd paths.
func withReadiness(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			api.ServeHTTP(w, r)
		}
	})
}

func loadIDs(path string) ([]string, error) {
	src, err := importer.OpenCSV(importer.CSVConfig{Paths: []string{path}})
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
