package sandbox

import (
	"cmp"
	"io"
	"time"
)

// Defaults of Config.
const (
	DefaultPrefix     = "/v1"
	DefaultPageSize   = 50
	DefaultRetryAfter = time.Second
)

// Config is content and behavior of the sandbox API. The zero value has no links.
type Config struct {
	// Seed determines the seeded links and all faults.
	Seed uint64
	// Links is the number of seeded links. Their ids are pl_ and 32 hex digits.
	Links int
	// IDs are the ids of further links, all active.
	IDs []string
	// Prefix is the path before /payment-links. The default is DefaultPrefix.
	Prefix string
	// Key is the required Authorization header. "" accepts any non-empty one.
	Key string
	// Paid, Expired, Cancelled and Missing are shares (0 to 1) of the seeded links that are not
	// active. A DELETE of the first three answers 422. A missing link answers 404 to everything.
	Paid, Expired, Cancelled, Missing float64
	// Faults are the shares of failing requests.
	Faults Faults
	// Gateway answers instead of the API.
	Gateway Gateway
	// Poison is the permanent answer of links by id: see SetPoison.
	Poison map[string]Answer
	// ForbiddenLinks is the share (0 to 1) of links that answer 403 to all requests. GetsForbidden
	// answers 403 to every GET of a link, and ListForbidden to requests for the list.
	ForbiddenLinks               float64
	GetsForbidden, ListForbidden bool
	// EmptyErrors removes the body of 400, 404 and 422.
	EmptyErrors bool
	// Latency is how long each answer waits, and Jitter the maximum that is added. A change
	// is made before the wait: a client that times out may have cancelled the link.
	Latency, Jitter time.Duration
	// Rate is how many requests in any second are allowed. Others get 429. 0 means no limit.
	Rate float64
	// RetryAfter, by default DefaultRetryAfter, is sent with a 429, or as an HTTP date.
	RetryAfter     time.Duration
	RetryAfterDate bool
	// PageSize is the maximum number of links per page of the list. The default is DefaultPageSize.
	PageSize int
	// Log gets one line of JSON per request, buffered: see Flush.
	Log io.Writer
	// KeepRequests is how many requests Requests returns.
	KeepRequests int
	// Now is the clock, by default time.Now. Latency uses real time.
	Now func() time.Time
}

func (cfg Config) withDefaults() Config {
	cfg.Prefix = cmp.Or(cfg.Prefix, DefaultPrefix)
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

// Faults are shares (0 to 1) of the DELETE requests for known links, with Gets also of the
// GET requests, and with Lists of the requests for the list. Whether the n-th request of a
// method for an id, or for a page, fails is a pure function of seed, id or page, method and
// n. Requests that are refused earlier (401, 429, outage) do not count, because those
// depend on the order of arrival.
type Faults struct {
	// Error500 answers 500 with the documented body, code 1.
	Error500 float64
	// HTML502 answers 502 with an HTML page, as a gateway does.
	HTML502 float64
	// Cut does the work, then closes the connection without an answer.
	Cut float64
	// CutBefore closes the connection without doing the work.
	CutBefore float64
	// Hang never answers until the client gives up. Only with HangApplied the work is done.
	Hang        float64
	HangApplied bool
	// BadRequest answers 400, and Forbidden 403.
	BadRequest, Forbidden float64
	// Friendly answers 200 with an HTML page without doing the work.
	Friendly float64
	// Gets applies the faults to GET requests for links, and Lists to the list.
	Gets, Lists bool
}
