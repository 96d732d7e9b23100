package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/redis/go-redis/v9/logging"
	"github.com/rs/zerolog"
)

// proxy is the way of one process to Redis, where its connection can be spoilt.
type proxy struct {
	*toxiproxy.Proxy

	mu sync.Mutex // one fault at a time
}

// silence keeps the libraries from telling on the screen what is broken on purpose.
func silence() {
	zerolog.SetGlobalLevel(zerolog.Disabled)
	logging.Disable()
}

// way opens a way to Redis for a process. There is none, but an URL, if Redis has several servers: they
// tell the process where they are.
func (r *round) way(name string) (way *proxy, url string, err error) {
	if len(r.redis.servers) > 1 {
		return nil, r.redis.url(), nil
	}
	if way, err = newProxy(name, r.redis.servers[0].addr()); err != nil {
		return nil, "", err
	}
	return way, way.url(), nil
}

// newProxy opens a way to the server at upstream.
func newProxy(name, upstream string) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	metrics := toxiproxy.NewMetricsContainer(nil)
	p := &proxy{Proxy: toxiproxy.NewProxy(toxiproxy.NewServer(metrics, zerolog.Nop()), name, fmt.Sprintf("127.0.0.1:%d", port), upstream)}
	return p, again(p.Start)
}

func (p *proxy) url() string { return "redis://" + p.Listen + "/0" }

// close ends the way, if there is one.
func (p *proxy) close() {
	if p != nil {
		p.Stop()
	}
}

// cut ends all connections. New ones are let through.
func (p *proxy) cut() error {
	p.Stop()
	if err := again(p.Start); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

// spoil adds a toxic; heal takes all away. downstream: to the process.
func (p *proxy) spoil(kind string, downstream bool, attributes map[string]int) error {
	direction := "upstream"
	if downstream {
		direction = "downstream"
	}
	b, err := json.Marshal(map[string]any{"type": kind, "stream": direction, "attributes": attributes})
	if err != nil {
		return err
	}
	_, err = p.Toxics.AddToxicJson(strings.NewReader(string(b)))
	return err
}

func (p *proxy) heal() { p.Toxics.ResetToxics(context.Background()) }
