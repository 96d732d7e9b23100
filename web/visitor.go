package web

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"linkcancel/internal/history"
)

// Access says who may look, and who may change something.
type Access struct {
	// Viewer and Operator are tokens. "": there is none. Without any, and without Proxy, everybody may
	// look.
	Viewer, Operator string
	// Actions lets operators change things. Without it nobody can.
	Actions bool
	// Import lets operators make batches of links that they send.
	Import bool
	Proxy  *Proxy // nil: there is none
}

// Proxy is a reverse proxy that knows its users.
type Proxy struct {
	Header    string         // names the user
	From      []netip.Prefix // the addresses of the proxy; nobody else may send the header
	Operators []string       // users who may change something; "*": all
}

// open reports whether everybody may look.
func (a Access) open() bool { return a.Viewer == "" && a.Operator == "" && a.Proxy == nil }

// visitor is who has sent a request.
type visitor struct {
	name     string // for histories
	shown    string // the name of a user of the proxy
	operator bool   // may change something
	bearer   bool   // a program, which no other site can borrow
}

type visitorKey struct{}

func visitorOf(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// identify finds out who has sent a request. Otherwise problem says why it may not see anything.
func (a Access) identify(r *http.Request, cookie string) (v visitor, problem string) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	if a.Proxy != nil {
		switch name, err := a.Proxy.user(r, host); {
		case err != nil:
			return visitor{}, err.Error()
		case name != "":
			may := slices.Contains(a.Proxy.Operators, "*") || slices.Contains(a.Proxy.Operators, name)
			return visitor{name: history.Name(name), shown: name, operator: a.Actions && may}, ""
		}
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if c, err := r.Cookie(cookie); err == nil && !bearer {
		given = c.Value
	}
	operator := is(given, a.Operator)
	switch {
	case operator, is(given, a.Viewer), a.open():
		return visitor{name: "operator@" + host, operator: a.Actions && operator, bearer: bearer}, ""
	case a.Viewer == "" && a.Operator == "":
		return visitor{}, "Open the page through its proxy, which knows who you are."
	}
	return visitor{}, "Open the page by the link that linkcancel has printed: it has the token."
}

// user is the user that the proxy names, "" if it names none. The error says why the name is refused.
func (p *Proxy) user(r *http.Request, host string) (string, error) {
	names := r.Header.Values(p.Header)
	if len(names) == 0 {
		return "", nil
	}
	address, err := netip.ParseAddr(host)
	if err != nil || !slices.ContainsFunc(p.From, func(from netip.Prefix) bool { return from.Contains(address.Unmap()) }) {
		return "", fmt.Errorf("Only the proxy may name a user by %s, and %s is not one of its addresses. linkcancel serve --trusted-proxy CIDR names them.", p.Header, host)
	}
	if len(names) > 1 || strings.TrimSpace(names[0]) == "" {
		return "", fmt.Errorf("The proxy names no user, or several: %s has to have one name.", p.Header)
	}
	return strings.TrimSpace(names[0]), nil
}

// is compares a token in constant time. No token is never right.
func is(given, token string) bool {
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && token != ""
}
