package broker

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/redis/go-redis/v9"
)

// Away returns a short reason if err means that Redis could not serve a command. ok is
// false for other errors: of a script, for a missing key, or of a canceled context.
func Away(err error) (why string, ok bool) {
	var op *net.OpError
	var timeout net.Error
	var reply redis.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, redis.Nil):
		return "", false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time", true
	case errors.As(err, &op) && op.Op == "dial":
		return op.Error(), true
	case errors.As(err, &op):
		return op.Err.Error(), true // without the local port
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was cut", true
	case errors.As(err, &reply) && mayPass(err), redis.HasErrorPrefix(err, "NOAUTH"), redis.HasErrorPrefix(err, "WRONGPASS"):
		return reply.Error(), true
	}
	return "", false
}

// plain hides what go-redis adds to a connection error.
type plain struct{ error }

func (p plain) Error() string {
	if why, ok := Away(p.error); ok {
		return why
	}
	return p.error.Error()
}

func (p plain) Unwrap() error { return p.error }
