// Package plexy talks to the payment-links API of Plexy Pay.
//
// Each call is exactly one HTTP request. It is not repeated, not redirected, and not
// replayed by the transport. The caller decides about the next attempt, and the error says
// whether the request may have reached the API.
package plexy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Defaults of Config.
const (
	// DefaultBaseURL is the production API. Source: the vendor's Cancel Payment Link page.
	DefaultBaseURL = "https://api.plexypay.com/v1"
	// DefaultTimeout is the timeout that known callers of the API use for a GET or a cancel.
	DefaultTimeout     = 15 * time.Second
	DefaultConcurrency = 50
	DefaultUserAgent   = "linkcancel"
)

// Limits inside a call.
const (
	dialTimeout = 5 * time.Second
	tlsTimeout  = 5 * time.Second
	// idleTimeout is below the 60 s of most servers, so that they do not close a connection first.
	idleTimeout = 30 * time.Second
	// maxHeader limits the headers of an answer in bytes.
	maxHeader = 64 << 10
)

// Config configures a Client. Only Key is required.
type Config struct {
	// BaseURL is the URL before /payment-links. The default is DefaultBaseURL.
	BaseURL string
	// Key is sent raw in the Authorization header.
	Key *Key
	// Timeout limits a whole call, from the dial to the end of the answer, including up to
	// 5 s for the dial and 5 s for the TLS handshake. The default is DefaultTimeout.
	Timeout time.Duration
	// Concurrency is the number of concurrent calls. The default is DefaultConcurrency.
	Concurrency int
	// InsecureHTTP allows plain http to other machines, which sends the key unencrypted.
	InsecureHTTP bool
	// UserAgent is the User-Agent header. The default is DefaultUserAgent.
	UserAgent string
}

// withDefaults returns cfg with defaults filled in, or what is wrong with it.
func (cfg Config) withDefaults() (Config, error) {
	cfg.BaseURL = cmp.Or(cfg.BaseURL, DefaultBaseURL)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.Concurrency = cmp.Or(cfg.Concurrency, DefaultConcurrency)
	cfg.UserAgent = cmp.Or(cfg.UserAgent, DefaultUserAgent)
	switch {
	case cfg.Key == nil:
		return cfg, errors.New("no API key is given")
	case cfg.Timeout < 0:
		return cfg, fmt.Errorf("the timeout is negative (%v)", cfg.Timeout)
	case cfg.Concurrency < 0:
		return cfg, fmt.Errorf("the concurrency is negative (%d)", cfg.Concurrency)
	case !printable(cfg.UserAgent):
		return cfg, errors.New("the user agent must be printable ASCII")
	}
	// A Key that was not created by NewKey or LoadKeyFile is empty.
	if err := checkKey(cfg.Key.secret().value); err != nil {
		return cfg, err
	}
	return cfg, nil
}

// Client calls the API. It is safe for concurrent use.
type Client struct {
	base      string   // as BaseURL returns it
	links     *url.URL // of all links
	host      string
	key       *Key
	timeout   time.Duration
	late      error // of a timeout
	userAgent []string
	// The transports are used without an http.Client, because a RoundTripper never follows
	// a redirect. A redirected DELETE would become a GET and take the key along.
	lanes *lanes
}

// New returns a client without opening a connection. Its errors never show the key.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	base, host, err := parseBase(cfg.BaseURL, cfg.InsecureHTTP)
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	links, err := linksURL(base)
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	return &Client{
		base:      base,
		links:     links,
		host:      host,
		key:       cfg.Key,
		timeout:   cfg.Timeout,
		late:      fmt.Errorf("no answer within %v: %w", cfg.Timeout, context.DeadlineExceeded),
		userAgent: []string{cfg.UserAgent},
		lanes:     newLanes(cfg.Concurrency, links),
	}, nil
}

// BaseURL returns the URL before /payment-links in its normal form, without a slash at the end.
func (c *Client) BaseURL() string { return c.base }

// Host returns the host of BaseURL, with the port unless it is the default.
func (c *Client) Host() string { return c.host }

// CloseIdle closes idle connections.
func (c *Client) CloseIdle() { c.lanes.closeIdle() }

// release returns the lane of an answer. The connection is kept only after an answer of the
// API itself that is not a failure. Other answers may come from a gateway or from a server
// that is shutting down, and the next request should have a chance to avoid it.
func (c *Client) release(a *answer) {
	if a.keep {
		c.lanes.put(a.lane)
	} else {
		c.lanes.discard(a.lane)
	}
}

// Cancel sends one DELETE for a link.
//
// For any 2xx it returns the status and no error. Only a 204 is documented to mean that the link is
// cancelled. For any other answer it returns the status and an *Error, even if the rest of the
// answer is cut off. Without an answer it returns 0 and a *TransportError. If CheckID refuses the
// id, nothing is sent and the error wraps ErrBadID. Use Fresh to send on a new connection.
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

// errNot200: the API answers a GET with 200 if it has the link.
var errNot200 = errors.New("the answer to a GET is not 200")

// Get sends one GET for a link.
//
// The error is an *Error for an answer that is not the link, and a *TransportError if there
// is no answer or the link is cut off. If CheckID refuses the id, the error wraps ErrBadID.
// A 2xx without a link with this id or external id is an *Error with that status and not
// proven, because a friendly page of a proxy proves nothing.
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
	if a.status != http.StatusOK {
		return Link{}, a.notWanted(errNot200)
	}
	link, err := decodeLink(a.body, id, a.scrub)
	if err != nil {
		return Link{}, a.notWanted(err)
	}
	a.keep = true
	return link, nil
}
