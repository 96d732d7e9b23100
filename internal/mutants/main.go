package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed mutants.txt
var list string

// testTimeout ends tests that hang because of a mutant. Then they have found it.
const testTimeout = 10 * time.Minute

type options struct {
	root   string // the folder of the module
	only   string // tries those whose name or package contains it
	number int    // of mutants, chosen at random; 0: all
	copies int    // of the module, each with one mutant at a time
}

func main() {
	var opt options
	flag.StringVar(&opt.root, "root", ".", "the `folder` of the module")
	flag.StringVar(&opt.only, "only", "", "try only mutants whose name or package contains this `text`")
	flag.IntVar(&opt.number, "n", 0, "try only so many, chosen at random")
	flag.IntVar(&opt.copies, "copies", 2, "how many to try at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, opt); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

var errSurvived = errors.New("the tests do not find every mutant")

func run(ctx context.Context, out io.Writer, opt options) error {
	root, err := filepath.Abs(opt.root)
	if err != nil {
		return err
	}
	mutants, err := parse(list)
	if err != nil {
		return fmt.Errorf("mutants.txt: %w", err)
	}
	mutants = slices.DeleteFunc(mutants, func(m mutant) bool {
		return !strings.Contains(m.name, opt.only) && !strings.Contains(m.pkg, opt.only)
	})
	if opt.number > 0 && opt.number < len(mutants) {
		rand.Shuffle(len(mutants), func(i, j int) { mutants[i], mutants[j] = mutants[j], mutants[i] })
		mutants = mutants[:opt.number]
	}
	began := time.Now()
	t := table{out: out}
	fmt.Fprintf(out, "%-9s %7s  %-80s  %s\n", "", "after", "mutant", "found by")
	next := make(chan mutant)
	g, ctx := errgroup.WithContext(ctx)
	for range max(1, opt.copies) {
		g.Go(func() error { return tryAll(ctx, root, next, &t) })
	}
	g.Go(func() error {
		defer close(next)
		for _, m := range mutants {
			select {
			case next <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d mutants killed, in %v.\n", len(mutants)-len(t.survived), len(mutants), time.Since(began).Round(time.Second))
	for _, name := range t.survived {
		fmt.Fprintf(out, "survived: %s\n", name)
	}
	if len(t.survived) > 0 {
		return errSurvived
	}
	return nil
}

// table prints a line for each mutant.
type table struct {
	mu       sync.Mutex
	out      io.Writer
	survived []string
}

func (t *table) add(m mutant, by string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	result := "killed"
	if by == "" {
		result = "SURVIVED"
		t.survived = append(t.survived, m.name)
	}
	fmt.Fprintf(t.out, "%-9s %5.0f s  %-80s  %s\n", result, took.Seconds(), m.name, by)
}

// tryAll tries mutants in a copy of the module.
func tryAll(ctx context.Context, root string, mutants <-chan mutant, t *table) error {
	dir, err := os.MkdirTemp("", "linkcancel-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyModule(ctx, root, dir); err != nil {
		return fmt.Errorf("copy the module: %w", err)
	}
	sound := map[string]bool{} // tests that pass without a mutant
	for m := range mutants {
		if tests := m.pkg + " " + m.run; !sound[tests] {
			text, err := goTest(ctx, dir, m.pkg, m.run)
			switch {
			case err != nil:
				return fmt.Errorf("%s fails without a mutant: %w\n%s", tests, err, text)
			case strings.Contains(text, "[no tests to run]"):
				return fmt.Errorf("%s: there is no such test", tests)
			}
			sound[tests] = true
		}
		start := time.Now()
		by, err := m.try(ctx, dir)
		if err != nil {
			return err
		}
		t.add(m, by, time.Since(start))
	}
	return nil
}

// try runs the tests with a mutant. It returns what found it, or "".
func (m mutant) try(ctx context.Context, dir string) (by string, err error) {
	restore, err := m.plant(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, restore()) }()
	for _, tests := range []string{m.run, ""} {
		text, err := goTest(ctx, dir, m.pkg, tests, "-count=1", "-failfast")
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err != nil && notBuilt.MatchString(text):
			return "", fmt.Errorf("mutant %q does not build:\n%s", m.name, text)
		case err != nil:
			return finder(text), nil
		case tests == "":
			return "", nil
		}
	}
	return "", nil
}

var (
	notBuilt = regexp.MustCompile(`(?m)^FAIL\t.*\[(build|setup) failed\]`)
	failed   = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	panicked = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*)$`)
)

// finder returns the innermost test that failed, or how the tests ended.
func finder(text string) string {
	if all := failed.FindAllStringSubmatch(text, -1); len(all) > 0 {
		name := all[0][1]
		for _, one := range all {
			if strings.HasPrefix(one[1], name+"/") {
				name = one[1]
			}
		}
		return name
	}
	if m := panicked.FindString(text); m != "" {
		return m
	}
	return "the tests failed"
}

// copyModule copies the files of the module that git knows or would add.
func copyModule(ctx context.Context, root, dir string) error {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	names, err := cmd.Output()
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		info, err := os.Lstat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted and not committed
		}
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o700)
		}
		if err == nil {
			err = os.WriteFile(to, b, info.Mode().Perm())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// goTest runs tests of a package in a copy of the module.
func goTest(ctx context.Context, copied, pkg, tests string, args ...string) (output string, err error) {
	// Without profiles, because each mutant would have all packages of the command built again.
	args = append([]string{"test", "-vet=off", "-pgo=off", "-timeout", testTimeout.String()}, args...)
	if tests != "" {
		args = append(args, "-run", tests)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(copied, pkg) // some packages are in modules of their own
	text, err := cmd.CombinedOutput()
	return string(text), err
}
