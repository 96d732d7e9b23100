package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"linkcancel/internal/redistest"
)

// Secrets with everything that escaping changes.
const (
	oddKey      = `sk_live_0123<>&/"+ ~abcdefgh`
	oddPassword = `p@55/w0rd"%<&>+ \0123456789`
)

// forms are how a program may show a secret, worked out here once more and not
// by the code that hides them.
func forms(secret string) map[string]string {
	quoted, _ := json.Marshal(secret)
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(secret)
	f := map[string]string{
		"as it is": secret, "JSON": string(quoted[1 : len(quoted)-1]), "plain JSON": strings.Trim(plain.String(), "\"\n"),
		"JSON of PHP": strings.ReplaceAll(string(quoted[1:len(quoted)-1]), "/", `\/`), "query": url.QueryEscape(secret), "path": url.PathEscape(secret),
		"HTML": html.EscapeString(secret), "hexadecimal": fmt.Sprintf("%x", secret), "in a Go string": strings.Trim(strconv.Quote(secret), `"`),
		"in a Redis reply": strings.ReplaceAll(secret, `"`, `\"`),
	}
	return f
}

// inBase64 is a secret in the middle of something that is encoded as a whole, and
// the groups of characters that are the secret's alone.
func inBase64(secret string) (texts, groups []string) {
	for before := range 3 {
		skip := (3 - before) % 3
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			texts = append(texts, encoding.EncodeToString([]byte("abc"[:before]+secret+"d")))
			groups = append(groups, encoding.EncodeToString([]byte(secret[skip:skip+(len(secret)-skip)/3*3])))
		}
	}
	return texts, groups
}

// checkHidden: a text shows none of the secrets in any form, and is not empty.
func checkHidden(t *testing.T, what, text string) {
	t.Helper()
	if text == "" {
		t.Errorf("%s: there is nothing to look through", what)
	}
	for _, secret := range []string{oddKey, oddPassword} {
		for form, shown := range forms(secret) {
			if at := strings.Index(text, shown); at >= 0 {
				t.Errorf("%s shows a secret, %s: …%s…", what, form, text[max(0, at-100):min(len(text), at+len(shown)+40)])
			}
		}
		_, groups := inBase64(secret)
		for _, shown := range groups {
			if strings.Contains(text, shown) {
				t.Errorf("%s shows a secret in base64: %s", what, shown)
			}
		}
		// Nor any part that would be of use.
		for _, part := range []string{"sk_live_0123", "abcdefgh", "0123456789"} {
			if at := strings.Index(text, part); at >= 0 && strings.Contains(secret, part) {
				t.Errorf("%s shows a part of a secret: …%s…", what, text[max(0, at-100):min(len(text), at+100)])
			}
		}
	}
}

// echo is an API that tells everyone the key in all its answers.
func echo(t *testing.T) (base string, heard func() int) {
	t.Helper()
	var mu sync.Mutex
	keys := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Authorization")
		mu.Lock()
		if key == oddKey {
			keys++
		}
		mu.Unlock()
		all, _ := inBase64(key)
		for _, name := range slices.Sorted(maps.Keys(forms(key))) {
			all = append(all, forms(key)[name])
		}
		_, kind, _ := strings.Cut(r.URL.Path, "/payment-links/")
		kind, n, _ := strings.Cut(kind, "-")
		place, _ := strconv.Atoi(n)
		text := all[place%len(all)]
		w.Header().Set("Location", "https://127.0.0.1:1/?key="+url.QueryEscape(key))
		w.Header().Set("X-Key", key)
		status, err := strconv.Atoi(kind)
		switch {
		case kind == "cut", kind == "status", kind == "header":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			switch kind {
			case "status":
				fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", text)
			case "header":
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", text)
			}
		case err != nil && r.URL.Query().Has("size"): // the list
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, "no list for %s or %s", key, text)
		case err != nil: // the documented form, so that a sweep gives up at once
			w.WriteHeader(http.StatusBadRequest)
			reply, _ := json.Marshal(map[string]any{"code": 3, "message": "no list for " + key + " or " + text, "type": "validationError"})
			_, _ = w.Write(reply)
		case r.Method == http.MethodGet:
			reply, _ := json.Marshal(map[string]string{"id": kind + "-" + n, "status": "odd " + text, "url": text})
			_, _ = w.Write(reply)
		case place%3 == 0:
			w.WriteHeader(status)
			fmt.Fprintf(w, "<html>%s: bad key %s", text, text)
		default:
			w.WriteHeader(status)
			reply, _ := json.Marshal(map[string]string{"code": text, "message": "bad key " + text + strings.Repeat("x", place*8) + key, "type": text})
			_, _ = w.Write(reply)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1", func() int { mu.Lock(); defer mu.Unlock(); return keys }
}

