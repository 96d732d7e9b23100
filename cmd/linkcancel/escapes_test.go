package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"linkcancel/internal/clean"
	"linkcancel/internal/redistest"
)

// evil has what terminals obey: colours and a title in both forms, a carriage
// return, a backspace, and characters that turn text round or are not seen.
const evil = "\x1b[31m\x1b]0;owned\a\u009b2J\x7f\r\b\u202e\u2066\u200b\U000e0041evil"

// checkShown: a text has nothing in it that a terminal obeys.
func checkShown(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s: no UTF-8: %q", what, text)
	}
	for i, r := range text {
		if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			t.Errorf("%s shows %U: %q", what, r, text[max(0, i-80):min(len(text), i+80)])
			return
		}
	}
}

// Whoever chose it, the names of files, columns and batches, cells, the answers
// of the API and those of Redis: none of it gets to a terminal as it is, by
// standard output, by standard error or by a log, as text or as JSON.
func TestNothingEvilIsShown(t *testing.T) {
	t.Parallel()
	p := program{t: t, dir: t.TempDir()}
	file := evil + ".csv"
	rest := evil + strings.Repeat("x", 1000) // or it is no text
	link := "https://c.example/pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f"
	p.write(file, "id,\""+rest+"\"\npl_1,\""+rest+"\"\npl_2,\""+rest+"\"\n", 0o600)
	p.write("bad"+file, "id,"+evil+",x\n"+evil+",1,"+rest+"\n\"a"+evil+"\"b,\n", 0o600)
	p.write("two"+file, "\"a"+evil+"\",\"b"+evil+"\",x\n"+link+","+link+","+rest+"\n", 0o600)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply := map[string]any{"id": "pl_1", "status": evil, "url": evil, "code": evil, "message": evil, "type": evil}
		if strings.HasSuffix(r.URL.Path, "/payment-links") {
			reply = map[string]any{"data": []any{reply}, "total": 1}
		} else if r.Method == http.MethodDelete {
			w.WriteHeader(map[bool]int{true: 400, false: 422}[strings.HasSuffix(r.URL.Path, "1")])
		}
		_ = json.NewEncoder(w).Encode(reply)
	}))
	defer api.Close()
	redis := evilRedis(t)
	p.env = []string{"PLEXY_API_KEY=" + apiKey, "PLEXY_BASE_URL=" + api.URL, "LINKCANCEL_REDIS_URL=redis://" + redis + "/0", "LINKCANCEL_LOG_LEVEL=debug"}
	show := func(args ...string) {
		t.Helper()
		for _, more := range [][]string{nil, {"--log-format", "json"}, {"--json"}} {
			cmd := p.command(append(args, more...)...)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			_ = cmd.Run()
			what := clean.Line(strings.Join(cmd.Args, " "))
			if out.Len()+errs.Len() == 0 {
				t.Errorf("%s says nothing", what)
			}
			checkShown(t, what, out.String())
			checkShown(t, what, errs.String())
			if more == nil {
				continue
			}
			for line := range strings.Lines(errs.String()) {
				if strings.HasPrefix(line, "{") && !json.Valid([]byte(line)) {
					t.Errorf("%s: no JSON: %s", what, line)
				}
			}
			if text := out.String(); strings.HasPrefix(text, "{") && !json.Valid([]byte(text)) {
				t.Errorf("%s: no JSON: %s", what, text)
			}
		}
	}
	show("--" + evil)
	show(evil)
	show("import", "--dry-run", file)
	show("import", "--dry-run", "bad"+file)
	show("import", "--dry-run", "two"+file)
	show("import", "--dry-run", "none"+file)
	show("import", "--dry-run", file, "--column", evil+"2")
	show("import", "--dry-run", file, "--name", evil)
	show("import", "--dry-run", file, "--id", evil)
	show("import", "--yes", "--skip-invalid", "--rejects", file, file)
	show("run", "--yes", "--rate", evil, file)
	show("run", "--yes", "--base-url", "https://"+evil, file)
	show("run", "--yes", "--base-url", "https://h\u202e.example\u200b/v1", "--attempts", "1", file)
	show("run", "--yes", "--api-key-file", evil, file)
	show("run", "--yes", "--report", file, file)
	show("run", "--resume", evil)
	p.run("run", "--yes", "--attempts", "1", "--rate", "1000/s", "--report", evil+".report", file)
	show("run", "--yes", "--no-canary", "--attempts", "1", "--rate", "1000/s", file)
	show("batch", "list")
	show("batch", "list", "--redis-url", "redis://"+evil)
	show("batch", "list", "--redis-url", evil+"://h")
	show("sweep", "--dry-run", "--timezone", evil)
	show("worker", "--metrics-addr", evil)
	show("worker", "--sweep-cron", evil)
	show("healthcheck", "--metrics-addr", evil)
	show("batch", "report", evil, "--outcome", evil)

	// The report itself is data, and keeps the user's cells.
	text, err := os.ReadFile(filepath.Join(p.dir, evil+".report"))
	if err != nil || !strings.Contains(string(text), "pl_1,\""+rest+"\",") {
		t.Errorf("%q, %v", text, err)
	}

	if !redistest.Have(t) {
		return
	}
	p.env = append(p.env, "LINKCANCEL_REDIS_URL="+redistest.Start(t))
	show("import", "--yes", "--id", "b1", "--name", evil, file)
	show("import", "--yes", "--id", "b1", "bad"+file)
	show("batch", "list")
	show("batch", "show", "b1")
	show("batch", "show", evil)
	for _, args := range [][]string{{"batch", "list"}, {"__complete", "--", "batch", "show", ""}} {
		text := p.run(args...)
		checkShown(t, args[0], text)
		if !strings.Contains(text, clean.Line(evil)) {
			t.Errorf("%s does not show the name of the batch: %s", args, text)
		}
	}
	show("batch", "report", "b1", "-o", filepath.Join(p.dir, evil, evil))
	show("sweep", "--dry-run")
	show("rate", "set", evil)
}

