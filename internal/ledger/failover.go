package ledger

import (
	"context"
	_ "embed"
	"fmt"
	"linkcancel/internal/task"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A promoted replica may be missing the primary's last writes. A batch is still
// consistent then, but older than what workers have done: links may have been sent
// without a trace in the ledger. So each batch stores the replication ID of the server
// that it was written under. When it differs from the server's present one, the links up
// to a position that feeding cannot have passed are suspect: those without an outcome
// count as ambiguous. Slice and record.lua apply the rule.

//go:embed failover.lua
var failoverLua string

var queueReplicationIDScript = redis.NewScript(failoverLua + `
-- KEYS[1] any key
return string.sub(replication_id() or '', 1, 8)
`)

// QueueReplicationID names the line of history of the server that has a key of the queue.
// When it is another than a task was fed on, the server may have forgotten that
// a worker took the task. It is "" but on a cluster, since everywhere else the
// ledger is on that server too, and knows of the failover by itself.
func (l *Ledger) QueueReplicationID(ctx context.Context, key string) (string, error) {
	if _, ok := l.rdb.(*redis.ClusterClient); !ok {
		return "", nil
	}
	line, err := queueReplicationIDScript.Run(ctx, l.rdb, []string{key}).Text()
	if err != nil {
		return "", fmt.Errorf("ask for failovers of the queue: %w", err)
	}
	return line, nil
}

// awaitReplica waits until a replica, if there is one, has what was written of a
// batch: what a user was told must not be forgotten. A replica that does not
// answer is waited for in vain, and the user not kept longer.
func (l *Ledger) awaitReplica(ctx context.Context, id string) {
	var server redis.Cmdable = l.rdb
	if cluster, ok := l.rdb.(*redis.ClusterClient); ok {
		node, err := cluster.MasterForKey(ctx, keyBatch(id))
		if err != nil {
			return
		}
		server = node
	}
	info, err := server.Info(ctx, "replication").Result()
	if err != nil || !strings.Contains(info, "state=online") {
		return
	}
	pipe := server.Pipeline()
	// WAIT is for what was written on its own connection.
	pipe.Eval(ctx, "local v = redis.call('HGET', KEYS[1], 'v'); return v and redis.call('HSET', KEYS[1], 'v', v)", []string{keyBatch(id)})
	pipe.Do(ctx, "wait", 1, l.replicaWait.Milliseconds())
	_, _ = pipe.Exec(ctx)
}

// Relist puts batches back that the lists of batches have lost, and returns their
// ids: on a cluster the lists are on other servers than the batches, and a
// failover may have forgotten them alone.
func (l *Ledger) Relist(ctx context.Context) ([]string, error) {
	cluster, ok := l.rdb.(*redis.ClusterClient)
	if !ok {
		return nil, nil
	}
	var mu sync.Mutex
	var ids []string
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, server *redis.Client) error {
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
	if err != nil {
		return nil, fmt.Errorf("look for unlisted batches: %w", err)
	}
	// Only now: a batch is listed after it was made.
	listed, err := l.rdb.ZRange(ctx, keyBatches, 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("look for unlisted batches: %w", err)
	}
	open, err := l.rdb.SMembers(ctx, keyOpen).Result()
	if err != nil {
		return nil, fmt.Errorf("look for unlisted batches: %w", err)
	}
	known, unfinished := set(listed), set(open)
	slices.Sort(ids)
	var found []string
	for _, id := range slices.Compact(ids) {
		if unfinished[id] && known[id] {
			continue
		}
		relisted, err := l.relist(ctx, id, known[id], unfinished[id])
		if err != nil {
			return found, fmt.Errorf("list batch %s again: %w", id, err)
		}
		if relisted {
			found = append(found, id)
		}
	}
	return found, nil
}

func (l *Ledger) relist(ctx context.Context, id string, known, unfinished bool) (relisted bool, err error) {
	pipe := l.rdb.Pipeline()
	head, ttl := pipe.HMGet(ctx, keyBatch(id), "state", "created"), pipe.PTTL(ctx, keyBatch(id))
	if _, err := pipe.Exec(ctx); err != nil {
		return false, err
	}
	state, _ := head.Val()[0].(string)
	created, _ := head.Val()[1].(string)
	if state == "" {
		return false, nil // deleted since
	}
	if !known {
		if err := l.rdb.ZAddNX(ctx, keyBatches, redis.Z{Score: float64(number(created)), Member: id}).Err(); err != nil {
			return false, err
		}
		relisted = true
	}
	// Only what is retired expires, and what is not sealed.
	if retired := ttl.Val() >= 0 && State(state) != Importing; !unfinished && !retired {
		if err := l.rdb.SAdd(ctx, keyOpen, id).Err(); err != nil {
			return false, err
		}
		relisted = true
	}
	return relisted, nil
}

func set(ids []string) map[string]bool {
	all := make(map[string]bool, len(ids))
	for _, id := range ids {
		all[id] = true
	}
	return all
}
