package feeder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

const (
	// lookAhead is how much work waits in the queue and unsent in the workers, in time at the present rate:
	// see MaxLookAhead. Another batch that is more urgent waits behind it. What the only worker, in this
	// process, has in hand is known exactly, and needs less of a margin.
	lookAhead     = 2 * time.Second
	lookAheadLone = 500 * time.Millisecond
	// The workers may send far less than the present rate, at a slow API or on a slow machine. Then the
	// look-ahead is what they sent in the last paceOver, but at least sparse links, for a quick start.
	paceOver = 4 * time.Second
	sparse   = 4000
	// headStart is how many turns of a new batch come one after the other.
	headStart = 4
	// slowSlice is how many links a slice has at low ceilings.
	slowSlice = 20
	// maxRetrying is how many slices may wait for a retry before feeding stops.
	maxRetrying = 20_000

	// Of these turns, verifications have the last one. Of the others, each fifth is of sweeps, and
	// the rest of imports.
	allTurns, sweepTurns = 21, 5

	// silentWorker is how old a heartbeat may be for its links to count as in hand.
	silentWorker = 2 * time.Second
)

// term is one leadership of this process. A new leader knows nothing but what the ledger holds.
type term struct {
	feeder *Feeder
	cfg    *Config
	ledger *ledger.Ledger
	queue  *queue
	repair *repairer
	epoch  int64

	batches map[string]*batch // unfinished batches by id
	turn    int
	last    [classes]string  // the batch of each class that was fed last
	passed  [classes]float64 // and its virtual time
	rounds  []feedRound
	// The look-ahead of a lone worker stays full until then at this rate, unless its batches are paused.
	fullUntil time.Time
	fullRate  float64
}

// batch is an unfinished batch, as of this round, with what this leader knows about it.
type batch struct {
	ledger.Batch
	started bool    // in this epoch
	read    int64   // the cursor as it is in the ledger
	pass    float64 // the virtual time of its next turn: see next
	turns   int     // that it had in this epoch
	chunk   *chunk  // the chunk that is being fed
	resume  resume
}

type chunk struct {
	n       int
	links   []string
	records []ledger.Record
}

// feedRound is one round of feeding, even if it fed nothing.
type feedRound struct {
	at      time.Time // Redis' time
	queued  int       // links in the queue before it
	waiting int       // links in the queue and unsent in the workers before it, at most
	fed     int       // links put into the queue
}

func newTerm(f *Feeder, epoch int64) *term {
	t := &term{feeder: f, cfg: &f.cfg, ledger: f.ledger, epoch: epoch}
	t.queue = newQueue(f, t.traceparent)
	t.repair = newRepairer(t, f)
	return t
}

// traceparent returns the place of a batch in its trace, or "".
func (t *term) traceparent(id string) string {
	if b := t.batches[id]; b != nil {
		return b.Trace
	}
	return ""
}

// round feeds the open batches, then does the other duties that are due.
func (t *term) round(ctx context.Context) (busy bool, err error) {
	batches, err := t.load(ctx)
	if err != nil {
		return false, err
	}
	var open []*batch
	for _, b := range batches {
		if b.State == ledger.Ready || b.State == ledger.Running {
			open = append(open, b)
		}
	}
	if open, err = t.begun(ctx, open); err != nil {
		return true, err
	}
	if len(open) > 0 && !t.full() {
		if err := t.feed(ctx, open); err != nil {
			return true, err
		}
	}
	return len(open) > 0, t.repair.do(ctx, batches)
}

// full says whether the look-ahead is still full.
func (t *term) full() bool {
	return time.Now().Before(t.fullUntil) && float64(t.cfg.Limit().Rate) <= t.fullRate && t.cfg.Unsent() > 0
}

// begun leaves out the batches whose time has not come.
func (t *term) begun(ctx context.Context, open []*batch) ([]*batch, error) {
	if !slices.ContainsFunc(open, func(b *batch) bool { return !b.NotBefore.IsZero() && !b.started }) {
		return open, nil
	}
	now, err := t.ledger.Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask Redis for the time: %w", err)
	}
	return slices.DeleteFunc(open, func(b *batch) bool { return now.Before(b.NotBefore) }), nil
}

// load reads the unfinished batches.
func (t *term) load(ctx context.Context) ([]*batch, error) {
	unfinished, err := t.ledger.Unfinished(ctx, slices.Collect(maps.Keys(t.batches))...)
	if err != nil {
		return nil, err
	}
	batches := make([]*batch, len(unfinished))
	known := make(map[string]*batch, len(unfinished))
	for i, read := range unfinished {
		b := t.batches[read.ID]
		// A batch may have the id of a deleted one.
		if b == nil || b.Incarnation() != read.Incarnation() {
			b = &batch{}
			if read.State == ledger.Newer {
				t.cfg.Log.Warn("batch of a newer release left alone: its workers feed it", "batch", read.ID)
			}
		}
		b.Batch, b.read = read, read.Cursor
		batches[i], known[read.ID] = b, b
	}
	t.batches = known
	return batches, nil
}

