package worker

import (
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

// Canceler is the API: one attempt a call.
type Canceler interface {
	// Cancel returns the status of a 2xx answer, and a *plexy.Error or
	// *plexy.TransportError for everything else.
	Cancel(ctx context.Context, id string) (status int, err error)
	Get(ctx context.Context, id string) (plexy.Link, error)
	// List returns a page of all links; 0 leaves a parameter out.
	List(ctx context.Context, page, size int) (plexy.Page, error)
}

// Limiter says when a request may be sent, and learns from the answers.
type Limiter interface {
	Acquire(ctx context.Context) (ratelimit.Slot, error)
	// AcquireFirst goes ahead of all who wait in Acquire.
	AcquireFirst(ctx context.Context) (ratelimit.Slot, error)
	Report(ratelimit.Slot, ratelimit.Answer)
	Status() ratelimit.Status
	// AwaitHold says whether sending is on hold for that reason, now or within a
	// time.
	AwaitHold(ctx context.Context, reason ratelimit.Reason, within time.Duration) bool
	// HoldOwn stops this process alone.
	HoldOwn(reason ratelimit.Reason, cause string)
}

// Observer is told what happens, for metrics. Its methods must be quick. What is
// told of links is told once the ledger has taken it, and only if no other
// process was faster.
type Observer interface {
	// Request tells of a request that ended; status 0: no answer.
	Request(method string, status int, took time.Duration)
	// Unproven tells of an answer that the API itself may not have given.
	Unproven(status int)
	// Waited tells how long a link waited for its slot within the limit.
	Waited(time.Duration)
	// Outcome tells that a link of a batch from source got its outcome, with so
	// many attempts, so long after the batch was made.
	Outcome(source string, o ledger.Outcome, attempts int, after time.Duration)
	// Settled tells that it took a GET to find out that outcome.
	Settled(ledger.Outcome)
	// Ambiguous tells of attempts that may have been applied though no clear
	// answer came.
	Ambiguous(attempts int)
}

type noObserver struct{}

func (noObserver) Request(string, int, time.Duration)                 {}
func (noObserver) Unproven(int)                                       {}
func (noObserver) Waited(time.Duration)                               {}
func (noObserver) Outcome(string, ledger.Outcome, int, time.Duration) {}
func (noObserver) Settled(ledger.Outcome)                             {}
func (noObserver) Ambiguous(int)                                      {}

// Config says how a worker works. Zero values are replaced by the defaults.
type Config struct {
	ID           string        // names this process in the fleet; required
	Concurrency  int           // calls in flight at most, those that hang for 5 s counted apart; 50
	Attempts     int           // tries a link before it is failed; 12
	Rate         float64       // the limiter's ceiling, requests a second, told to the fleet
	DrainTimeout time.Duration // how long calls in flight may take at the end; 6 s
	Log          *slog.Logger  // required
	Observer     Observer      // may be nil
	Journal      Journal       // may be nil
	Tracer       trace.Tracer  // nil: no traces
	// BadKey is called, once, when the API has refused the key twice and never
	// given a proper answer. Nil: the worker holds until the key is good.
	BadKey func(error)
	// Unproved is called, once, when nothing has shown for 20 s that the base URL
	// is that of the API (5 s if the API itself denies it); the error is an
	// *UnprovedError. Nil: the worker holds until something does.
	Unproved func(error)
	// TrustPlain404 lets answers end a link that the API may not have given: the
	// third of a kind, confirmed by a GET, however few links get it.
	TrustPlain404 bool
	API           string        // the normalized base URL; "": evidence for it is kept in this process alone
	Host          string        // of the API, told to the fleet
	Version       string        // of this program, told to the fleet
	Key           func() string // a fingerprint of the present key, told to the fleet; may be nil
	KeySource     string        // where the key comes from, for people
}

func (c *Config) setDefaults() {
	if c.Concurrency == 0 {
		c.Concurrency = 50
	}
	if c.Attempts == 0 {
		c.Attempts = 12
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 6 * time.Second
	}
	if c.Observer == nil {
		c.Observer = noObserver{}
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

// pause waits; false if the worker has to stop meanwhile.
func (w *Worker) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.stopping.Done():
		return false
	}
}
