package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is how early something may happen, so that what is due together is done together.
const timerSlack = 20 * time.Microsecond

// poller waits for many sockets and one timer in one thread. Go's own timers
// are up to 1 ms late in a process that sleeps, which is more than the delays
// that are made here; a timerfd is exact to some 50 µs.
type poller struct {
	epoll, timer int
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	p := &poller{epoll: epoll, timer: timer}
	return p, p.add(timer)
}

func (p *poller) add(fd int) error {
	err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	if err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	return nil
}

// wake rings once, after d.
func (p *poller) wake(d time.Duration) {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))}
	if err := unix.TimerfdSettime(p.timer, 0, &at, nil); err != nil {
		panic(err) // only for a bad argument
	}
}

// run calls readable for each socket that has something to read, and due when
// the timer rings. It returns the first error of readable.
func (p *poller) run(readable func(fd int) error, due func()) error {
	events := make([]unix.EpollEvent, 512)
	var rung [8]byte
	for {
		n, err := unix.EpollWait(p.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for sockets: %w", err)
		}
		for _, e := range events[:n] {
			if int(e.Fd) == p.timer {
				_, _ = unix.Read(p.timer, rung[:])
				due()
				continue
			}
			if err := readable(int(e.Fd)); err != nil {
				return err
			}
		}
	}
}

// fifo is a queue that keeps its memory.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }
func (q *fifo[T]) first() T { return q.items[q.head] }
func (q *fifo[T]) push(item T) {
	if q.head > 0 && q.head >= len(q.items)/2 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, item)
}
func (q *fifo[T]) pop() {
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
}
