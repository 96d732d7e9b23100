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
		base, err := parseBase(raw, false)
		if err != nil || strings.HasSuffix(base, "/") {
			t.Errorf("parseBase(%q) = %q, %v", raw, base, err)
		}
	}
	for raw, want := range map[string]string{
		"api.plexypay.com/v1":                 "must start with https://",
		"ftp://api.plexypay.com":              "must start with https://",
		"https://":                            "names no host",
		"https://:443/v1":                     "names no host",
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
		_, err := parseBase(raw, false)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("parseBase(%q) = %v, want %q", raw, err, want)
		}
	}
	if _, err := parseBase("http://example.com/v1", true); err != nil {
		t.Errorf("plain http that is allowed: %v", err)
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
	if c.base != DefaultBaseURL || c.timeout != 15*time.Second || c.userAgent[0] != "linkcancel" ||
		c.transport.MaxIdleConnsPerHost != 50 || c.transport.MaxIdleConns != 50 {
		t.Errorf("the defaults are wrong: %+v", c)
	}
}
