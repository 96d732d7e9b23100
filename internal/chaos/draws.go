package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"linkcancel/internal/sandbox"
)

// A draw is one `linkcancel run` against an API with a gateway in front of it that
// answers a share of the requests for a time, in whatever way gateways answer. What
// the report says is then held against the API.
type draw struct {
	seed   uint64
	status int
	body   string
	share  float64
	sticky bool // by link, not by request
	from   time.Duration
	lasts  time.Duration
	links  int
	rate   int
	empty  bool // the API's own errors have no body
}

const (
	drawsAtOnce = 10
	// drawAttempts is few enough that a link which the API answers 404 without a body
	// fails within 4 minutes, and enough that no link fails for the gateway.
	drawAttempts = 8
	drawWithin   = 5 * time.Minute
	// firstAnswers is how long the API itself has to answer until a run must know that
	// it is the API.
	firstAnswers = time.Second
)

var (
	drawStatuses = [...]int{404, 404, 404, 302, 301, 400, 401, 403, 405, 407, 409, 410, 421, 422, 429, 451, 500, 502, 503, 200}
	drawBodies   = map[string]string{
		"html":  "<html><head><title>Not Found</title></head><body><center><h1>Not Found</h1></center></body></html>",
		"text":  "default backend - 404",
		"json":  `{"message":"no Route matched with those values"}`,
		"grpc":  `{"code":5,"message":"Not Found","details":[]}`,
		"empty": "",
	}
	bodyNames = [...]string{"html", "text", "json", "grpc", "empty"}
)

func newDraw(seed uint64) draw {
	rng := rand.New(rand.NewPCG(seed, 12))
	links := 20 + rng.IntN(280)
	const rate = 50
	d := draw{
		seed: seed, status: drawStatuses[rng.IntN(len(drawStatuses))], body: bodyNames[rng.IntN(len(bodyNames))],
		share: [...]float64{1, 1, .5, .1}[rng.IntN(4)], sticky: rng.IntN(4) == 0,
		// It begins while the links are being sent.
		from: time.Duration(rng.IntN(800*links/rate)) * time.Millisecond, lasts: time.Duration(1+rng.IntN(17)) * time.Second,
		links: links, rate: rate, empty: rng.IntN(3) == 0,
	}
	return d
}

func (d draw) String() string {
	by := "requests"
	if d.sticky {
		by = "links"
	}
	return fmt.Sprintf("seed %d: %d %s for %.0f%% of the %s, %.1f to %.1f s, %d links, empty errors %v", d.seed, d.status, d.body,
		100*d.share, by, d.from.Seconds(), (d.from + d.lasts).Seconds(), d.links, d.empty)
}

// gateway answers instead of the API.
type gateway struct {
	draw
	api    http.Handler
	opened atomic.Int64 // when the first request came, in Unix nanoseconds
	count  atomic.Uint64
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.opened.CompareAndSwap(0, time.Now().UnixNano())
	age := time.Since(time.Unix(0, g.opened.Load()))
	if age < g.from || age >= g.from+g.lasts || !g.hit(r) {
		g.api.ServeHTTP(w, r)
		return
	}
	kind := "text/plain"
	switch g.body {
	case "html":
		kind = "text/html; charset=utf-8"
	case "json", "grpc":
		kind = "application/json"
	}
	w.Header().Set("Server", "gateway")
	w.Header().Set("Content-Type", kind)
	if g.status/100 == 3 {
		w.Header().Set("Location", "http://127.0.0.1:1/login")
	}
	w.WriteHeader(g.status)
	_, _ = w.Write([]byte(drawBodies[g.body]))
}

func (g *gateway) hit(r *http.Request) bool {
	n := g.count.Add(1)
	if g.sticky {
		n = 0
		for _, c := range []byte(r.URL.Path) {
			n = n*31 + uint64(c)
		}
	}
	return rand.New(rand.NewPCG(g.seed, n)).Float64() < g.share
}

