package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/otlptest"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
)

// In a script, linkcancel is this very program; all other commands run in the process of the test.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "linkcancel" {
		// Under nohup the scripts' commands would ignore SIGHUP too.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		// Scripts mostly wait: for the rate limit, backoffs and heartbeats.
		if !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.parallel") }) {
			if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
				panic(err)
			}
		}
	}
	testscript.Main(suite{m}, map[string]func(){"linkcancel": main})
}

// suite deletes what shippedBinary built.
type suite struct{ *testing.M }

var shippedDir string

func (s suite) Run() int {
	shippedDir, _ = os.MkdirTemp("", "linkcancel-test-") // an error shows in the build
	defer os.RemoveAll(shippedDir)
	return s.M.Run()
}

var buildShipped = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-trimpath", "-o", shippedDir, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
})

// shippedBinary is linkcancel as make build makes it, without the race detector.
func shippedBinary(t testing.TB) string {
	t.Helper()
	if err := buildShipped(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(shippedDir, "linkcancel")
}

// fastBinary is linkcancel for tests that look at its output and not at its
// concurrency: the race detector takes several times as long.
func fastBinary(t testing.TB) string {
	t.Helper()
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return shippedBinary(t)
	}
	path, err := exec.LookPath("linkcancel")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// concurrent are the scripts that keep the race detector.
var concurrent = regexp.MustCompile("^script-(demo|run_|worker|sweep|traces|batch_watch)")

// patience is how long a script waits for something that must happen.
const patience = time.Minute

// apiKey is the key that scripts use; no output may ever have it.
const apiKey = "key-that-nobody-may-see"

func TestScript(t *testing.T) { runScripts(t, "testdata/script") }

// Scripts on a real Redis. Where it is missing they are left out, but never in CI.
func TestScriptRedis(t *testing.T) {
	if redistest.Have(t) {
		runScripts(t, "testdata/script/redis")
	}
}

func runScripts(t *testing.T, dir string) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                dir,
		UpdateScripts:      os.Getenv("UPDATE") != "",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			// The race detector waits a second at the end of each process.
			if env.Getenv("GORACE") == "" {
				env.Setenv("GORACE", "atexit_sleep_ms=10")
			}
			env.Setenv("PLEXY_API_KEY", apiKey)
			// Whoever forgets redis must not reach one that happens to run here.
			env.Setenv("LINKCANCEL_REDIS_URL", "redis://127.0.0.1:1/0")
			t := env.T().(testing.TB)
			if !concurrent.MatchString(filepath.Base(env.WorkDir)) {
				env.Setenv("PATH", filepath.Dir(fastBinary(t))+string(filepath.ListSeparator)+env.Getenv("PATH"))
			}
			env.Values[stateKey{}] = &state{t: t}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit":        cmdExit,
			"signal":      cmdSignal,
			"await":       cmdAwait,
			"sandbox":     cmdSandbox,
			"link":        cmdLink,
			"answer":      cmdAnswer,
			"type":        cmdType,
			"status":      cmdStatus,
			"requests":    cmdRequests,
			"redis":       cmdRedis,
			"redis-keys":  cmdRedisKeys,
			"acl-users":   cmdACLUsers,
			"acl-clean":   cmdACLClean,
			"plan-sweep":  cmdPlanSweep,
			"wait-sweep":  cmdWaitSweep,
			"wait-batch":  cmdWaitBatch,
			"wait-http":   cmdWaitHTTP,
			"wait-outbox": cmdWaitOutbox,
			"wait-file":   cmdWaitFile,
			"port":        cmdPort,
			"refused":     cmdRefused,
			"write":       cmdWrite,
			"rows":        cmdRows,
			"gzip":        cmdGzip,
			"collector":   cmdCollector,
			"traces":      cmdTraces,
		},
	})
}

// state is what the commands of one script share.
type state struct {
	t          testing.TB
	api        *sandbox.Server
	redis      string // URL
	background map[string]*exec.Cmd
	collector  *otlptest.Collector
}

type stateKey struct{}

func of(ts *testscript.TestScript) *state { return ts.Value(stateKey{}).(*state) }

// usage ends the script unless a command is called as it should be.
func usage(ts *testscript.TestScript, neg, right bool, text string) {
	if neg || !right {
		ts.Fatalf("usage: %s", text)
	}
}

// need returns what must have been started before.
func (s *state) need(ts *testscript.TestScript) *sandbox.Server {
	if s.api == nil {
		ts.Fatalf("there is no sandbox: start it first")
	}
	return s.api
}

