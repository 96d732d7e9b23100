//go:build !linux

package ratelimit

import "time"

// newKernelTimer returns Go's timer.
func newKernelTimer(fire func()) timer { return time.AfterFunc(never, fire) }
