package producer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
)

const (
	leaseTTL   = 5 * time.Second
	leaseRenew = time.Second

	feedEvery = 100 * time.Millisecond // with work in hand
	idleEvery = time.Second            // with nothing open

	// lookAhead is how much work waits in the queue, in seconds of the present
	// rate; lookAheadMost bounds it in links.
	lookAhead     = 2 * time.Second
	lookAheadMost = 20_000
	// backoffMost is how many slices may wait to be tried again before feeding stops.
	backoffMost = 20_000

	// importTurns of importTurns+1 turns go to imports, one to sweeps.
	importTurns = 4

	enqueueParallel = 16

	// silentWorker is when a worker that tells nothing is not reckoned with.
	silentWorker = 2 * time.Second
)

// FeederConfig says how a Feeder works.
type FeederConfig struct {
	Rate float64 // requests a second, if no worker is alive to tell its own
	// Limit tells what the fleet's limiter does; nil: the rates of the workers
	// alive are added up.
	Limit func() ratelimit.Status
	Keep  time.Duration // how long finished batches are kept
	Log   *slog.Logger
	// Observer may be nil.
	Observer FeedObserver
	Tracer   trace.Tracer // nil: no traces
}

// FeedObserver is told what the leader does, for metrics.
type FeedObserver interface {
	Repaired(reason string, slices int) // "orphaned" or "missing"
}

// Feeder moves slices from the ledger into the queue, a short look-ahead at a
// time, and repairs what crashes leave behind. Of all feeders of a fleet the
// one with the lease leads.
type Feeder struct {
	cfg       FeederConfig
	ledger    *ledger.Ledger
	rdb       redis.UniversalClient
	client    *asynq.Client
	inspector *asynq.Inspector
	token     string

	interrupted bool // the last round failed

	epoch   int64 // of our leadership; 0: another leads
	renewed time.Time
	started map[string]bool   // batches begun in this epoch
	made    map[string]int64  // when they were made
	traces  map[string]string // their places in a trace, of those that have one
	chunks  map[string]*chunk // the chunk that is being fed, by batch
	turn    int
	last    [2]string   // the batch fed last, of imports and of sweeps
	fed     []feedRound // of late, oldest first

	ended int64 // leases, at the last look

	nextLeases, nextOrphans, nextMissing, nextRelist, nextPrune time.Time
	resumed                                                     map[string]*resume // by batch
}

// feedRound is one round of feedRound, also one that had nothing to feed.
type feedRound struct {
	at      time.Time // Redis' time
	waiting int       // links in the queue before it
	fed     int       // links put into the queue
}

type chunk struct {
	n       int
	links   []string
	records []ledger.Record
}

// NewFeeder makes a feeder for the queue and ledger in rdb.
func NewFeeder(cfg FeederConfig, rdb redis.UniversalClient, l *ledger.Ledger) *Feeder {
	var token [8]byte
	rand.Read(token[:])
	return &Feeder{
		cfg: cfg, ledger: l, rdb: rdb, token: hex.EncodeToString(token[:]),
		client:    asynq.NewClientFromRedisClient(rdb),
		inspector: asynq.NewInspectorFromRedisClient(rdb),
	}
}

// Run feeds whenever this process leads, until ctx ends.
func (f *Feeder) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			f.resign()
			return
		case <-timer.C:
		}
		busy, err := f.tick(ctx)
		switch {
		case errors.Is(err, ledger.ErrNotLeader):
			f.follow()
		case err != nil && ctx.Err() == nil:
			if !f.interrupted {
				f.cfg.Log.Warn("feeding is interrupted", "error", err)
			}
			f.interrupted = true
			f.renewed = time.Time{} // ask for the lease before anything else
			busy = false
		case f.interrupted:
			f.cfg.Log.Info("feeding goes on")
			f.interrupted = false
		}
		if busy {
			timer.Reset(feedEvery)
		} else {
			timer.Reset(idleEvery)
		}
	}
}

func (f *Feeder) resign() {
	if f.epoch == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = f.ledger.Unlease(ctx, f.token) // it ends by itself otherwise
}

// follow forgets all that only a leader knows.
func (f *Feeder) follow() {
	f.epoch = 0
	f.started, f.made, f.traces, f.chunks, f.resumed, f.fed = nil, nil, nil, nil, nil, nil
}

// lead takes or renews the lease. The ledger refuses moves of a leader that was
// replaced, so a lease that ran out unseen does no harm.
func (f *Feeder) lead(ctx context.Context) error {
	if f.epoch > 0 && time.Since(f.renewed) < leaseRenew {
		return nil
	}
	now := time.Now()
	epoch, err := f.ledger.Lease(ctx, f.token, leaseTTL)
	if err != nil {
		return err
	}
	f.renewed = now
	if epoch > 0 || f.epoch == 0 {
		if epoch == 0 { // renewed, but the epoch was never learnt: the reply was lost
			return f.ledger.Unlease(ctx, f.token)
		}
		f.follow()
		f.epoch = epoch
		f.started, f.made, f.traces = map[string]bool{}, map[string]int64{}, map[string]string{}
		f.chunks, f.resumed = map[string]*chunk{}, map[string]*resume{}
		f.nextOrphans, f.nextMissing, f.nextRelist = now, now.Add(missingEvery), now
		f.cfg.Log.Debug("this process feeds", "epoch", epoch)
	}
	return nil
}