// until waits for something, looking again and again.
func until(ts *testscript.TestScript, what string, done func() (ok bool, now string)) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, now := done()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("waited %v for %s; now: %s", patience, what, now)
		case <-ticker.C:
		}
	}
}

// exit CODE COMMAND [ARG…] runs a command and wants this very exit code.
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "exit CODE COMMAND [ARG…]")
	err := ts.Exec(args[1], args[2:]...)
	checkExit(ts, args[0], err)
	checkSecrets(ts)
}

func checkExit(ts *testscript.TestScript, want string, err error) {
	code := 0
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		code = exited.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, not %s", code, want)
	}
}

// checkSecrets: the API key and the Redis password are in no output.
func checkSecrets(ts *testscript.TestScript) {
	for _, secret := range []string{apiKey, "sesame"} {
		if strings.Contains(ts.ReadFile("stdout"), secret) || strings.Contains(ts.ReadFile("stderr"), secret) {
			ts.Fatalf("the output shows the secret %q", secret)
		}
	}
}

// signal [-until-gone] INT|TERM|HUP|KILL NAME sends a signal to the command
// linkcancel NAME in the background, be it by way of a shell's exec. With
// -until-gone it sends the signal again and again, until the process has ended.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	untilGone := len(args) == 3 && args[0] == "-until-gone"
	if untilGone {
		args = args[1:]
	}
	usage(ts, neg, len(args) == 2, "signal [-until-gone] INT|TERM|HUP|KILL NAME")
	sig, ok := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": os.Kill}[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %s", args[0])
	}
	for _, cmd := range ts.BackgroundCmds() {
		if len(cmd.Args) > 1 && cmd.Args[1] == args[1] || strings.Contains(cmd.Args[len(cmd.Args)-1], "linkcancel "+args[1]) {
			ts.Check(cmd.Process.Signal(sig))
			s := of(ts)
			if s.background == nil {
				s.background = map[string]*exec.Cmd{}
			}
			s.background[args[1]] = cmd
			if untilGone {
				until(ts, args[1]+" to end", func() (bool, string) { return cmd.Process.Signal(sig) != nil, "it runs" })
			}
			return
		}
	}
	ts.Fatalf("no command %s runs in the background", args[1])
}

// await CODE NAME checks how a command ended that got a signal, after wait.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "await CODE NAME, after wait")
	cmd := of(ts).background[args[1]]
	if cmd == nil || cmd.ProcessState == nil {
		ts.Fatalf("%s got no signal, or was not waited for", args[1])
	}
	if code := cmd.ProcessState.ExitCode(); strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
	checkSecrets(ts)
}

// sandbox [NAME=VALUE…] starts the sandbox API for the length of the script, lets BASE_URL and
// PLEXY_BASE_URL name it, and writes its links, if it has some, to links.csv.
func cmdSandbox(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, true, "sandbox [NAME=VALUE…]")
	s := of(ts)
	if s.api != nil {
		ts.Fatalf("there is a sandbox already")
	}
	cfg := sandbox.Config{Seed: 1, Key: apiKey, KeepRequests: 1000}
	shares := map[string]*float64{
		"paid": &cfg.Paid, "expired": &cfg.Expired, "cancelled": &cfg.Cancelled, "missing": &cfg.Missing,
		"error500": &cfg.Faults.Error500, "html502": &cfg.Faults.HTML502, "cut": &cfg.Faults.Cut,
		"cut-before": &cfg.Faults.CutBefore, "friendly": &cfg.Faults.Friendly, "bad-request": &cfg.Faults.BadRequest,
	}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		var err error
		switch share := shares[name]; {
		case share != nil:
			*share, err = strconv.ParseFloat(value, 64)
		case name == "links":
			cfg.Links, err = strconv.Atoi(value)
		case name == "ids":
			cfg.IDs = strings.Split(value, ",")
		case name == "key":
			cfg.Key = value
		case name == "latency":
			cfg.Latency, err = time.ParseDuration(value)
		case name == "gateway": // in front of all requests, as sandbox --gateway has it
			cfg.Gateway.Share = 1
			cfg.Gateway.Answer, err = sandbox.ParseAnswer(value, "html")
		case name == "faulty-lists":
			cfg.Faults.Lists, err = strconv.ParseBool(value)
		default:
			ts.Fatalf("sandbox has no setting %s", name)
		}
		ts.Check(err)
	}
	s.api = sandbox.New(cfg)
	url, stop, err := serveLocal("127.0.0.1:0", s.api)
	ts.Check(err)
	ts.Defer(func() { s.api.Close(); stop() })
	ts.Setenv("BASE_URL", url)
	ts.Setenv("PLEXY_BASE_URL", url)
	if len(s.api.IDs()) > 0 {
		ts.Check(writeIDs(ts.MkAbs("links.csv"), s.api.IDs()))
	}
}

