// Package web serves what linkcancel knows to browsers and programs: batches, their links, the limit
// and the sweeps. It only needs Redis, so the process that a browser talks to has no key of Plexy's.
//
// A page is rendered on the server and works without JavaScript. With it, one stream of
// server-sent events per page carries the texts that change. One reading of Redis serves all
// viewers, and nothing is read while nobody looks.
//
// Operators may pause, resume, abort and retry batches, and set or hold the limit, if the server
// allows it. The ledger's scripts write who did so into the histories.
package web

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/net/netutil"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
)

//go:embed templates static
var files embed.FS

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	headerBytes   = 16 << 10
	// maxConnections is how many connections are open at once.
	maxConnections = 2000
	// lastLook is how long open pages are served at the end, and lastWords how long the last event
	// to them may take.
	lastLook, lastWords = 2 * streamEvery, 2 * time.Second
	// pageTimeout is how long a page may take, its writing included.
	pageTimeout = 30 * time.Second
)

// Config configures a Server. Redis, Ledger and Log are required.
type Config struct {
	Redis  redis.UniversalClient
	Ledger *ledger.Ledger
	Log    *slog.Logger
	Access Access
	// Hosts are the names by which the page may be asked for, besides loopback and the address.
	Hosts []string
	// Title names the fleet on each page; may be empty.
	Title string
	// Brief: the server ends with the work that it shows. Open pages then keep the last numbers.
	Brief bool
	// Secrets are hidden in the errors that pages show; may be nil.
	Secrets *clean.Secrets
}

// Server serves the page.
type Server struct {
	cfg    Config
	addr   *net.TCPAddr
	reader *reader
	hub    *hub
	pages  *http.ServeMux
	search chan struct{} // has room for one search
	drafts chan struct{} // has room for the batches that are being sent
	ending chan struct{} // closed when Serve ends
}

// say is the text of an error for a page.
func (s *Server) say(text string) string {
	if s.cfg.Secrets != nil {
		text = s.cfg.Secrets.Hide(text)
	}
	return clean.Line(text)
}

// ErrListen is the error of Listen for an address that cannot be used.
var ErrListen = errors.New("cannot serve the page")

// Listen listens on an address. Serve then serves it.
func Listen(ctx context.Context, cfg Config, addr string) (*Server, net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrListen, err)
	}
	tcp, _ := listener.Addr().(*net.TCPAddr) // always one
	return newServer(cfg, tcp), listener, nil
}

func newServer(cfg Config, addr *net.TCPAddr) *Server {
	s := &Server{cfg: cfg, addr: addr, reader: newReader(cfg), search: make(chan struct{}, 1), drafts: make(chan struct{}, maxDrafts), ending: make(chan struct{})}
	s.hub = newHub(s)
	s.pages = s.newPages()
	return s
}

// URL is the address of the page, with a token that opens it.
func (s *Server) URL(token string) string {
	host := s.addr.IP.String()
	if s.addr.IP.IsUnspecified() {
		host = "127.0.0.1"
		if len(s.cfg.Hosts) > 0 {
			host = s.cfg.Hosts[0]
		}
	}
	url := fmt.Sprintf("http://%s/", net.JoinHostPort(host, fmt.Sprint(s.addr.Port)))
	if token != "" {
		url += "?token=" + token
	}
	return url
}

// Serve serves until ctx ends. Open pages then get the last numbers. It may be called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug), // clients that break off
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		s.reader.expire()
		if s.cfg.Brief && s.hub.open() > 0 {
			time.Sleep(lastLook) // so that they show the end
		}
		close(s.ending)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		_ = server.Shutdown(last)
		_ = server.Close()
	})
	err := server.Serve(netutil.LimitListener(listener, maxConnections))
	if !stop() {
		<-closed
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the page: %w", err)
}
