// Chaos tries to break linkcancel: it runs real workers, importers and sweepers on a
// real Redis against a sandbox API, lets faults loose on all of them, and then holds
// the ledger against the API's own log.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitFine     = 0
	exitViolated = 1 // a promise was not kept
	exitBroken   = 2 // the suite itself could not run
)

func main() {
	silence()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	seconds  int
	seed     uint64
	round    int
	keep     string
	verbose  bool
	root     string
	mutants  string
	scenario string
	previous string
	redis    string
	draws    int
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.seconds, "seconds", 60, "run rounds for about so long; each ends when its work is done")
	flags.Uint64Var(&o.seed, "seed", 0, "decides all faults; 0: by chance")
	flags.IntVar(&o.round, "round", 0, "only this round of the seed; 0: all")
	flags.StringVar(&o.keep, "keep", filepath.Join(os.TempDir(), "linkcancel-chaos"), "where the logs of a round stay that failed")
	flags.BoolVar(&o.verbose, "v", false, "print each fault")
	flags.StringVar(&o.mutants, "mutants", "", "try whether the suite finds what is broken on purpose: all, or those with one of these in their names: a,b")
	flags.StringVar(&o.scenario, "scenario", "", "run a scenario instead of chance: all, fleet, full, acks or poison")
	flags.StringVar(&o.previous, "previous", "", "a `commit`: until the last fault, half of all processes are of the linkcancel of that commit")
	flags.StringVar(&o.redis, "redis", oneServer, "what Redis is in rounds by chance: single, or sentinel or cluster, which fails over")
	flags.IntVar(&o.draws, "draws", 0, "instead, run so many runs behind a gateway that is drawn by chance")
	flags.StringVar(&o.root, "root", "../..", "the folder of linkcancel's sources")
	if err := flags.Parse(args); err != nil {
		return exitBroken
	}
	if !slices.Contains([]string{oneServer, withSentinel, withCluster}, o.redis) {
		fmt.Fprintf(stderr, "chaos: no Redis %q: give single, sentinel or cluster\n", o.redis)
		return exitBroken
	}
	if o.seed == 0 {
		o.seed = 1 + rand.Uint64N(999_999)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &suite{options: o, out: stdout}
	do := s.run
	switch {
	case o.mutants != "":
		do = s.runMutants
	case o.scenario != "":
		do = s.runScenarios
	case o.draws > 0:
		do = s.runDraws
	}
	err := do(ctx)
	switch {
	case errors.Is(err, errViolated):
		return exitViolated
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "chaos: stopped:", context.Cause(ctx))
		return exitBroken
	case err != nil:
		fmt.Fprintln(stderr, "chaos:", err)
		return exitBroken
	}
	return exitFine
}

var errViolated = errors.New("a promise was not kept")

// suite runs rounds and adds up what they show.
type suite struct {
	options
	out    io.Writer
	binary string
	before string // that of an earlier commit; "": none
	sum    figures
}

// faultsFor is how long the faults of a round last, when there is so much time in all: then the
// rest of the work must finish, and what a crash leaves is taken up 35 s later.
func faultsFor(seconds int) time.Duration {
	return min(max(time.Duration(seconds)*time.Second/4, 10*time.Second), 40*time.Second)
}

// build builds the program that is tried.
func build(ctx context.Context, root, dir string, args ...string) (string, error) {
	binary := filepath.Join(dir, "linkcancel")
	all := append([]string{"build", "-C", root, "-trimpath", "-o", binary}, args...)
	cmd := exec.CommandContext(ctx, "go", append(all, "./cmd/linkcancel")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build linkcancel: %w\n%s", err, out)
	}
	return binary, nil
}

// buildCommit builds the program of a commit, in a folder of its own.
func buildCommit(ctx context.Context, root, dir, commit string) (string, error) {
	archive := filepath.Join(dir, "source.tar")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, args := range [][]string{{"git", "-C", root, "archive", "--output", archive, commit}, {"tar", "-xf", archive, "-C", dir}} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("get the sources of %s: %w\n%s", commit, err, out)
		}
	}
	return build(ctx, dir, dir)
}

