package metrics

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/task"
)

var (
	queues = [...]string{task.QueueCancel, task.QueueVerify, task.QueueSweep}
	// taskStates are the states of a task in asynq.
	taskStates = [...]string{"pending", "active", "retry", "scheduled", "archived"}
)

// queue is the state of an asynq queue.
type queue struct {
	tasks [len(taskStates)]int64
	// since is when the oldest pending task became pending, zero without one.
	since time.Time
}

// readQueues reads the same as asynq's Inspector with a few short commands. The Inspector
// also measures memory by sampling tasks, which is slower and not allowed everywhere.
func readQueues(ctx context.Context, rdb redis.UniversalClient) (read [len(queues)]queue, err error) {
	var counts [len(queues)][len(taskStates)]*redis.IntCmd
	var oldest [len(queues)]*redis.StringSliceCmd
	pipe := rdb.Pipeline()
	for i, name := range queues {
		for k, state := range taskStates {
			switch state {
			case "pending", "active":
				counts[i][k] = pipe.LLen(ctx, queueKey(name, state))
			default:
				counts[i][k] = pipe.ZCard(ctx, queueKey(name, state))
			}
		}
		oldest[i] = pipe.LRange(ctx, queueKey(name, "pending"), -1, -1)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return read, fmt.Errorf("read the queues: %w", err)
	}
	for i, name := range queues {
		for k := range taskStates {
			read[i].tasks[k] = counts[i][k].Val()
		}
		for _, id := range oldest[i].Val() {
			if read[i].since, err = pendingSince(ctx, rdb, name, id); err != nil {
				return read, err
			}
		}
	}
	return read, nil
}

// pendingSince returns when a task became pending, zero if it was taken meanwhile.
func pendingSince(ctx context.Context, rdb redis.UniversalClient, queue, id string) (time.Time, error) {
	fields, err := rdb.HMGet(ctx, queueKey(queue, "t:"+id), "pending_since").Result()
	if err != nil {
		return time.Time{}, fmt.Errorf("read the oldest task of queue %s: %w", queue, err)
	}
	text, _ := fields[0].(string)
	ns, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, nil
	}
	return time.Unix(0, ns), nil
}

func queueKey(queue, name string) string { return "asynq:{" + queue + "}:" + name }
