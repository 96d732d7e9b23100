package web

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

const (
	// freshFor is how long a reading of one batch serves all viewers. For open pages, fleetFor is that of
	// the fleet and of the list of batches, and rarelyFor that of what changes rarely.
	freshFor  = 900 * time.Millisecond
	fleetFor  = 1900 * time.Millisecond
	rarelyFor = 4900 * time.Millisecond
	// recordsEvery is how often the records of a running batch are read, at most: 8 bytes per link.
	recordsEvery = 15 * time.Second
	// recordsPerChunk makes that rarer for large batches: a million links once a minute.
	recordsPerChunk = 60 * time.Millisecond
	// rereadEach is how many finished batches are read again with each list of batches.
	rereadEach = 1
	// readTimeout is how long a reading may take.
	readTimeout = 5 * time.Second
	// keepReadings is how many batches are remembered.
	keepReadings = 50
)

// reader reads Redis for all viewers. Each thing is read once while it is fresh.
type reader struct {
	cfg Config

	fleet    cell[status.Fleet]
	batches  cell[[]*ledger.Batch]
	sweeps   cell[ledger.Sweeps]
	limit    cell[[]history.Entry]
	activity cell[[]history.Entry]
	census   *ledger.BatchCache // used by batches only

	mu      sync.Mutex
	single  map[string]*cell[ledger.Batch]
	records map[string]*cell[status.Details]
	links   map[string]*cell[linksPage]
	paces   map[string]*status.Pace

	closed atomic.Bool // the fleet's window, at the last reading
}

func newReader(cfg Config) *reader {
	return &reader{
		cfg: cfg, census: cfg.Ledger.NewBatchCache(rereadEach),
		single: map[string]*cell[ledger.Batch]{}, records: map[string]*cell[status.Details]{}, links: map[string]*cell[linksPage]{}, paces: map[string]*status.Pace{},
	}
}

// cell is one reading. While it is old, the first who asks reads again, and the others wait.
type cell[T any] struct {
	mu    sync.Mutex
	value T
	at    time.Time // of the last reading that succeeded; zero without one
	err   error     // of the last one
	tried time.Time
}

// get returns a value that is not older than fresh. If reading fails, the error comes with the last
// value, whose time is at. A reading that failed serves for freshFor at most.
func (c *cell[T]) get(ctx context.Context, fresh time.Duration, read func(context.Context) (T, error)) (value T, at time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		fresh = min(fresh, freshFor)
	}
	if time.Since(c.tried) >= fresh {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout) // others wait for it
		defer cancel()
		v, err := read(ctx)
		c.tried, c.err = time.Now(), err
		if err == nil {
			c.value, c.at = v, c.tried
		}
	}
	return c.value, c.at, c.err
}

type followsKey struct{}

// follow marks readings for the stream of a page that is open.
func follow(ctx context.Context) context.Context { return context.WithValue(ctx, followsKey{}, true) }

// age is how old a reading may be: most for the stream of an open page, and a moment for a page that
// somebody loads.
func age(ctx context.Context, most time.Duration) time.Duration {
	if ctx.Value(followsKey{}) == nil {
		return freshFor
	}
	return most
}

// expire makes all readings old, so that the next ones are new.
func (r *reader) expire() {
	r.fleet.expire()
	r.batches.expire()
	r.sweeps.expire()
	r.limit.expire()
	r.activity.expire()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.single {
		c.expire()
	}
	for _, c := range r.records {
		c.expire()
	}
	for _, c := range r.links {
		c.expire()
	}
}

func (c *cell[T]) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried = time.Time{}
}

func (r *reader) readFleet(ctx context.Context) (status.Fleet, time.Time, error) {
	return r.fleet.get(ctx, age(ctx, fleetFor), func(ctx context.Context) (status.Fleet, error) {
		f, err := status.ReadFleet(ctx, r.cfg.Redis, r.cfg.Ledger)
		if err == nil {
			r.closed.Store(f.Hold.Reason == ratelimit.ReasonWindow)
		}
		return f, err
	})
}

// readBatches reads all batches. The list is not older than fresh.
func (r *reader) readBatches(ctx context.Context, fresh time.Duration) ([]*ledger.Batch, time.Time, error) {
	return r.batches.get(ctx, age(ctx, fresh), func(ctx context.Context) ([]*ledger.Batch, error) {
		batches, err := r.census.Batches(ctx)
		for _, b := range batches {
			r.pace(*b)
		}
		return batches, err
	})
}