// link ID=STATUS… gives links of the sandbox a status; "missing" takes them out.
func cmdLink(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "link ID=STATUS…")
	for _, arg := range args {
		id, status, _ := strings.Cut(arg, "=")
		if status == "missing" {
			status = ""
		}
		of(ts).need(ts).SetStatus(id, status)
	}
}

// answer ID ANSWER… scripts the next answers to DELETE: an answer as sandbox --gateway takes it, by
// default with the API's own body, or cut or hang. With + the link is cancelled before.
func cmdAnswer(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "answer ID [+]STATUS[:BODY]|cut|hang…")
	for _, text := range args[1:] {
		var a sandbox.Answer
		text, apply := strings.CutPrefix(text, "+")
		switch text {
		case "cut":
			a.Cut = true
		case "hang":
			a.Hang = true
		default:
			var err error
			a, err = sandbox.ParseAnswer(text, "api")
			ts.Check(err)
		}
		a.Apply = apply
		of(ts).need(ts).Script(args[0], a)
	}
}

// status ID=STATUS… checks what became of links of the sandbox, and that none
// was cancelled twice; all stands for all of them.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "status ID=STATUS…")
	api := of(ts).need(ts)
	if name, want, _ := strings.Cut(args[0], "="); name == "all" {
		args = nil
		for _, id := range api.IDs() {
			args = append(args, id+"="+want)
		}
	}
	for _, arg := range args {
		id, want, _ := strings.Cut(arg, "=")
		got, ok := api.Status(id)
		if !ok {
			got = "missing"
		}
		if got != want {
			ts.Fatalf("link %s is %s, not %s", id, got, want)
		}
		if n := api.Applied(id); n > 1 {
			ts.Fatalf("link %s was cancelled %d times", id, n)
		}
	}
}

// requests N [ID] checks how many requests came in; requests N+ waits for as many.
func cmdRequests(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1 || len(args) == 2, "requests N[+] [ID]")
	api := of(ts).need(ts)
	text, wait := strings.CutSuffix(args[0], "+")
	want, err := strconv.Atoi(text)
	ts.Check(err)
	count := func() int {
		if len(args) == 1 {
			return int(api.Counts().Total)
		}
		n := 0
		for _, r := range api.Requests() {
			if r.ID == args[1] {
				n++
			}
		}
		return n
	}
	if wait {
		until(ts, args[0]+" requests", func() (bool, string) { n := count(); return n >= want, strconv.Itoa(n) })
	} else if n := count(); n != want {
		ts.Fatalf("%d requests, not %d", n, want)
	}
}

// redis [PASSWORD] starts a redis-server for the length of the script; REDIS is its address. With
// TEST_CLUSTER=1 (make failover) it is a cluster, if there is no password.
func cmdRedis(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) <= 1, "redis [PASSWORD]")
	s := of(ts)
	if os.Getenv("TEST_CLUSTER") == "1" && len(args) == 0 {
		s.redis = redistest.StartCluster(s.t, 3, false).URL()
	} else {
		s.redis = redistest.Start(s.t)
	}
	ts.Setenv("LINKCANCEL_REDIS_URL", s.redis)
	ts.Setenv("REDIS", strings.TrimPrefix(s.redis, "redis://"))
	if len(args) == 1 {
		b := s.open(ts)
		defer b.Close()
		ts.Check(b.Client().ConfigSet(context.Background(), "requirepass", args[0]).Err())
	}
}

func (s *state) open(ts *testscript.TestScript) *broker.Broker {
	if s.redis == "" {
		ts.Fatalf("there is no Redis: start it first")
	}
	b, err := broker.Open(context.Background(), broker.Config{URL: s.redis})
	ts.Check(err)
	return b
}

// redis-keys N checks how many keys the database has.
func cmdRedisKeys(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "redis-keys N")
	b := of(ts).open(ts)
	defer b.Close()
	keys := redistest.Keys(of(ts).t, b.Client(), "*")
	if strconv.Itoa(len(keys)) != args[0] {
		ts.Fatalf("%d keys, not %s: %q", len(keys), args[0], keys)
	}
}

// wait-batch ID STATE waits until a batch is in a state.
func cmdWaitBatch(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "wait-batch ID STATE")
	b := of(ts).open(ts)
	defer b.Close()
	l := ledger.New(b.Client())
	until(ts, "batch "+args[0]+" to be "+args[1], func() (bool, string) {
		batch, err := l.Resolve(context.Background(), args[0])
		if err != nil {
			return false, err.Error()
		}
		return string(batch.State) == args[1], fmt.Sprintf("%+v", batch)
	})
}

