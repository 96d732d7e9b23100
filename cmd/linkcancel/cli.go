package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/importer"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/tracing"
)

// Exit codes. Only run, demo and batch watch speak of the links.
const (
	exitFine        = 0
	exitFailed      = 1   // an operation failed
	exitUsage       = 2   // usage or bad input: nothing was done
	exitLinks       = 3   // some links are not cancelled and may still be payable
	exitInterrupted = 130 // stopped by the user; can be resumed
)

// cli is the whole command line.
type cli struct {
	Demo        demoCmd        `cmd:"" help:"Run everything in one process: embedded Redis, sandbox API, sample CSV. Needs no key and no services."`
	Run         runCmd         `cmd:"" help:"Cancel the links of CSV files now, in this process, with an embedded Redis."`
	Worker      workerCmd      `cmd:"" help:"Cancel the links of all batches in Redis until stopped."`
	Import      importCmd      `cmd:"" help:"Queue the links of CSV files as a batch for the workers. Needs no API key."`
	Sweep       sweepCmd       `cmd:"" help:"Find stale links in the API's own list and queue them as a batch for the workers."`
	Batch       batchCmd       `cmd:"" help:"Show and control batches."`
	Link        linkCmd        `cmd:"" help:"Find single links: their batches, outcomes and reports."`
	Archive     archiveCmd     `cmd:"" help:"Check the archives of finished batches."`
	Serve       serveCmd       `cmd:"" help:"Serve a page that shows batches, links, the limit and sweeps in a browser."`
	Activity    activityCmd    `cmd:"" help:"Show who changed what, when and why."`
	Notify      notifyCmd      `cmd:"" help:"Test and show notifications about batches and sweeps."`
	Rate        rateCmd        `cmd:"" help:"Show and control the fleet's rate limit."`
	API         apiCmd         `cmd:"" name:"api" help:"Show or replace the API that the fleet works for."`
	Sandbox     sandboxCmd     `cmd:"" help:"Serve a sandbox of the Plexy API."`
	Healthcheck healthcheckCmd `cmd:"" help:"Exit 0 if the worker on this machine is ready."`
	Completion  completionCmd  `cmd:"" help:"Print the completion script of a shell."`
	Complete    completeCmd    `cmd:"" name:"__complete" hidden:"" help:"Complete a command line."`
	Help        helpCmd        `cmd:"" help:"Show the help of a command."`
	Check       checkCmd       `cmd:"" help:"Check the key, the API, Redis and the clocks, without changing anything."`
	Version     versionCmd     `cmd:"" help:"Print the version."`

	globals
}

// globals are the flags that every command has.
type globals struct {
	Yes       bool          `group:"Global flags:" short:"y" help:"Do not ask for confirmation."`
	DryRun    bool          `group:"Global flags:" help:"Show what would happen, without sending or changing anything."`
	JSON      bool          `group:"Global flags:" help:"Print data as JSON, and errors too."`
	Quiet     bool          `group:"Global flags:" short:"q" help:"Print nothing but problems."`
	Keep      time.Duration `group:"Global flags:" help:"How long finished batches are kept." default:"720h" env:"LINKCANCEL_KEEP"`
	LogFormat string        `group:"Global flags:" enum:"text,json" default:"text" help:"Log format: ${enum}." env:"LINKCANCEL_LOG_FORMAT"`
	LogLevel  string        `group:"Global flags:" enum:"debug,info,warn,error" default:"info" help:"Lowest level to log: ${enum}." env:"LINKCANCEL_LOG_LEVEL"`
}

type redisFlags struct {
	RedisURL             string `name:"redis-url" default:"${redis_url}" env:"LINKCANCEL_REDIS_URL" help:"Redis database; by default ${default}. Also redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB and redis-cluster://HOST:PORT,HOST:PORT; rediss for TLS. Put a password in the environment or a file: flags are visible in the process list." placeholder:"URL"`
	RedisPasswordFile    string `hidden:"" env:"LINKCANCEL_REDIS_PASSWORD_FILE" help:"File with the Redis password."`
	SentinelPasswordFile string `hidden:"" env:"LINKCANCEL_REDIS_SENTINEL_PASSWORD_FILE" help:"File with the password of the Sentinels."`
}

