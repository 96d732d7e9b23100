package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
)

// The cron line of deploy/README.md prints nothing when all is well, since cron sends a mail for any
// output. It prints an error otherwise.
func TestCronLine(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	doc, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^ *0 2 \* \* \* +linkcancel +(PLEXY_API_KEY_FILE=\S+ )(/\S+/linkcancel)( .*)$`).FindStringSubmatch(string(doc))
	if found == nil {
		t.Fatal("deploy/README.md has no cron line")
	}
	p, api := newProgram(t, sandbox.Config{Links: 100, Seed: 1})
	p.env = append(p.env, "PLEXY_API_KEY=", "LINKCANCEL_REDIS_URL="+redistest.Start(t))
	p.write("key", apiKey, 0o600)
	run := func() (code int, said string) {
		cmd := exec.Command("sh", "-c", "PLEXY_API_KEY_FILE=key "+fastBinary(t)+found[3])
		cmd.Dir, cmd.Env = p.dir, append(os.Environ(), p.env...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	// Links are selected, then they wait in a batch, then there are none.
	for _, night := range []string{"some", "waiting", "none"} {
		if code, said := run(); code != exitFine || said != "" {
			t.Errorf("%s: exit %d: %s", night, code, said)
		}
		if night == "waiting" {
			for _, id := range api.IDs() {
				api.SetStatus(id, "")
			}
		}
	}
	if err := os.WriteFile(filepath.Join(p.dir, "key"), []byte("a-key-that-is-refused"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, said := run(); code != exitFailed || !strings.Contains(said, "linkcancel: ") || !strings.Contains(said, "\nhint: ") {
		t.Errorf("a refused key: exit %d: %s", code, said)
	}
}