// capacity is what the fleet's workers can take, by their latest heartbeats.
type capacity struct {
	now     time.Time // Redis' time
	rate    float64   // of the whole fleet, requests a second
	ceiling float64   // the lowest of the workers' own rates
	workers int
	unsent  int       // links in their hands that they can send
	asOf    time.Time // unsent may have changed since
	lone    bool      // the only worker is in this process, so that unsent is exact
}

func (t *term) capacity(ctx context.Context) (capacity, error) {
	heartbeats, now, err := t.ledger.Workers(ctx)
	if err != nil {
		return capacity{}, err
	}
	limit := t.cfg.Limit()
	c := capacity{now: now, asOf: now, rate: float64(limit.Rate), ceiling: float64(limit.Ceiling)}
	for _, h := range heartbeats {
		c.workers++
		if h.ID == t.cfg.Process && t.cfg.Unsent != nil {
			h.Unsent, h.At = t.cfg.Unsent(), now
		}
		// Links under a worker's own hold come back, and those of a silent worker are taken over. A worker
		// with all its requests out cannot send more, and others may.
		saturated := len(heartbeats) > 1 && h.Concurrency > 0 && h.InFlight >= h.Concurrency
		if !h.Own && !saturated && now.Sub(h.At) < silentWorker {
			c.unsent += h.Unsent
			// An idle worker sends a heartbeat as soon as it has links.
			if h.Unsent > 0 && h.At.Before(c.asOf) {
				c.asOf = h.At
			}
		}
	}
	c.lone = len(heartbeats) == 1 && heartbeats[0].ID == t.cfg.Process && t.cfg.Unsent != nil
	t.feeder.lone.Store(c.lone)
	return c, nil
}

// sliceSize returns the links of a slice: half a second of the ceiling, at most 50 links, so that a
// fleet shares its work. At low ceilings it is up to 2 s, and from 5,000/s it is 10 ms, for fewer tasks.
func (c capacity) sliceSize() int {
	return int(max(1, min(2*c.ceiling, slowSlice), min(c.ceiling/2, task.SmallSlice), min(c.ceiling/100, task.MaxSlice)))
}

// lookAhead returns how many links may wait in the queue and unsent in the workers, which sent so many in
// the last paceOver.
func (c capacity) lookAhead(slice, sent int) int {
	ahead := lookAhead
	if c.lone {
		ahead = lookAheadLone
	}
	most := int(min(max(float64(slice), c.rate*ahead.Seconds()), task.MaxLookAhead))
	return min(most, max(sent, sparse))
}

// feed fills the queue up to the look-ahead.
func (t *term) feed(ctx context.Context, open []*batch) error {
	c, err := t.capacity(ctx)
	if err != nil {
		return err
	}
	pending, retrying, err := t.queue.lengths(ctx)
	if err != nil {
		return err
	}
	t.feeder.delayed.Store(retrying > 0)
	if retrying > maxRetrying {
		return nil
	}
	largest := c.sliceSize()
	for _, b := range open {
		largest = max(largest, b.Slice)
	}
	queued := pending * largest
	waiting := t.waiting(c, queued)
	room := c.lookAhead(largest, t.sent(c.now, waiting)) - waiting
	next, links, err := t.gather(ctx, open, room, c.sliceSize())
	if err != nil {
		return err
	}
	if over := float64(links - room); c.lone && over > 0 && c.rate > 0 {
		t.fullUntil = time.Now().Add(time.Duration(min(over/c.rate, 2) * float64(time.Second)))
		t.fullRate = c.rate
	}
	t.rounds = append(t.rounds, feedRound{at: c.now, queued: queued, waiting: waiting, fed: links})
	if err := t.queue.enqueue(ctx, next); err != nil {
		return err
	}
	// The cursors move last: a crash before that feeds slices twice, which the records
	// make harmless. The other way round, slices would wait for repair.
	for _, b := range open {
		if b.started && b.Cursor > b.read {
			if err := b.advance(ctx, t.ledger, t.epoch); err != nil {
				return err
			}
		}
	}
	return nil
}

// waiting returns how many links wait in queue and workers at most. The heartbeats are old: the
// workers may have taken all that was in the queue, and all that was fed.
func (t *term) waiting(c capacity, queued int) int {
	if c.lone || len(t.rounds) == 0 {
		return c.unsent + queued
	}
	told := 0 // the last round that the heartbeats may know of
	for told+1 < len(t.rounds) && !t.rounds[told+1].at.After(c.asOf) {
		told++
	}
	taken := t.rounds[told].queued
	for _, round := range t.rounds[told:] {
		taken += round.fed
	}
	return c.unsent + max(queued, taken)
}

// sent returns about how many links were sent in the last paceOver, if so many wait now.
func (t *term) sent(now time.Time, waiting int) int {
	from := now.Add(-paceOver)
	// waiting needs the last round before that, and no earlier one.
	for len(t.rounds) > 1 && !t.rounds[1].at.After(from) {
		t.rounds = t.rounds[1:]
	}
	for i, first := range t.rounds {
		if !first.at.After(from) {
			continue
		}
		sent := first.waiting - waiting
		for _, round := range t.rounds[i:] {
			sent += round.fed
		}
		return sent
	}
	return 0
}