type apiFlags struct {
	BaseURL      string        `name:"base-url" default:"${base_url}" env:"PLEXY_BASE_URL" help:"The API; by default ${default}." placeholder:"URL"`
	InsecureHTTP bool          `name:"insecure-http" help:"Allow plain http beyond this machine."`
	APIKeyFile   string        `name:"api-key-file" env:"PLEXY_API_KEY_FILE" help:"File with the API key; or set PLEXY_API_KEY." placeholder:"FILE"`
	Timeout      time.Duration `default:"15s" env:"LINKCANCEL_TIMEOUT" help:"Time for one HTTP call."`
}

type sendFlags struct {
	Rate          ratelimit.Rate `default:"10/s" env:"LINKCANCEL_RATE" help:"Maximum rate: N/s, N/m or N/h; by default ${default}." placeholder:"N/s"`
	Burst         int            `default:"1" env:"LINKCANCEL_BURST" help:"Requests that may be sent at once after a pause."`
	Concurrency   int            `default:"50" env:"LINKCANCEL_CONCURRENCY" help:"Maximum number of concurrent requests; up to twice as many while some take longer than 5 s."`
	Attempts      int            `default:"${attempts}" env:"LINKCANCEL_ATTEMPTS" help:"Attempts per link before it counts as failed."`
	TrustPlain404 bool           `name:"trust-plain-404" env:"LINKCANCEL_TRUST_PLAIN_404" help:"Believe a 404 or a refusal without the API's own error body, on the third attempt, even if only a few links get it."`
	DrainTimeout  time.Duration  `default:"6s" env:"LINKCANCEL_DRAIN_TIMEOUT" help:"How long to wait for requests in flight at shutdown."`
}

type metricsFlags struct {
	MetricsAddr string `default:"${metrics_addr}" env:"LINKCANCEL_METRICS_ADDR" help:"Serve /metrics, /healthz and /readyz here, or off; by default ${default}." placeholder:"HOST:PORT"`
	Pprof       bool   `help:"Serve /debug/pprof too."`
}

type csvFlags struct {
	Column      string `help:"Column of the links: its name, or its number from 1." placeholder:"NAME|N"`
	AnyID       bool   `name:"any-id" help:"Accept ids of any form, even if other ids of the file are pl_ and 32 hex digits, and the last part of any URL."`
	SkipInvalid bool   `help:"Skip bad rows instead of refusing the file."`
	Rejects     string `help:"Write skipped rows to this file." placeholder:"FILE"`
	Name        string `help:"Name of the batch; by default that of the first file."`
	ID          string `name:"id" help:"Id of the batch; generated by default."`
	Max         *int64 `help:"Refuse input with more links than this." placeholder:"N"`
	NoCanary    bool   `help:"Continue even if 50 links in a row are not_found, or rejected."`
	reasonFlag
}

// cliApp is what commands need of the process.
type cliApp struct {
	globals
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	// says and notes are standard output and standard error for what is well: --quiet hides it.
	says, notes io.Writer
	log         *slog.Logger
	args        []string
	id          string // of this process in a fleet
	// sentences means that a person reads the log.
	sentences bool

	secrets *clean.Secrets // hidden in all that is logged and said
	tracer  trace.Tracer   // nil: no traces
}

// exitError carries an exit code. A nil err was printed before.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int) error { return &exitError{code: code} }

func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// Main runs one command and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	cleanEnvironment()
	secrets := &clean.Secrets{}
	out, errs := newOutputs(stdout, stderr, secrets)
	defer errs.flush(lastFlush)
	code := execute(args, stdin, out, errs, secrets)
	err := out.lost()
	switch {
	case err == nil || code == exitFailed:
		return code
	case code == exitUsage: // help that could not be printed: the error was
		return exitFailed
	}
	fmt.Fprintf(errs, "linkcancel: %v\n", err)
	return max(code, exitFailed)
}

