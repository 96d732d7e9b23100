package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestLongPipelineToTheEmbeddedRedisEnds(t *testing.T) {
	b := Embedded()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	value := strings.Repeat("x", 1000)
	replies, err := b.Client().Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 2000 {
			p.Set(ctx, fmt.Sprint(i), value, 0)
			p.Get(ctx, fmt.Sprint(i))
		}
		return nil
	})
	if err != nil || len(replies) != 4000 {
		t.Fatalf("%d replies, %v", len(replies), err)
	}
	if got := replies[3999].(*redis.StringCmd).Val(); got != value {
		t.Errorf("the last reply has %d bytes", len(got))
	}
}

func TestBufferedWriteDoesNotWaitForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newBufferedConn(near, func() {})
		if err := c.SetDeadline(time.Now()); err != nil {
			t.Error(err)
		}
		var want bytes.Buffer
		for i := range 1000 {
			part := fmt.Appendf(nil, "%d ", i)
			want.Write(part)
			if n, err := c.Write(part); n != len(part) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			clear(part) // it belongs to the caller again
		}
		got := make([]byte, want.Len())
		if _, err := io.ReadFull(far, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Error("what was read is not what was written")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
		if _, err := far.Read(got); !errors.Is(err, io.EOF) {
			t.Errorf("the other end: %v", err)
		}
	})
}

// The embedded Redis may be locked until its last reply is read, and before waits for the lock.
func TestBufferedWriteDoesNotWaitForBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		read := make(chan struct{})
		c := newBufferedConn(near, func() { <-read })
		defer c.Close()
		if _, err := c.Write([]byte("xy")); err != nil {
			t.Fatal(err)
		}
		close(read)
		got := make([]byte, 2)
		if _, err := io.ReadFull(far, got); err != nil || string(got) != "xy" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestBufferedWriteTellsThatTheReaderIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newBufferedConn(near, func() {})
		defer c.Close()
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x")) // lost
		synctest.Wait()
		if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%v, want a closed pipe", err)
		}
	})
}