// advance writes the batch's cursor and low-water mark. It is not an error if the batch was deleted.
func (b *batch) advance(ctx context.Context, l *ledger.Ledger, epoch int64) error {
	err := l.Advance(ctx, b.Batch, epoch, b.Cursor, b.Low)
	if errors.Is(err, ledger.ErrNoBatch) {
		return nil
	}
	return err
}

// gather takes slices in turn until room is filled. It moves cursors without writing them.
func (t *term) gather(ctx context.Context, open []*batch, room, size int) (next []task.Slice, links int, err error) {
	slices.SortFunc(open, func(a, b *batch) int { return strings.Compare(a.ID, b.ID) })
	for links < room {
		b := t.next(open)
		if b == nil {
			break
		}
		s, pending, err := t.nextSlice(ctx, b, size)
		if errors.Is(err, ledger.ErrNoBatch) {
			b.State = ledger.Done // deleted: skip it
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

// Classes of batches take turns. The lower ones come first where one has nothing to feed.
const (
	imports = iota
	sweeps
	verifications
	classes
)

func (b *batch) class() int {
	switch b.Source {
	case importer.SourceSweep:
		return sweeps
	case ledger.SourceVerify:
		return verifications
	}
	return imports
}

// classOf is the class that a turn is for.
func classOf(turn int) int {
	switch turn %= allTurns; {
	case turn == allTurns-1:
		return verifications
	case turn%sweepTurns == sweepTurns-1:
		return sweeps
	}
	return imports
}

// next returns the batch whose turn it is, or nil. Batches of a class take turns by their priority: each
// turn moves a batch's virtual time on by the inverse of its weight, and the earliest is next.
func (t *term) next(open []*batch) *batch {
	var found [classes]*batch
	for _, b := range open {
		if b.Cursor >= b.Total || !b.Open() {
			continue
		}
		class := b.class()
		// It may be new, or have been paused. What is left of a new batch's head start lets a small one pass
		// a large one.
		ahead := float64(max(0, headStart-b.turns)) / float64(b.Priority.Weight())
		b.pass = max(b.pass, t.passed[class]-ahead)
		// Of those with the same time, the first one behind the batch fed last, or else the first of all.
		if f := found[class]; f == nil || b.pass < f.pass || b.pass == f.pass && b.ID > t.last[class] && f.ID <= t.last[class] {
			found[class] = b
		}
	}
	if classOf(t.turn) == verifications && found[verifications] == nil {
		t.turn++
	}
	wanted := classOf(t.turn)
	for _, class := range [...]int{wanted, imports, sweeps, verifications} {
		if b := found[class]; b != nil {
			t.turn++
			t.last[class], t.passed[class] = b.ID, max(t.passed[class], b.pass)
			b.turns++
			b.pass += 1 / float64(b.Priority.Weight())
			return b
		}
	}
	return nil
}

// nextSlice returns the next slice of the current chunk with pending links, and how many
// are pending. It moves the cursor behind the slice. 0 links: the chunk has no more.
func (t *term) nextSlice(ctx context.Context, b *batch, size int) (s task.Slice, links int, err error) {
	if !b.started || b.Slice == 0 {
		b.PauseAbove = cmp.Or(b.PauseAbove, t.cfg.PauseAbove)
		if err := t.ledger.Start(ctx, &b.Batch, t.epoch, size, t.cfg.Process); err != nil {
			return s, 0, err
		}
		b.started = true
	}
	n := int(b.Cursor / ledger.ChunkLinks)
	if b.chunk == nil || b.chunk.n != n {
		if b.chunk, err = readChunk(ctx, t.ledger, b.ID, n); err != nil {
			return s, 0, err
		}
	}
	for index := int(b.Cursor % ledger.ChunkLinks); index < len(b.chunk.links); {
		end := min(index+b.Slice, len(b.chunk.links))
		b.Cursor = int64(n)*ledger.ChunkLinks + int64(end)
		if links := pending(b.chunk.records[index:end]); links > 0 {
			return b.slice(b.chunk, index, end), links, nil
		}
		index = end
	}
	return s, 0, nil
}

func (b *batch) slice(c *chunk, from, to int) task.Slice {
	return task.Slice{Batch: b.ID, Incarnation: b.Incarnation(), Chunk: c.n, Index: from, Links: c.links[from:to], Verify: b.Verifies()}
}

func readChunk(ctx context.Context, l *ledger.Ledger, id string, n int) (*chunk, error) {
	links, err := l.Links(ctx, id, n)
	if err != nil {
		return nil, err
	}
	records, err := l.Records(ctx, id, n, 0, len(links))
	if err != nil {
		return nil, err
	}
	return &chunk{n: n, links: links, records: records}, nil
}

// pending counts the records without an outcome.
func pending(records []ledger.Record) (links int) {
	for _, r := range records {
		if r.Outcome == ledger.None {
			links++
		}
	}
	return links
}
