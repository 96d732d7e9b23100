package task

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hibiken/asynq"
)

func TestRetryDelay(t *testing.T) {
	for _, tt := range []struct {
		failures int
		err      error
		want     time.Duration
		failure  bool
	}{
		{0, &Later{Delay: 7 * time.Second}, 7 * time.Second, false},
		{3, &Later{}, 0, false},
		{0, ErrLeaseOver, 0, true},
		{0, asynq.ErrLeaseExpired, 0, true},
		{0, context.Canceled, 0, true},
		{0, errors.New("panic"), time.Second, true},
		{3, errors.New("panic"), 8 * time.Second, true},
		{49, errors.New("panic"), time.Minute, true},
	} {
		if got := RetryDelay(tt.failures, tt.err, nil); got != tt.want {
			t.Errorf("RetryDelay(%d, %v) = %v, want %v", tt.failures, tt.err, got, tt.want)
		}
		if got := IsFailure(tt.err); got != tt.failure {
			t.Errorf("IsFailure(%v) = %v", tt.err, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	for n := 1; n <= 200; n++ {
		most := MaxBackoff
		if n <= 9 {
			most = min(most, 2*time.Second<<(n-1))
		}
		var largest time.Duration
		for range 300 {
			d := Backoff(n)
			if d < 0 || d >= most {
				t.Fatalf("Backoff(%d) = %v, want 0 to %v", n, d, most)
			}
			largest = max(largest, d)
		}
		if largest < most*8/10 {
			t.Errorf("Backoff(%d): %v at most in 300 draws, want nearly %v", n, largest, most)
		}
	}
}
