package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// DefaultURL is the default URL of Redis.
const DefaultURL = "redis://127.0.0.1:6379/0"

// The forms of a URL. rediss is redis with TLS.
const (
	FormSingle   = "redis://HOST:PORT/DB"
	FormSentinel = "redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB"
	FormCluster  = "redis-cluster://HOST:PORT,HOST:PORT"
)

// ErrURL means that the URL of the Redis database cannot be used.
var ErrURL = errors.New("unusable Redis URL")

// ErrUnescaped and ErrSkipVerify are reasons of an ErrURL.
var (
	ErrUnescaped  = errors.New("is a character of the password not escaped?")
	ErrSkipVerify = errors.New("skip_verify is refused")
)

// splitURL parses a URL. A file with a secret may end with a line end, so white space is trimmed.
// The URL has the first host, and hosts has all: with Sentinels and clusters there may be many.
func splitURL(raw string) (u *url.URL, hosts []string, err error) {
	raw = strings.TrimSpace(raw)
	scheme, rest, _ := strings.Cut(raw, "://")
	switch strings.ToLower(scheme) {
	case "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster":
		end := len(rest)
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			end = i
		}
		user := rest[:strings.LastIndex(rest[:end], "@")+1]
		hosts = strings.Split(rest[len(user):end], ",")
		raw = scheme + "://" + user + hosts[0] + rest[end:]
		for _, host := range hosts {
			if one, err := url.Parse("redis://" + host); err != nil || one.Host != host || one.Hostname() == "" {
				return nil, nil, errors.New("invalid host in list")
			}
		}
	}
	if u, err = url.Parse(raw); err != nil {
		return nil, nil, err
	}
	if hosts == nil {
		hosts = []string{u.Host}
	}
	return u, hosts, nil
}

// parseURL parses a URL. Errors never show the password.
func parseURL(raw string) (target, error) {
	u, hosts, err := splitURL(raw)
	if err != nil {
		return target{}, unreadable(raw)
	}
	kind, form, parse := strings.TrimPrefix(strings.TrimPrefix(u.Scheme, "rediss"), "redis"), "", parseSingle
	switch {
	case kind == u.Scheme: // neither
	case kind == "":
		form, parse = FormSingle, parseSingle
	case kind == "-sentinel":
		form, parse = FormSentinel, parseSentinel
	case kind == "-cluster":
		form, parse = FormCluster, parseCluster
	}
	if form == "" {
		return target{}, fmt.Errorf("%w: it begins with %q: give %s, %s or %s, and rediss for TLS",
			ErrURL, u.Scheme, FormSingle, FormSentinel, FormCluster)
	}
	if u.Opaque != "" || u.Host == "" && kind != "" { // go-redis would use localhost
		return target{}, fmt.Errorf("%w: the // behind %s: is missing: give %s", ErrURL, u.Scheme, form)
	}
	if strayAt(u) {
		return target{}, fmt.Errorf("%w: there is an @ after its host: %w", ErrURL, ErrUnescaped)
	}
	if strings.Contains(raw, "#") { // the rest would be dropped, and may be part of a password
		return target{}, fmt.Errorf("%w: there is a # in it: %w", ErrURL, ErrUnescaped)
	}
	if u.Query().Has("skip_verify") { // go-redis would accept any certificate and send the password
		return target{}, fmt.Errorf("%w: %w", ErrURL, ErrSkipVerify)
	}
	u.Scheme = strings.TrimSuffix(u.Scheme, kind) // for go-redis
	to, err := parse(u, hosts)
	if syntax := new(url.Error); errors.As(err, &syntax) {
		return target{}, unreadable(raw)
	}
	if errors.Is(err, ErrUnescaped) {
		return target{}, fmt.Errorf("%w %s: %w", ErrURL, safeURL(raw), err)
	}
	if err != nil {
		return target{}, fmt.Errorf("%w %s: %s", ErrURL, safeURL(raw), strings.TrimPrefix(err.Error(), "redis: "))
	}
	return to, nil
}

// unreadable returns the error of a URL that cannot be parsed. net/url would show the password.
func unreadable(raw string) error {
	form := FormSingle
	switch {
	case strings.Contains(raw, "-sentinel://"):
		form = FormSentinel
	case strings.Contains(raw, "-cluster://"):
		form = FormCluster
	}
	if strings.Contains(raw, "@") {
		return fmt.Errorf("%w: it cannot be read: give %s: %w", ErrURL, form, ErrUnescaped)
	}
	return fmt.Errorf("%w: it cannot be read: give %s", ErrURL, form)
}

