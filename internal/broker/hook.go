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
// It also records the renewal of task leases: see LastRenewal.
type ServerHook struct {
	passThrough
	renewed atomic.Pointer[time.Time]
	givenUp atomic.Bool
}

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
