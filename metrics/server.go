package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

const (
	// Requests are small, and slow clients are cut off. Prometheus waits 10 s for a scrape.
	readTimeout  = 5 * time.Second
	writeTimeout = 10 * time.Second // pprof adds the length of a profile
	headerBytes  = 16 << 10
	// maxScrapes is how many scrapes are answered at once. More get a 503.
	maxScrapes = 20
	// maxConnections is how many connections are open at once. They are not kept after
	// a request, so idle clients cannot hold them for longer than readTimeout.
	maxConnections = 1000
)

// ServerConfig configures the metrics server.
type ServerConfig struct {
	Addr  string
	Pprof bool
	// Ready returns why this process takes no work. nil means that it always does.
	Ready func(context.Context) error
	Log   *slog.Logger
}

// ErrListen is the error of Serve for an address that cannot be used.
var ErrListen = errors.New("cannot serve metrics")

// Serve serves /metrics, /healthz and /readyz until ctx ends. It returns once it listens.
func (m *Metrics) Serve(ctx context.Context, cfg ServerConfig) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: address %s is in use (another worker on this machine?)", ErrListen, cfg.Addr)
		}
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	server := newServer(m.handler(cfg), cfg.Log)
	go func() {
		if err := server.Serve(netutil.LimitListener(listener, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.Error("metrics server ended", "error", err)
		}
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	cfg.Log.Info("metrics are served", "addr", listener.Addr().String())
	return nil
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:     h,
		ReadTimeout: readTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: headerBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	s.SetKeepAlivesEnabled(false)
	return s
}

func (m *Metrics) handler(cfg ServerConfig) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		// Serve what can be collected.
		ErrorHandling:       promhttp.ContinueOnError,
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		var err error
		if cfg.Ready != nil {
			err = cfg.Ready(r.Context())
		}
		answer(w, err)
	})
	if cfg.Pprof {
		// Not the index of net/http/pprof, which would also serve the command line.
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		for _, name := range []string{"heap", "goroutine", "allocs", "block", "mutex"} {
			mux.Handle("GET /debug/pprof/"+name, pprof.Handler(name))
		}
	}
	return mux
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	reply := map[string]string{"status": "ok"}
	if err != nil {
		reply = map[string]string{"status": "unavailable", "reason": err.Error()}
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(reply)
}