func (r *reader) readSweeps(ctx context.Context) (ledger.Sweeps, time.Time, error) {
	return r.sweeps.get(ctx, age(ctx, rarelyFor), r.cfg.Ledger.Sweeps)
}

// readLimitHistory reads who changed or held the limit, the latest entry last.
func (r *reader) readLimitHistory(ctx context.Context) ([]history.Entry, time.Time, error) {
	return r.limit.get(ctx, age(ctx, rarelyFor), func(ctx context.Context) ([]history.Entry, error) {
		return r.cfg.Ledger.History(ctx, history.Rate)
	})
}

// readActivity reads the latest entries of all histories.
func (r *reader) readActivity(ctx context.Context) ([]history.Entry, time.Time, error) {
	return r.activity.get(ctx, age(ctx, rarelyFor), func(ctx context.Context) ([]history.Entry, error) {
		return r.cfg.Ledger.Activity(ctx, shownEntries)
	})
}

// readBatch reads one batch. The error may be ledger.ErrNoBatch.
func (r *reader) readBatch(ctx context.Context, id string) (ledger.Batch, time.Time, error) {
	r.mu.Lock()
	c := remember(r.single, id)
	r.mu.Unlock()
	return c.get(ctx, freshFor, func(ctx context.Context) (ledger.Batch, error) {
		b, err := r.cfg.Ledger.Get(ctx, id)
		if err == nil {
			r.pace(b)
		}
		return b, err
	})
}

// recordsFor is how long a reading of a batch's records serves.
func recordsFor(b ledger.Batch) time.Duration {
	return max(recordsEvery, time.Duration(b.Chunks)*recordsPerChunk)
}

// readRecords reads the records of a batch, as rarely as its state allows.
func (r *reader) readRecords(ctx context.Context, b status.Batch) (status.Details, error) {
	key := fmt.Sprint(b.ID, " ", b.Incarnation(), " ", b.State) // read again at once when the state changes
	r.mu.Lock()
	c := remember(r.records, key)
	r.mu.Unlock()
	fresh := recordsFor(b.Batch)
	if b.Ended() {
		fresh = time.Hour
	}
	v, at, err := c.get(ctx, fresh, func(ctx context.Context) (status.Details, error) {
		return status.ReadDetailsSince(ctx, r.cfg.Ledger, b, c.value)
	})
	if !at.IsZero() && !errors.Is(err, ledger.ErrNoBatch) {
		err = nil // the last reading serves
	}
	return v, err
}

// readLinks reads a page of a batch's links, as rarely as the records. All who look at the page share it.
func (r *reader) readLinks(ctx context.Context, p linksPage, find func(context.Context, *linksPage) error) (linksPage, error) {
	key := fmt.Sprint(p.Batch.ID, " ", p.Batch.Incarnation(), " ", p.Batch.State, " ", p.Outcome, " ", p.Page)
	r.mu.Lock()
	c := remember(r.links, key)
	r.mu.Unlock()
	v, at, err := c.get(ctx, age(ctx, recordsFor(p.Batch)), func(ctx context.Context) (linksPage, error) {
		err := find(ctx, &p)
		return p, err
	})
	if !at.IsZero() && !errors.Is(err, ledger.ErrNoBatch) {
		err = nil
	}
	return v, err
}

// pace notes how many links of a batch have ended by now.
func (r *reader) pace(b ledger.Batch) {
	if b.State != ledger.Running {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p, now := remember(r.paces, b.ID), time.Now()
	if r.closed.Load() {
		p.Skip(now)
		return
	}
	p.Add(now, b.Counts.Sum())
}

// rate is how many links of a batch end per second; false if that is not known yet.
func (r *reader) rate(id string) (float64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.paces[id]; p != nil {
		return p.Rate()
	}
	return 0, false
}

// remember returns the value of a key, a new one if there is none. Of many it forgets any.
func remember[T any](m map[string]*T, key string) *T {
	if v := m[key]; v != nil {
		return v
	}
	for old := range m {
		if len(m) < keepReadings {
			break
		}
		delete(m, old)
	}
	v := new(T)
	m[key] = v
	return v
}