func (s *suite) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "linkcancel-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.binary, err = build(ctx, s.root, dir); err != nil {
		return err
	}
	if s.previous != "" {
		if s.before, err = buildCommit(ctx, s.root, filepath.Join(dir, "previous"), s.previous); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "Seed %d, %d s. Again: %s\n\n", s.seed, s.seconds, s.again())
	s.head()
	if err := s.rounds(ctx, dir); err != nil {
		return err
	}
	s.total()
	return nil
}

// trailing is how many rounds may wait for the end of what asynq itself mends, up to
// 130 s after a fault, while others run: they do nothing.
const trailing = 4

// result is how a round ended.
type result struct {
	t   *truth
	err error
}

// rounds runs rounds one after another, as long as there is time for another.
func (s *suite) rounds(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, trailing)
	running := 0
	take := func() error {
		got := <-results
		running--
		return s.take(got)
	}
	var first error
	began := time.Now()
	longest := time.Duration(0)
	for n := max(1, s.round); first == nil; n++ {
		started := time.Now()
		p := newPlan(s.seed, n, faultsFor(s.seconds))
		if s.before != "" {
			p.upgrade(s.before)
		}
		if s.redis != oneServer {
			p.failOver(s.redis)
		}
		r, err := newRound(p, s.binary, filepath.Join(dir, fmt.Sprintf("round-%02d", n)))
		if err == nil {
			err = r.run(ctx)
		}
		if err != nil {
			if r != nil {
				s.leave(r, true)
			}
			first = err
			break
		}
		running++
		go func() {
			t, err := r.finish(ctx)
			s.leave(r, err != nil || len(r.violations) > 0)
			results <- result{t, err}
		}()
		longest = max(longest, time.Since(started))
		for running == trailing || running > 0 && len(results) > 0 {
			if err := take(); err != nil {
				first = err
				break
			}
		}
		if s.round > 0 || time.Since(began)+longest > time.Duration(s.seconds)*time.Second {
			break
		}
	}
	if first != nil {
		cancel()
	}
	for running > 0 {
		if err := take(); first == nil {
			first = err
		}
	}
	return first
}

// take takes in the result of a round.
func (s *suite) take(got result) error {
	if got.t == nil {
		return got.err
	}
	f := got.t.figures()
	s.line(f)
	s.sum.add(f)
	if s.verbose {
		got.t.printFaults(s.out)
	}
	if f.violations > 0 {
		s.report(got.t)
		return errViolated
	}
	return got.err
}

// leave ends what is left of a round. Its logs stay if it failed.
func (s *suite) leave(r *round, failed bool) {
	r.close()
	if !failed {
		_ = os.RemoveAll(r.dir)
		return
	}
	// Rounds that were only cut short stay beside the one that failed.
	kept := filepath.Join(s.keep, filepath.Base(r.dir))
	if err := errors.Join(os.MkdirAll(s.keep, 0o700), keep(r.dir, kept)); err != nil {
		fmt.Fprintln(s.out, "cannot keep the logs:", err)
	}
}

// keep moves the files of a round to a place where they stay.
func keep(dir, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return exec.Command("cp", "-r", dir, to).Run()
}

// report prints all violations of a round.
func (s *suite) report(t *truth) {
	const most = 10
	fmt.Fprintf(s.out, "\n%d violations in round %d\n", len(t.r.violations), t.r.plan.round)
	for i, v := range t.r.violations {
		if i == most {
			fmt.Fprintf(s.out, "  and %d more\n", len(t.r.violations)-most)
			break
		}
		fmt.Fprint(s.out, t.explain(v))
	}
	fmt.Fprintf(s.out, "\nLogs: %s\nAgain: %s CHAOS_ROUND=%d\n", filepath.Join(s.keep, filepath.Base(t.r.dir)), s.again(), t.r.plan.round)
}

// again is the command that makes the same plans.
func (s *suite) again() string {
	command := fmt.Sprintf("make chaos CHAOS_SECONDS=%d CHAOS_SEED=%d", s.seconds, s.seed)
	if s.redis != oneServer {
		command += " CHAOS_REDIS=" + s.redis
	}
	return command
}