// wait-outbox N waits until N notifications were tried at least once, or wait after one that was.
func cmdWaitOutbox(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "wait-outbox N")
	b := of(ts).open(ts)
	defer b.Close()
	l := ledger.New(b.Client())
	until(ts, args[0]+" notifications", func() (bool, string) {
		all, err := l.Deliveries(context.Background())
		tried := 0
		for _, d := range all {
			tried += d.Attempts
		}
		return err == nil && strconv.Itoa(len(all)) == args[0] && tried > 1, fmt.Sprintf("%+v, %v", all, err)
	})
}

// wait-http URL [STATUS [PATTERN]] waits until the URL answers 200, or that status,
// with a body in which the pattern is found; it becomes the output.
func cmdWaitHTTP(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 1 && len(args) <= 3, "wait-http URL [STATUS [PATTERN]]")
	url, status, pattern := args[0], http.StatusOK, regexp.MustCompile("")
	if len(args) > 1 {
		var err error
		status, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	if len(args) > 2 {
		var err error
		pattern, err = regexp.Compile("(?m)" + args[2])
		ts.Check(err)
	}
	client := &http.Client{Timeout: 5 * time.Second}
	var body []byte
	until(ts, url, func() (bool, string) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		ts.Check(err)
		req.Header.Set("Authorization", apiKey) // for linkcancel sandbox
		resp, err := client.Do(req)
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == status && pattern.Match(body), resp.Status
	})
	_, _ = ts.Stdout().Write(body)
}

// wait-file PATTERN FILE waits until the pattern is found in the file.
func cmdWaitFile(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "wait-file PATTERN FILE")
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	until(ts, args[0]+" in "+args[1], func() (bool, string) {
		text, err := os.ReadFile(ts.MkAbs(args[1]))
		return err == nil && re.Match(text), string(text)
	})
}

// port NAME gives the variable a free port; port -busy NAME one that is taken
// for the length of the script.
func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	busy := len(args) == 2 && args[0] == "-busy"
	usage(ts, neg, busy || len(args) == 1, "port [-busy] NAME")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[len(args)-1], strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
	if busy {
		ts.Defer(func() { _ = listener.Close() })
	} else {
		ts.Check(listener.Close())
	}
}

// refused [ARG…] gives the same input to run and to import: both must refuse it
// with exit code 2 and the same words, and do nothing: no request, no key in
// Redis, no file. Import is left out where there is no redis-server.
func cmdRefused(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "refused [FLAG…] FILE…")
	s := of(ts)
	if s.api == nil {
		cmdSandbox(ts, false, nil)
	}
	before := files(ts)
	cmdExit(ts, false, append([]string{"2", "linkcancel", "run", "--yes"}, args...))
	words := ts.ReadFile("stderr")
	if redistest.Have(s.t) {
		if s.redis == "" {
			cmdRedis(ts, false, nil)
		}
		cmdExit(ts, false, append([]string{"2", "linkcancel", "import", "--yes"}, args...))
		if other := ts.ReadFile("stderr"); strings.ReplaceAll(other, "linkcancel import --help", "linkcancel run --help") != words {
			ts.Fatalf("run says\n%s\nimport says\n%s", words, other)
		}
		cmdRedisKeys(ts, false, []string{"0"})
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("standard output is not empty: %q", out)
	}
	if n := s.api.Counts().Total; n != 0 {
		ts.Fatalf("%d requests were sent", n)
	}
	if after := files(ts); !slices.Equal(before, after) {
		ts.Fatalf("files before: %q, after: %q", before, after)
	}
}

// files lists the script's working folder.
func files(ts *testscript.TestScript) []string {
	var names []string
	ts.Check(filepath.WalkDir(ts.MkAbs("."), func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	}))
	return names
}

// write FILE TEXT… writes Go strings, without their quotes, to a file: for
// bytes that a script cannot hold.
func cmdWrite(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "write FILE TEXT…")
	var b bytes.Buffer
	for _, text := range args[1:] {
		raw, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
		ts.Check(err)
		b.WriteString(raw)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o600))
}

// rows FILE N writes a file with N links.
func cmdRows(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "rows FILE N")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("pl_%032x", i)
	}
	ts.Check(writeIDs(ts.MkAbs(args[0]), ids))
}

// gzip FILE writes FILE.gz.
func cmdGzip(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "gzip FILE")
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, ts.ReadFile(args[0]))
	ts.Check(err)
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".gz"), b.Bytes(), 0o600))
}
