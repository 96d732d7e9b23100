package broker

import (
	"context"
	"errors"
	"net"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
)

// errorHook is a hook that removes passwords from errors, and adds to a refusal what to grant. If
// AUTH is renamed, or a proxy does not know it, the answer is "ERR unknown command 'auth', with
// args beginning with:" and the password.
type errorHook struct{ passwords *clean.Secrets }

func (h errorHook) hide(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	shown := h.passwords.Hide(text)
	if shown == text {
		return err
	}
	hidden := hiddenError{text: shown, err: err}
	if _, ok := errors.AsType[redis.Error](err); ok {
		return hiddenReply{hidden}
	}
	return hidden
}

// hiddenError has no Unwrap, so the original text stays hidden. It answers errors.Is.
type hiddenError struct {
	text string
	err  error
}

func (e hiddenError) Error() string        { return e.text }
func (e hiddenError) Is(target error) bool { return errors.Is(e.err, target) }

// hiddenReply is a redis.Error.
type hiddenReply struct{ hiddenError }

// RedisError implements redis.Error.
func (hiddenReply) RedisError() {}

// DialHook implements redis.Hook.
func (h errorHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		return conn, h.hide(err)
	}
}

// ProcessHook implements redis.Hook.
func (h errorHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := h.hide(explain(cmd, next(ctx, cmd)))
		if err != nil {
			cmd.SetErr(err)
		}
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h errorHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			original := cmd.Err()
			if original == nil {
				continue
			}
			explained := explain(cmd, original)
			cmd.SetErr(h.hide(explained))
			if permissionRefused(original) && errors.Is(err, original) {
				err = explained
			}
		}
		return h.hide(err)
	}
}