// evilRedis answers every command with an error that a terminal would obey.
func evilRedis(t *testing.T) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	reply := "-ERR " + strings.NewReplacer("\r", "", "\n", "").Replace(evil) + "\r\n"
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 4096)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						return
					}
					if _, err := io.WriteString(conn, strings.Repeat(reply, strings.Count(string(buffer[:n]), "*"))); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// What is printed is told of when it was lost, by whatever command.
func TestLostOutput(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		return // only Linux has it
	}
	defer full.Close()
	p := program{t: t, dir: t.TempDir()}
	p.write("links.csv", "id\npl_1\n", 0o600)
	commands := [][]string{{"version"}, {"version", "--json"}, {"help"}, {"--help"}, {"run", "--help"}, {"completion", "bash"}, {"import", "--dry-run", "links.csv"}}
	if redistest.Have(t) {
		p.env = []string{"LINKCANCEL_REDIS_URL=" + redistest.Start(t)}
		p.run("import", "--yes", "--id", "b1", "links.csv")
		commands = append(commands, [][]string{
			{"batch", "list"}, {"batch", "list", "--json"}, {"batch", "show", "b1"}, {"batch", "show", "b1", "--json"}, {"batch", "report", "b1"},
			{"batch", "report", "b1", "-o", "/dev/stdout"}, {"batch", "report", "b1", "--format", "jsonl"}, {"batch", "pause", "b1"}, {"batch", "resume", "b1"},
			{"batch", "abort", "b1", "--yes"}, {"batch", "watch", "b1", "--json"}, {"batch", "retry", "b1", "--outcome", "aborted", "--yes"}, {"batch", "delete", "b1", "--yes"}, {"rate"}, {"rate", "--json"},
			{"rate", "set", "5/s"}, {"rate", "hold"}, {"rate", "release"}, {"import", "--yes", "links.csv"},
		}...)
	}
	for _, args := range commands {
		cmd := p.command(args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &errs
		_ = cmd.Run()
		want := fmt.Sprint(exitFailed)
		if len(args) > 1 && args[1] == "watch" { // it tells of links that are aborted
			want = fmt.Sprint(exitLinks)
		}
		if code := fmt.Sprint(cmd.ProcessState.ExitCode()); code != want || strings.Count(errs.String(), "no space left on device") != 1 {
			t.Errorf("%s: exit code %s, want %s: %s", args, code, want, errs.String())
		}
	}
}
