package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
)

// To the API: a certificate that nobody vouches for is refused, with a hint that
// helps, and so is a TLS that is too old. The key goes to neither.
func TestTLSToTheAPI(t *testing.T) {
	t.Parallel()
	p := program{t: t, dir: t.TempDir()}
	file := p.write("links.csv", "id\npl_1\n", 0o600)
	p.env = []string{"PLEXY_API_KEY=" + apiKey}
	run := func(base, report string) string {
		t.Helper()
		p.run("run", "--yes", "--attempts", "1", "--rate", "100/s", "--base-url", base, "--report", report, file)
		text, err := os.ReadFile(filepath.Join(p.dir, report))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	api := sandbox.New(sandbox.Config{Key: apiKey, IDs: []string{"pl_1"}})
	defer api.Close()
	server := httptest.NewUnstartedServer(api)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	base := server.URL + sandbox.DefaultPrefix

	text := run(base, "unknown.csv")
	if !strings.Contains(text, "pl_1,failed,") || !strings.Contains(text, "signed by unknown authority (if its CA is your own, let SSL_CERT_FILE name the CA's file)") {
		t.Errorf("a certificate of an unknown authority: %s", text)
	}
	if n := api.Counts().Total; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	p.env = append(p.env, "SSL_CERT_FILE="+caFile(t, p, server))
	if text := run(base, "known.csv"); !strings.Contains(text, "pl_1,cancelled,204,") {
		t.Errorf("a CA of SSL_CERT_FILE: %s", text)
	}
	if text := run(strings.Replace(base, "127.0.0.1", "localhost", 1), "host.csv"); !strings.Contains(text, "pl_1,failed,") || !strings.Contains(text, "not localhost") {
		t.Errorf("a certificate of another host: %s", text)
	}

	old := httptest.NewUnstartedServer(api)
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	before := api.Counts().Total
	if text := run(old.URL+sandbox.DefaultPrefix, "old.csv"); !strings.Contains(text, "pl_1,failed,") || !strings.Contains(text, "protocol version") {
		t.Errorf("TLS 1.1: %s", text)
	}
	if n := api.Counts().Total; n != before {
		t.Errorf("%d requests were sent by TLS 1.1", n-before)
	}
}

// caFile writes the certificate of a server, which is its own authority.
func caFile(t *testing.T, p program, server *httptest.Server) string {
	t.Helper()
	return p.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), 0o600)
}

// To Redis it is the same, in each of its forms, and no word of the URL changes that.
func TestTLSToRedis(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	redis, _ := guardedRedis(t, "sesame-open")
	server := httptest.NewTLSServer(nil) // for its certificate
	defer server.Close()
	p := program{t: t, dir: t.TempDir()}
	list := func(url string) (out string) {
		t.Helper()
		for {
			cmd := p.command("batch", "list", "--json")
			cmd.Env = append(cmd.Env, "LINKCANCEL_REDIS_URL="+url)
			text, _ := cmd.CombinedOutput()
			if !strings.Contains(string(text), "no answer in time") || t.Context().Err() != nil { // a busy machine
				return string(text)
			}
		}
	}
	modern, heard := tlsProxy(t, redis, &tls.Config{Certificates: server.TLS.Certificates})
	old, oldHeard := tlsProxy(t, redis, &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})

	const batches = `{"batches":[]}` + "\n"
	out := list("rediss://:sesame-open@" + modern)
	if !strings.Contains(out, "shows a certificate that cannot be trusted: ") || !strings.Contains(out, `"hint":"if its CA is your own, let SSL_CERT_FILE name the CA's file"`) {
		t.Errorf("a certificate of an unknown authority: %s", out)
	}
	for _, query := range []string{"skip_verify=true", "skip_verify=1", "skip_verify"} {
		if out := list("rediss://:sesame-open@" + modern + "?" + query); !strings.Contains(out, "skip_verify is refused") {
			t.Errorf("%s: %s", query, out)
		}
	}
	for _, form := range []string{"rediss-sentinel://:sesame-open@" + modern + "/master/0", "rediss-cluster://:sesame-open@" + modern} {
		if out := list(form); !strings.Contains(out, "certificate") {
			t.Errorf("%.20s: %s", form, out)
		}
		if out := list(form + "?skip_verify=true"); !strings.Contains(out, "skip_verify is refused") {
			t.Errorf("%.20s with skip_verify: %s", form, out)
		}
	}
	if n := heard.Load(); n != 0 {
		t.Errorf("%d bytes were sent to a server that nobody vouches for", n)
	}
	p.env = []string{"SSL_CERT_FILE=" + caFile(t, p, server)}
	if out := list("rediss://:sesame-open@" + modern); out != batches {
		t.Errorf("a CA of SSL_CERT_FILE: %s", out)
	}
	for _, form := range []string{"rediss://:sesame-open@" + old, "rediss-sentinel://:sesame-open@" + old + "/master/0", "rediss-cluster://:sesame-open@" + old} {
		if out := list(form); !strings.Contains(out, "protocol version") {
			t.Errorf("TLS 1.1, %.20s: %s", form, out)
		}
	}
	if n := oldHeard.Load(); n != 0 {
		t.Errorf("%d bytes were sent by TLS 1.1", n)
	}
}

