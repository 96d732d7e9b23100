package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The stand-in answers every DELETE with 204, as the API does, after a fixed
// latency, and a GET with the link. It must cost as little as can be, since it runs on the same cores as
// what is measured: so it is one thread with epoll, no goroutine a connection.
//
// PUT /reset?want=N&latency=20ms&stamps=1 begins a measurement. When N different
// links were answered, it writes a tally to standard output, as a line of JSON.
// GET /tally gives one at any time, GET /stamps each request since the reset.

// tally is what the stand-in has seen since its reset. Times are nanoseconds
// since the stand-in began.
type tally struct {
	Requests int   `json:"requests"`
	Distinct int   `json:"distinct"` // links
	Strange  int   `json:"strange"`  // requests that are no DELETE of a link of ours
	First    int64 `json:"first"`    // arrival of the first request
	Last     int64 `json:"last"`     // answer to the last one
	Now      int64 `json:"now"`      // when the tally was made
}

// seconds is how long it took from the first request to the last answer.
func (t tally) seconds() float64 { return time.Duration(t.Last - t.First).Seconds() }

// stamp is one request: which link, and when.
type stamp struct {
	link uint32
	at   int64
}

const noContent = "HTTP/1.1 204 No Content\r\n\r\n"

type standIn struct {
	began   time.Time
	poll    *poller
	conns   map[int]*apiConn
	scratch []byte

	latency time.Duration
	waiting fifo[answerDue]

	tally
	want   int
	seen   []uint64 // a bit a link
	keep   bool
	stamps []stamp
}

type apiConn struct {
	fd   int
	part []byte // of a request that is not complete
}

type answerDue struct {
	at   time.Duration
	conn *apiConn
}

// runStandIn serves until its process is killed. It prints its port first.
func runStandIn(context.Context, []string) error {
	listener, port, err := listenLoopback()
	if err != nil {
		return err
	}
	poll, err := newPoller()
	if err != nil {
		return err
	}
	s := &standIn{began: time.Now(), poll: poll, conns: map[int]*apiConn{}, scratch: make([]byte, 64<<10)}
	s.reset(url.Values{})
	if err := poll.add(listener); err != nil {
		return err
	}
	fmt.Println(port)
	return poll.run(func(fd int) error {
		if fd != listener {
			if c := s.conns[fd]; c != nil {
				s.read(c)
			}
			return nil
		}
		conn, err := accept(listener)
		if err != nil {
			return nil // it is gone already
		}
		s.conns[conn] = &apiConn{fd: conn}
		return poll.add(conn)
	}, s.answerDue)
}

func (s *standIn) now() time.Duration { return time.Since(s.began) }

func (s *standIn) reset(options url.Values) {
	s.tally, s.stamps = tally{}, nil
	s.want, _ = strconv.Atoi(options.Get("want"))
	s.latency, _ = time.ParseDuration(options.Get("latency"))
	s.keep = options.Get("stamps") != ""
	s.seen = make([]uint64, linksMost/64)
}

func (s *standIn) read(c *apiConn) {
	n, err := unix.Read(c.fd, s.scratch)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if n <= 0 || err != nil {
		s.drop(c)
		return
	}
	data := s.scratch[:n]
	if len(c.part) > 0 {
		data = append(c.part, data...)
	}
	for {
		size := requestSize(data)
		if size == 0 || size > len(data) {
			break
		}
		s.request(c, data[:size])
		data = data[size:]
	}
	c.part = append(c.part[:0:0], data...)
}

func (s *standIn) drop(c *apiConn) {
	delete(s.conns, c.fd)
	_ = unix.Close(c.fd)
	c.fd = -1
}

// requestSize is the length of the first request in data, 0 if its header is
// not there yet. A body with another framing than Content-Length is not known.
func requestSize(data []byte) int {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return 0
	}
	size := end + 4
	for rest := data[:end]; ; {
		_, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return size
		}
		rest = after
		const name = "content-length:"
		if len(rest) > len(name) && (rest[0] == 'C' || rest[0] == 'c') && bytes.EqualFold(rest[:len(name)], []byte(name)) {
			value, _, _ := bytes.Cut(rest[len(name):], []byte("\r\n"))
			n, _ := strconv.Atoi(string(bytes.TrimSpace(value)))
			return size + n
		}
	}
}

