package task

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hibiken/asynq"
)

// Later is the error of a handler that returns its task to the queue for a time. It is not
// a failure: asynq's retry count stays, so that a count above 0 always means a crash.
type Later struct {
	Delay time.Duration
	Why   string
}

func (e *Later) Error() string { return e.Why }

// ErrLeaseOver ends a handler whose lease of the task may belong to another process.
var ErrLeaseOver = errors.New("the task's lease is over")

// IsFailure is asynq's Config.IsFailure.
func IsFailure(err error) bool { return !errors.As(err, new(*Later)) }

// RetryDelay is asynq's Config.RetryDelayFunc. failures is asynq's retry count.
func RetryDelay(failures int, err error, _ *asynq.Task) time.Duration {
	var later *Later
	switch {
	case errors.As(err, &later):
		return later.Delay
	case errors.Is(err, ErrLeaseOver), errors.Is(err, asynq.ErrLeaseExpired), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return 0
	}
	return min(time.Minute, time.Second<<min(failures, 6)) // a panic
}

// Bounds of Backoff.
const (
	BackoffUnit = 2 * time.Second
	MaxBackoff  = 15 * time.Minute
)

// Backoff returns the delay after attempt n: 0 to BackoffUnit · 2ⁿ⁻¹, at most MaxBackoff.
func Backoff(n int) time.Duration {
	return rand.N(min(MaxBackoff, BackoffUnit<<min(n-1, 10)))
}
