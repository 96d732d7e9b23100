package ledger

import (
	"context"
	"fmt"
	"time"
)

// Head is what a worker has to know of a batch whose links are in its hands.
type Head struct {
	State   State
	Source  string
	Created time.Time
}

// Head reads the head of a batch; ErrNoBatch if the batch is gone.
func (l *Ledger) Head(ctx context.Context, id string) (Head, error) {
	fields, err := l.rdb.HMGet(ctx, keyBatch(id), "state", "source", "created").Result()
	if err != nil {
		return Head{}, fmt.Errorf("read the head of batch %s: %w", id, err)
	}
	state, ok := fields[0].(string)
	if !ok {
		return Head{}, fmt.Errorf("batch %s: %w", id, ErrNoBatch)
	}
	source, _ := fields[1].(string)
	created, _ := fields[2].(string)
	return Head{State: State(state), Source: source, Created: millis(created)}, nil
}