func execute(args []string, stdin io.Reader, stdout, stderr io.Writer, secrets *clean.Secrets) int {
	var c cli
	code := -1
	parser, err := newParser(&c, stdout, stderr, kong.Exit(func(n int) { code = n }))
	if err != nil {
		fmt.Fprintln(stderr, "linkcancel:", err)
		return exitFailed
	}
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case len(args) == 1 && (args[0] == "--version" || args[0] == "-V"):
		args = []string{"version"}
	}
	k, err := parser.Parse(args)
	if code >= 0 { // --help
		return code
	}
	if err != nil {
		if number := negative(args); number != "" && strings.HasPrefix(err.Error(), "unknown flag") {
			err = fmt.Errorf("%s: no number may be negative here", number)
		}
		return printError(stdout, stderr, slices.Contains(args, "--json"), exitUsage, parseErrorText(err), cmp.Or(adviceFor(err), parseHint(err), "linkcancel --help, or linkcancel COMMAND --help"))
	}
	ctx, stop := signals()
	defer stop()
	a := &cliApp{globals: c.globals, stdin: stdin, stdout: stdout, stderr: stderr, args: args, id: processID(), secrets: secrets}
	a.says, a.notes = stdout, stderr
	chosen := os.Getenv("LINKCANCEL_LOG_FORMAT") != "" || len(given(args, "--log-format")) > 0
	a.sentences = !chosen && !slices.Contains([]string{"worker", "serve", "sandbox"}, commandName(k))
	if a.Quiet {
		a.says, a.notes = io.Discard, io.Discard
	}
	if a.Quiet && a.LogLevel == "info" {
		a.LogLevel = "warn"
	}
	a.log = a.logger(stderr, a.LogLevel)
	if errs, ok := stderr.(*output); ok {
		errs.noteWith(a)
	}
	broker.LogTo(a.log)
	return a.run(ctx, k)
}

// commandName is the name of the command that was given, such as batch show.
func commandName(k *kong.Context) string {
	return strings.TrimPrefix(k.Selected().Path(), k.Model.Name+" ")
}

// run runs a command, with traces if the environment asks for them, and returns its exit code.
func (a *cliApp) run(ctx context.Context, k *kong.Context) int {
	name := commandName(k)
	var traces *tracing.Traces
	switch name {
	case "demo", "run", "import", "sweep", "batch retry", "worker":
		traces = tracing.Open(tracing.Config{Version: version, Process: a.id, Console: a.stderr, Log: a.log})
	}
	defer traces.Close()
	a.tracer = traces.Tracer()
	run := func(ctx context.Context) int {
		k.BindTo(ctx, (*context.Context)(nil))
		return a.report(ctx, k.Run(a))
	}
	if a.tracer == nil || name == "worker" { // a worker runs for months: its traces begin with imports
		return run(ctx)
	}
	ctx, span := a.tracer.Start(ctx, name)
	defer span.End()
	code := run(ctx)
	span.SetAttributes(semconv.ProcessExitCode(code))
	if code != exitFine {
		span.SetStatus(codes.Error, "") // an error's text may quote the user's file
		span.SetAttributes(semconv.ErrorTypeKey.String("exit " + strconv.Itoa(code)))
	}
	return code
}

// negative finds an argument such as -5/s; "" if there is none.
func negative(args []string) string {
	for _, arg := range args {
		if len(arg) > 1 && arg[0] == '-' && strings.IndexByte("0123456789.", arg[1]) >= 0 {
			return arg
		}
	}
	return ""
}

// newParser makes the parser of the command line.
func newParser(c *cli, stdout, stderr io.Writer, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append(options,
		kong.Name("linkcancel"),
		kong.Description("Cancels payment links in bulk: one outcome for every link, never over the limit, nothing lost."),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ShortUsageOnError(),
		kong.Vars{
			"redis_url":           broker.DefaultURL,
			"base_url":            defaultBaseURL,
			"attempts":            "12",
			"metrics_addr":        "off",
			"worker_metrics_addr": "127.0.0.1:9464",
			"page_addr":           pageAddr,
		},
	)...)
}

