package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// ServerHook is a hook for the client of an asynq server that changes two behaviors:
//
//   - asynq never retries a failed acknowledgement, so the task would run again a
//     minute later. The hook retries a failing script until its context ends.
//   - When Redis refuses (out of memory, loading, a missing permission), asynq asks
//     for the next task over 60,000 times a second. Such a script has no deadline.
//     The hook delays its error.
//
// It also records the renewal of task leases, see LastRenewal, and lets a Pacer decide when asynq, which
// only polls, asks its queues.
type ServerHook struct {
	passThrough
	pacer   Pacer // nil: asynq polls as it does by itself
	renewed atomic.Pointer[time.Time]
	givenUp atomic.Bool
}

// Pacer decides when an asynq server asks its queues. Without it, an idle server of two queues runs
// eight scripts a second for tasks that are due again, and as many more for each look at its queues.
type Pacer interface {
	// AwaitTask returns when the next task may be asked for. waited: that took a while.
	AwaitTask() (waited bool)
	// Asked is called after a queue was asked for a task.
	Asked(found bool)
	// Moves says whether this process now moves tasks whose delay is over from this key to their queue.
	Moves(key string) bool
	// Moved is called after some were moved.
	Moved()
}

// NewServerHook returns a hook. A nil pacer leaves asynq's polling as it is.
func NewServerHook(pacer Pacer) *ServerHook { return &ServerHook{pacer: pacer} }

const (
	pauseNoDeadline = 200 * time.Millisecond
	pauseFirst      = 50 * time.Millisecond
	pauseMost       = time.Second
)

// LastRenewal returns when asynq last renewed its leases, by the monotonic clock, or zero.
func (h *ServerHook) LastRenewal() time.Time {
	if t := h.renewed.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// errGivenUp is the error of all commands after GiveUp.
var errGivenUp = errors.New("the process is ending")

// GiveUp makes every further command fail at once, so that the process can end without Redis.
func (h *ServerHook) GiveUp() { h.givenUp.Store(true) }

// ProcessHook implements redis.Hook. asynq servers send no scripts in pipelines.
func (h *ServerHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if h.givenUp.Load() {
			cmd.SetErr(errGivenUp)
			return errGivenUp
		}
		if h.pacer != nil {
			if paced, err := h.pace(ctx, cmd, next); paced {
				return err
			}
		}
		return h.process(ctx, cmd, next)
	}
}

// pace runs the scripts that asynq polls with. paced: cmd was one of them.
func (h *ServerHook) pace(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) (paced bool, err error) {
	kind, key := pollOf(cmd)
	switch kind {
	case pollTask:
		// asynq has set the end of the lease before, so it must ask again after a wait.
		if h.pacer.AwaitTask() {
			cmd.SetErr(redis.Nil)
			return true, redis.Nil
		}
		err := h.process(ctx, cmd, next)
		if err == nil || errors.Is(err, redis.Nil) {
			h.pacer.Asked(err == nil)
		}
		return true, err
	case pollRetry:
		if !h.pacer.Moves(key) {
			cmd.(*redis.Cmd).SetVal(int64(0))
			return true, nil
		}
		err := h.process(ctx, cmd, next)
		if n, _ := cmd.(*redis.Cmd).Int64(); err == nil && n > 0 {
			h.pacer.Moved()
		}
		return true, err
	case pollScheduled: // no task of these queues ever is
		cmd.(*redis.Cmd).SetVal(int64(0))
		return true, nil
	}
	return false, nil
}

// process runs a command.
func (h *ServerHook) process(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
	sent := time.Now()
	err := next(ctx, cmd)
	if err == nil && isRenewal(cmd) {
		// The time before the call, because Redis counts from then at the earliest.
		h.renewed.Store(&sent)
	}
	if !isScript(cmd) {
		return err
	}
	if _, ok := ctx.Deadline(); !ok && permissionRefused(err) {
		wait(ctx, pauseNoDeadline)
		return err
	}
	for pause := pauseFirst; mayPass(err) && !h.givenUp.Load(); pause = min(2*pause, pauseMost) {
		if _, ok := ctx.Deadline(); !ok {
			wait(ctx, pauseNoDeadline)
			return err
		}
		if !wait(ctx, pause) {
			return err
		}
		cmd.SetErr(nil)
		err = next(ctx, cmd)
	}
	return err
}

// passThrough is a redis.Hook that does nothing. Other hooks embed it and replace some methods.
type passThrough struct{}

func (passThrough) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (passThrough) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (passThrough) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func isScript(cmd redis.Cmder) bool {
	return cmd.Name() == "eval" || cmd.Name() == "evalsha"
}

// poll is a kind of script that asynq runs again and again.
type poll int

const (
	noPoll        poll = iota
	pollTask           // takes a task: keys pending, paused, active, lease
	pollRetry          // moves tasks that are due again: keys retry, pending
	pollScheduled      // moves tasks that are due for the first time: keys scheduled, pending
)

// pollOf recognizes asynq's scripts by their keys, and returns the first one.
func pollOf(cmd redis.Cmder) (kind poll, key string) {
	args := cmd.Args()
	if _, ok := cmd.(*redis.Cmd); !ok || !isScript(cmd) || len(args) < 5 {
		return noPoll, ""
	}
	key, _ = args[3].(string)
	second, _ := args[4].(string)
	if !strings.HasPrefix(key, "asynq:{") {
		return noPoll, ""
	}
	_, first, _ := strings.Cut(key, "}")
	_, second, _ = strings.Cut(second, "}")
	switch {
	case first == ":pending" && second == ":paused":
		return pollTask, key
	case first == ":retry" && second == ":pending":
		return pollRetry, key
	case first == ":scheduled" && second == ":pending":
		return pollScheduled, key
	}
	return noPoll, ""
}

// isRenewal recognizes asynq's extension of leases: ZADD <queue>:lease XX ….
func isRenewal(cmd redis.Cmder) bool {
	if cmd.Name() != "zadd" || len(cmd.Args()) < 2 {
		return false
	}
	key, _ := cmd.Args()[1].(string)
	return strings.HasPrefix(key, "asynq:{") && strings.HasSuffix(key, ":lease")
}

// mayPass reports whether a script failed for a temporary reason: the connection, or a
// server that cannot serve now. An error from a script itself is not temporary.
func mayPass(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) || errors.Is(err, redis.ErrClosed) {
		return false
	}
	reply, ok := errors.AsType[redis.Error](err)
	if !ok {
		return !errors.Is(err, context.Canceled)
	}
	return slices.ContainsFunc(temporary, func(text string) bool { return strings.Contains(reply.Error(), text) })
}

// temporary are texts in the errors of a server that cannot serve now.
var temporary = []string{
	"OOM", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF", "NOREPLICAS",
	"ERR max number of clients",
}

// wait returns false if the context ended first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
