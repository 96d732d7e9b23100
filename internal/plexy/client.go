// Package plexy talks to the payment-links API of Plexy Pay.
//
// A call of this package is one HTTP request and never more: it is not
// repeated, not redirected, and not replayed by the transport. Who calls
// decides about the next attempt, and can do so because an error reports whether
// the request may have reached the API.
package plexy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Defaults of Config.
const (
	// DefaultBaseURL is the production API. Source: the vendor's Cancel Payment
	// Link page.
	DefaultBaseURL = "https://api.plexypay.com/v1"
	// DefaultTimeout is what the known callers of the API allow a GET or a
	// cancel to take.
	DefaultTimeout     = 15 * time.Second
	DefaultConcurrency = 50
	DefaultUserAgent   = "linkcancel"
)

// Limits inside a call.
const (
	dialTimeout = 5 * time.Second
	tlsTimeout  = 5 * time.Second
	// idleTimeout is short of the 60 s that most servers keep an idle
	// connection: a request must not meet a connection that is just closing.
	idleTimeout = 30 * time.Second
	// maxHeader bounds the headers of an answer, in bytes.
	maxHeader = 64 << 10
)

// Config is how to reach the API. Only Key is required.
type Config struct {
	// BaseURL is what comes before /payment-links, by default DefaultBaseURL.
	BaseURL string
	// Key is sent raw in the Authorization header.
	Key *Key
	// Timeout bounds a whole call, from the dial to the end of the answer; the
	// 5 s for the dial and the 5 s for the TLS handshake are inside it. The
	// default is DefaultTimeout.
	Timeout time.Duration
	// Concurrency is how many idle connections are kept, and should be the
	// number of calls that run at the same time. The default is
	// DefaultConcurrency.
	Concurrency int
	// InsecureHTTP allows plain http to a host other than this machine. The
	// key then travels where others can read it.
	InsecureHTTP bool
	// UserAgent is the User-Agent header, by default DefaultUserAgent.
	UserAgent string
}

// withDefaults returns cfg with its empty fields filled in, or what is wrong
// with it.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.BaseURL == "" {
		cfg.BaseURL = DefaultBaseURL
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = DefaultUserAgent
	}
	switch {
	case cfg.Key == nil:
		return cfg, errors.New("no API key is given")
	case cfg.Timeout < 0:
		return cfg, fmt.Errorf("the timeout is negative (%v)", cfg.Timeout)
	case cfg.Concurrency < 0:
		return cfg, fmt.Errorf("the concurrency is negative (%d)", cfg.Concurrency)
	case !printable(cfg.UserAgent):
		return cfg, errors.New("the user agent may hold printable ASCII only")
	}
	// A Key made without NewKey or LoadKeyFile is empty.
	if err := checkKey(cfg.Key.secret().value); err != nil {
		return cfg, err
	}
	return cfg, nil
}

// Client calls the API. It is safe for concurrent use.
type Client struct {
	base      string // as BaseURL returns it
	host      string
	key       *Key
	timeout   time.Duration
	late      error // of a call that took longer
	userAgent []string
	// The transports of lanes are used directly, without an http.Client around
	// them: a RoundTripper never follows a redirect. A DELETE that is redirected
	// becomes a GET, and the key would travel with it.
	lanes *lanes
}

// New makes a client. It opens no connection. An error says what in cfg is
// wrong; it never shows the key.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	base, host, err := parseBase(cfg.BaseURL, cfg.InsecureHTTP)
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	return &Client{
		base:      base,
		host:      host,
		key:       cfg.Key,
		timeout:   cfg.Timeout,
		late:      fmt.Errorf("no answer within %v: %w", cfg.Timeout, context.DeadlineExceeded),
		userAgent: []string{cfg.UserAgent},
		lanes:     newLanes(cfg.Concurrency),
	}, nil
}

// BaseURL is what comes before /payment-links. It is normalized, so that two
// spellings of one address are equal: scheme and host are in lower case, the
// scheme's default port is left out, and there is no slash at the end.
func (c *Client) BaseURL() string { return c.base }

// Host is the host of BaseURL, with its port if that is not the scheme's default.
func (c *Client) Host() string { return c.host }

// CloseIdle closes the connections that no call uses.
func (c *Client) CloseIdle() { c.lanes.closeIdle() }

// release gives back the lane of an answer. Its connection is kept only after an
// answer that the API itself gave and that is no failure. What gave any other
// answer may be a gateway or a server that goes away: the next request must have
// a chance to get past it.
func (c *Client) release(a *answer) {
	if a.keep {
		c.lanes.put(a.lane)
	} else {
		c.lanes.discard(a.lane)
	}
}

// Cancel sends one DELETE for a link.
//
// For any 2xx it returns that status and no error, and only a 204 is
// documented to mean that the link is cancelled. For any other answer it
// returns the status and an *Error. The status counts even when the rest of
// the answer is cut off. Without an answer it returns 0 and a *TransportError.
// Fresh makes any call use a new connection.
// An id that CheckID refuses gives an error that wraps ErrBadID, and nothing
// is sent.
func (c *Client) Cancel(ctx context.Context, id string) (status int, err error) {
	a, err := c.attempt(ctx, http.MethodDelete, id)
	if err != nil {
		return 0, err
	}
	defer c.release(a)
	if a.ok() {
		a.keep = a.status == http.StatusNoContent
		return a.status, nil
	}
	return a.status, a.apiError()
}

// Get sends one GET for a link.
//
// Its errors are an *Error for an answer that is not the link, a
// *TransportError without an answer or when the link is cut off in the middle,
// and one that wraps ErrBadID for an id that CheckID refuses. A 2xx that does
// show the link with this id, as its id or its external id, is an *Error with
// that status, and not proven: the friendly page of a proxy proves nothing.
func (c *Client) Get(ctx context.Context, id string) (Link, error) {
	a, err := c.attempt(ctx, http.MethodGet, id)
	if err != nil {
		return Link{}, err
	}
	defer c.release(a)
	if !a.ok() {
		return Link{}, a.apiError()
	}
	if a.bodyErr != nil {
		return Link{}, &TransportError{Method: a.method, Sent: true, Err: a.bodyErr}
	}
	link, err := decodeLink(a.body, id, a.scrub)
	if err != nil {
		return Link{}, a.notWanted(err)
	}
	a.keep = true
	return link, nil
}