func (s *standIn) request(c *apiConn, data []byte) {
	method, rest, _ := bytes.Cut(data, []byte(" "))
	target, _, _ := bytes.Cut(rest, []byte(" "))
	if target[0] == '/' && !bytes.HasPrefix(target, []byte("/v1/")) {
		s.control(c, string(target))
		return
	}
	id := target[bytes.LastIndexByte(target, '/')+1:]
	link, ok := linkNumber(id)
	if ok && string(method) == "GET" { // no link is sent twice by it
		s.show(c, id, s.seen[link/64]&(1<<(link%64)) != 0)
		return
	}
	now := s.now()
	s.Requests++
	if s.First == 0 {
		s.First = int64(now)
	}
	if !ok || string(method) != "DELETE" {
		s.Strange++
	} else {
		if bit := uint64(1) << (link % 64); s.seen[link/64]&bit == 0 {
			s.seen[link/64] |= bit
			s.Distinct++
		}
		if s.keep {
			s.stamps = append(s.stamps, stamp{link: uint32(link), at: int64(now)})
		}
	}
	if s.latency > 0 {
		s.waiting.push(answerDue{at: now + s.latency, conn: c})
		if s.waiting.len() == 1 {
			s.poll.wake(s.latency)
		}
		return
	}
	s.answer(c)
}

// show answers a GET of a link at once: linkcancel checks the first 204 of a batch.
func (s *standIn) show(c *apiConn, id []byte, cancelled bool) {
	status := "active"
	if cancelled {
		status = "cancelled"
	}
	body := fmt.Sprintf(`{"id":%q,"status":%q}`, id, status)
	_, _ = fmt.Fprintf(fdWriter(c.fd), "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// fdWriter writes to a file descriptor.
type fdWriter int

func (w fdWriter) Write(p []byte) (int, error) { return unix.Write(int(w), p) }

// answerDue sends the answers whose time has come.
func (s *standIn) answerDue() {
	for s.waiting.len() > 0 {
		next := s.waiting.first()
		if wait := next.at - s.now(); wait > timerSlack {
			s.poll.wake(wait)
			return
		}
		s.waiting.pop()
		s.answer(next.conn)
	}
}

func (s *standIn) answer(c *apiConn) {
	if c.fd < 0 {
		return
	}
	_, _ = unix.Write(c.fd, []byte(noContent))
	s.Last = int64(s.now())
	if s.want > 0 && s.Distinct >= s.want && s.waiting.len() == 0 {
		s.want = 0
		line, _ := json.Marshal(s.tally)
		fmt.Println(string(line))
	}
}

func (s *standIn) control(c *apiConn, target string) {
	var body []byte
	u, err := url.Parse(target)
	switch {
	case err != nil:
	case u.Path == "/reset":
		s.reset(u.Query())
	case u.Path == "/tally":
		s.Now = int64(s.now())
		body, _ = json.Marshal(s.tally)
	case u.Path == "/stamps":
		for _, one := range s.stamps {
			body = fmt.Appendf(body, "%d %d\n", one.link, one.at)
		}
	}
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", len(body))
	// Answers of many megabytes: they are written as a blocking file.
	_ = unix.SetNonblock(c.fd, false)
	out := os.NewFile(uintptr(c.fd), "control")
	_, _ = out.Write(append([]byte(head), body...))
	delete(s.conns, c.fd)
	c.fd = -1
	_ = out.Close()
}

// listenLoopback opens a listening socket on a free port.
func listenLoopback() (fd, port int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return 0, 0, err
	}
	fd, err = unix.Dup(int(file.Fd()))
	if err != nil {
		return 0, 0, err
	}
	return fd, l.Addr().(*net.TCPAddr).Port, unix.SetNonblock(fd, true)
}

func accept(listener int) (int, error) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return 0, err
	}
	return fd, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}
