package metrics

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// connsMost is how many connections are open at once.
const connsMost = 100

// crowd keeps slow clients from holding a server: where there is no room for
// one more connection, the one ends that has gone without a whole request the
// longest. Timeouts alone would let many of them keep all others out, or use up
// the files that the process may open.
type crowd struct {
	most int

	mu    sync.Mutex
	conns map[net.Conn]*visit
	turn  uint64
}

// visit is a connection: since which turn it waits, and whether its request is
// being answered.
type visit struct {
	since    uint64
	answered bool
}

type visitKey struct{}

// guard lets a crowd watch over the connections of s.
func (c *crowd) guard(s *http.Server) {
	c.conns = map[net.Conn]*visit{}
	handler := s.Handler
	s.ConnState = c.changed
	s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, visitKey{}, conn)
	}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(visitKey{}).(net.Conn)
		c.answering(conn, true)
		defer c.answering(conn, false)
		handler.ServeHTTP(w, r)
	})
}

func (c *crowd) answering(conn net.Conn, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.conns[conn]; v != nil {
		c.turn++
		v.since, v.answered = c.turn, yes
	}
}

func (c *crowd) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(c.conns, conn)
	case http.StateNew:
		c.turn++
		c.conns[conn] = &visit{since: c.turn}
		if len(c.conns) > c.most {
			c.end()
		}
	}
}

// end closes the connection that has waited longest: the new one, if all others
// are being answered.
func (c *crowd) end() {
	var oldest net.Conn
	for conn, v := range c.conns {
		if !v.answered && (oldest == nil || v.since < c.conns[oldest].since) {
			oldest = conn
		}
	}
	delete(c.conns, oldest)
	_ = oldest.Close() // nobody waits for what it had to say
}
