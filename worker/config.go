package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// Canceler is the API. Each call is one request.
type Canceler interface {
	// Cancel returns the status of a 2xx, or a *plexy.Error or *plexy.TransportError.
	Cancel(ctx context.Context, id string) (status int, err error)
	Get(ctx context.Context, id string) (plexy.Link, error)
	// List returns a page of all links. A parameter of 0 is left out of the request.
	List(ctx context.Context, page, size int) (plexy.Page, error)
}

// Limiter decides when a request may be sent, and adapts to the answers.
type Limiter interface {
	Acquire(ctx context.Context) (ratelimit.Slot, error)
	// AcquireFirst is served before Acquire.
	AcquireFirst(ctx context.Context) (ratelimit.Slot, error)
	Report(ratelimit.Slot, ratelimit.Answer)
	Status() ratelimit.Status
	// AwaitHold says whether sending is on hold for the reason, now or within the given time.
	AwaitHold(ctx context.Context, reason ratelimit.Reason, within time.Duration) bool
	// HoldOwn puts this process alone on hold.
	HoldOwn(reason ratelimit.Reason, cause string)
}

// Observer receives events, for metrics. Its methods must be quick. Events about
// links follow the write to the ledger, and only if no other process wrote first.
type Observer interface {
	// Request is a request that ended. Status 0 means no answer.
	Request(method string, status int, took time.Duration)
	// Unproven is an answer that the API itself may not have given.
	Unproven(status int)
	// Waited is the time that a link waited for its slot.
	Waited(time.Duration)
	// Outcome is a link's outcome. after is the time since the batch was created.
	Outcome(source string, o ledger.Outcome, attempts int, after time.Duration)
	// Settled is an outcome that took a GET to find out.
	Settled(ledger.Outcome)
	// Ambiguous counts attempts that may have been applied without a clear answer.
	Ambiguous(attempts int)
}

type noObserver struct{}

func (noObserver) Request(string, int, time.Duration)                 {}
func (noObserver) Unproven(int)                                       {}
func (noObserver) Waited(time.Duration)                               {}
func (noObserver) Outcome(string, ledger.Outcome, int, time.Duration) {}
func (noObserver) Settled(ledger.Outcome)                             {}
func (noObserver) Ambiguous(int)                                      {}

// Config configures a worker. Zero values mean the defaults.
type Config struct {
	ID           string        // names this process in the fleet; required
	Concurrency  int           // calls in flight at most, without those that take over 5 s; default 50
	Attempts     int           // attempts per link; default 12
	Rate         float64       // the process's ceiling in requests per second, for its heartbeat
	DrainTimeout time.Duration // how long calls in flight may take at the end; default 6 s
	Log          *slog.Logger  // required
	Observer     Observer      // may be nil
	Journal      Journal       // may be nil
	Tracer       trace.Tracer  // nil: no traces
	// ShowsFailures means that the caller shows the progress, and links that fail. They are logged at level
	// info only, and outcomes are recorded more often.
	ShowsFailures bool
	// BadKey is called once when the API never accepted the key. Nil: sending is on hold.
	BadKey func(error)
	// Unproved is called once with an *UnprovedError, when nothing has shown for 20 s that the base
	// URL is the API's (5 s if the API has no such path). Nil: sending is on hold.
	Unproved func(error)
	// TrustPlain404 lets the third plain answer of a kind, confirmed by a GET, end a link.
	TrustPlain404 bool
	API           string        // the normalized base URL; "": evidence for it is not shared
	Host          string        // of the API, for the heartbeat
	Version       string        // of this program, for the heartbeat
	Key           func() string // returns the key's fingerprint, for the heartbeat; may be nil
	KeySource     string        // where the key comes from, for error texts
	// KeyVersion returns a number that changes with the key of the Canceler. Nil: it never changes.
	KeyVersion func() uint64
	// Delayed says whether this process is the one that moves delayed tasks back to their queue, and there
	// are any. Nil: it always looks.
	Delayed func() bool
	// Lone says whether the feeder runs in this process and knows of no other worker. Heartbeats are then
	// for people only. Nil: it does not.
	Lone func() bool
	// Leads says whether the feeder runs in this process and leads: see Tell. Nil: it does not.
	Leads func() bool
}

func (c *Config) setDefaults() {
	c.Concurrency = cmp.Or(c.Concurrency, 50)
	c.Attempts = cmp.Or(c.Attempts, 12)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 6*time.Second)
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	if c.Delayed == nil {
		c.Delayed = func() bool { return true }
	}
	if c.Lone == nil {
		c.Lone = func() bool { return false }
	}
	if c.Leads == nil {
		c.Leads = func() bool { return false }
	}
	if c.KeyVersion == nil {
		c.KeyVersion = func() uint64 { return 1 }
	}
}

func (c *Config) validate() error {
	switch {
	case c.ID == "":
		return errors.New("a worker needs an id")
	case c.Log == nil:
		return errors.New("a worker needs a logger")
	case c.Concurrency < 1 || c.Concurrency > 10_000:
		return fmt.Errorf("concurrency %d: use 1 to 10000", c.Concurrency)
	case c.Attempts < 1 || c.Attempts > 200:
		return fmt.Errorf("attempts %d: use 1 to 200", c.Attempts)
	case c.DrainTimeout < 0 || c.DrainTimeout > 5*time.Minute:
		return fmt.Errorf("drain timeout %v: use 0s to 5m", c.DrainTimeout)
	}
	return nil
}
