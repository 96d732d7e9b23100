package worker

import (
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/ledger"
)

// What Redis does not accept is left, of all batches and chunks.
func TestRecorderKeepsWhatFails(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer rdb.Close()
	r := newRecorder(ledger.New(rdb), nil, nil, noObserver{}, slog.New(slog.DiscardHandler), func() bool { return true })
	left, err := r.try(t.Context(), sorted([]recordCall{
		{Entry: ledger.Entry{Batch: "b"}}, {Entry: ledger.Entry{Batch: "a", Chunk: 1}}, {Entry: ledger.Entry{Batch: "a", Position: 1}}, {Entry: ledger.Entry{Batch: "a"}},
	}))
	if len(left) != 4 || err == nil {
		t.Errorf("%d are left, %v", len(left), err)
	}
}

// A slice comes back when the first of its links may be tried again.
func TestSliceWaitsForItsFirstLink(t *testing.T) {
	r := &sliceRun{links: []*link{{wait: 15 * time.Minute}, {finished: true}, {wait: time.Second}}, resting: []time.Duration{time.Minute}}
	if left, wait := r.left(); left != 3 || wait != time.Second {
		t.Errorf("%d links left, in %v", left, wait)
	}
}