// report prints an error with its hint and returns its exit code.
func (a *cliApp) report(ctx context.Context, err error) int {
	if err == nil {
		return exitFine
	}
	code, advice := exitFailed, adviceFor(err)
	var coded *exitError
	var input *importer.InputError
	switch {
	case errors.As(err, &coded):
		code = coded.code
		err = coded.err
	case errors.As(err, &input), errors.Is(err, importer.ErrOtherLinks):
		code = exitUsage
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		code, err, advice = exitInterrupted, errors.New("interrupted"), ""
	}
	if err == nil {
		return code
	}
	text := strings.TrimSpace(err.Error())
	if errors.As(err, &input) {
		text = inputHints.Replace(text)
		if a.JSON && input.Hint != "" {
			advice = inputHints.Replace(input.Hint)
			text = strings.TrimSuffix(text, "\n"+advice)
		}
	}
	return printError(a.stdout, a.stderr, a.JSON, code, text, advice)
}

// errorView is an error for programs.
type errorView struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Exit  int    `json:"exit"`
}

// printError prints an error with its hint, and returns the exit code. With --json it is a document
// on standard error, since standard output may have data already.
func printError(stdout, stderr io.Writer, asJSON bool, code int, text, advice string) int {
	if asJSON {
		_ = printJSON(stderr, map[string]errorView{"error": {Error: text, Hint: advice, Exit: code}})
		return code
	}
	fmt.Fprintf(stderr, "linkcancel: %s\n", text)
	if advice != "" {
		fmt.Fprintf(stderr, "hint: %s\n", advice)
	}
	return code
}

// missingArg matches kong's text for an argument that is not given.
var missingArg = regexp.MustCompile(`^expected "<(\w+)>( \.\.\.)?"`)

// parseErrorText is the text of an error of the command line.
func parseErrorText(err error) string {
	if found := missingArg.FindStringSubmatch(err.Error()); found != nil {
		return "missing " + strings.ToUpper(found[1])
	}
	if word := unexpected(err); otherNames[word] != "" {
		return "unexpected argument " + word // without kong's guess
	}
	return err.Error()
}

// unexpected returns the word that kong did not expect, or "".
func unexpected(err error) string {
	rest, found := strings.CutPrefix(err.Error(), "unexpected argument ")
	if !found {
		return ""
	}
	word, _, _ := strings.Cut(rest, " ")
	return strings.TrimSuffix(word, ",")
}

// parseHint is advice about a command line that cannot be understood.
func parseHint(err error) string {
	var parse *kong.ParseError
	if !errors.As(err, &parse) || parse.Context == nil || parse.Context.Selected() == nil {
		if instead := otherNames[unexpected(err)]; instead != "" {
			return "do you mean linkcancel " + instead + "?"
		}
		return ""
	}
	command := strings.TrimPrefix(parse.Context.Selected().FullPath(), parse.Context.Model.Name+" ")
	if missingArg.MatchString(err.Error()) {
		found := missingArg.FindStringSubmatch(err.Error())
		example := "linkcancel " + command + " " + strings.ToUpper(found[1])
		if command == "import" {
			example += ", or - for standard input"
		}
		return example
	}
	return "linkcancel " + command + " --help"
}

// otherNames are commands of other tools, and ours.
var otherNames = map[string]string{
	"status": "batch list", "list": "batch list", "cancel": "run FILE", "show": "batch show", "watch": "batch watch",
	"report": "batch report", "retry": "batch retry", "pause": "batch pause", "resume": "batch resume", "abort": "batch abort",
	"delete": "run FILE",
}

// quiet drops what is meant for a worker's log: on a terminal, progress and summary show it.
func (a *cliApp) quiet() {
	if a.LogLevel == "info" {
		a.log = a.logger(a.stderr, "warn")
	}
}
