// Package producer is for Go programs that run next to Redis: it makes batches of payment links, which
// the workers of linkcancel cancel, and tells what became of each link.
//
//	client, err := producer.New(ctx, producer.Config{RedisURL: "redis://127.0.0.1:6379/0"})
//	…
//	defer client.Close()
//	batch, err := client.Submit(ctx, producer.Batch{ID: "stale-november", Links: slices.Values(links)})
//	…
//	batch, err = client.Wait(ctx, batch.ID)
//	for result, err := range client.Results(ctx, batch.ID) { … }
//
// A batch is sealed when all of its links are there; before that nothing is sent. The same id with the
// same links is the same batch, so a call that failed may be repeated. All methods may be called at the
// same time, and end when their context ends.
//
// A program elsewhere can use the HTTP API of linkcancel serve.
package producer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/report"
)

// Errors of a Client. They are wrapped.
var (
	// ErrNoBatch: there is no batch of this id. It may have been deleted, or have expired.
	ErrNoBatch = errors.New("no such batch")
	// ErrOtherLinks: the batch exists and has other links.
	ErrOtherLinks = errors.New("a batch with this id has other links")
	// ErrBusy: another program makes a batch of this id at this moment.
	ErrBusy = errors.New("another program makes a batch with this id")
	// ErrPaused: the batch waits for a person. Status.Reason says why.
	ErrPaused = errors.New("the batch is paused")
	// ErrNoLinks: there was no link.
	ErrNoLinks = errors.New("there are no links")
)

// RefusedError means that links were refused. Nothing was done.
type RefusedError struct {
	Links []BadLink // the first ones
	More  int64     // how many further ones there are
	Hint  string    // what to do; may be empty
}

// BadLink is a link that was refused.
type BadLink struct {
	Place string // such as links[17], by its number from 0; "" for all of them
	Why   string
}

// Error names the first bad links.
func (e *RefusedError) Error() string {
	var parts []string
	for _, l := range e.Links {
		parts = append(parts, strings.TrimPrefix(l.Place+": ", ": ")+l.Why)
	}
	text := "the links are refused: " + strings.Join(parts, "; ")
	if e.More > 0 {
		text += fmt.Sprintf("; and %d more", e.More)
	}
	return text
}

// Config configures a Client. RedisURL is required.
type Config struct {
	// RedisURL is redis://HOST:PORT/DB, rediss:// for TLS, redis-sentinel://HOST,HOST/MASTER/DB, or
	// redis-cluster://HOST,HOST: that of the workers.
	RedisURL string
	// RedisPassword overrides the one in the URL.
	RedisPassword string
	// User names the program in the histories of batches. The default is "program".
	User string
}

// Client makes batches and follows them.
type Client struct {
	broker *broker.Broker
	ledger *ledger.Ledger
	user   string
}

// New connects to Redis. Errors hide the password.
func New(ctx context.Context, cfg Config) (*Client, error) {
	b, err := broker.Open(ctx, broker.Config{URL: cfg.RedisURL, Password: cfg.RedisPassword})
	if err != nil {
		return nil, err
	}
	return newClient(b, cfg.User), nil
}

// Embedded returns a client with a Redis of its own in memory, for tests of programs. No worker works on
// its batches.
func Embedded() *Client { return newClient(broker.Embedded(), "") }

func newClient(b *broker.Broker, user string) *Client {
	return &Client{broker: b, ledger: ledger.New(b.Client()), user: cmp.Or(user, "program")}
}

// Close closes the connections.
func (c *Client) Close() error { return c.broker.Close() }

// Batch describes a new batch. Links is required.
type Batch struct {
	// ID is 1 to 64 of A-Z a-z 0-9 . _ -; generated if it is empty.
	ID   string
	Name string
	// Reason is for the history.
	Reason string
	// Links are ids or checkout URLs. They are read once, and duplicates are left out.
	Links iter.Seq[string]
	// AnyID accepts ids of any form, even if others are pl_ and 32 hex digits.
	AnyID bool
	// Max refuses more links than this; 0: there is no limit.
	Max int64
	// NoCanary: go on even if 50 links in a row are not_found, or rejected.
	NoCanary bool
}

// Submit makes a batch. If one with the same id and links exists, it is returned. The error may be
// a *RefusedError, ErrOtherLinks, ErrBusy or ErrNoLinks; without ErrOtherLinks nothing is left behind.
func (c *Client) Submit(ctx context.Context, b Batch) (Status, error) {
	by, err := history.Person(c.user, b.Reason)
	if err != nil {
		return Status{}, err
	}
	if b.ID != "" {
		if err := ledger.CheckBatchID(b.ID); err != nil {
			return Status{}, err
		}
	}
	links := importer.NewColumn(func(add func(string) error) error {
		for link := range b.Links {
			if err := add(link); err != nil {
				return err
			}
		}
		return nil
	})
	defer links.Stop()
	src, err := importer.OpenCSV(importer.CSVConfig{
		Paths: []string{"-"}, Stdin: links, Column: importer.ColumnHeader, AnyID: b.AnyID, Max: b.Max, Stop: ctx.Done(),
	})
	var made ledger.Batch
	if err == nil {
		defer src.Close()
		made, err = importer.MakeBatch(ctx, c.ledger, src, importer.BatchConfig{
			ID: b.ID, Source: importer.SourceImport, Name: clean.Line(b.Name), By: by, Canary: !b.NoCanary,
			Confirm: links.Check,
		})
		if err == nil {
			err = links.Check(src.Stats()) // also if the batch was there
		}
	}
	if err != nil {
		return Status{}, public(links.Places(err))
	}
	return statusOf(made), nil
}

