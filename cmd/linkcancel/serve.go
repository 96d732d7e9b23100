package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
	"linkcancel/web"
)

// pageAddr is where the page is served, unless a flag says otherwise.
const pageAddr = "127.0.0.1:9465"

type serveCmd struct {
	Addr              string   `default:"${page_addr}" env:"LINKCANCEL_SERVE_ADDR" help:"Serve the page here; by default ${default}. Beyond this machine it needs --host, and --token-file or --auth-header." placeholder:"HOST:PORT"`
	Host              []string `env:"LINKCANCEL_SERVE_HOST" help:"A name by which browsers ask for the page, such as that of a reverse proxy; may be repeated." placeholder:"NAME"`
	AllowActions      bool     `env:"LINKCANCEL_SERVE_ALLOW_ACTIONS" help:"Let operators pause, resume, abort and retry batches, and set or hold the limit."`
	AllowImport       bool     `env:"LINKCANCEL_SERVE_ALLOW_IMPORT" help:"Let operators make batches of links that they send to the API. It needs --allow-actions."`
	TokenFile         string   `env:"LINKCANCEL_SERVE_TOKEN_FILE" help:"File with the token of those who only look, or set LINKCANCEL_SERVE_TOKEN; by default a new one is made at each start." placeholder:"FILE"`
	OperatorTokenFile string   `env:"LINKCANCEL_SERVE_OPERATOR_TOKEN_FILE" help:"File with the token of operators, or set LINKCANCEL_SERVE_OPERATOR_TOKEN; by default a new one is made at each start." placeholder:"FILE"`
	AuthHeader        string   `env:"LINKCANCEL_SERVE_AUTH_HEADER" help:"Header in which a reverse proxy names the user it has signed in, such as X-Forwarded-User." placeholder:"NAME"`
	TrustedProxy      []string `env:"LINKCANCEL_SERVE_TRUSTED_PROXY" help:"Address of that proxy; may be repeated. A name from elsewhere is refused." placeholder:"CIDR"`
	Operator          []string `env:"LINKCANCEL_SERVE_OPERATOR" help:"User of the proxy who is an operator, or * for all; may be repeated." placeholder:"USER"`
	NoAuth            bool     `help:"Let everybody on this machine look, without a token."`
	Title             string   `env:"LINKCANCEL_SERVE_TITLE" help:"Name of the fleet, on each page." placeholder:"TEXT"`
	redisFlags
}

// Help is shown by serve --help.
func (serveCmd) Help() string {
	return `It shows batches with their progress and links, the limit and its holds, the workers, the sweeps and the history. It only needs Redis: it has no API key. Open the link that it prints. The link has a token, which the browser keeps as a cookie. Programs send it as "Authorization: Bearer TOKEN".

Without --allow-actions it changes nothing. With it, there is a second link, for operators. The history names them operator@ADDRESS, or by the name that the proxy gives with --auth-header.

It listens on this machine only. For others, put a reverse proxy with TLS before it, and name the proxy with --host.

    linkcancel serve
    linkcancel serve --allow-actions
    linkcancel serve --addr 10.0.0.5:9465 --host links.example.com --token-file /etc/linkcancel/page-token
    linkcancel serve --host links.example.com --allow-actions --auth-header X-Forwarded-User --trusted-proxy 127.0.0.1/32 --operator ann`
}

// minToken is the shortest token that is accepted, in bytes.
const minToken = 16

func (c serveCmd) Run(ctx context.Context, a *cliApp) error {
	if a.DryRun {
		return usagef("--dry-run cannot be combined with serve: it changes nothing unless --allow-actions is given")
	}
	access, err := c.access(a)
	if err != nil {
		return err
	}
	return c.openLedger(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger) error {
		server, listener, err := web.Listen(ctx, web.Config{
			Redis: rdb, Ledger: l, Log: a.log, Access: access, Hosts: c.Host, Title: clean.Line(c.Title), Secrets: a.secrets,
		}, c.Addr)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "The page: %s\n", server.URL(access.Viewer))
		if access.Operator != "" {
			fmt.Fprintf(a.stdout, "With actions: %s\n", server.URL(access.Operator))
		}
		return server.Serve(ctx, listener)
	})
}

// access finds out who may look and who may change something. It refuses what would let others in.
func (c serveCmd) access(a *cliApp) (web.Access, error) {
	access := web.Access{Actions: c.AllowActions, Import: c.AllowImport}
	loopback, err := isLoopback(c.Addr)
	if err != nil {
		return access, usagef("--addr %s: %w", c.Addr, err)
	}
	if access.Viewer, err = readPageToken(a, c.TokenFile, tokenVariable); err == nil {
		access.Operator, err = readPageToken(a, c.OperatorTokenFile, operatorTokenVariable)
	}
	if err != nil {
		return access, err
	}
	named := access.Viewer != "" || access.Operator != "" || c.AuthHeader != ""
	switch {
	case c.NoAuth && named:
		return access, usagef("--no-auth cannot be combined with a token or --auth-header")
	case c.NoAuth && c.AllowActions:
		return access, hint(usagef("--no-auth and --allow-actions cannot be combined: everybody on this machine could abort batches"), "leave out --no-auth, and open the second link that is printed")
	case c.AllowImport && !c.AllowActions:
		return access, hint(usagef("--allow-import needs --allow-actions"), "give both: without actions, nothing can be changed")
	case c.NoAuth && !loopback:
		return access, hint(usagef("--no-auth is for this machine only, and %s is not", c.Addr), "give --token-file and --host instead")
	case !loopback && (!named || len(c.Host) == 0):
		return access, hint(usagef("others can reach %s: the page needs a token of your own, and a name", c.Addr), "give --token-file FILE and --host NAME, or leave out --addr")
	case !c.AllowActions && (access.Operator != "" || len(c.Operator) > 0):
		return access, hint(usagef("there are no operators without --allow-actions"), "give --allow-actions, or leave out --operator and the operators' token")
	case c.NoAuth:
		return access, nil
	}
	if access.Proxy, err = c.proxy(access.Operator != ""); err != nil {
		return access, err
	}
	switch {
	case access.Viewer != "" && access.Viewer == access.Operator:
		return access, usagef("operators have the same token as those who only look")
	case access.Proxy != nil:
		return access, nil // no other token than those given
	}
	if access.Viewer == "" {
		access.Viewer = rand.Text()
	}
	if access.Operator == "" && c.AllowActions {
		access.Operator = rand.Text()
	}
	return access, nil
}

