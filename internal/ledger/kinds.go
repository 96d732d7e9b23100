package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Kind is what a batch knows about one kind of answers that may not come from the API. A batch
// distinguishes 62 kinds. All others share the index 63, and nothing is stored for them.
type Kind struct {
	Text string
	// Links is how many links got such an answer. Above 20, some may count more than once.
	Links int64
	// Contradicted means that the API itself has answered about one of these links since.
	Contradicted bool
}

// parseKind parses 'INDEX LINKS CONTRADICTED POSITION…' from kinds.lua.
func parseKind(text, value string) (index int, k Kind) {
	fields := strings.Fields(value)
	if len(fields) < 3 {
		return 0, Kind{}
	}
	return int(number(fields[0])), Kind{Text: text, Links: number(fields[1]), Contradicted: fields[2] == "1"}
}

// Kind reads a kind of answers by its text. An unknown kind is zero.
func (l *Ledger) Kind(ctx context.Context, batch, text string) (Kind, error) {
	text = cutStatus(text)
	value, err := l.rdb.HGet(ctx, keyKinds(batch), text).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Kind{}, fmt.Errorf("read kinds of answers of batch %s: %w", batch, err)
	}
	_, k := parseKind(text, value)
	return k, nil
}

// kinds reads all kinds of a batch by index.
func (l *Ledger) kinds(ctx context.Context, batch string) (map[int]Kind, error) {
	h, err := l.rdb.HGetAll(ctx, keyKinds(batch)).Result()
	if err != nil {
		return nil, fmt.Errorf("read kinds of answers of batch %s: %w", batch, err)
	}
	kinds := make(map[int]Kind, len(h))
	for text, value := range h {
		index, k := parseKind(text, value)
		kinds[index] = k
	}
	return kinds, nil
}
