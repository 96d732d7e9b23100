package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type healthcheckCmd struct {
	Page        string `help:"Check the page that linkcancel serve has here, instead of a worker." placeholder:"HOST:PORT"`
	MetricsAddr string `default:"${worker_metrics_addr}" env:"LINKCANCEL_METRICS_ADDR" help:"Where the worker serves /readyz; by default ${default}." placeholder:"HOST:PORT"`
}

func (c healthcheckCmd) Run(ctx context.Context, a *cliApp) error {
	who, addr, path, advice := "worker", c.MetricsAddr, "/readyz", "start linkcancel worker, or name its --metrics-addr"
	if c.Page != "" {
		who, addr, path, advice = "page", c.Page, "/healthz", "start linkcancel serve, or name its --addr"
	} else if addr == "off" {
		return usagef("the worker serves no health: its --metrics-addr is off")
	}
	given := addr
	addr = loopback(addr)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return usagef("address %q: %w", given, err)
	}
	// The default transport would use the environment's proxy, which is for the API only.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		var detail *url.Error
		if errors.As(err, &detail) {
			err = detail.Err // the message has the address
		}
		return hint(fmt.Errorf("no %s answers at %s: %w", who, addr, err), "%s", advice)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return fmt.Errorf("read the answer of the %s: %w", who, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the %s is not ready: %s", who, strings.TrimSpace(string(body)))
	}
	fmt.Fprintln(a.stdout, "ready")
	return nil
}

// loopback is where a server that listens on addr is reached from its own machine.
func loopback(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // the request will say what is wrong with it
	}
	switch ip := net.ParseIP(host); {
	case host == "" || host == "0.0.0.0":
		return net.JoinHostPort("127.0.0.1", port)
	case ip != nil && ip.IsUnspecified():
		return net.JoinHostPort("::1", port)
	}
	return addr
}
