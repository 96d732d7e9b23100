//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"linkcancel/internal/redistest"
)

// peakMost is the most memory that any of these inputs may take.
const peakMost = 256 << 20

// Inputs that are small on disk and large inside, or that have no end: each is
// refused soon, in little memory, whoever reads it.
func TestBombs(t *testing.T) {
	t.Parallel()
	dir, binary := t.TempDir(), shippedBinary(t)

	// A good beginning, longer than what is looked at before the first row.
	var head bytes.Buffer
	head.WriteString("id,note\n")
	for n := range 4000 {
		fmt.Fprintf(&head, "pl_%032x,x\n", n)
	}
	bombs := map[string]struct {
		write func(w io.Writer)
		want  string
	}{
		"10 GB of zeros":           {packed(nil, "\x00"), "a binary file, not a CSV file"},
		"10 GB of zeros behind":    {packed(head.Bytes(), "\x00"), ": row 4002: the row is longer than 1 MiB"},
		"10 GB of blank lines":     {packed(head.Bytes(), "\n"), ": the row is longer than 1 MiB"},
		"10 GB of one field":       {packed(head.Bytes(), "x"), ": row 4002: the row is longer than 1 MiB"},
		"10 GB of quotes":          {packed(head.Bytes(), `"`), ": row 4002: the row is longer than 1 MiB"},
		"10 GB of open quotes":     {packed(head.Bytes(), "\"\n"), "rows one after another are empty"},
		"10 GB of bad rows":        {packed(head.Bytes(), "..,x\n"), "… and 999990 more"},
		"10 GB of commas":          {packed(head.Bytes(), ","), ": row 4002: the row is longer than 1 MiB"},
		"10 GB of empty rows":      {packed(head.Bytes(), ",\n"), "rows one after another are empty, or repeat the header"},
		"10 GB of headers":         {packed(head.Bytes(), "id,note\n"), "rows one after another are empty, or repeat the header"},
		"10 GB of gzip in gzip":    {packed(nil, "\x1f\x8b\x08"), "a binary file, not a CSV file"},
		"a line of 1 GB":           {repeat("id\n", "x", 1<<30), ": row 2: the row is longer than 1 MiB"},
		"a quote that never ends":  {repeat("id\n\"", "x\n", 1<<30), ": row 2 (line 2, byte 1): a quoted cell that opens here does not end within 1 MiB"},
		"100 000 columns":          {repeat("id", ",id", 300_000), "the row has more than 16384 cells"},
		"rows of 100 000 fields":   {repeat("id,note\n", strings.Repeat(",", 100_000)+"\n", 100<<20), ": row 2: the row has more than 16384 cells"},
		"16 384 columns of a name": {repeat("id", ",id", 3*16_383), "16384 columns could hold the links: id (1), id (2), "},
		"NUL bytes":                {repeat("id\n", "pl_1\x00\n", 100), "a binary file, not a CSV file"},
		"UTF-16":                   {func(w io.Writer) { writeUTF16(w, "id\npl_1\n") }, "the file is in UTF-16"},
	}
	highest, others := int64(0), 0
	for name, bomb := range bombs {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		bomb.write(f)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		check := func(stdin string, args ...string) {
			t.Helper()
			said, code, peak := watched(t, dir, stdin, binary, args...)
			highest = max(highest, peak)
			if code != exitUsage || !strings.Contains(said, bomb.want) {
				t.Errorf("%s, %.20s: exit code %d: %.500s; want %s", name, args, code, said, bomb.want)
			}
			if peak > peakMost || len(said) > 4000 {
				t.Errorf("%s, %.20s: %d MB of memory, %d bytes of text", name, args, peak>>20, len(said))
			}
		}
		check("", "import", "--dry-run", file)
		// All read with the same code, so the others take turns.
		switch others++; others % 3 {
		case 0:
			check(file, "import", "--dry-run", "-")
		case 1:
			check("", "run", "--yes", "--base-url", "http://127.0.0.1:1", file)
		case 2:
			check("", "sandbox", "--load", file)
		}
		_ = os.Remove(file)
	}
	if highest == 0 {
		t.Error("the memory of no process was seen")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// The same where a file is joined to a report.
func TestBombsInAReport(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	p := program{t: t, dir: t.TempDir(), env: []string{"LINKCANCEL_REDIS_URL=" + redistest.Start(t)}}
	p.run("import", "--yes", "--id", "b1", p.write("links.csv", "id\npl_1\n", 0o600))
	for name, bomb := range map[string]func(io.Writer){
		"zeros":   packed([]byte("id\n"+strings.Repeat("pl_1\n", 20_000)), "\x00"),
		"line":    repeat("id\n", "x", 1<<30),
		"quotes":  repeat("id\n\"", "x\n", 100<<20),
		"columns": repeat("id", ",x", 300_000),
	} {
		f, err := os.Create(filepath.Join(p.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		bomb(f)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		cmd := p.command("batch", "report", "b1", "--join", name, "-o", "report.csv")
		if said, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitUsage || len(said) > 4000 {
			t.Errorf("%s: %v %.500s", name, err, said)
		}
		if names, err := filepath.Glob(filepath.Join(p.dir, "*report.csv*")); err != nil || len(names) != 0 {
			t.Errorf("%s: %v is left, %v", name, names, err)
		}
		_ = os.Remove(f.Name())
	}
	// One that is good, and far longer than its batch, can be stopped.
	f, err := os.Create(filepath.Join(p.dir, "long"))
	if err != nil {
		t.Fatal(err)
	}
	packed([]byte("id\n"), "pl_1\n")(f)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := p.command("batch", "report", "b1", "--join", "long", "-o", "report.csv")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the report to be begun", func() bool {
		names, _ := filepath.Glob(filepath.Join(p.dir, ".linkcancel-*.tmp"))
		return len(names) == 1
	})
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if names, _ := filepath.Glob(filepath.Join(p.dir, "*report.csv*")); cmd.ProcessState.ExitCode() != exitInterrupted || len(names) != 0 {
		t.Errorf("interrupted: %v, %v is left", cmd.ProcessState, names)
	}
}

// watched runs a program and samples its memory while it runs: the kernel's own figure for a child
// includes its parent's memory. The peak is 0 if the program ended before the first sample.
func watched(t *testing.T, dir, stdin, binary string, args ...string) (said string, code int, peak int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PLEXY_API_KEY="+apiKey)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the exit code tells
	}()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return out.String(), cmd.ProcessState.ExitCode(), peak
		case <-ticker.C:
			if seen := peakOf(cmd.Process.Pid); seen > 0 {
				peak = seen
			}
		}
	}
}

