package apitest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/testutil"
)

// The examples of docs/api.md run as they are.
func TestExamples(t *testing.T) {
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	a := newAPI(t, b)
	page, err := os.ReadFile("../../docs/api.md")
	testutil.Must(t, err)
	dir := t.TempDir()
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "stale.csv"), []byte("id,note\n"+testutil.LinkID(7)+",x\n"), 0o600))
	// Something has to end the links.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			batch, err := a.ledger.Get(ctx, "from-python")
			if err != nil || batch.State != ledger.Ready {
				continue
			}
			var entries []ledger.Entry
			for n := range 1000 {
				entries = append(entries, ledger.Entry{Position: n, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}})
			}
			a.ledger.Commit(ctx, []ledger.Group{{Batch: "from-python", Entries: entries}})
		}
	}()
	ran := map[string]int{}
	for _, block := range regexp.MustCompile("(?ms)^```(sh|python|go)\n(.*?)^```").FindAllStringSubmatch(string(page), -1) {
		language, code := block[1], block[2]
		file := filepath.Join(dir, map[string]string{"sh": "x.sh", "python": "x.py", "go": "x.go"}[language])
		testutil.Must(t, os.WriteFile(file, []byte(code), 0o600))
		args := map[string][]string{"sh": {"sh", "-e", file}, "python": {"python3", file}, "go": {"go", "run", file}}[language]
		if _, err := exec.LookPath(args[0]); err != nil && os.Getenv("CI") == "" {
			t.Logf("left out: the example in %s (there is no %s)", language, args[0])
			continue
		}
		if _, err := exec.LookPath("curl"); err != nil && language == "sh" && os.Getenv("CI") == "" {
			t.Log("left out: the examples with curl")
			continue
		}
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LINKCANCEL="+a.url, "TOKEN="+operator, "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s\n%s", language, err, out, code)
		}
		if language == "python" && !strings.HasPrefix(string(out), "done {'aborted': 0, 'already_cancelled': 0, 'cancelled': 1000,") {
			t.Errorf("the example in Python says %s", out)
		}
		if language == "go" && string(out) != "from-go ready 1\n" {
			t.Errorf("the example in Go says %s", out)
		}
		ran[language]++
	}
	if os.Getenv("CI") != "" && (ran["sh"] < 3 || ran["python"] < 1 || ran["go"] < 1) {
		t.Errorf("only %v ran", ran)
	}
}
