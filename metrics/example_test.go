package metrics_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/metrics"
)

// A worker reports to the instruments, and /metrics serves them. Only problems are logged.
func ExampleMetrics_Serve() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelWarn}))

	m := metrics.New("v1.2.3")
	if err := m.Serve(ctx, metrics.ServerConfig{Addr: "127.0.0.1:0", Log: log}); err != nil {
		fmt.Println(err)
		return
	}
	m.Request("DELETE", 204, 120*time.Millisecond)
	m.Outcome("import", ledger.Cancelled, 1, 2*time.Second)
	// Output:
}
