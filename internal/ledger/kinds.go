package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Kind is what a batch knows of one kind of answers that the API may not have given.
// At most 62 are told apart in a batch; the others have the index 63 together, and
// nothing is known of them.
type Kind struct {
	Text string
	// Links is how many links got such an answer, exact up to 20: a link that gets
	// answers of several kinds by turns may count more than once after that.
	Links int64
	// Contradicted: the API itself has answered about one of these links since. It
	// does not become false again.
	Contradicted bool
}

// parseKind reads what kinds.lua wrote: 'INDEX LINKS CONTRADICTED', then places.
func parseKind(text, value string) (index int, k Kind) {
	fields := strings.Fields(value)
	if len(fields) < 3 {
		return 0, Kind{}
	}
	return int(number(fields[0])), Kind{Text: text, Links: number(fields[1]), Contradicted: fields[2] == "1"}
}

// Kind is what a batch knows by now of a kind of answers; zero if it knows nothing.
func (l *Ledger) Kind(ctx context.Context, batch, text string) (Kind, error) {
	text = cutStatus(text)
	value, err := l.rdb.HGet(ctx, keyKinds(batch), text).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Kind{}, fmt.Errorf("read the kinds of answers of batch %s: %w", batch, err)
	}
	_, k := parseKind(text, value)
	return k, nil
}

// kinds reads all kinds of a batch by their index.
func (l *Ledger) kinds(ctx context.Context, batch string) (map[int]Kind, error) {
	h, err := l.rdb.HGetAll(ctx, keyKinds(batch)).Result()
	if err != nil {
		return nil, fmt.Errorf("read the kinds of answers of batch %s: %w", batch, err)
	}
	kinds := make(map[int]Kind, len(h))
	for text, value := range h {
		index, k := parseKind(text, value)
		kinds[index] = k
	}
	return kinds, nil
}