// program runs linkcancel with an environment that has no secret in it, only
// the files where they are.
type program struct {
	t   *testing.T
	dir string
	env []string
}

func (p program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(fastBinary(p.t), args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), p.env...)
	return cmd
}

// run runs a command to its end and looks through what it says.
func (p program) run(args ...string) (stdout string) {
	p.t.Helper()
	cmd := p.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		p.t.Fatal(err)
	}
	checkHidden(p.t, strings.Join(args, " "), out.String()+errs.String())
	return out.String()
}

func (p program) write(name, text string, mode os.FileMode) (path string) {
	p.t.Helper()
	path = filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// With an API that tells the key in every answer, at the log level that tells
// most, with traces, after a SIGQUIT that makes Go show all its stacks: the key
// and the Redis password are in nothing that linkcancel says, serves or stores.
func TestSecretsStayHidden(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	base, heard := echo(t)
	p := program{t: t, dir: t.TempDir()}
	redis, redisDir := guardedRedis(t, oddPassword)
	metricsAddr := "127.0.0.1:" + freePort(t)
	p.env = []string{
		"LINKCANCEL_REDIS_URL=redis://" + redis + "/0",
		"LINKCANCEL_REDIS_PASSWORD_FILE=" + p.write("password", oddPassword, 0o600),
		"PLEXY_API_KEY=", "PLEXY_API_KEY_FILE=" + p.write("key", oddKey, 0o600),
		"PLEXY_BASE_URL=" + base, "LINKCANCEL_LOG_LEVEL=debug", "OTEL_TRACES_EXPORTER=console", "GOTRACEBACK=all",
	}
	rows := "id,note\n"
	links := 0
	for n := range 20 { // in an order in which failures are no outage
		for _, kind := range []string{"400", "500", "404", "502", "409", "cut", "422", "status", "302", "header", "307", "200"} {
			rows += fmt.Sprintf("%s-%d,=cmd\n", kind, n)
			links++
		}
	}
	file := p.write("links.csv", rows, 0o600)

	worker := p.command("worker", "--rate", "1000/s", "--attempts", "2", "--metrics-addr", metricsAddr, "--pprof", "--log-format", "json")
	var log lockedBuffer
	worker.Stdout, worker.Stderr = &log, &log
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	t.Cleanup(func() {
		if !killed {
			_ = worker.Process.Kill()
			_ = worker.Wait()
		}
	})
	p.run("import", "--yes", "--id", "b1", "--no-canary", file)
	p.run("batch", "watch", "b1", "--json")
	if n := heard(); n < links {
		t.Fatalf("the API heard the key %d times, there are %d links", n, links)
	}
	for _, path := range []string{"metrics", "healthz", "readyz", "debug/pprof/goroutine?debug=2", "debug/pprof/goroutine?debug=1",
		"debug/pprof/heap?debug=1", "debug/pprof/allocs?debug=1", "debug/pprof/block?debug=1", "debug/pprof/mutex?debug=1",
		"debug/pprof/heap", "debug/pprof/cmdline", "debug/pprof/", "debug/pprof/profile?seconds=1"} {
		resp, err := http.Get("http://" + metricsAddr + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		checkHidden(t, path, string(body))
	}
	for _, name := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", worker.Process.Pid, name)); err == nil {
			checkHidden(t, "/proc/PID/"+name, string(text))
		}
	}
	for _, args := range [][]string{
		{"batch", "list"}, {"batch", "show", "b1"}, {"batch", "show", "b1", "--json"}, {"batch", "report", "b1", "-o", "report.csv", "--join", file},
		{"batch", "report", "b1"}, {"batch", "report", "b1", "--format", "jsonl"}, {"batch", "retry", "b1", "--dry-run"}, {"rate", "show", "--json"},
		{"sweep", "--dry-run"}, {"sweep", "--dry-run", "--json", "--log-format", "json"}, {"healthcheck", "--metrics-addr", metricsAddr},
		{"run", "--yes", "--no-canary", "--rate", "1000/s", "--attempts", "1", "--report", "run.csv", file},
	} {
		p.run(args...)
	}
	p.servePages()
	for _, name := range []string{"report.csv", "run.csv"} {
		text, err := os.ReadFile(filepath.Join(p.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		checkHidden(t, name, string(text))
		if !strings.Contains(string(text), "[redacted]") {
			t.Errorf("%s has no error text of the API: %.500s", name, text)
		}
	}

	// A panic of the whole program, as far as one can be had from outside.
	_ = worker.Process.Signal(syscall.SIGQUIT)
	_ = worker.Wait()
	killed = true
	text := log.String()
	checkHidden(t, "the worker's log", text)
	for _, want := range []string{"goroutine ", "[redacted]", `"level":"DEBUG"`, "SpanContext"} {
		if !strings.Contains(text, want) {
			t.Errorf("the worker's log has no %s", want)
		}
	}
	// All that was ever written to Redis.
	stored := ""
	err := filepath.WalkDir(filepath.Join(redisDir, "appendonlydir"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		stored += string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	checkHidden(t, "Redis", stored)
	if !strings.Contains(stored, "links:cancel") || !strings.Contains(stored, "[redacted]") {
		t.Error("the Redis log has no task or no error text")
	}
}

// servePages looks through all pages of the batch b1, as an operator.
func (p program) servePages() {
	p.t.Helper()
	const token = "a-token-of-operators-0123"
	addr := "127.0.0.1:" + freePort(p.t)
	cmd := p.command("serve", "--addr", addr, "--allow-actions", "--operator-token-file", p.write("operators", token, 0o600))
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	waitFor(p.t, "the page", func() bool { return strings.Contains(said.String(), "With actions:") })
	for _, path := range []string{
		"/", "/batches/b1", "/batches/b1/links", "/batches/b1/links?outcome=rejected", "/batches/b1/links?outcome=failed", "/batches/b1/report", "/batches/b1/report?format=jsonl",
		"/rate", "/sweeps", "/activity", "/link?q=400-0", "/live?once&page=/batches/b1", "/live?once&page=/rate", "/batches/none", "/static/live.js",
	} {
		request, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			p.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK && path != "/batches/none" {
			p.t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
		checkHidden(p.t, path, string(body))
		if strings.Contains(string(body), token) {
			p.t.Errorf("%s shows the token", path)
		}
	}
}

// guardedRedis starts a redis-server that wants a password and logs every
// command that changes something.
func guardedRedis(t *testing.T, password string) (addr, dir string) {
	t.Helper()
	dir = t.TempDir()
	config := filepath.Join(dir, "redis.conf")
	port := freePort(t)
	if err := os.WriteFile(config, fmt.Appendf(nil, "requirepass %q\nport %s\nbind 127.0.0.1\ndir %q\nsave \"\"\nappendonly yes\nappendfsync always\n", password, port, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("redis-server", config)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	addr = "127.0.0.1:" + port
	waitFor(t, "redis-server", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return addr, dir
}

// Whoever echoes a secret when it is refused: a server that does not know AUTH
// shows its arguments, and 401 ends a run with the API's words.
func TestRefusedSecretsStayHidden(t *testing.T) {
	t.Parallel()
	p := program{t: t, dir: t.TempDir()}
	p.env = []string{
		"PLEXY_API_KEY=", "PLEXY_API_KEY_FILE=" + p.write("key", oddKey, 0o600), "LINKCANCEL_LOG_LEVEL=debug",
		"LINKCANCEL_REDIS_PASSWORD_FILE=" + p.write("password", oddPassword, 0o600),
	}
	base, _ := echo(t)
	file := p.write("links.csv", "id\n401-1\n401-2\n403-3\n", 0o600)
	p.run("run", "--yes", "--base-url", base, file)

	redis := echoRedis(t)
	p.env = append(p.env, "LINKCANCEL_REDIS_URL=redis://someone@"+redis+"/0", "PLEXY_BASE_URL="+base)
	t.Run("Redis", func(t *testing.T) {
		for _, args := range [][]string{{"batch", "list"}, {"import", "--yes", file}, {"worker", "--metrics-addr", "off"}, {"rate", "--json"}, {"sweep"}} {
			t.Run(args[0], func(t *testing.T) {
				t.Parallel() // each waits for a Redis that answers
				program{t: t, dir: p.dir, env: p.env}.run(args...)
			})
		}
	})
	p.env = append(p.env, "LINKCANCEL_REDIS_PASSWORD_FILE=", "LINKCANCEL_REDIS_URL="+(&url.URL{
		Scheme: "redis", User: url.UserPassword("someone", oddPassword), Host: redis,
	}).String())
	p.run("batch", "list")
	// In places where it does not belong.
	p.run("run", "--yes", "--base-url", "https://user:"+url.QueryEscape(oddKey)+"@127.0.0.1:1/v1", file)
	p.run("run", "--yes", "--base-url", "https://127.0.0.1:1/v1?key="+url.QueryEscape(oddKey), file)
	p.write("key", oddKey+"\n"+oddKey, 0o600)
	p.run("run", "--yes", file)
	p.write("key", oddKey+"\x00", 0o600)
	p.run("run", "--yes", file)
}

// echoRedis answers every command with an error that shows its arguments.
func echoRedis(t *testing.T) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 64<<10)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						return
					}
					words := strings.Join(strings.Fields(string(buffer[:n])), " ")
					reply := "-ERR unknown command: " + words + "\r\n"
					if _, err := conn.Write(bytes.Repeat([]byte(reply), strings.Count(string(buffer[:n]), "*"))); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// lockedBuffer takes what a process writes while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v for %s", patience, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