// run runs one draw in a folder of its own.
func (d draw) run(ctx context.Context, binary, dir string) (wrong []string, note string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", err
	}
	box := sandbox.New(sandbox.Config{
		Seed: d.seed, Links: d.links, Paid: 0.03, Missing: 0.1, EmptyErrors: d.empty, Latency: 20 * time.Millisecond,
	})
	defer box.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	g := &gateway{draw: d, api: box}
	server := &http.Server{Handler: g}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	missing := map[string]bool{}
	for _, id := range box.IDs() {
		if _, there := box.Status(id); !there {
			missing[id] = true
		}
	}
	file, report, log := filepath.Join(dir, "links.csv"), filepath.Join(dir, "report.csv"), filepath.Join(dir, "log")
	if err := os.WriteFile(file, []byte("id\n"+strings.Join(box.IDs(), "\n")+"\n"), 0o600); err != nil {
		return nil, "", err
	}
	p, err := start(log, environment("PLEXY_API_KEY=sk-draw-"+fmt.Sprint(d.seed)), binary, "run", file, "--yes",
		"--rate", fmt.Sprintf("%d/s", d.rate), "--attempts", fmt.Sprint(drawAttempts), "--base-url", "http://"+listener.Addr().String()+"/v1", "--report", report)
	if err != nil {
		return nil, "", err
	}
	began := time.Now()
	if !ends(ctx, p, drawWithin) {
		p.kill()
		return []string{fmt.Sprintf("the run did not end within %v", drawWithin)}, "", ctx.Err()
	}
	took := time.Since(began)
	wrong, outcomes, err := d.judge(box, missing, report, p.code())
	note = fmt.Sprintf("exit %d after %.0f s, %s", p.code(), took.Seconds(), outcomes)
	return wrong, note, err
}

// ends waits for the end of a program, for a time at most.
func ends(ctx context.Context, p *process, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// judge holds the report against the API.
func (d draw) judge(box *sandbox.Server, missing map[string]bool, report string, code int) (wrong []string, outcomes string, err error) {
	if code == 1 && d.from > firstAnswers {
		wrong = append(wrong, "the run gave up, though the API had answered before the gateway came")
	}
	rows, err := readReport(report)
	if errors.Is(err, os.ErrNotExist) && code == 1 {
		return wrong, "nothing recorded", nil
	}
	if err != nil {
		return nil, "", err
	}
	counts := map[string]int{}
	for link, row := range rows {
		status, _ := box.Status(link)
		outcome := row.outcome
		counts[outcome]++
		ok := true
		switch outcome {
		case "cancelled":
			ok = status == "cancelled"
		case "already_cancelled", "rejected":
			ok = false // nobody else cancels, and the API refuses no request
		case "not_found":
			ok = missing[link]
		case "not_cancellable":
			ok = status == "paid" && row.status == status
		case "failed":
			ok = missing[link] && d.empty // too few of a kind, or it was contradicted
		default:
			ok = code == 1
		}
		if !ok || code == 1 && outcome != "pending" {
			wrong = append(wrong, fmt.Sprintf("%s is %s after exit code %d, and the API has it as %q", link, outcome, code, status))
		}
	}
	if len(rows) != d.links {
		wrong = append(wrong, fmt.Sprintf("the report has %d of %d links", len(rows), d.links))
	}
	return wrong, fmt.Sprint(counts), nil
}

// reportRow is what a report says of a link.
type reportRow struct{ outcome, status string }

func readReport(path string) (outcomes map[string]reportRow, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	at := map[string]int{}
	for i, name := range rows[0] {
		at[name] = i
	}
	outcomes = map[string]reportRow{}
	for _, row := range rows[1:] {
		outcomes[row[at["link"]]] = reportRow{row[at["outcome"]], row[at["link_status"]]}
	}
	return outcomes, nil
}

// runDraws runs so many draws, some at a time.
func (s *suite) runDraws(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "linkcancel-draws-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.binary, err = build(ctx, s.root, dir); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d draws. Again: make draws DRAWS=%d CHAOS_SEED=%d\n", s.draws, s.draws, s.seed)
	var mu sync.Mutex
	var failed error
	var group sync.WaitGroup
	places := make(chan struct{}, drawsAtOnce)
	for n := range uint64(s.draws) {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			d := newDraw(s.seed + n)
			folder := filepath.Join(dir, fmt.Sprint(d.seed))
			wrong, note, err := d.run(ctx, s.binary, folder)
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(s.out, "%s: %s\n", d, note)
			for _, w := range wrong[:min(len(wrong), 5)] {
				fmt.Fprintf(s.out, "  VIOLATED: %s\n", w)
			}
			switch {
			case err != nil:
				failed = fmt.Errorf("%s: %w", d, err)
			case len(wrong) > 0:
				failed = errViolated
				kept := filepath.Join(s.keep, fmt.Sprint(d.seed))
				if err := errors.Join(os.MkdirAll(s.keep, 0o700), keep(folder, kept)); err != nil {
					fmt.Fprintln(s.out, "  cannot keep the logs:", err)
				} else {
					fmt.Fprintf(s.out, "  Logs: %s. Again: make draws DRAWS=1 CHAOS_SEED=%d\n", kept, d.seed)
				}
			}
		})
	}
	group.Wait()
	return failed
}
