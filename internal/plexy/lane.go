package plexy

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// A lane and its connection live for laneAge at most, minus a random part of up to laneSpread.
// Without a limit a busy client would never follow a change in DNS or of a load balancer.
const (
	laneAge    = 2 * time.Minute
	laneSpread = 30 * time.Second
)

// purgeInterval limits how often all idle lanes are closed because a used one failed. An API that
// fails for one request in a hundred must not cost a new connection for each of the others.
const purgeInterval = 5 * time.Second

// freshKey is the context key of Fresh.
type freshKey struct{}

// Fresh makes the request use a new connection: a kept one may lead to a server shutting down.
func Fresh(ctx context.Context) context.Context {
	return context.WithValue(ctx, freshKey{}, true)
}

// IsFresh reports whether ctx comes from Fresh.
func IsFresh(ctx context.Context) bool { return ctx.Value(freshKey{}) != nil }

// Permit is the permission to send a request now. To open a connection takes time, so it may be too old
// when the request could be written.
type Permit interface {
	// Good reports whether the request may still be sent.
	Good() bool
	// Renew waits for another permission. If it fails, nothing is sent, and the call fails with a
	// *TransportError around its error. Its time does not count for the call's timeout.
	Renew() error
}

// permitKey is the context key of WithPermit.
type permitKey struct{}

// WithPermit makes each request check its permission just before it is written.
func WithPermit(ctx context.Context, p Permit) context.Context {
	return context.WithValue(ctx, permitKey{}, p)
}

// PermitOf returns the permission in ctx, or nil.
func PermitOf(ctx context.Context) Permit {
	p, _ := ctx.Value(permitKey{}).(Permit)
	return p
}

// lane is one connection to the API, or room for one. One call uses it at a time.
type lane struct {
	transport *http.Transport
	once      onceGuard
	expires   time.Time // the lane's connections are no older than the lane
	kept      bool      // it has had a good answer
}

// close closes the connection and cancels a dial. The lane must not be used again.
func (l *lane) close() { l.transport.CloseIdleConnections() }

// lanes are the idle lanes, the last one first, so that the others reach idleTimeout.
type lanes struct {
	most int // kept
	tls  *tls.Config
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// proxy is the environment's for the base URL, which all requests share.
	proxy func(*http.Request) (*url.URL, error)

	mu     sync.Mutex
	idle   []*lane // the last one returned is at the end
	purged time.Time
}

func newLanes(most int, base *url.URL) *lanes {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: base})
	return &lanes{
		most: most,
		tls: &tls.Config{
			MinVersion: tls.VersionTLS12,
			// New connections resume the TLS session of an earlier one.
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		},
		dial:  (&net.Dialer{Timeout: dialTimeout}).DialContext,
		proxy: func(*http.Request) (*url.URL, error) { return proxy, err },
	}
}

// take returns a lane for one call. With fresh it has no connection yet.
func (l *lanes) take(fresh bool) *lane {
	now := time.Now()
	last := l.pop()
	if last != nil && !fresh && now.Before(last.expires) {
		return last
	}
	if last != nil {
		last.close()
	}
	made := &lane{transport: l.transport(), expires: now.Add(-rand.N(laneSpread)).Add(laneAge)}
	made.once.init()
	return made
}

// put returns a lane. Its last answer must have been read to the end.
func (l *lanes) put(used *lane) {
	used.kept = true
	l.mu.Lock()
	room := len(l.idle) < l.most
	if room {
		l.idle = append(l.idle, used)
	}
	l.mu.Unlock()
	if !room {
		used.close()
	}
}

// discard closes a lane after a bad answer. If it had a good one before, the server was probably
// replaced, so the other idle lanes are closed too.
func (l *lanes) discard(bad *lane) {
	bad.close()
	if !bad.kept {
		return
	}
	now := time.Now()
	l.mu.Lock()
	due := now.Sub(l.purged) >= purgeInterval
	if due {
		l.purged = now
	}
	l.mu.Unlock()
	if due {
		l.closeIdle()
	}
}

// closeIdle closes all idle lanes.
func (l *lanes) closeIdle() {
	for last := l.pop(); last != nil; last = l.pop() {
		last.close()
	}
}

// pop returns the lane that was returned last, or nil.
func (l *lanes) pop() *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.idle) - 1
	if n < 0 {
		return nil
	}
	last := l.idle[n]
	l.idle[n] = nil
	l.idle = l.idle[:n]
	return last
}

func (l *lanes) transport() *http.Transport {
	// HTTP/1 only, where a broken connection costs one request. With HTTP/2 all calls share
	// a connection, and if it breaks, all their links are ambiguous.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  l.proxy,
		DialContext:            l.dial,
		TLSHandshakeTimeout:    tlsTimeout,
		TLSClientConfig:        l.tls,
		Protocols:              protocols,
		MaxIdleConns:           1,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		// The transport would unpack without a limit: see answer.unpack.
		DisableCompression: true,
	}
}
