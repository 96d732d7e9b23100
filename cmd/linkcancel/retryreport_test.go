package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/text/encoding/charmap"

	"linkcancel/internal/sandbox"
)

const byteOrderMark = "\ufeff"

// excel writes a file as Excel saves it: Cyrillic cells, semicolons, line ends of Windows.
func excel(ids []string) string {
	var b strings.Builder
	b.WriteString("Заказ;Ссылка;Клиент\r\n")
	for i, id := range ids {
		fmt.Fprintf(&b, "%d;%s;Ёлкин №%d\r\n", 1000+i, id, i)
	}
	return b.String()
}

// shown runs a command and returns its exit code and what it prints.
func (p program) shown(args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	cmd := p.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	checkShown(p.t, strings.Join(args, " "), out.String()+errs.String())
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func newProgram(t *testing.T, cfg sandbox.Config) (program, *sandbox.Server) {
	cfg.Key = apiKey
	api := sandbox.New(cfg)
	url, stop, err := serveLocal("127.0.0.1:0", api)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close(); stop() })
	return program{t: t, dir: t.TempDir(), env: []string{"PLEXY_API_KEY=" + apiKey, "PLEXY_BASE_URL=" + url}}, api
}

// A file of Excel with 42 troubled links: the screen shows both reasons and the command that tries
// them again. It cancels them, and the new report is the user's file with one line for each row.
func TestRunRetry(t *testing.T) {
	t.Parallel()
	p, api := newProgram(t, sandbox.Config{Links: 600, Seed: 1})
	ids := api.IDs()
	for i := range 42 {
		answer := withBody(t, "400")
		times := 1
		if i >= 20 {
			answer, times = withBody(t, "500"), 2
		}
		for range times {
			api.Script(ids[14*i], answer)
		}
	}
	input := byteOrderMark + excel(ids)
	p.write("stale.csv", input, 0o600)
	code, stdout, stderr := p.shown("run", "stale.csv", "--yes", "--rate", "2000/s", "--attempts", "2")
	if code != exitLinks {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	for _, want := range []string{`(?m)^  rejected +20   400, .+$`, `(?m)^  failed +22   500, .+$`, `(?m)^Still payable: 42 of 600`} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("%s is not in %s", want, stdout)
		}
	}
	next := regexp.MustCompile(`(?m)^Next: linkcancel (run --retry \S+)$`).FindStringSubmatch(stderr)
	if next == nil {
		t.Fatalf("no next command in %s", stderr)
	}
	code, stdout, stderr = p.shown(append(strings.Fields(next[1]), "--yes", "--rate", "2000/s")...)
	if code != exitFine || !strings.Contains(stdout, "\nStill payable: 0 of 42\n") {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	for _, id := range ids {
		if status, _ := api.Status(id); status != "cancelled" || api.Applied(id) != 1 {
			t.Errorf("%s is %s, cancelled %d times", id, status, api.Applied(id))
		}
	}
	name := regexp.MustCompile(`(?m)^Report: (\S+)$`).FindStringSubmatch(stdout)
	if name == nil {
		t.Fatalf("no report in %s", stdout)
	}
	got := strings.SplitAfter(p.read(name[1]), "\r\n")
	want := strings.SplitAfter(input, "\r\n")
	if len(got) != len(want) {
		t.Fatalf("the report has %d lines, the file %d", len(got), len(want))
	}
	for i := range want {
		row, rest := strings.TrimSuffix(want[i], "\r\n"), ";link;outcome;"
		if i > 0 {
			rest = ";" + ids[min(i-1, 599)] + ";cancelled;204;"
		}
		if row != "" && !strings.HasPrefix(got[i], row+rest) {
			t.Errorf("line %d is %q, want %q", i+1, got[i], row+rest)
		}
	}
	// Once more there is nothing to do.
	code, _, stderr = p.shown("run", "--retry", name[1], "--yes")
	if code != exitFine || !strings.HasPrefix(stderr, "Nothing to retry: ") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	// A report given by mistake is refused.
	code, _, stderr = p.shown("run", name[1], "--yes")
	if code != exitUsage || !strings.Contains(stderr, "is a report of linkcancel\nhint: linkcancel run --retry ") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// withBody is an answer with the API's own body.
func withBody(t *testing.T, text string) sandbox.Answer {
	a, err := sandbox.ParseAnswer(text, "api")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (p program) read(name string) string {
	p.t.Helper()
	raw, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}

// Files of Excel keep their Cyrillic cells: the report has a byte-order mark, by which Excel knows
// UTF-8, unless all of it is ASCII.
func TestReportEncoding(t *testing.T) {
	t.Parallel()
	p, api := newProgram(t, sandbox.Config{Links: 3, Seed: 1})
	file := excel(api.IDs())
	legacy, err := charmap.Windows1251.NewEncoder().String(file)
	if err != nil {
		t.Fatal(err)
	}
	unix := strings.ReplaceAll(file, "\r\n", "\n")
	for _, tt := range []struct {
		name, input, want string // want: how the report begins
		column            string
	}{
		{"utf8-mark", byteOrderMark + file, byteOrderMark + "Заказ;Ссылка;Клиент;link;", "Ссылка"},
		{"utf8", file, byteOrderMark + "Заказ;Ссылка;Клиент;link;", "Ссылка"},
		{"utf8-unix", unix, byteOrderMark + "Заказ;Ссылка;Клиент;link;", "Ссылка"},
		{"cp1251", legacy, byteOrderMark + "Заказ;Ссылка;Клиент;link;", "Ссылка"},
		{"cp1251-found", legacy, byteOrderMark + "Заказ;Ссылка;Клиент;link;", ""},
		{"ascii", "id\r\n" + api.IDs()[0] + "\r\n", "id,link,", ""},
		{"ascii-mark", byteOrderMark + "id\n" + api.IDs()[0] + "\n", byteOrderMark + "id,link,", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := p
			p.t = t
			p.write(tt.name+".csv", tt.input, 0o600)
			args := []string{"run", tt.name + ".csv", "--yes", "--rate", "1000/s", "--report", tt.name + ".report.csv"}
			if tt.column != "" {
				args = append(args, "--column", tt.column)
			}
			if code, stdout, stderr := p.shown(args...); code != exitFine {
				t.Fatalf("exit %d: %s%s", code, stdout, stderr)
			}
			got := p.read(tt.name + ".report.csv")
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("the report begins with %.60q, want %q", got, tt.want)
			}
			if strings.Contains(tt.input, "Ёлкин") || tt.input == legacy {
				if n := strings.Count(got, "Ёлкин №"); n != 3 {
					t.Errorf("%d of 3 names are right: %q", n, got)
				}
			}
			lines := strings.Count(got, "\n")
			if windows := strings.Count(got, "\r\n"); strings.Contains(tt.input, "\r\n") && windows != lines || !strings.Contains(tt.input, "\r\n") && windows > 0 {
				t.Errorf("%d of %d line ends are those of Windows", windows, lines)
			}
		})
	}
}