// tlsProxy puts TLS before a server; heard counts the bytes that came from clients.
func tlsProxy(t *testing.T, to string, cfg *tls.Config) (addr string, heard *atomic.Int64) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	heard = &atomic.Int64{}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer server.Close()
				go func() { _, _ = io.Copy(client, server) }()
				buffer := make([]byte, 4096)
				for {
					n, err := client.Read(buffer)
					heard.Add(int64(n))
					if err != nil {
						return
					}
					if _, err := io.Copy(server, bytes.NewReader(buffer[:n])); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String(), heard
}

// A proxy of the environment passes the connection on, and sees no more of it
// than its host; what it answers itself is shown without its password.
func TestProxySeesNoKey(t *testing.T) {
	t.Parallel()
	p := program{t: t, dir: t.TempDir()}
	file := p.write("links.csv", "id\npl_1\n", 0o600)
	api := sandbox.New(sandbox.Config{Key: oddKey, IDs: []string{"pl_1"}})
	defer api.Close()
	server := httptest.NewTLSServer(api) // its certificate is for example.com too
	defer server.Close()
	var heard lockedBuffer
	refuse := make(chan bool, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true)
		_, _ = heard.Write(dump)
		select {
		case <-refuse:
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		default:
		}
		to, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(from, to) }()
		_, _ = io.Copy(io.MultiWriter(to, &heard), from)
	}))
	defer proxy.Close()
	p.env = []string{
		"PLEXY_API_KEY=", "PLEXY_API_KEY_FILE=" + p.write("key", oddKey, 0o600), "SSL_CERT_FILE=" + caFile(t, p, server),
		"HTTPS_PROXY=http://someone:" + url.QueryEscape(oddPassword) + "@" + proxy.Listener.Addr().String(), "NO_PROXY=",
		"LINKCANCEL_LOG_LEVEL=debug",
	}
	run := func(report string) string {
		t.Helper()
		p.run("run", "--yes", "--attempts", "1", "--rate", "100/s", "--base-url", "https://example.com"+sandbox.DefaultPrefix, "--report", report, file)
		text, err := os.ReadFile(filepath.Join(p.dir, report))
		if err != nil {
			t.Fatal(err)
		}
		checkHidden(t, report, string(text))
		return string(text)
	}
	refuse <- true
	if text := run("refused.csv"); !strings.Contains(text, "pl_1,failed,,active,") || !strings.Contains(text, "Proxy Authentication Required") {
		t.Errorf("a proxy that refuses: %s", text)
	}
	if text := run("passed.csv"); !strings.Contains(text, "pl_1,cancelled,204,") {
		t.Errorf("a proxy: %s", text)
	}
	said := heard.String()
	if !strings.Contains(said, "CONNECT example.com:443 ") {
		t.Errorf("the proxy was not asked: %q", said)
	}
	if strings.Contains(said, "sk_live") || strings.Contains(said, "payment-links") {
		t.Errorf("the proxy sees the request: %q", said)
	}
}