func parseSingle(u *url.URL, _ []string) (target, error) {
	if strings.Contains(u.Host, ",") {
		return target{}, fmt.Errorf("it names many hosts: give %s or %s", FormSentinel, FormCluster)
	}
	opt, err := redis.ParseURL(u.String())
	return target{single: opt}, err
}

// parseSentinel parses our form for Sentinels. go-redis takes the master's name and
// credentials from parameters, and uses the user of the URL for the Sentinels.
func parseSentinel(u *url.URL, hosts []string) (target, error) {
	master, db, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if master == "" {
		return target{}, fmt.Errorf("it names no master: give %s", FormSentinel)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return target{}, fmt.Errorf("its parameters cannot be read: %w", ErrUnescaped)
	}
	for _, name := range []string{"username", "password", "master_name", "addr", "db"} { // our form has them elsewhere
		if query.Has(name) {
			return target{}, fmt.Errorf("unexpected option: %s", name)
		}
	}
	sentinel := url.UserPassword(query.Get("sentinel_username"), query.Get("sentinel_password"))
	query.Del("sentinel_username")
	query.Del("sentinel_password")
	query.Set("master_name", master)
	hosts = withPort(hosts, "26379")
	query["addr"] = hosts[1:]
	opt, err := redis.ParseFailoverURL((&url.URL{
		Scheme: u.Scheme, User: sentinel, Host: hosts[0], Path: "/" + db, RawQuery: query.Encode(),
	}).String())
	if err != nil {
		return target{}, err
	}
	if opt.ReplicaOnly || opt.RouteByLatency || opt.RouteRandomly {
		return target{}, errors.New("replicas cannot be read from: they lag behind")
	}
	opt.Username = u.User.Username()
	opt.Password, _ = u.User.Password()
	if opt.TLSConfig != nil {
		opt.TLSConfig.ServerName = "" // each server has its own name
	}
	return target{sentinel: opt}, nil
}

func parseCluster(u *url.URL, hosts []string) (target, error) {
	if strings.Trim(u.Path, "/") != "" && u.Path != "/0" {
		return target{}, errors.New("a cluster has one database only: leave the path out")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return target{}, errors.New("its parameters cannot be read")
	}
	if query.Has("addr") {
		return target{}, errors.New("unexpected option: addr")
	}
	hosts = withPort(hosts, "6379")
	query["addr"] = hosts[1:]
	opt, err := redis.ParseClusterURL((&url.URL{
		Scheme: u.Scheme, User: u.User, Host: hosts[0], RawQuery: query.Encode(),
	}).String())
	if err != nil {
		return target{}, err
	}
	if opt.ReadOnly || opt.RouteByLatency || opt.RouteRandomly {
		return target{}, errors.New("replicas cannot be read from: they lag behind")
	}
	if opt.TLSConfig != nil {
		opt.TLSConfig.ServerName, opt.TLSConfig.MinVersion = "", tls.VersionTLS12
	}
	return target{cluster: opt}, nil
}

// withPort adds the default port to hosts without one.
func withPort(hosts []string, port string) []string {
	all := make([]string, len(hosts))
	for i, host := range hosts {
		one := url.URL{Host: host}
		if all[i] = host; one.Port() == "" {
			all[i] = net.JoinHostPort(one.Hostname(), port)
		}
	}
	return all
}

// strayAt reports whether the text after the host may be the rest of an unescaped password.
func strayAt(u *url.URL) bool {
	return strings.Contains(u.Path+u.RawQuery+u.Fragment, "@")
}

// HasPassword reports whether a Redis URL contains a password.
func HasPassword(raw string) bool {
	u, _, err := splitURL(raw)
	if err != nil {
		return false
	}
	_, ok := u.User.Password()
	return ok || u.Query().Has("sentinel_password")
}

// safeURL returns the URL without user, password and parameters.
func safeURL(raw string) string {
	u, hosts, err := splitURL(raw)
	if err != nil || u.Opaque != "" || strayAt(u) {
		return "an unreadable URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	u.Host = strings.Join(hosts, ",")
	return u.String()
}
