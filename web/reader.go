package web

import (
	"context"
	"errors"
	"sync"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

const (
	// freshFor is how long a reading of small keys serves all viewers.
	freshFor = 900 * time.Millisecond
	// recordsEvery is how often the records of a running batch are read, at most: 8 bytes per link.
	recordsEvery = 15 * time.Second
	// recordsPerChunk makes that rarer for large batches, whose records are many keys.
	recordsPerChunk = 200 * time.Millisecond
	// readTimeout is how long a reading may take.
	readTimeout = 5 * time.Second
	// keepReadings is how many batches are remembered.
	keepReadings = 50
)

// reader reads Redis for all viewers. Each thing is read once while it is fresh.
type reader struct {
	cfg Config

	fleet   cell[status.Fleet]
	batches cell[[]*ledger.Batch]
	sweeps  cell[ledger.Sweeps]
	limit   cell[[]history.Entry]
	census  *ledger.BatchCache // used by batches only

	mu      sync.Mutex
	single  map[string]*cell[ledger.Batch]
	records map[string]*cell[records]
	paces   map[string]*status.Pace
}

// records is what the records of a batch say, at the time of its reading.
type records struct {
	details   status.Details
	intervals []status.Interval
	history   []history.Entry
}

// Errors are the latest errors by kind.
func (r records) Errors() []status.ErrorKind { return r.details.Errors }

func newReader(cfg Config) *reader {
	return &reader{
		cfg: cfg, census: cfg.Ledger.NewBatchCache(),
		single: map[string]*cell[ledger.Batch]{}, records: map[string]*cell[records]{}, paces: map[string]*status.Pace{},
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
// value, whose time is at.
func (c *cell[T]) get(ctx context.Context, fresh time.Duration, read func(context.Context) (T, error)) (value T, at time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
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

// expire makes all readings old, so that the next ones are new.
func (r *reader) expire() {
	r.fleet.expire()
	r.batches.expire()
	r.sweeps.expire()
	r.limit.expire()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.single {
		c.expire()
	}
	for _, c := range r.records {
		c.expire()
	}
}

func (c *cell[T]) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried = time.Time{}
}

func (r *reader) readFleet(ctx context.Context) (status.Fleet, time.Time, error) {
	return r.fleet.get(ctx, freshFor, func(ctx context.Context) (status.Fleet, error) {
		return status.ReadFleet(ctx, r.cfg.Redis, r.cfg.Ledger)
	})
}

func (r *reader) readBatches(ctx context.Context) ([]*ledger.Batch, time.Time, error) {
	return r.batches.get(ctx, freshFor, func(ctx context.Context) ([]*ledger.Batch, error) {
		batches, err := r.census.Batches(ctx)
		for _, b := range batches {
			r.pace(*b)
		}
		return batches, err
	})
}

func (r *reader) readSweeps(ctx context.Context) (ledger.Sweeps, time.Time, error) {
	return r.sweeps.get(ctx, freshFor, r.cfg.Ledger.Sweeps)
}

// readLimitHistory reads who changed or held the limit, the latest entry last.
func (r *reader) readLimitHistory(ctx context.Context) ([]history.Entry, time.Time, error) {
	return r.limit.get(ctx, freshFor, func(ctx context.Context) ([]history.Entry, error) {
		return r.cfg.Ledger.History(ctx, history.Rate)
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

// readRecords reads the records of a batch, as rarely as its state allows.
func (r *reader) readRecords(ctx context.Context, b status.Batch) (records, error) {
	key := b.ID + " " + string(b.State) // read again at once when the state changes
	r.mu.Lock()
	c := remember(r.records, key)
	r.mu.Unlock()
	fresh := max(recordsEvery, time.Duration(b.Chunks)*recordsPerChunk)
	if b.Ended() {
		fresh = time.Hour
	}
	v, at, err := c.get(ctx, fresh, func(ctx context.Context) (found records, err error) {
		found.details, err = status.ReadDetails(ctx, r.cfg.Ledger, b)
		if err == nil {
			found.intervals, err = status.ReadIntervals(ctx, r.cfg.Ledger, b.Batch)
		}
		found.history = found.details.History
		return found, err
	})
	if !at.IsZero() && !errors.Is(err, ledger.ErrNoBatch) {
		err = nil // the last reading serves
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
	p := remember(r.paces, b.ID)
	p.Add(time.Now(), b.Counts.Sum())
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
