package plexy

import (
	"io"
	"log"
	"strings"
	"testing"
	"time"
)

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

func TestBaseURL(t *testing.T) {
	for _, raw := range []string{
		"https://api.plexypay.com/v1", "https://api.plexypay.com/v1/", "HTTPS://api.plexypay.com",
		"http://localhost:8080", "http://127.0.0.1:1/v1", "http://[::1]:1", "http://127.9.9.9",
	} {
		base, _, err := parseBase(raw, false)
		if err != nil || strings.HasSuffix(base, "/") {
			t.Errorf("parseBase(%q) = %q, %v", raw, base, err)
		}
	}
	for raw, want := range map[string]string{
		"api.plexypay.com/v1":                 "must start with https://",
		"ftp://api.plexypay.com":              "must start with https://",
		"https://":                            "has no host",
		"https://:443/v1":                     "has no host",
		"https://user:hunter2@example.com/v1": "no user",
		"https://user:hunter2@exa mple.com":   "cannot be read",
		"https://example.com:hunter2":         "cannot be read",
		"https://example.com/v1?":             "no query",
		"https://example.com/v1?a=hunter2":    "no query",
		"https://example.com/v1#a":            "no fragment",
		"https://example.com/v1#":             "no fragment",
		"https://example.com/\n":              "cannot be read",
		"http://example.com/v1":               "unencrypted to example.com",
		"http://localhost.example.com":        "unencrypted",
		"http://10.0.0.1":                     "unencrypted",
	} {
		_, _, err := parseBase(raw, false)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("parseBase(%q) = %v, want %q", raw, err, want)
		}
	}
	if _, _, err := parseBase("http://example.com/v1", true); err != nil {
		t.Errorf("plain http that is allowed: %v", err)
	}
}

// Two spellings of one address are one API.
func TestBaseURLIsNormalized(t *testing.T) {
	key, err := NewKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string][2]string{
		"":                                   {DefaultBaseURL, "api.plexypay.com"},
		"HTTPS://API.PlexyPay.com:443/v1/":   {DefaultBaseURL, "api.plexypay.com"},
		"https://api.plexypay.com:/v1//":     {DefaultBaseURL, "api.plexypay.com"},
		"https://api.plexypay.com:8443/V1":   {"https://api.plexypay.com:8443/V1", "api.plexypay.com:8443"},
		"https://api.plexypay.com:80":        {"https://api.plexypay.com:80", "api.plexypay.com:80"},
		"http://LOCALHOST:80/":               {"http://localhost", "localhost"},
		"http://[::1]:80":                    {"http://[::1]", "[::1]"},
		"http://[::1]:8080/v1":               {"http://[::1]:8080/v1", "[::1]:8080"},
		"https://[FE80::1%25Eth0]/v1":        {"https://[fe80::1%25Eth0]/v1", "[fe80::1%Eth0]"},
		"https://api.example.com/a%2Fb/v1//": {"https://api.example.com/a%2Fb/v1", "api.example.com"},
	} {
		c, err := New(Config{BaseURL: raw, Key: key})
		if err != nil {
			t.Errorf("%q: %v", raw, err)
			continue
		}
		if got := [2]string{c.BaseURL(), c.Host()}; got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
		again, host, err := parseBase(c.BaseURL(), true)
		if err != nil || again != want[0] || host != want[1] {
			t.Errorf("%q changes again: %q, %q, %v", want[0], again, host, err)
		}
	}
}

// What is escaped in an id or in the base URL stays escaped, so no server on the way reads another path.
func TestLinkURL(t *testing.T) {
	for _, tt := range []struct{ base, id, want string }{
		{"https://api.example.com/v1", "a;b,c", "/v1/payment-links/a%3Bb%2Cc"},
		{"https://api.example.com/a%2Fb/v1", testID, "/a%2Fb/v1/payment-links/" + testID},
		{"https://api.example.com/a%2Fb/v1", "a;b,c", "/a%2Fb/v1/payment-links/a%3Bb%2Cc"},
	} {
		c := newTestClient(t, tt.base, time.Second)
		if got := linkURL(c.links, tt.id).RequestURI(); got != tt.want {
			t.Errorf("%s, %s: %s, want %s", tt.base, tt.id, got, tt.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	key, err := NewKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no key":      {},
		"empty key":   {Key: &Key{}},
		"timeout":     {Key: key, Timeout: -1},
		"concurrency": {Key: key, Concurrency: -1},
		"user agent":  {Key: key, UserAgent: "a\r\nb"},
		"base URL":    {Key: key, BaseURL: "http://example.com"},
	} {
		_, err := New(cfg)
		if err == nil || strings.Contains(err.Error(), testKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := New(Config{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if c.base != DefaultBaseURL || c.timeout != 15*time.Second || c.userAgent[0] != "linkcancel" || c.lanes.most != 50 {
		t.Errorf("the defaults are wrong: %+v", c)
	}
}
