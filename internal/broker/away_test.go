package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/redistest"
)

func TestAway(t *testing.T) {
	here, there := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 6379}
	for _, tt := range []struct {
		err  error
		want string // "": Redis is not away
	}{
		{nil, ""},
		{redis.Nil, ""},
		{context.Canceled, ""},
		{errors.New("chunk 3 is missing"), ""},
		{context.DeadlineExceeded, "no answer in time"},
		{&net.OpError{Op: "read", Net: "tcp", Source: here, Addr: there, Err: os.ErrDeadlineExceeded}, "no answer in time"},
		{&net.OpError{Op: "dial", Net: "tcp", Addr: there, Err: os.ErrDeadlineExceeded}, "no answer in time"},
		{&net.OpError{Op: "dial", Net: "tcp", Addr: there, Err: syscall.ECONNREFUSED}, "dial tcp 10.0.0.9:6379: connection refused"},
		{&net.OpError{Op: "read", Net: "tcp", Source: here, Addr: there, Err: syscall.ECONNRESET}, "connection reset by peer"},
		{io.EOF, "the connection was cut"},
		{io.ErrUnexpectedEOF, "the connection was cut"},
	} {
		for _, err := range []error{tt.err, fmt.Errorf("read batch b: %w", tt.err)} {
			if tt.err == nil {
				err = nil
			}
			if why, ok := broker.Away(err); why != tt.want || ok != (tt.want != "") {
				t.Errorf("%v: %q, %v, want %q", err, why, ok, tt.want)
			}
		}
	}
}

// What Redis itself answers.
func TestAwayWhenRedisRefuses(t *testing.T) {
	if !redistest.Have(t) {
		return
	}
	b := redistest.Open(t, redistest.Start(t))
	ctx, rdb := t.Context(), b.Client()
	err := rdb.Eval(ctx, "return redis.error_reply('NOBATCH no such batch')", nil).Err()
	if why, ok := broker.Away(err); ok {
		t.Errorf("an answer of a script: %q", why)
	}
	if err := rdb.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	err = rdb.Set(ctx, "a", "b", 0).Err()
	if why, ok := broker.Away(err); !ok || why != err.Error() {
		t.Errorf("out of memory: %q, %v, %v", why, ok, err)
	}
	if err := rdb.ConfigSet(ctx, "requirepass", "sesame").Err(); err != nil {
		t.Fatal(err)
	}
	other := redis.NewClient(&redis.Options{Addr: rdb.(*redis.Client).Options().Addr, Protocol: 2, DisableIdentity: true})
	defer other.Close()
	err = other.Get(ctx, "a").Err()
	if why, ok := broker.Away(err); !ok || why != err.Error() {
		t.Errorf("no password: %q, %v, %v", why, ok, err)
	}
}
