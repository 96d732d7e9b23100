// Package task defines the tasks in the queue: types, queues, payloads, ids and retries.
package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	// TypeCancel is the type of a task that cancels one slice.
	TypeCancel = "links:cancel"
	// TypeVerify is the type of a task that reads the links of one slice.
	TypeVerify = "links:verify"
	// QueueCancel is the queue of all cancel tasks. QueueVerify is that of verifications: workers of
	// earlier releases do not look into it.
	QueueCancel, QueueVerify = "cancel", "verify"
	// MaxSlice is the largest number of links in a slice, SmallSlice that of format 1.
	MaxSlice, SmallSlice = 200, 50
	// MaxLookAhead is how many links wait in the queue at most.
	MaxLookAhead = 20_000
	// MaxAhead is how many links behind a batch's cursor may have been sent at most.
	MaxAhead = MaxLookAhead + MaxSlice
	// Version is the newest payload format, of slices to verify. Format 2 has up to MaxSlice links.
	// Slices that are small enough are still written in format 1 for workers of an earlier release.
	Version      = 3
	largeVersion = 2
)

// Queues are the queues of slices. asynq looks into them in a random order with these weights. The
// feeder decides about the turns.
var Queues = map[string]int{QueueCancel: 20, QueueVerify: 1}

// PendingKey and RetryKey are where asynq keeps the ids of the tasks of a queue that wait for a
// worker, and of those that wait for a retry: a list and a sorted set. asynq's own Inspector reads
// them together with the memory of a sample of tasks, which is slower and not allowed everywhere.
func PendingKey(queue string) string { return "asynq:{" + queue + "}:pending" }

// RetryKey is the key of the tasks that wait for a retry: see PendingKey.
func RetryKey(queue string) string { return "asynq:{" + queue + "}:retry" }

// timeout is how long asynq lets a task run. Each HTTP call has a far shorter timeout.
const timeout = 24 * time.Hour

// ErrNewer is the error of a payload that a newer release wrote.
var ErrNewer = errors.New("the task was written by a newer linkcancel")

// MaxBatchID is the length of the longest batch id.
const MaxBatchID = 64

// ValidBatchID reports whether an id has 1 to MaxBatchID letters, digits, '.', '_' and '-'.
func ValidBatchID(id string) bool {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	return id != "" && len(id) <= MaxBatchID && strings.Trim(id, allowed) == ""
}

// Slice is the payload of a task of one of Queues: consecutive links of one chunk.
type Slice struct {
	V     int    `json:"v"`
	Batch string `json:"batch"`
	// Incarnation is when the batch was made, in ms: its id may be reused. 0: an older release.
	Incarnation int64 `json:"made,omitempty"`
	Chunk       int   `json:"chunk"`
	// Index is the position of the first link in its chunk.
	Index         int      `json:"index"`
	Redeliveries  int      `json:"again,omitempty"` // how often it was enqueued again after a crash
	ReplicationID string   `json:"line,omitempty"`  // ledger.QueueReplicationID when it was fed
	Links         []string `json:"links"`
	// Verify: the links are only read.
	Verify bool `json:"verify,omitempty"`
	// Headers go with the payload and name the place in a trace. nil: no trace.
	Headers map[string]string `json:"-"`
}

// Key identifies the slice within its batch.
func (s Slice) Key() string { return strconv.Itoa(s.Chunk) + ":" + strconv.Itoa(s.Index) }

// ID returns the id of the slice's task. Each redelivery has its own. It has the incarnation,
// because a task of a deleted batch may wait and must not block one of a new batch.
func (s Slice) ID() string {
	id := s.Batch + ":"
	if s.Incarnation != 0 {
		id += strconv.FormatInt(s.Incarnation, 36) + ":"
	}
	id += s.Key()
	if s.Redeliveries > 0 {
		id += "~" + strconv.Itoa(s.Redeliveries)
	}
	return id
}

// Queue is the queue of the slice's task.
func (s Slice) Queue() string {
	if s.Verify {
		return QueueVerify
	}
	return QueueCancel
}

// Task makes the asynq task of the slice.
func (s Slice) Task() (*asynq.Task, error) {
	kind := TypeCancel
	switch {
	case s.Verify:
		s.V, kind = Version, TypeVerify
	case len(s.Links) > SmallSlice:
		s.V = largeVersion
	default:
		s.V = 1
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode task %s: %w", s.ID(), err)
	}
	return asynq.NewTaskWithHeaders(kind, payload, s.Headers,
		asynq.TaskID(s.ID()),
		asynq.Queue(s.Queue()),
		asynq.Timeout(timeout),
		// The ledger counts attempts. asynq's archive would drop entries. It stores an int32.
		asynq.MaxRetry(math.MaxInt32),
	), nil
}

// Parse reads the payload of a slice's task. The error is ErrNewer if a newer release wrote it.
func Parse(payload []byte) (Slice, error) {
	var s Slice
	err := json.Unmarshal(payload, &s)
	if s.V > Version { // first, since a newer format may have other types
		return Slice{}, fmt.Errorf("decode cancel task: format %d: %w", s.V, ErrNewer)
	}
	if err != nil {
		return Slice{}, fmt.Errorf("decode cancel task: %w", err)
	}
	most := MaxSlice
	if s.V == 1 {
		most = SmallSlice
	}
	switch {
	case s.V < 1:
		return Slice{}, errors.New("decode cancel task: no format version")
	case !ValidBatchID(s.Batch):
		return Slice{}, fmt.Errorf("decode cancel task: bad batch id %q", s.Batch)
	case s.Chunk < 0 || s.Index < 0 || s.Redeliveries < 0:
		return Slice{}, fmt.Errorf("decode cancel task: negative place %d:%d~%d", s.Chunk, s.Index, s.Redeliveries)
	case s.Verify != (s.V == Version):
		return Slice{}, fmt.Errorf("decode cancel task: format %d, and verify is %t", s.V, s.Verify)
	case len(s.Links) == 0 || len(s.Links) > most:
		return Slice{}, fmt.Errorf("decode cancel task: %d links, a slice has 1 to %d", len(s.Links), most)
	}
	return s, nil
}

// ExpiredLeases counts the tasks of some queues whose worker lost its lease.
func ExpiredLeases(ctx context.Context, rdb redis.UniversalClient, queues ...string) (expired int64, err error) {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	replies, err := rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, queue := range queues {
			pipe.ZCount(ctx, "asynq:{"+queue+"}:lease", "-inf", now)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for expired leases: %w", err)
	}
	for _, reply := range replies {
		expired += reply.(*redis.IntCmd).Val()
	}
	return expired, nil
}

// Orphans returns the payloads of the tasks of one type whose worker lost its lease.
func Orphans(inspector *asynq.Inspector, queue, kind string) (payloads [][]byte, err error) {
	const size = 200
	for page := 1; ; page++ {
		active, err := inspector.ListActiveTasks(queue, asynq.PageSize(size), asynq.Page(page))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			return payloads, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list tasks at work: %w", err)
		}
		for _, t := range active {
			if t.IsOrphaned && t.Type == kind {
				payloads = append(payloads, t.Payload)
			}
		}
		if len(active) < size {
			return payloads, nil
		}
	}
}
