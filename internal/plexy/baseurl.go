package plexy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// ErrPlainHTTP means plain http to another machine without Config.InsecureHTTP.
var ErrPlainHTTP = errors.New("use https, or allow plain http explicitly")

// NormalizeURL checks and normalizes a base URL as New does. The error never shows the whole URL.
func NormalizeURL(raw string, insecureHTTP bool) (string, error) {
	base, _, err := parseBase(raw, insecureHTTP)
	return base, err
}

// parseBase returns the normalized base URL and its host. Its errors may not show a password.
func parseBase(raw string, insecureHTTP bool) (base, host string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", errors.New("the base URL cannot be read: it should look like " + DefaultBaseURL)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return "", "", errors.New("the base URL must start with https://, like " + DefaultBaseURL)
	case u.Hostname() == "":
		return "", "", errors.New("the base URL has no host: it should look like " + DefaultBaseURL)
	case u.User != nil:
		return "", "", errors.New("the base URL must hold no user or password: the API takes a key")
	case u.RawQuery != "" || u.ForceQuery:
		return "", "", errors.New("the base URL must hold no query: remove what follows the ?")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return "", "", errors.New("the base URL must hold no fragment: remove what follows the #")
	case u.Scheme == "http" && !insecureHTTP && !loopback(u.Hostname()):
		return "", "", fmt.Errorf("the base URL would send the API key unencrypted to %s: %w", u.Hostname(), ErrPlainHTTP)
	}
	u.Host = normalHost(u)
	return strings.TrimRight(u.String(), "/"), u.Host, nil
}

// normalHost returns the host of u in lower case, without the default port of the scheme.
func normalHost(u *url.URL) string {
	name, zone, scoped := strings.Cut(u.Hostname(), "%")
	name = strings.ToLower(name)
	if scoped {
		name += "%" + zone // a network interface; its case matters
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	port := u.Port()
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		return name
	}
	return name + ":" + port
}

// loopback reports whether host is this machine by its name or address, without a look-up.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// linksURL returns the URL of all links. base is a result of parseBase.
func linksURL(base string) (*url.URL, error) { return url.Parse(base + "/payment-links") }

// linkURL returns the URL of one link, given that of all. The id has passed CheckID.
func linkURL(links *url.URL, id string) *url.URL {
	u := *links
	u.Path = links.Path + "/" + id
	u.RawPath = links.EscapedPath() + "/" + url.PathEscape(id)
	return &u
}
