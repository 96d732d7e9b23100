package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"
)

// The delaying proxy makes a Redis on loopback a distant one: what arrives is passed on a fixed
// time later, each way. Like the stand-in it is one thread with epoll and a timerfd.

type delayer struct {
	began   time.Time
	poll    *poller
	delay   time.Duration
	peers   map[int]*proxied
	scratch []byte
	due     fifo[parcel]
}

// proxied is one end of a connection.
type proxied struct {
	fd    int
	other *proxied
}

// parcel is what waits to be passed on; no data: the end of the stream.
type parcel struct {
	at   time.Duration
	to   *proxied
	data []byte
}

// runDelay serves until its process is killed: address to pass on to, delay. It
// prints its port first.
func runDelay(_ context.Context, args []string) error {
	delay, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	addr, err := net.ResolveTCPAddr("tcp", args[0])
	if err != nil {
		return fmt.Errorf("read the address to pass on to: %w", err)
	}
	listener, port, err := listenLoopback()
	if err != nil {
		return err
	}
	poll, err := newPoller()
	if err != nil {
		return err
	}
	d := &delayer{began: time.Now(), poll: poll, delay: delay, peers: map[int]*proxied{}, scratch: make([]byte, 256<<10)}
	if err := poll.add(listener); err != nil {
		return err
	}
	fmt.Println(port)
	return poll.run(func(fd int) error {
		if fd == listener {
			return d.connect(listener, addr)
		}
		if p := d.peers[fd]; p != nil {
			d.read(p)
		}
		return nil
	}, d.passOn)
}

func (d *delayer) connect(listener int, target *net.TCPAddr) error {
	client, err := accept(listener)
	if err != nil {
		return nil // it is gone already
	}
	server, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	if err := unix.Connect(server, &unix.SockaddrInet4{Port: target.Port, Addr: [4]byte(target.IP.To4())}); err != nil {
		_ = unix.Close(server)
		_ = unix.Close(client)
		return nil
	}
	_ = unix.SetNonblock(server, true)
	_ = unix.SetsockoptInt(server, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	a, b := &proxied{fd: client}, &proxied{fd: server}
	a.other, b.other = b, a
	d.peers[client], d.peers[server] = a, b
	if err := d.poll.add(client); err != nil {
		return err
	}
	return d.poll.add(server)
}

func (d *delayer) read(p *proxied) {
	n, err := unix.Read(p.fd, d.scratch)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if n <= 0 || err != nil {
		// Nothing more to read; what is on its way still arrives.
		_ = unix.EpollCtl(d.poll.epoll, unix.EPOLL_CTL_DEL, p.fd, nil)
		n = 0
	}
	d.due.push(parcel{at: time.Since(d.began) + d.delay, to: p.other, data: append([]byte(nil), d.scratch[:n]...)})
	if d.due.len() == 1 {
		d.poll.wake(d.delay)
	}
}

// passOn delivers the parcels whose time has come.
func (d *delayer) passOn() {
	for d.due.len() > 0 {
		next := d.due.first()
		if wait := next.at - time.Since(d.began); wait > timerSlack {
			d.poll.wake(wait)
			return
		}
		d.due.pop()
		if len(next.data) == 0 {
			d.close(next.to)
			continue
		}
		d.write(next.to, next.data)
	}
}

func (d *delayer) write(p *proxied, data []byte) {
	for len(data) > 0 && p.fd >= 0 {
		n, err := unix.Write(p.fd, data)
		switch {
		case err == unix.EAGAIN:
			// Whoever reads is slow, and all others wait with it: rare.
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}, 100)
		case err == unix.EINTR:
		case err != nil:
			d.close(p)
			return
		default:
			data = data[n:]
		}
	}
}

// close ends both ends.
func (d *delayer) close(p *proxied) {
	for _, end := range []*proxied{p, p.other} {
		if end.fd >= 0 {
			delete(d.peers, end.fd)
			_ = unix.Close(end.fd)
			end.fd = -1
		}
	}
}

// distant is a running proxy.
type distant struct {
	*process
	addr      string
	roundTrip time.Duration // of a command, as measured
}

// startDelay makes a Redis a distant one.
func (b *bench) startDelay(ctx context.Context, target string, delay time.Duration) (*distant, error) {
	cmd := self("delay", target, delay.String())
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=400"} // one thread does it all
	p, err := start(cmd)
	if err != nil {
		return nil, err
	}
	port, err := p.line(ctx)
	if err != nil {
		return nil, err
	}
	d := &distant{process: p, addr: "127.0.0.1:" + port}
	client := redis.NewClient(&redis.Options{Addr: d.addr, DisableIdentity: true, Protocol: 2})
	defer client.Close()
	const pings = 20
	var trips []float64
	for range pings {
		began := time.Now()
		if err := client.Ping(ctx).Err(); err != nil {
			_ = d.stop()
			return nil, fmt.Errorf("reach Redis through the delay: %w", err)
		}
		trips = append(trips, float64(time.Since(began)))
	}
	d.roundTrip = time.Duration(median(trips))
	return d, nil
}
