package sandbox

import (
	"io"
	"time"
)

// Defaults of Config.
const (
	DefaultPrefix     = "/v1"
	DefaultPageSize   = 50
	DefaultRetryAfter = time.Second
)

// Config is what the sandbox API holds and how it behaves. The zero value is an
// API without links that accepts any key.
type Config struct {
	// Seed decides the seeded links and every fault.
	Seed uint64
	// Links is how many links are seeded. Their ids are pl_ and 32 hex digits.
	Links int
	// IDs are further links, all active.
	IDs []string
	// Prefix is the path before /payment-links, by default DefaultPrefix.
	Prefix string
	// Key is the only accepted Authorization header; "" accepts any but none.
	Key string
	// Paid, Expired, Cancelled and Missing are shares (0 to 1) of the seeded
	// links that are not active. A DELETE of the first three answers 422. A
	// missing link answers 404 to everything.
	Paid, Expired, Cancelled, Missing float64
	// Faults is what goes wrong.
	Faults Faults
	// Gateway answers instead of the API.
	Gateway Gateway
	// Poison is the answer that links always get, by id; see SetPoison.
	Poison map[string]Answer
	// ForbiddenLinks is the share (0 to 1) of the links that the key has no right
	// to: all requests for one are answered 403, those for the others never.
	// GetsForbidden answers 403 to every GET of a link, and ListForbidden to
	// those for the list.
	ForbiddenLinks               float64
	GetsForbidden, ListForbidden bool
	// EmptyErrors lets the API send its 400, 404 and 422 without a body.
	EmptyErrors bool
	// Latency is how long each answer waits, and Jitter the most that is added
	// to it. A change is made before the wait: a client that gives up in
	// between has cancelled the link without knowing.
	Latency, Jitter time.Duration
	// Rate is how many requests a second are allowed over all, in any window of
	// a second; those above are answered 429. 0 means no limit.
	Rate float64
	// RetryAfter is sent with a 429, in whole seconds, rounded up; by default
	// DefaultRetryAfter. RetryAfterDate sends it as an HTTP date.
	RetryAfter     time.Duration
	RetryAfterDate bool
	// PageSize is the most links on a page of the list, by default
	// DefaultPageSize.
	PageSize int
	// Log gets a line of JSON for each request, through a buffer: see Flush.
	Log io.Writer
	// KeepRequests is how many of the latest requests Requests returns.
	KeepRequests int
	// Now is the clock, by default time.Now. Latency does not follow it.
	Now func() time.Time
}

func (cfg Config) withDefaults() Config {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.PageSize <= 0 {
		cfg.PageSize = DefaultPageSize
	}
	if cfg.RetryAfter <= 0 {
		cfg.RetryAfter = DefaultRetryAfter
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

// Faults are shares (0 to 1) of the DELETE requests for known links, of the GET
// requests for them too with Gets, and of those for the list with Lists.
// Whether the n-th request of a method for an id, or for a page of the list, is
// hit is a pure function of seed, id or page, method and n. Requests that are turned away earlier (401, 429, outage) do not count
// as one of the n: who gets those depends on the order of arrival.
type Faults struct {
	// Error500 is answered 500 with the documented body, code 1.
	Error500 float64
	// HTML502 is answered 502 with a page of HTML, like a gateway's.
	HTML502 float64
	// Cut does the work, then cuts the connection without an answer.
	Cut float64
	// CutBefore cuts the connection without doing the work.
	CutBefore float64
	// Hang never answers, until the client gives up or the server is closed.
	// The work is done only with HangApplied.
	Hang        float64
	HangApplied bool
	// BadRequest is answered 400, and Forbidden 403.
	BadRequest, Forbidden float64
	// Friendly is answered 200 with a page of HTML, and the work is not done.
	Friendly float64
	// Gets lets GET requests for links fail too, and Lists those for the list.
	Gets, Lists bool
}
