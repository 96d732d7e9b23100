package ratelimit

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kernelLeast is the shortest wait for which a kernel timer is used. At higher rates the rounding of Go's
// timers hands out the slots of a millisecond together, which is cheaper.
const kernelLeast = 2 * time.Millisecond

// kernelTimer wakes an idle process once. Go's timers wake it twice, because the runtime rounds its
// sleep down to a millisecond, and they wake the runtime's monitor thread as well. At 10 requests a
// second that took 15% of the worker's CPU time.
type kernelTimer struct {
	file  *os.File
	fd    int
	short *time.Timer
	long  bool // the latest Reset was for file, not short
}

// newKernelTimer returns Go's timer if the kernel has none for this process.
func newKernelTimer(fire func()) timer {
	short := time.AfterFunc(never, fire)
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return short
	}
	t := &kernelTimer{file: os.NewFile(uintptr(fd), "timer"), fd: fd, short: short}
	go func() {
		var times [8]byte
		for {
			if _, err := t.file.Read(times[:]); err != nil {
				return // stopped
			}
			fire()
		}
	}()
	return t
}

// Reset implements timer. It must not be called after Stop.
func (t *kernelTimer) Reset(d time.Duration) bool {
	var spec unix.ItimerSpec // zero: not set
	long := d >= kernelLeast
	if long {
		t.short.Stop()
		spec.Value = unix.NsecToTimespec(int64(d))
	} else {
		t.short.Reset(d)
	}
	if long || t.long {
		_ = unix.TimerfdSettime(t.fd, 0, &spec, nil) // the arguments are always valid
	}
	t.long = long
	return true
}

// Stop implements timer, and frees the kernel's timer.
func (t *kernelTimer) Stop() bool {
	t.short.Stop()
	return t.file.Close() == nil
}
