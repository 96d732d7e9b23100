package broker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

// LogTo sends go-redis' log, one per process, to slog at debug. Callers get the errors anyway.
func LogTo(log *slog.Logger) { redis.SetLogger(redisLogger{log}) }

type redisLogger struct{ log *slog.Logger }

func (l redisLogger) Printf(_ context.Context, format string, args ...any) {
	l.log.Debug("redis", "detail", fmt.Sprintf(format, args...))
}

// AsynqLogger sends asynq's log to slog at debug, as a field of a constant message: what matters of it
// is reported elsewhere. Only a missing permission keeps its level, at most once in ten seconds.
type AsynqLogger struct {
	log  *slog.Logger
	some rate.Sometimes
}

// NewAsynqLogger returns a logger for one asynq server.
func NewAsynqLogger(log *slog.Logger) *AsynqLogger {
	return &AsynqLogger{log: log, some: rate.Sometimes{First: 1, Interval: 10 * time.Second}}
}

func (l *AsynqLogger) Debug(args ...any) { l.detail(args) }
func (l *AsynqLogger) Info(args ...any)  { l.detail(args) }
func (l *AsynqLogger) Warn(args ...any)  { l.complain(slog.LevelWarn, args) }
func (l *AsynqLogger) Error(args ...any) { l.complain(slog.LevelError, args) }

// Fatal logs an error. Only main may end the process.
func (l *AsynqLogger) Fatal(args ...any) { l.complain(slog.LevelError, args) }

func (l *AsynqLogger) detail(args []any) { l.log.Debug("asynq", "detail", fmt.Sprint(args...)) }

func (l *AsynqLogger) complain(level slog.Level, args []any) {
	text := fmt.Sprint(args...)
	if !mentionsPermission(text) {
		l.detail(args)
		return
	}
	l.some.Do(func() {
		attrs := []any{"detail", text}
		if !strings.Contains(text, seePermissions) { // hooks do not see subscriptions
			attrs = append(attrs, "hint", grantFor("SUBSCRIBE", text))
		}
		l.log.Log(context.Background(), level, "asynq", attrs...)
	})
}
