package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// api is the running stand-in.
type api struct {
	*process
	addr string
}

func startAPI(ctx context.Context) (*api, error) {
	cmd := self("stand-in")
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=400"} // one thread does it all
	p, err := start(cmd)
	if err != nil {
		return nil, err
	}
	port, err := p.line(ctx)
	if err != nil {
		return nil, err
	}
	return &api{process: p, addr: "127.0.0.1:" + port}, nil
}

// base is the base URL of the API.
func (a *api) base() string { return "http://" + a.addr + "/v1" }

func (a *api) control(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the stand-in: %w", err)
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// reset begins a measurement that ends with the answer to the last of want different links.
func (a *api) reset(ctx context.Context, want int, latency time.Duration, stamps bool) error {
	select {
	case <-a.lines: // of a measurement that failed
	default:
	}
	path := fmt.Sprintf("/reset?want=%d&latency=%v", want, latency)
	if stamps {
		path += "&stamps=1"
	}
	_, err := a.control(ctx, http.MethodPut, path)
	return err
}

// done waits until the stand-in has answered all links that it waits for, from worker.
func (a *api) done(ctx context.Context, worker *process) (tally, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-worker.read:
		case <-ctx.Done():
			return
		}
		// What it sent last may be on its way.
		select {
		case <-time.After(5 * time.Second):
			cancel(fmt.Errorf("%s has ended: %s", worker.name, worker.lastWords()))
		case <-ctx.Done():
		}
	}()
	var t tally
	line, err := a.line(ctx)
	if err != nil {
		so, _ := a.tally(context.WithoutCancel(ctx))
		return t, fmt.Errorf("%w: %w: %d links were cancelled", err, context.Cause(ctx), so.Distinct)
	}
	if err := json.Unmarshal([]byte(line), &t); err != nil {
		return t, fmt.Errorf("read the tally: %w", err)
	}
	return t, nil
}

// awaitLinks waits until the stand-in has seen so many links.
func (a *api) awaitLinks(ctx context.Context, n int) error {
	for {
		t, err := a.tally(ctx)
		if err != nil || t.Distinct >= n {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %d links, there were %d: %w", n, t.Distinct, ctx.Err())
		}
	}
}

// tally is what the stand-in has seen so far.
func (a *api) tally(ctx context.Context) (tally, error) {
	var t tally
	body, err := a.control(ctx, http.MethodGet, "/tally")
	if err != nil {
		return t, err
	}
	return t, json.Unmarshal(body, &t)
}

// stamps are all requests since the reset, as they came.
func (a *api) stamps(ctx context.Context) ([]stamp, error) {
	body, err := a.control(ctx, http.MethodGet, "/stamps")
	if err != nil {
		return nil, err
	}
	var all []stamp
	for line := range strings.Lines(string(body)) {
		link, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseUint(link, 10, 32)
		ns, _ := strconv.ParseInt(at, 10, 64)
		all = append(all, stamp{link: uint32(n), at: ns})
	}
	return all, nil
}
