package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"linkcancel/internal/plexy"
)

// canceler cancels one link, or says why not.
type canceler func(ctx context.Context, id string) error

// newCanceler makes an HTTP client: the product's own, or a plain http.Client
// that keeps as many connections.
func newCanceler(client, base string, concurrency int) (canceler, error) {
	if client == "own" {
		key, err := plexy.NewKey(apiKey)
		if err != nil {
			return nil, err
		}
		c, err := plexy.New(plexy.Config{BaseURL: base, Key: key, Concurrency: concurrency})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, id string) error {
			_, err := c.Cancel(ctx, id)
			return err
		}, nil
	}
	c := &http.Client{
		Timeout:   15 * time.Second,
		Transport: &http.Transport{MaxIdleConns: concurrency, MaxIdleConnsPerHost: concurrency},
	}
	return func(ctx context.Context, id string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, base+"/payment-links/"+id, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", apiKey)
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusNoContent {
			return fmt.Errorf("cancel %s: %s", id, resp.Status)
		}
		return nil
	}, nil
}

// newPacer returns the limiter of a peer. A rate of 0 means no limit.
func newPacer(perSecond string) (*rate.Limiter, error) {
	n, err := strconv.Atoi(perSecond)
	if n == 0 || err != nil {
		return rate.NewLimiter(rate.Inf, 1), err
	}
	return rate.NewLimiter(rate.Limit(n), 1), nil
}

// runLoop cancels the links of a manifest: client, base URL, manifest, concurrency, rate.
func runLoop(ctx context.Context, args []string) error {
	concurrency, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	pacer, err := newPacer(args[4])
	if err != nil {
		return err
	}
	cancel, err := newCanceler(args[0], args[1], concurrency)
	if err != nil {
		return err
	}
	ids, err := readManifest(args[2])
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(concurrency)
	for _, id := range ids {
		if err := pacer.Wait(ctx); err != nil {
			return err
		}
		group.Go(func() error { return cancel(ctx, id) })
	}
	return group.Wait()
}
