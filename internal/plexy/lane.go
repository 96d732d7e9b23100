package plexy

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// A lane, and with it any connection, is used for laneAge at most, less a random
// part of up to laneSpread, so that not all lanes expire together. Without a
// limit a busy client never follows a move behind DNS or a load balancer.
const (
	laneAge    = 2 * time.Minute
	laneSpread = 30 * time.Second
)

// purgeEvery is how often the idle lanes are closed because of trouble with one
// that was used before. An API that fails for one request in a hundred must not
// cost a new connection for each of the others.
const purgeEvery = 5 * time.Second

// freshKey is the context's key for Fresh.
type freshKey struct{}

// Fresh returns a context whose request is sent on a new connection. A kept one
// may lead to a server that is about to go away.
func Fresh(ctx context.Context) context.Context {
	return context.WithValue(ctx, freshKey{}, true)
}

// IsFresh reports whether Fresh made the context.
func IsFresh(ctx context.Context) bool { return ctx.Value(freshKey{}) != nil }

// lane is one connection to the API, or room for one. A single call uses it at a
// time, so its owner can close the connection after an answer that is no reason
// to keep it: no other call can have taken it up.
type lane struct {
	transport *http.Transport
	expires   time.Time // the lane's connections are no older than the lane
	kept      bool      // it has brought a good answer
}

// close closes the connection, and gives up a dial that is still going on. The
// lane must not be used again: a dial that ends late would leave it with a
// connection that nobody asked for.
func (l *lane) close() { l.transport.CloseIdleConnections() }

// lanes are the lanes that no call uses. The last one given back is the first
// one taken, so that few are used at a low rate and the others' connections end
// by idleTimeout.
type lanes struct {
	most int // kept
	tls  *tls.Config
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	idle   []*lane // the last one given back at the end
	purged time.Time
}

func newLanes(most int) *lanes {
	return &lanes{
		most: most,
		tls: &tls.Config{
			MinVersion: tls.VersionTLS12,
			// New connections resume the TLS session of an earlier one.
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		},
		dial: (&net.Dialer{Timeout: dialTimeout}).DialContext,
	}
}

// take returns a lane for one call. With fresh, the lane has no connection yet.
func (l *lanes) take(fresh bool) *lane {
	now := time.Now()
	last := l.pop()
	if last != nil && !fresh && now.Before(last.expires) {
		return last
	}
	if last != nil {
		last.close()
	}
	return &lane{transport: l.transport(), expires: now.Add(-rand.N(laneSpread)).Add(laneAge)}
}

// put gives a lane back. Its last answer must have been read to the end.
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

// discard closes a lane whose connection brought no good answer. If it had brought
// one before, the others may lead to the same server, which has been replaced:
// the idle ones are closed with it, so that the next call is on a new connection.
func (l *lanes) discard(bad *lane) {
	bad.close()
	if !bad.kept {
		return
	}
	now := time.Now()
	l.mu.Lock()
	due := now.Sub(l.purged) >= purgeEvery
	if due {
		l.purged = now
	}
	l.mu.Unlock()
	if due {
		l.closeIdle()
	}
}

// closeIdle closes the lanes that no call uses.
func (l *lanes) closeIdle() {
	for last := l.pop(); last != nil; last = l.pop() {
		last.close()
	}
}

// pop takes the lane that was given back last, or nil.
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
	// HTTP/1 only: there a broken connection costs one request. With HTTP/2 all
	// calls share one connection, and when it breaks every one of them is left
	// without an answer, so every one of those links is ambiguous.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            l.dial,
		TLSHandshakeTimeout:    tlsTimeout,
		TLSClientConfig:        l.tls,
		Protocols:              protocols,
		MaxIdleConns:           1,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		// The transport would unpack without a limit. See answer.unpack.
		DisableCompression: true,
	}
}
