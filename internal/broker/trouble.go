package broker

import (
	"context"
	"log/slog"
	"time"
)

// Trouble logs that something does not work, and when it works again. While Redis is away it logs at
// debug, because the rate limiter reports that once for the whole process. The zero value with a Log
// is ready for use.
type Trouble struct {
	Log   *slog.Logger
	since time.Time
	level slog.Level
}

// Begin logs a failure, unless it has logged one since the last End.
func (t *Trouble) Begin(message string, err error, attrs ...any) {
	level := slog.LevelWarn
	if _, away := Away(err); away {
		level = slog.LevelDebug
	}
	if !t.since.IsZero() && level <= t.level {
		return
	}
	if t.since.IsZero() {
		t.since = time.Now()
	}
	t.level = level
	t.Log.Log(context.Background(), level, message, append(attrs, "error", err)...)
}

// End logs that it works again, if it did not.
func (t *Trouble) End(message string, attrs ...any) {
	if t.since.IsZero() {
		return
	}
	level := min(t.level, slog.LevelInfo)
	t.Log.Log(context.Background(), level, message, append(attrs, "after", time.Since(t.since).Round(time.Millisecond).String())...)
	t.since = time.Time{}
}
