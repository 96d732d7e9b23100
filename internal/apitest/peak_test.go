package apitest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
	"linkcancel/web"
)

// serve is the server as a process of its own. It prints its address.
func serve(redisURL string) {
	b, err := broker.Open(context.Background(), broker.Config{URL: redisURL})
	if err == nil {
		var server *web.Server
		server, listener, listenErr := web.Listen(context.Background(), web.Config{
			Redis: b.Client(), Ledger: ledger.New(b.Client()), Log: slog.New(slog.DiscardHandler),
			Access: web.Access{Operator: operator, Actions: true, Import: true},
		}, "127.0.0.1:0")
		if err = listenErr; err == nil {
			fmt.Println(listener.Addr())
			err = server.Serve(context.Background(), listener)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// peakOf is the peak of the memory of a server that takes a batch, in bytes.
func peakOf(t *testing.T, kind string, links int) int64 {
	t.Helper()
	server := redistest.NewServer(t)
	server.Start(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "APITEST_SERVE="+server.URL(), "GOMAXPROCS=2")
	out, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	testutil.Must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the server does not start")
	}
	reader, writer := io.Pipe()
	go func() {
		head, row, end := "id\n", "%s\n", ""
		if kind == "application/json" {
			head, row, end = `{"links":["pl_00"`, `,"%s"`, `]}`
		}
		_, _ = io.WriteString(writer, head)
		for n := range links {
			_, _ = fmt.Fprintf(writer, row, testutil.LinkID(n))
		}
		_, _ = io.WriteString(writer, end)
		_ = writer.Close()
	}()
	r, err := http.NewRequest("POST", "http://"+lines.Text()+"/api/v1/batches?id=big&any_id=true", reader)
	testutil.Must(t, err)
	r.Header.Set("Authorization", "Bearer "+operator)
	r.Header.Set("Content-Type", kind)
	answer, err := http.DefaultClient.Do(r)
	testutil.Must(t, err)
	text, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", answer.Status, text)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	testutil.Must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	testutil.Must(t, err)
	return kib << 10
}
