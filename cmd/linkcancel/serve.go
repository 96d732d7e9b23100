package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
	"linkcancel/internal/web"
)

// pageAddr is where the page is served, unless a flag says otherwise.
const pageAddr = "127.0.0.1:9465"

type serveCmd struct {
	Addr      string   `default:"${page_addr}" env:"LINKCANCEL_SERVE_ADDR" help:"Serve the page here; by default ${default}. Beyond this machine it needs --token-file and --host." placeholder:"HOST:PORT"`
	Host      []string `env:"LINKCANCEL_SERVE_HOST" help:"A name by which browsers ask for the page, such as that of a reverse proxy; may be repeated." placeholder:"NAME"`
	TokenFile string   `name:"token-file" env:"LINKCANCEL_SERVE_TOKEN_FILE" help:"File with the token that viewers need; by default a new one is made at each start." placeholder:"FILE"`
	NoAuth    bool     `name:"no-auth" help:"Let everybody on this machine look, without a token."`
	Title     string   `env:"LINKCANCEL_SERVE_TITLE" help:"Name of the fleet, on each page." placeholder:"TEXT"`
	redisFlags
}

// Help is shown by serve --help.
func (serveCmd) Help() string {
	return `It shows batches with their progress and links, the limit and its holds, the workers, the sweeps and the history. It only reads Redis: it has no API key, and changes nothing. Open the link that it prints. The link has a token, which the browser keeps as a cookie. Programs send it as "Authorization: Bearer TOKEN".

It listens on this machine only. For others, put a reverse proxy with TLS before it, and name the proxy with --host.

    linkcancel serve
    linkcancel serve --addr 10.0.0.5:9465 --host links.example.com --token-file /etc/linkcancel/page-token`
}

// minToken is the shortest token that is accepted, in bytes.
const minToken = 16

func (c serveCmd) Run(ctx context.Context, a *cliApp) error {
	if a.DryRun {
		return usagef("--dry-run cannot be combined with serve, which changes nothing")
	}
	token, err := c.token(a)
	if err != nil {
		return err
	}
	return c.openLedger(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger) error {
		server, listener, err := web.Listen(ctx, web.Config{
			Redis: rdb, Ledger: l, Log: a.log, Token: token, Hosts: c.Host, Title: clean.Line(c.Title),
		}, c.Addr)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "The page: %s\n", server.URL())
		return server.Serve(ctx, listener)
	})
}

// token finds the token of the page, and refuses what would show it to others.
func (c serveCmd) token(a *cliApp) (string, error) {
	loopback, err := isLoopback(c.Addr)
	if err != nil {
		return "", usagef("--addr %s: %w", c.Addr, err)
	}
	switch {
	case c.NoAuth && c.TokenFile != "":
		return "", usagef("--no-auth and --token-file cannot be combined")
	case c.NoAuth && !loopback:
		return "", hint(usagef("--no-auth is for this machine only, and %s is not", c.Addr), "give --token-file and --host instead")
	case c.NoAuth:
		return "", nil
	case !loopback && (c.TokenFile == "" || len(c.Host) == 0):
		return "", hint(usagef("others can reach %s: the page needs a token of your own, and a name", c.Addr), "give --token-file FILE and --host NAME, or leave out --addr")
	case c.TokenFile == "":
		return rand.Text(), nil
	}
	token, warning, err := clean.ReadSecretFile(c.TokenFile)
	if warning != "" {
		a.log.Warn("page token file", "warning", "the token file "+warning)
	}
	switch {
	case err != nil:
		return "", usagef("read the page's token: %w", err)
	case len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == ',' || r == ';' || r == '\\' }):
		return "", hint(usagef("the page's token in %s cannot be used", c.TokenFile), "use %d or more letters and digits: openssl rand -hex 20 makes one", minToken)
	}
	return token, nil
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, errors.New("use HOST:PORT")
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback(), nil
}

// servePage serves the page of a run on this machine until stop is called, and says where.
func (a *cliApp) servePage(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger) (stop func(), err error) {
	cfg := web.Config{Redis: rdb, Ledger: l, Log: a.log, Token: rand.Text()}
	server, listener, err := web.Listen(ctx, cfg, pageAddr)
	if err != nil { // another one is there
		if server, listener, err = web.Listen(ctx, cfg, "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(a.stderr, "The page: %s\n\n", server.URL())
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ctx, listener) }) // until stop
	return func() { cancel(); serving.Wait() }, nil
}
