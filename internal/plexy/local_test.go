package plexy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// dialError is what a dialer returns when the system refuses a call.
func dialError(call string, errno error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, errno)}
}

func TestLocal(t *testing.T) {
	own := localErrors()
	if len(own) < 4 {
		t.Fatalf("%d errors", len(own))
	}
	for _, errno := range own {
		for _, err := range []error{
			dialError("socket", errno),
			fmt.Errorf("proxyconnect: %w", dialError("connect", errno)),
			// The resolver keeps its cause as text.
			&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: dialError("socket", errno).Error(), Name: "api.plexypay.com"}},
		} {
			e := notDialled(t, err)
			if !e.Local || e.Sent {
				t.Errorf("%v: %+v", err, e)
			}
		}
	}
	for _, err := range []error{
		dialError("connect", syscall.ECONNREFUSED), dialError("connect", syscall.ETIMEDOUT), dialError("connect", syscall.ENETUNREACH),
		&net.DNSError{Err: "no such host", Name: "api.plexypay.com", IsNotFound: true}, errors.New("too many open files"), context.DeadlineExceeded,
	} {
		if e := notDialled(t, err); e.Local || e.Sent {
			t.Errorf("%v: %+v", err, e)
		}
	}
}

// notDialled is what a call returns whose dial fails.
func notDialled(t *testing.T, err error) *TransportError {
	t.Helper()
	c := newTestClient(t, "http://127.0.0.1:1", 10*time.Second)
	c.lanes.dial = func(context.Context, string, string) (net.Conn, error) { return nil, err }
	_, err = c.Cancel(t.Context(), testID)
	return transportError(t, err)
}

// What this machine runs out of is given back, as far as the client has it.
func TestLocalClosesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := countConnections(t, together(2, reply(204, "")))
		s.calls(2, func() error { _, err := s.client.Cancel(t.Context(), testID); return err })
		s.client.lanes.dial = func(context.Context, string, string) (net.Conn, error) {
			return nil, dialError("socket", localErrors()[0])
		}
		_, err := s.client.Cancel(Fresh(t.Context()), testID)
		if e := transportError(t, err); !e.Local {
			t.Errorf("got %+v", e)
		}
		s.wait(2, 0)
	})
}

// If memory or ports run out while the request is written, a part of it may have been sent.
func TestLocalIsNeverSent(t *testing.T) {
	c := newTestClient(t, "http://127.0.0.1:1", 10*time.Second)
	c.lanes.dial = func(context.Context, string, string) (net.Conn, error) {
		return failingConn{closed: make(chan struct{})}, nil
	}
	_, err := c.Cancel(t.Context(), testID)
	if e := transportError(t, err); e.Local || !e.Sent {
		t.Errorf("got %+v", e)
	}
}

// failingConn is a connection whose every write finds no memory.
type failingConn struct {
	net.Conn
	closed chan struct{}
}

func (c failingConn) Read([]byte) (int, error)  { <-c.closed; return 0, net.ErrClosed }
func (c failingConn) Write([]byte) (int, error) { return 0, dialError("write", localErrors()[0]) }
func (c failingConn) Close() error              { close(c.closed); return nil }