// proxy is the reverse proxy that names users; nil if there is none.
func (c serveCmd) proxy(operatorToken bool) (*web.Proxy, error) {
	switch {
	case c.AuthHeader == "" && len(c.TrustedProxy)+len(c.Operator) > 0:
		return nil, hint(usagef("--trusted-proxy and --operator need --auth-header"), "name the header in which the proxy sends the user, such as X-Forwarded-User")
	case c.AuthHeader == "":
		return nil, nil
	case len(c.TrustedProxy) == 0:
		return nil, hint(usagef("--auth-header needs --trusted-proxy: otherwise everybody could name himself"), "give the address of the proxy, such as 127.0.0.1/32")
	case c.AllowActions && len(c.Operator) == 0 && !operatorToken:
		return nil, hint(usagef("--allow-actions with --auth-header needs to know who is an operator"), "name them by --operator USER, or give --operator '*' for all")
	}
	p := &web.Proxy{Header: http.CanonicalHeaderKey(c.AuthHeader), Operators: c.Operator}
	if slices.Contains([]string{"Cookie", "Authorization", "Host", "Origin"}, p.Header) || strings.ContainsFunc(p.Header, func(r rune) bool { return r <= ' ' || r == ':' || r > '~' }) {
		return nil, usagef("--auth-header %s: this header does not name a user", clean.Line(c.AuthHeader))
	}
	for _, text := range c.TrustedProxy {
		prefix, err := netip.ParsePrefix(text)
		if address, wrong := netip.ParseAddr(text); err != nil && wrong == nil {
			prefix, err = address.Prefix(address.BitLen())
		}
		if err == nil && prefix.Bits() == 0 {
			return nil, usagef("--trusted-proxy %s trusts every address: everybody could name himself", clean.Line(text))
		}
		if err != nil {
			return nil, usagef("--trusted-proxy %s: use an address such as 10.0.0.7, or a range such as 10.0.0.0/24", clean.Line(text))
		}
		p.From = append(p.From, prefix.Masked())
	}
	return p, nil
}

// Variables with a token, for those who have no file. There are no such flags: the list of processes
// shows flags.
const tokenVariable, operatorTokenVariable = "LINKCANCEL_SERVE_TOKEN", "LINKCANCEL_SERVE_OPERATOR_TOKEN"

// readPageToken reads a token from a file, or else from a variable; "" without both.
func readPageToken(a *cliApp, file, variable string) (string, error) {
	token, source := strings.TrimSpace(os.Getenv(variable)), variable
	if file != "" {
		var warning string
		var err error
		token, warning, err = clean.ReadSecretFile(file)
		if warning != "" {
			a.log.Warn("page token file", "warning", "the token file "+warning)
		}
		if err != nil {
			return "", usagef("read the page's token: %w", err)
		}
		source = file
	}
	switch {
	case token == "" && file == "":
		return "", nil
	case len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == ',' || r == ';' || r == '\\' }):
		return "", hint(usagef("the page's token in %s cannot be used", source), "use %d or more letters and digits: openssl rand -hex 20 makes one", minToken)
	}
	return token, nil
}

// pageFlag says where the page of the fleet is.
type pageFlag struct {
	UIURL string `name:"ui-url" env:"LINKCANCEL_UI_URL" help:"Address of the page that linkcancel serve shows, for alerts and batch show." placeholder:"URL"`
}

// AfterApply checks the flag.
func (f *pageFlag) AfterApply() error {
	if f.UIURL == "" {
		return nil
	}
	u, err := url.Parse(f.UIURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return hint(usagef("--ui-url is not the address of a page"), "use https://HOST/, without the token: who opens it may have another")
	}
	f.UIURL = strings.TrimRight(f.UIURL, "/") + "/"
	return nil
}

// batch is the address of a batch's page; "" if it is unknown.
func (f *pageFlag) batch(id string) string {
	if f.UIURL == "" {
		return ""
	}
	return f.UIURL + "batches/" + url.PathEscape(id)
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
	token := rand.Text()
	cfg := web.Config{Redis: rdb, Ledger: l, Log: a.log, Access: web.Access{Viewer: token}, Secrets: a.secrets, Brief: true}
	server, listener, err := web.Listen(ctx, cfg, pageAddr)
	if err != nil { // another one is there
		if server, listener, err = web.Listen(ctx, cfg, "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(a.stderr, "The page: %s\n\n", server.URL(token))
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ctx, listener) }) // until stop
	return func() { cancel(); serving.Wait() }, nil
}
