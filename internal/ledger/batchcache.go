package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// lateAnswers is how long late answers may still replace "aborted" in an aborted batch.
const lateAnswers = time.Hour

// relistEvery is after how many calls all ids are listed again, if nothing else asks for it.
const relistEvery = 100

// BatchCache polls all batches. It caches the finished ones. It is not safe for concurrent use.
type BatchCache struct {
	ledger *Ledger
	reread int            // how many finished batches are read again each time
	listed []*cachedBatch // newest first
	byID   map[string]*cachedBatch
	newest string // the score of the newest one
	calls  int
	turn   int // index from which finished batches are read again
}

type cachedBatch struct {
	id       string
	batch    *Batch // nil if it has expired; never changed
	finished bool   // it is read again only in its turn
}

// NewBatchCache returns an empty cache of the batches in the ledger. reread is how many of the finished
// batches are read again each time.
func (l *Ledger) NewBatchCache(reread int) *BatchCache { return &BatchCache{ledger: l, reread: reread} }

// Batches returns all batches, newest first. A finished one may be a few calls old. It
// changes only when it is deleted, or by an answer that comes long after an abort.
func (c *BatchCache) Batches(ctx context.Context) ([]*Batch, error) {
	open, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	for id := range open {
		if e := c.byID[id]; e != nil {
			e.finished = false
		}
	}
	if c.turn >= len(c.listed) {
		c.turn = 0
	}
	var wanted []string
	for i, e := range c.listed {
		if !e.finished || i >= c.turn && i < c.turn+c.reread {
			wanted = append(wanted, e.id)
			e.batch, e.finished = nil, false
		}
	}
	c.turn += c.reread
	read, err := c.ledger.read(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for i := range read {
		b := &read[i]
		e := c.byID[b.ID]
		_, unfinished := open[b.ID]
		e.batch, e.finished = b, !unfinished && b.final()
	}
	batches := make([]*Batch, 0, len(c.listed))
	for _, e := range c.listed {
		if e.batch != nil {
			batches = append(batches, e.batch)
		}
	}
	return batches, nil
}

// list brings the list of batches up to date, and returns the unfinished ones. With many batches
// only the new ones are listed, as long as their number fits.
func (c *BatchCache) list(ctx context.Context) (open map[string]struct{}, err error) {
	pipe := c.ledger.rdb.Pipeline()
	unfinished, count := pipe.SMembersMap(ctx, keyOpen), pipe.ZCard(ctx, keyBatches)
	later := pipe.ZRangeByScoreWithScores(ctx, keyBatches, &redis.ZRangeBy{Min: "(" + cmp.Or(c.newest, "-inf"), Max: "+inf"})
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("list batches: %w", err)
	}
	fresh, known := later.Val(), c.listed
	if c.calls++; c.calls%relistEvery == 0 || int64(len(known)+len(fresh)) != count.Val() {
		known = nil
		if fresh, err = c.ledger.rdb.ZRangeWithScores(ctx, keyBatches, 0, -1).Result(); err != nil {
			return nil, fmt.Errorf("list batches: %w", err)
		}
	}
	if len(fresh) == 0 && (known != nil || len(c.listed) == 0) {
		return unfinished.Val(), nil
	}
	listed := make([]*cachedBatch, 0, len(fresh)+len(known))
	for _, z := range slices.Backward(fresh) {
		id, _ := z.Member.(string)
		e := c.byID[id]
		if e == nil {
			e = &cachedBatch{id: id}
		}
		listed = append(listed, e)
	}
	c.newest = ""
	if len(fresh) > 0 {
		c.newest = strconv.FormatFloat(fresh[len(fresh)-1].Score, 'f', -1, 64)
	}
	c.listed = append(listed, known...)
	c.byID = make(map[string]*cachedBatch, len(c.listed))
	for _, e := range c.listed {
		c.byID[e.id] = e
	}
	return unfinished.Val(), nil
}

// final reports whether a batch is not expected to change any more.
func (b Batch) final() bool {
	switch {
	case b.Pending() > 0:
		return false
	case b.State == AbortedState:
		return time.Since(b.Finished) > lateAnswers
	}
	return b.State == Done
}
