package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type healthcheckCmd struct {
	MetricsAddr string `default:"${worker_metrics_addr}" env:"LINKCANCEL_METRICS_ADDR" help:"Where the worker serves /readyz; by default ${default}." placeholder:"HOST:PORT"`
}

func (c healthcheckCmd) Run(a *app) error {
	if c.MetricsAddr == "off" {
		return usagef("the worker serves no health: its --metrics-addr is off")
	}
	addr := c.MetricsAddr
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	ctx, cancel := context.WithTimeout(a.ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return usagef("metrics address %q: %w", c.MetricsAddr, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var detail *url.Error
		if errors.As(err, &detail) {
			err = detail.Err // the address stands before it already
		}
		return fmt.Errorf("no worker answers at %s: %w\nhint: start linkcancel worker, or name its --metrics-addr", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return fmt.Errorf("read the worker's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the worker is not ready: %s", strings.TrimSpace(string(body)))
	}
	fmt.Fprintln(a.stdout, "ready")
	return nil
}
