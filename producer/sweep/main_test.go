package sweep

import (
	"log/slog"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

func TestMain(m *testing.M) {
	broker.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// store is a ledger and a queue.
type store struct {
	t   *testing.T
	b   *broker.Broker
	rdb redis.UniversalClient
	l   *ledger.Ledger
	i   *asynq.Inspector
}

func newStore(t *testing.T, b *broker.Broker) *store {
	return &store{t: t, b: b, rdb: b.Client(), l: ledger.New(b.Client()), i: asynq.NewInspectorFromRedisClient(b.Client())}
}

// inBubble runs a test on the embedded Redis with a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, s *store)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, b *broker.Broker) { test(t, newStore(t, b)) })
}

func (s *store) batch(id, source string, n int) ledger.Batch {
	s.t.Helper()
	b, err := importer.MakeBatch(s.t.Context(), s.l, &importer.Links{IDs: testutil.LinkIDs(n)}, importer.BatchConfig{ID: id, Source: source})
	testutil.Must(s.t, err)
	return b
}

func (s *store) get(id string) ledger.Batch {
	s.t.Helper()
	b, err := s.l.Get(s.t.Context(), id)
	testutil.Must(s.t, err)
	return b
}
