package plexy

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody is how many bytes of an answer are read. A link or an error has less than 2 KiB.
// The connection of a longer answer is closed.
//
// maxPage is the limit for a page of the list. A server may ignore the requested size, and
// an entry has about 700 bytes, so there is room for some 20,000.
const (
	maxBody = 64 << 10
	maxPage = 16 << 20
)

// acceptJSON and the other headers are shared by all requests: a transport only reads them.
var acceptJSON = []string{"application/json"}

// errLost means that the connection died during a request.
var errLost = errors.New("the connection closed before an answer came")

// answer is the answer to one request.
type answer struct {
	method  string
	status  int
	header  http.Header
	body    []byte // at most limit+1 bytes
	limit   int
	bodyErr error // why the rest of the body could not be read
	scrub   scrubber
	lane    *lane // Client.release returns it
	keep    bool  // the lane's connection may be used again
}

// whole reports whether the body was read to its end.
func (a *answer) whole() bool { return a.bodyErr == nil && len(a.body) <= a.limit }

// ok reports whether the status is a 2xx.
func (a *answer) ok() bool { return a.status/100 == 2 }

// attempt sends one request for one link. The error is a *TransportError, or wraps ErrBadID.
func (c *Client) attempt(ctx context.Context, method, id string) (*answer, error) {
	// Checked again, because an id must never address anything else.
	if err := CheckID(id); err != nil {
		return nil, fmt.Errorf("%s payment link, nothing was sent: %w", method, err)
	}
	return c.send(ctx, method, linkURL(c.links, id), maxBody)
}

// send sends a request and reads at most limit+1 bytes. The error is a *TransportError.
func (c *Client) send(ctx context.Context, method string, url *url.URL, limit int) (*answer, error) {
	secret := c.key.secret()
	lane := c.lanes.take(IsFresh(ctx))
	ctx, cancel := lane.once.guard(ctx, c.timeout)
	defer cancel(nil)
	lane.once.timer = time.AfterFunc(c.timeout, func() { cancel(c.late) })
	defer lane.once.timer.Stop()

	req := http.Request{Method: method, URL: url, Host: url.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	req.Header = http.Header{"Authorization": secret.header, "Accept": acceptJSON, "User-Agent": c.userAgent}
	resp, err := lane.transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		c.lanes.discard(lane)
		if refused := lane.once.refused; refused != nil {
			return nil, &TransportError{Method: method, Err: refused}
		}
		return nil, c.noAnswer(method, &lane.once, err, secret.scrub)
	}
	defer resp.Body.Close() // keeps the connection if the body was read to its end

	a := &answer{method: method, status: resp.StatusCode, header: resp.Header, limit: limit, scrub: secret.scrub, lane: lane}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return a, nil // a 204 has no body; what follows may never end
	}
	// The transport has put the connection back, so it is idle when the lane is returned.
	if resp.Body == http.NoBody {
		return a, nil
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		a.bodyErr = fmt.Errorf("read the answer: %w", secret.scrub.error(err))
	}
	a.unpack()
	return a, nil
}

// noAnswer returns the error of a request without an answer.
func (c *Client) noAnswer(method string, once *onceGuard, err error, scrub scrubber) *TransportError {
	sent := once.wrote.Load()
	local := !sent && isLocal(err)
	if local {
		c.CloseIdle() // frees descriptors and ports
	}
	if once.replayed.Load() || errors.Is(err, io.EOF) {
		err = errLost // clearer than "EOF"
	}
	return &TransportError{Method: method, Sent: sent, Local: local, Err: scrub.error(explained(err))}
}

// unpack unpacks a gzip body, which some servers send unasked. A broken one proves nothing.
func (a *answer) unpack() {
	coding := a.header.Get("Content-Encoding")
	if len(a.body) == 0 || !strings.EqualFold(coding, "gzip") && !strings.EqualFold(coding, "x-gzip") {
		return
	}
	var body []byte
	err := errors.New("it is cut off")
	if a.whole() {
		var packed *gzip.Reader
		if packed, err = gzip.NewReader(bytes.NewReader(a.body)); err == nil {
			body, err = io.ReadAll(io.LimitReader(packed, int64(a.limit)+1))
		}
	}
	if err != nil {
		body = fmt.Appendf(nil, "a gzip body that cannot be unpacked: %v", err)
	}
	a.body = body
}

// onceGuard ensures that each call of a lane is one request.
//
// Go's transport silently repeats a GET when a kept connection dies before the first byte
// of the answer, and any request when it believes that nothing was written. The rate limit
// would count one request where the API sees two, and a second DELETE could go unnoticed.
// So the transport may change its connection only while nothing was written.
type onceGuard struct {
	trace    httptrace.ClientTrace
	cancel   context.CancelCauseFunc // of the present call
	wrote    atomic.Bool             // bytes of its request may have been sent
	replayed atomic.Bool             // the transport asked for a second connection

	permit  Permit // of the present call; may be nil
	refused error  // it has ended, and nothing was sent
	timer   *time.Timer
	timeout time.Duration
}

func (g *onceGuard) init() {
	g.trace = httptrace.ClientTrace{
		// The transport reports both just before it flushes its buffer, and the second one also for
		// a failed write. From then on nobody can know that nothing was sent. RoundTrip returns
		// only after its writing goroutine has ended, so no report comes late.
		WroteHeaders: func() { g.wrote.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { g.wrote.Store(true) },
		GotConn:      g.gotConn,
	}
}

// gotConn is called by RoundTrip, before anything is written.
func (g *onceGuard) gotConn(info httptrace.GotConnInfo) {
	err := g.refused
	switch {
	case err != nil: // the transport tries another connection
	case g.wrote.Load():
		g.replayed.Store(true)
		err = errLost
	case g.permit != nil && !g.permit.Good():
		g.timer.Stop()
		err = g.permit.Renew()
		g.timer.Reset(g.timeout)
		g.refused = err
	}
	if err != nil {
		g.cancel(err)
		// The transport writes without checking the context again, so the connection must be closed.
		_ = info.Conn.Close()
	}
}

// guard returns the context of the lane's next call, whose request is sent at most once.
func (g *onceGuard) guard(ctx context.Context, timeout time.Duration) (context.Context, context.CancelCauseFunc) {
	g.wrote.Store(false)
	g.replayed.Store(false)
	g.permit, g.refused, g.timeout = PermitOf(ctx), nil, timeout
	ctx, g.cancel = context.WithCancelCause(ctx)
	trace := g.trace // a copy, because WithClientTrace changes it if ctx has another one
	return httptrace.WithClientTrace(ctx, &trace), g.cancel
}
