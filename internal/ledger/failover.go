package ledger

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/task"
)

// A promoted replica may be missing the primary's last writes. A batch is still consistent then,
// but older than what workers have done: links may have been sent without a trace in the ledger. So
// each batch stores the replication ID of the server that it was written under. When it differs
// from the server's present one, the links up to a position that feeding cannot have passed are
// suspect: those without an outcome count as ambiguous. Slice and record.lua apply the rule.

//go:embed failover.lua
var failoverLua string

var suspectsScript = redis.NewScript(failoverLua + `
-- KEYS[1] batch   ARGV links sent ahead at most
-- Returns what suspect_end returns, or nothing if there are no replication IDs.
if not replication_id() then return {} end
return {suspect_end(KEYS[1], tonumber(ARGV[1]))}
`)

// readSuspects reads the end of a batch's suspect range in a pipeline, as its last command:
// records of a new primary are then never combined with the range of the old one. Call
// result after the pipeline. news means that nobody has seen the failover before.
func (l *Ledger) readSuspects(ctx context.Context, pipe redis.Pipeliner, id string) (result func() (end int64, news bool, err error)) {
	if l.neverFailsOver.Load() {
		return func() (int64, bool, error) { return 0, false, nil }
	}
	cmd := suspectsScript.EvalSha(ctx, pipe, []string{keyBatch(id)}, task.MaxAhead)
	return func() (int64, bool, error) {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			cmd = suspectsScript.Eval(ctx, l.rdb, []string{keyBatch(id)}, task.MaxAhead)
		}
		reply, err := cmd.Int64Slice()
		if err != nil {
			return 0, false, fmt.Errorf("read the suspect range of batch %s: %w", id, err)
		}
		if len(reply) < 2 { // the embedded Redis
			l.neverFailsOver.Store(true)
			return 0, false, nil
		}
		return reply[0], reply[1] == 1, nil
	}
}

var queueReplicationIDScript = redis.NewScript(failoverLua + `
-- KEYS[1] any key
return string.sub(replication_id() or '', 1, 8)
`)

// QueueReplicationID returns a short replication ID of the server that holds a key of the
// queue. If it differs from the one that a task was fed under, the server may have
// forgotten that a worker took the task. It is "" unless Redis is a cluster: elsewhere
// the ledger is on the same server, and detects the failover.
func (l *Ledger) QueueReplicationID(ctx context.Context, key string) (string, error) {
	if _, ok := l.rdb.(*redis.ClusterClient); !ok {
		return "", nil
	}
	replicationID, err := queueReplicationIDScript.Run(ctx, l.rdb, []string{key}).Text()
	if err != nil {
		return "", fmt.Errorf("read the replication ID of the queue: %w", err)
	}
	return replicationID, nil
}

// awaitReplica waits until a replica, if there is one, has the writes to a batch, because
// a confirmed command must survive a failover. It gives up after replicaWait.
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
	// WAIT covers only writes on its own connection, so write something here.
	pipe.Eval(ctx, "local v = redis.call('HGET', KEYS[1], 'v'); return v and redis.call('HSET', KEYS[1], 'v', v)", []string{keyBatch(id)})
	pipe.Do(ctx, "wait", 1, l.replicaWait.Milliseconds())
	_, _ = pipe.Exec(ctx)
}