var vmHWM = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peakOf is the most memory that a process has had, in bytes; 0 if it has ended.
func peakOf(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	match := vmHWM.FindSubmatch(status)
	if match == nil {
		return 0
	}
	n, _ := strconv.ParseInt(string(match[1]), 10, 64)
	return n << 10
}

// packed writes a gzip file of some 10 MB that unpacks to head and 10 GB of text.
func packed(head []byte, text string) func(io.Writer) {
	return func(w io.Writer) {
		var member bytes.Buffer
		z := gzip.NewWriter(&member)
		_, _ = z.Write([]byte(strings.Repeat(text, 32<<20/len(text))))
		_ = z.Close()
		first := gzip.NewWriter(w)
		_, _ = first.Write(head)
		_ = first.Close()
		for range 10 << 30 / (32 << 20) { // members one after another are one text
			_, _ = w.Write(member.Bytes())
		}
	}
}

// repeat writes head, and text again and again, size bytes in all.
func repeat(head, text string, size int) func(io.Writer) {
	return func(w io.Writer) {
		_, _ = io.WriteString(w, head)
		some := strings.Repeat(text, 1+(1<<20)/len(text))
		for left := size; left > 0; left -= len(some) {
			n, _ := io.WriteString(w, some[:min(left, len(some))])
			if n == 0 {
				return
			}
		}
	}
}

func writeUTF16(w io.Writer, text string) {
	_, _ = w.Write([]byte{0xff, 0xfe})
	for _, unit := range utf16.Encode([]rune(text)) {
		_, _ = w.Write([]byte{byte(unit), byte(unit >> 8)})
	}
}
