package feeder

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"linkcancel/internal/broker"
)

func TestMain(m *testing.M) {
	broker.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}
