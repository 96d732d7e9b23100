// Bench measures linkcancel beside its peers: see docs/benchmarks.md. It runs
// on Linux, since it reads /proc and waits with epoll.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// bench is one run of the program.
type bench struct {
	dir    string // for what it writes; removed at the end
	root   string // of the product's module
	bin    string // the product
	commit string // of the product
	api    *api
	times  int
	quick  bool

	// For a closer look at drains.
	drainLinks     int      // overrides how many
	settingNames   []string // only these settings
	peers          []string // only these contenders
	profile        string   // folder for profiles of the worker
	profileSeconds int

	results results
}

// part is one of the measurements.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

// parts are the measurements, in their order.
var parts = []part{
	{"import", (*bench).measureImports},
	{"drain", (*bench).measureDrains},
	{"size", (*bench).measureSizes},
	{"paced", (*bench).measurePaced},
	{"aof", (*bench).measureAOF},
	{"run", (*bench).measureRuns},
	{"rate", (*bench).measureRates},
	{"urgent", (*bench).measureUrgent},
	{"scrape", (*bench).measureScrapes},
	{"list", (*bench).measureLists},
	{"find", (*bench).measureFinds},
	{"page", (*bench).measurePages},
	{"idle", (*bench).measureIdle},
	{"micro", (*bench).measureMicro},
}

// processes are what this program is when it starts itself.
var processes = map[string]func(context.Context, []string) error{
	"stand-in":      runStandIn,
	"delay":         runDelay,
	"loop":          runLoop,
	"asynq-enqueue": runAsynqEnqueue,
	"asynq-work":    runAsynqWork,
	"river-enqueue": runRiverEnqueue,
	"river-work":    runRiverWork,
	"work-enqueue":  runWorkEnqueue,
	"work-work":     runWorkWork,
}

func main() {
	args := os.Args[1:]
	var err error
	if process := processes[firstOf(args)]; process != nil {
		// The signals are its own.
		err = process(context.Background(), args[1:])
	} else {
		err = benchmark(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func benchmark(args []string) error {
	b := &bench{}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	only := flags.String("only", "", "measure only these `parts`: import,drain,size,paced,aof,run,rate,urgent,scrape,list,find,page,idle,micro")
	flags.IntVar(&b.times, "times", 5, "how `often` each thing is measured")
	flags.BoolVar(&b.quick, "quick", false, "measure little, once, to see that everything works")
	docs := flags.String("docs", "", "keep the results in this `folder`: benchmarks.json, .md and .svg; what is not measured stays")
	renderOnly := flags.Bool("render", false, "measure nothing; write .md and .svg again")
	flags.StringVar(&b.bin, "bin", "", "measure this linkcancel `program`, instead of building one")
	flags.IntVar(&b.drainLinks, "links", 0, "drain so many `links`")
	settings := flags.String("settings", "", "drain in these `settings` only: near,far,20ms,20ms-200")
	peers := flags.String("peers", "", "measure these `contenders` only, such as linkcancel,loop")
	flags.StringVar(&b.profile, "profile", "", "save CPU profiles of the worker in this `folder`")
	flags.IntVar(&b.profileSeconds, "profile-seconds", 2, "length of a profile, in `seconds`")
	_ = flags.Parse(args)
	b.settingNames, b.peers = split(*settings), split(*peers)
	if b.quick {
		b.times = 1
	}
	var err error
	if *docs != "" {
		if b.results, err = loadResults(*docs + "/benchmarks.json"); err != nil {
			return err
		}
	}
	if !*renderOnly {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := b.measure(ctx, split(*only)); err != nil {
			return err
		}
		if err := b.results.printFresh(os.Stdout, !b.quick); err != nil {
			return err
		}
	}
	if *docs == "" {
		return nil
	}
	if err := b.results.save(*docs + "/benchmarks.json"); err != nil {
		return err
	}
	return b.results.render(*docs)
}

func (b *bench) measure(ctx context.Context, only []string) error {
	for _, name := range only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	b.results.LeftOut = map[string]string{}
	b.commit = firstLine("git", "describe", "--always", "--dirty")
	// What is measured is built with its own module's dependencies, not with those of this one.
	if b.root = firstLine("go", "list", "-m", "-f", "{{.Dir}}", "linkcancel"); b.root == "" {
		return errors.New("the product is not found: run this in internal/bench")
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "linkcancel-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.bin == "" {
		if b.bin, err = b.build(ctx); err != nil {
			return err
		}
	}
	if b.api, err = startAPI(ctx); err != nil {
		return err
	}
	defer b.api.kill()
	for _, part := range parts {
		if !wanted(only, part.name) {
			continue
		}
		if err := part.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.results.Machine.describe(b.connect())
	b.results.keepRatios(b.commit)
	return nil
}

// split reads a list of names.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// wanted says whether a name is among those asked for; without any, all are.
func wanted(asked []string, name string) bool {
	return len(asked) == 0 || slices.Contains(asked, name)
}

// pick chooses between the size of a whole run and that of a quick one.
func (b *bench) pick(whole, quick int) int {
	if b.quick {
		return quick
	}
	return whole
}

// interleave measures one after the other, A B A B, so that a change of the
// machine's mood meets all of them.
func (b *bench) interleave(names []string, measure func(name string) error) error {
	return b.interleaveTimes(b.times, names, measure)
}

// interleaveTimes does so a number of times, or fewer if fewer are wanted.
func (b *bench) interleaveTimes(times int, names []string, measure func(name string) error) error {
	for range min(times, b.times) {
		for _, name := range names {
			if !wanted(b.peers, name) {
				continue
			}
			if err := measure(name); err != nil {
				return err
			}
		}
	}
	return nil
}