// tick does one round. busy: there is work that wants feeding or watching.
func (f *Feeder) tick(ctx context.Context) (busy bool, err error) {
	if err := f.lead(ctx); err != nil || f.epoch == 0 {
		return false, err
	}
	batches, err := f.ledger.Unfinished(ctx)
	if err != nil {
		return false, err
	}
	var open []ledger.Batch
	for _, b := range batches {
		if f.made[b.ID] != b.Incarnation() { // new to us, or another of a deleted one's id
			f.forget(b.ID)
			f.made[b.ID] = b.Incarnation()
			if b.State == ledger.Newer {
				f.cfg.Log.Warn("batch of a newer release left alone: its workers feed it", "batch", b.ID)
			}
			if b.Trace != "" {
				f.traces[b.ID] = b.Trace
			}
		}
		if b.State == ledger.Ready || b.State == ledger.Running {
			open = append(open, b)
		}
	}
	if len(open) > 0 {
		if err := f.feed(ctx, open); err != nil {
			return true, err
		}
	}
	return len(open) > 0, f.repair(ctx, batches)
}

// forget forgets what is known of a batch.
func (f *Feeder) forget(id string) {
	delete(f.started, id)
	delete(f.made, id)
	delete(f.traces, id)
	delete(f.chunks, id)
	delete(f.resumed, id)
}

// fleet is what the workers told last.
type fleet struct {
	now     time.Time // Redis' time
	rate    float64   // all of them together, requests a second
	ceiling float64   // the lowest of them
	workers int
	unsent  int       // links in their hands
	told    time.Time // since when something may have changed in their hands
}

func (f *Feeder) fleet(ctx context.Context) (fleet, error) {
	beats, now, err := f.ledger.Workers(ctx)
	if err != nil {
		return fleet{}, err
	}
	fl := fleet{now: now, told: now, ceiling: math.Inf(1)}
	for _, b := range beats {
		fl.workers++
		fl.rate += b.Rate
		fl.ceiling = min(fl.ceiling, b.Rate)
		// Links under a process's own hold come back, and those of a silent one
		// are taken up by others: nobody must wait for them.
		if !b.Own && now.Sub(b.At) < silentWorker {
			fl.unsent += b.Unsent
			// One with nothing in hand tells at once when that changes.
			if b.Unsent > 0 && b.At.Before(fl.told) {
				fl.told = b.At
			}
		}
	}
	if fl.workers == 0 {
		fl.rate, fl.ceiling = f.cfg.Rate, f.cfg.Rate
	}
	if f.cfg.Limit != nil {
		limit := f.cfg.Limit()
		fl.rate, fl.ceiling = float64(limit.Rate), float64(limit.Ceiling)
	}
	return fl, nil
}

// sliceSize is half a second of the fleet's ceiling, 1 to 50 links, so that a
// slow fleet shares its work; from 5 000/s on it is 10 ms, up to task.MaxSlice
// links, so that a fast one has fewer tasks to handle.
func (fl fleet) sliceSize() int {
	return int(max(1, min(fl.ceiling/2, task.SmallSlice), min(fl.ceiling/100, task.MaxSlice)))
}

// lookAhead is how many links may wait in the queue and unsent in the workers.
func (fl fleet) lookAhead(slice int) int {
	links := max(float64(slice*max(1, fl.workers)), fl.rate*lookAhead.Seconds())
	return int(min(links, lookAheadMost))
}

// feed tops the queue up.
func (f *Feeder) feed(ctx context.Context, open []ledger.Batch) error {
	fl, err := f.fleet(ctx)
	if err != nil {
		return err
	}
	pipe := f.rdb.Pipeline()
	queued, retried := pipe.LLen(ctx, task.PendingKey), pipe.ZCard(ctx, task.RetryKey)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	if retried.Val() > backoffMost {
		return nil
	}
	largest := fl.sliceSize()
	for _, b := range open {
		largest = max(largest, b.Slice)
	}
	waiting := int(queued.Val()) * largest
	room := fl.lookAhead(largest) - f.waiting(fl, waiting)
	next, links, err := f.gather(ctx, open, room, fl.sliceSize())
	if err != nil {
		return err
	}
	f.fed = append(f.fed, feedRound{at: fl.now, waiting: waiting, fed: links})
	if err := f.enqueue(ctx, next); err != nil {
		return err
	}
	// Only now: a crash before it feeds slices twice, which the records make
	// harmless; the other way round they would wait for repair.
	for i := range open {
		if b := &open[i]; f.started[b.ID] {
			if err := f.advance(ctx, b, b.Low); err != nil {
				return err
			}
		}
	}
	return nil
}

