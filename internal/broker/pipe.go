package broker

import (
	"cmp"
	"net"
	"sync"
	"time"
)

// bufferedConn buffers writes. With net.Pipe alone, a pipeline and its reply would deadlock.
type bufferedConn struct {
	net.Conn
	before func() // called before a write reaches the other end

	mu   sync.Mutex
	wake *sync.Cond
	buf  []byte
	err  error // why the connection has ended
}

func newBufferedConn(conn net.Conn, before func()) *bufferedConn {
	c := &bufferedConn{Conn: conn, before: before}
	c.wake = sync.NewCond(&c.mu)
	go c.flush()
	return c
}

// Write buffers b and returns at once.
func (c *bufferedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.buf = append(c.buf, b...)
	c.wake.Signal()
	return len(b), nil
}

// Close closes the connection and drops what is not read yet.
func (c *bufferedConn) Close() error {
	c.mu.Lock()
	c.err = net.ErrClosed
	c.wake.Signal()
	c.mu.Unlock()
	return c.Conn.Close()
}

// flush writes the buffer to the connection until that ends.
func (c *bufferedConn) flush() {
	var spare []byte
	for {
		c.mu.Lock()
		for len(c.buf) == 0 && c.err == nil {
			c.wake.Wait()
		}
		if c.err != nil {
			c.mu.Unlock()
			return
		}
		out := c.buf
		c.buf = spare[:0]
		c.mu.Unlock()
		// Not in Write: it may wait for a server that waits until its reply is read.
		c.before()
		_, err := c.Conn.Write(out)
		spare = out
		if cap(spare) > 1<<20 {
			spare = nil
		}
		if err != nil {
			c.mu.Lock()
			c.err = cmp.Or(c.err, err)
			c.mu.Unlock()
			return
		}
	}
}

// SetWriteDeadline does nothing, because writes never block.
func (c *bufferedConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline limits reads only, because writes never block.
func (c *bufferedConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