// public turns an error of an internal package into one of this one.
func public(err error) error {
	var input *importer.InputError
	switch {
	case errors.Is(err, linkcsv.ErrNoRows):
		return ErrNoLinks
	case errors.As(err, &input):
		refused := &RefusedError{More: input.More, Hint: input.Hint}
		for _, bad := range input.Bad {
			refused.Links = append(refused.Links, BadLink{Place: bad.File, Why: clean.Line(bad.Why)})
		}
		return refused
	}
	for from, to := range map[error]error{
		ledger.ErrNoBatch: ErrNoBatch, importer.ErrOtherLinks: ErrOtherLinks, ledger.ErrBusy: ErrBusy, ledger.ErrTaken: ErrBusy,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w (%w)", to, err)
		}
	}
	return err
}

// State is the state of a batch.
type State string

// All states.
const (
	Importing State = "importing" // not sealed yet
	Ready     State = "ready"
	Running   State = "running"
	Paused    State = "paused"
	Done      State = "done"
	Aborted   State = "aborted"
)

// Status is a batch at one time.
type Status struct {
	ID         string
	Name       string
	State      State
	Reason     string // why it is paused
	Total      int64
	Pending    int64
	Duplicates int64            // links that were left out
	Outcomes   map[string]int64 // links by outcome: see Result
	Created    time.Time
	Started    time.Time // zero before that
	Finished   time.Time // zero before that
}

// Ended reports whether nothing more happens to its links.
func (s Status) Ended() bool {
	return (s.State == Done || s.State == Aborted) && s.Pending == 0
}

func statusOf(b ledger.Batch) Status {
	s := Status{
		ID: b.ID, Name: b.Name, State: State(b.State), Reason: b.Reason, Total: b.Total, Pending: b.Pending(), Duplicates: b.Duplicates,
		Outcomes: map[string]int64{}, Created: b.Created, Started: b.Started, Finished: b.Finished,
	}
	for _, o := range ledger.Outcomes {
		s.Outcomes[o.String()] = b.Counts[o]
	}
	return s
}

// Status reads a batch. The error may be ErrNoBatch.
func (c *Client) Status(ctx context.Context, id string) (Status, error) {
	b, err := c.ledger.Get(ctx, id)
	if err != nil {
		return Status{}, public(err)
	}
	return statusOf(b), nil
}

// waitEvery is how often Wait looks.
const waitEvery = time.Second

// Wait waits until a batch has ended. If it is paused, the error is ErrPaused, at once: it does not go on
// by itself. If Redis is away for a moment, Wait asks again until ctx ends.
func (c *Client) Wait(ctx context.Context, id string) (Status, error) {
	var last Status
	for wait := waitEvery / 10; ; wait = min(2*wait, waitEvery) {
		s, err := c.Status(ctx, id)
		switch _, away := broker.Away(err); {
		case err == nil && s.Ended():
			return s, nil
		case err == nil && s.State == Paused:
			return s, fmt.Errorf("batch %s: %w: %s", id, ErrPaused, s.Reason)
		case err == nil:
			last = s
		case ctx.Err() != nil:
			return last, context.Cause(ctx)
		case !away:
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// Result is what became of a link.
type Result struct {
	Link string
	// Outcome is cancelled, already_cancelled, not_found, not_cancellable, rejected, failed or aborted;
	// pending without one.
	Outcome    string
	HTTPStatus int    // of the last answer to a DELETE; 0 without one
	LinkStatus string // as the API spells it; "" if unknown
	Attempts   int
	Finished   time.Time // zero without an outcome
	Error      string
}

// Results reads the links of a batch in their order. It ends with the first error, which may be
// ErrNoBatch.
func (c *Client) Results(ctx context.Context, id string) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		b, err := c.ledger.Get(ctx, id)
		if err != nil {
			yield(Result{}, public(err))
			return
		}
		for r, err := range report.Results(ctx, c.ledger, b) {
			if err != nil {
				yield(Result{}, public(err))
				return
			}
			one := Result{Link: r.Link, Outcome: r.Outcome.String(), HTTPStatus: r.HTTPStatus, LinkStatus: r.LinkStatus, Attempts: r.Attempts, Finished: r.FinishedAt, Error: r.Error}
			if !yield(one, nil) {
				return
			}
		}
	}
}
