package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"net/http/httptest"

	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/testutil"
)

// clientProgram is a program of somebody else, next to Redis.
const clientProgram = `package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"linkcancel/producer"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := producer.New(ctx, producer.Config{RedisURL: os.Args[1], User: "billing"})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	batch, err := client.Submit(ctx, producer.Batch{ID: "stale", Name: "stale links", Links: func(yield func(string) bool) {
		for n := 0; n < 10_000 && yield(fmt.Sprintf("pl_%032x", n)); n++ {
		}
	}})
	if err != nil {
		panic(err)
	}
	batch, err = client.Wait(ctx, batch.ID)
	if err != nil {
		panic(err)
	}
	outcomes := map[string]int{}
	for result, err := range client.Results(ctx, batch.ID) {
		if err != nil {
			panic(err)
		}
		outcomes[result.Outcome]++
	}
	fmt.Println(batch.State, batch.Total, batch.Pending, outcomes)
}
`

// The client can be imported by another module.
func TestClientOfAnotherModule(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		return
	}
	dir := t.TempDir()
	repo, err := filepath.Abs("../..")
	testutil.Must(t, err)
	// What it needs at the versions of this module, so that nothing is downloaded.
	mod, err := os.ReadFile(filepath.Join(repo, "go.mod"))
	testutil.Must(t, err)
	text := regexp.MustCompile(`(?m)^(module|ignore) .*$`).ReplaceAllString(string(mod), "")
	text = "module example.com/billing\n" + text + "\nrequire linkcancel v0.0.0\n\nreplace linkcancel => " + repo + "\n"
	sum, err := os.ReadFile(filepath.Join(repo, "go.sum"))
	testutil.Must(t, err)
	for name, content := range map[string]string{"go.mod": text, "go.sum": string(sum), "main.go": clientProgram} {
		testutil.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", "billing", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod -trimpath", "GOPROXY=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	api := httptest.NewServer(sandbox.New(sandbox.Config{IDs: testutil.LinkIDs(10_000)}))
	t.Cleanup(api.Close)
	url := redistest.Start(t)
	worker := exec.Command(fastBinary(t), "worker", "--rate", "5000/s", "--metrics-addr", "off", "--log-level", "warn")
	worker.Env = append(os.Environ(), "PLEXY_API_KEY=test-key-0123456789", "PLEXY_BASE_URL="+api.URL+"/v1", "LINKCANCEL_REDIS_URL="+url)
	var log lockedBuffer
	worker.Stdout, worker.Stderr = &log, &log
	testutil.Must(t, worker.Start())
	t.Cleanup(func() { _ = worker.Process.Kill(); _ = worker.Wait() })
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "billing"), url).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "done 10000 0 map[cancelled:10000]" {
		t.Errorf("%v: %s\n%s", err, out, log.String())
	}
}
