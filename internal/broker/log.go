package broker

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// LogTo lets go-redis, which has one logger for the whole process, log through
// slog as detail: its callers get the errors themselves.
func LogTo(log *slog.Logger) { redis.SetLogger(redisLogger{log}) }

type redisLogger struct{ log *slog.Logger }

func (l redisLogger) Printf(_ context.Context, format string, args ...any) {
	l.log.Debug("redis", "detail", fmt.Sprintf(format, args...))
}

// AsynqLogger lets asynq log through slog: a constant message, the text in a
// field. What asynq calls information is detail to our operators.
type AsynqLogger struct{ Log *slog.Logger }

func (l AsynqLogger) Debug(args ...any) { l.Log.Debug("asynq", "detail", fmt.Sprint(args...)) }
func (l AsynqLogger) Info(args ...any)  { l.Log.Debug("asynq", "detail", fmt.Sprint(args...)) }
func (l AsynqLogger) Warn(args ...any)  { l.Log.Warn("asynq", "detail", fmt.Sprint(args...)) }
func (l AsynqLogger) Error(args ...any) { l.Log.Error("asynq", "detail", fmt.Sprint(args...)) }

// Fatal logs an error: nothing in linkcancel may end the process but main.
func (l AsynqLogger) Fatal(args ...any) { l.Log.Error("asynq", "detail", fmt.Sprint(args...)) }