// waiting is how many links wait in the queue and in the workers' hands, at most.
// What the workers told is some time old: since then they may have taken all
// that was in the queue, and all that was fed.
func (f *Feeder) waiting(fl fleet, queued int) int {
	for len(f.fed) > 1 && !f.fed[1].at.After(fl.told) {
		f.fed = f.fed[1:]
	}
	if len(f.fed) == 0 {
		return fl.unsent + queued
	}
	taken := f.fed[0].waiting
	for _, round := range f.fed {
		taken += round.fed
	}
	return fl.unsent + max(queued, taken)
}

func (f *Feeder) advance(ctx context.Context, b *ledger.Batch, low int64) error {
	err := f.ledger.Advance(ctx, *b, f.epoch, b.Cursor, low)
	if errors.Is(err, ledger.ErrNoBatch) {
		return nil // deleted
	}
	return err
}

// gather takes the next slices of the open batches by turns, with room pending
// links in all, moving the cursors in the given copies.
func (f *Feeder) gather(ctx context.Context, open []ledger.Batch, room, size int) (next []task.Slice, links int, err error) {
	slices.SortFunc(open, func(a, b ledger.Batch) int { return strings.Compare(a.ID, b.ID) })
	for links < room {
		b := f.next(open)
		if b == nil {
			break
		}
		s, pending, err := f.nextSlice(ctx, b, size)
		if errors.Is(err, ledger.ErrNoBatch) {
			b.State = ledger.Done // deleted: leave it out
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		if pending > 0 {
			next = append(next, s)
			links += pending
		}
	}
	return next, links, nil
}

// next picks the batch whose turn it is: imports before sweeps 4:1, round robin
// among equals; nil if none has anything left to feed.
func (f *Feeder) next(open []ledger.Batch) *ledger.Batch {
	var found [2]*ledger.Batch
	for class, sweep := range []bool{false, true} {
		for i := range open {
			b := &open[i]
			if (b.Source == SourceSweep) != sweep || b.Cursor >= b.Total || !b.Open() {
				continue
			}
			// The first behind the one fed last; else the first of all.
			if found[class] == nil || b.ID > f.last[class] && found[class].ID <= f.last[class] {
				found[class] = b
			}
		}
	}
	class := 0
	if f.turn%(importTurns+1) == importTurns {
		class = 1
	}
	if found[class] == nil {
		class = 1 - class
	}
	if found[class] != nil {
		f.turn++
		f.last[class] = found[class].ID
	}
	return found[class]
}

// nextSlice takes the next slice with pending links, counts these, and moves
// the cursor behind it; 0 if there is none in this chunk.
func (f *Feeder) nextSlice(ctx context.Context, b *ledger.Batch, size int) (s task.Slice, links int, err error) {
	if !f.started[b.ID] || b.Slice == 0 {
		if err := f.ledger.Start(ctx, b, f.epoch, size); err != nil {
			return s, 0, err
		}
		if b.Cursor == 0 && !f.started[b.ID] {
			f.cfg.Log.Info("batch started", "batch", b.ID, "source", b.Source, "links", b.Total)
		}
		f.started[b.ID] = true
	}
	n := int(b.Cursor / ledger.ChunkLinks)
	c := f.chunks[b.ID]
	if c == nil || c.n != n {
		if c, err = f.readChunk(ctx, *b, n); err != nil {
			return s, 0, err
		}
		f.chunks[b.ID] = c
	}
	for index := int(b.Cursor % ledger.ChunkLinks); index < len(c.links); {
		end := min(index+b.Slice, len(c.links))
		b.Cursor = int64(n)*ledger.ChunkLinks + int64(end)
		if links := pending(c.records[index:end]); links > 0 {
			return task.Slice{Batch: b.ID, Incarnation: b.Incarnation(), Chunk: n, Index: index, Links: c.links[index:end]}, links, nil
		}
		index = end
	}
	return s, 0, nil
}

func (f *Feeder) readChunk(ctx context.Context, b ledger.Batch, n int) (*chunk, error) {
	links, err := f.ledger.Links(ctx, b.ID, n)
	if err != nil {
		return nil, err
	}
	records, err := f.ledger.Records(ctx, b.ID, n, 0, len(links))
	if err != nil {
		return nil, err
	}
	return &chunk{n: n, links: links, records: records}, nil
}

func pending(records []ledger.Record) (links int) {
	for _, r := range records {
		if r.Outcome == ledger.None {
			links++
		}
	}
	return links
}

// enqueue puts slices into the queue; one that is there already is left alone.
func (f *Feeder) enqueue(ctx context.Context, fed []task.Slice) error {
	if len(fed) == 0 {
		return nil
	}
	line, err := f.ledger.QueueReplicationID(ctx, task.PendingKey)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(enqueueParallel)
	for _, s := range fed {
		s.ReplicationID = line
		group.Go(func() error {
			if f.cfg.Tracer != nil {
				return f.putTraced(ctx, s)
			}
			return f.put(ctx, s)
		})
	}
	return group.Wait()
}

func (f *Feeder) put(ctx context.Context, s task.Slice) error {
	t, err := s.Task()
	if err != nil {
		return err
	}
	if _, err := f.client.EnqueueContext(ctx, t); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue slice %s: %w", s.ID(), err)
	}
	return nil
}
