package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/task"
)

// list adds a batch to the lists that List and the feeder read.
func (l *Ledger) list(ctx context.Context, id string) error {
	now, err := l.Now(ctx)
	if err == nil {
		err = l.rdb.ZAddNX(ctx, keyBatches, redis.Z{Score: float64(now.UnixMilli()), Member: id}).Err()
	}
	if err == nil {
		err = l.rdb.SAdd(ctx, keyOpen, id).Err()
	}
	if err != nil {
		return fmt.Errorf("list batch %s: %w", id, err)
	}
	return nil
}

// close takes a batch off the unfinished ones. Somebody may have begun a batch of this id since the
// caller looked, so it is looked for again: who begins a batch lists it after its hash is there.
func (l *Ledger) close(ctx context.Context, id string) error {
	if err := l.rdb.SRem(ctx, keyOpen, id).Err(); err != nil {
		return err
	}
	_, err := l.relist(ctx, id)
	return err
}

// unlist takes a batch off all lists in the same way. If it is interrupted, the id is still in a
// list that Relist reads.
func (l *Ledger) unlist(ctx context.Context, id string) error {
	err := l.close(ctx, id)
	if err == nil {
		err = l.rdb.ZRem(ctx, keyBatches, id).Err()
	}
	if err == nil {
		_, err = l.relist(ctx, id)
	}
	return err
}

// Relist adds batches that are missing from a list and returns their ids: a process may have died
// in close or unlist. On a cluster, a failover may lose entries of both lists; there all batches
// are looked for.
func (l *Ledger) Relist(ctx context.Context) ([]string, error) {
	found, err := l.findUnlisted(ctx)
	if err != nil {
		return found, fmt.Errorf("find unlisted batches: %w", err)
	}
	return found, nil
}

func (l *Ledger) findUnlisted(ctx context.Context) (found []string, err error) {
	ids, err := l.scan(ctx)
	if err != nil {
		return nil, err
	}
	// The lists are read last, because a batch is listed after it was created.
	listed, err := l.rdb.ZRange(ctx, keyBatches, 0, -1).Result()
	if err != nil {
		return nil, err
	}
	open, err := l.rdb.SMembers(ctx, keyOpen).Result()
	if err != nil {
		return nil, err
	}
	known, unfinished := set(listed), set(open)
	ids = slices.DeleteFunc(slices.Concat(ids, listed, open), func(id string) bool { return known[id] && unfinished[id] })
	slices.Sort(ids)
	for part := range slices.Chunk(slices.Compact(ids), 500) {
		relisted, err := l.relist(ctx, part...)
		found = append(found, relisted...)
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// scan returns the ids of all batches of a cluster, and nothing elsewhere.
func (l *Ledger) scan(ctx context.Context) (ids []string, err error) {
	cluster, ok := l.rdb.(*redis.ClusterClient)
	if !ok {
		return nil, nil
	}
	var mu sync.Mutex
	err = cluster.ForEachMaster(ctx, func(ctx context.Context, server *redis.Client) error {
		it := server.ScanType(ctx, 0, "lc:{*}", 1000, "hash").Iterator()
		for it.Next(ctx) {
			id := strings.TrimSuffix(strings.TrimPrefix(it.Val(), "lc:{"), "}")
			if it.Val() == keyBatch(id) && task.ValidBatchID(id) {
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		}
		return it.Err()
	})
	return ids, err
}

// relist lists those of the batches again that are there, and returns the ids that were missing.
func (l *Ledger) relist(ctx context.Context, ids ...string) (found []string, err error) {
	pipe := l.rdb.Pipeline()
	heads, ttls := make([]*redis.SliceCmd, len(ids)), make([]*redis.DurationCmd, len(ids))
	for i, id := range ids {
		heads[i], ttls[i] = pipe.HMGet(ctx, keyBatch(id), "state", "created"), pipe.PTTL(ctx, keyBatch(id))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	for i, id := range ids {
		state, _ := heads[i].Val()[0].(string)
		created, _ := heads[i].Val()[1].(string)
		if state == "" {
			continue // deleted
		}
		added, err := l.rdb.ZAddNX(ctx, keyBatches, redis.Z{Score: float64(number(created)), Member: id}).Result()
		if err != nil {
			return found, err
		}
		// Only retired and unsealed batches expire.
		if retired := ttls[i].Val() >= 0 && State(state) != Importing; !retired {
			opened, err := l.rdb.SAdd(ctx, keyOpen, id).Result()
			if err != nil {
				return found, err
			}
			added += opened
		}
		if added > 0 {
			found = append(found, id)
		}
	}
	return found, nil
}

func set(ids []string) map[string]bool {
	all := make(map[string]bool, len(ids))
	for _, id := range ids {
		all[id] = true
	}
	return all
}
