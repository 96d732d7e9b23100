package ledger

import (
	"context"
	"fmt"
	"time"
)

const (
	// rereadEach is how many finished batches are read again each time.
	rereadEach = 20
	// lateAnswers is how long late answers may still replace "aborted" in an aborted batch.
	lateAnswers = time.Hour
)

// BatchCache polls all batches. It caches the finished ones. It is not safe for concurrent use.
type BatchCache struct {
	ledger   *Ledger
	finished map[string]Batch
	turn     int // index from which finished batches are read again
}

// NewBatchCache returns an empty cache of the batches in the ledger.
func (l *Ledger) NewBatchCache() *BatchCache { return &BatchCache{ledger: l} }

// Batches returns all batches, newest first. A finished one may be a few calls old. It
// changes only when it is deleted, or by an answer that comes long after an abort.
func (c *BatchCache) Batches(ctx context.Context) ([]Batch, error) {
	pipe := c.ledger.rdb.Pipeline()
	listed, open := pipe.ZRevRange(ctx, keyBatches, 0, -1), pipe.SMembersMap(ctx, keyOpen)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("list batches: %w", err)
	}
	ids := listed.Val()
	if c.turn >= len(ids) {
		c.turn = 0
	}
	var wanted []string
	for i, id := range ids {
		_, unfinished := open.Val()[id]
		_, known := c.finished[id]
		reread := i >= c.turn && i < c.turn+rereadEach
		if unfinished || !known || reread {
			wanted = append(wanted, id)
			delete(c.finished, id)
		}
	}
	c.turn += rereadEach
	read, err := c.ledger.read(ctx, wanted)
	if err != nil {
		return nil, err
	}
	fresh := make(map[string]Batch, len(read))
	for _, b := range read {
		fresh[b.ID] = b
	}
	finished := make(map[string]Batch, len(ids))
	batches := make([]Batch, 0, len(ids))
	for _, id := range ids {
		b, known := c.finished[id]
		if !known {
			if b, known = fresh[id]; !known {
				continue // expired
			}
		}
		if _, unfinished := open.Val()[id]; !unfinished && b.final() {
			finished[id] = b
		}
		batches = append(batches, b)
	}
	c.finished = finished
	return batches, nil
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
