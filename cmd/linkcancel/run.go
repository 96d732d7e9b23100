package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"linkcancel/internal/app"
	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
	"linkcancel/producer"
)

type runCmd struct {
	Files  []string `arg:"" optional:"" name:"file" help:"CSV files."`
	Report string   `help:"Write the report here; by default FILE.BATCH.csv beside the first file." placeholder:"FILE"`
	Resume string   `help:"Continue an interrupted run, given its report." placeholder:"REPORT"`
	csvFlags
	apiFlags
	sendFlags `set:"attempts=6"`
	metricsFlags
}

// partialSuffix names the journal beside its report.
const partialSuffix = ".partial"

func (c runCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	if err := c.check(a); err != nil {
		return err
	}
	key, client, err := c.connect(a, c.Concurrency)
	if err != nil {
		return err
	}
	a.quiet()
	if c.Resume != "" {
		return c.resume(ctx, a, key, client)
	}
	return c.start(ctx, a, key, client)
}

func (c runCmd) check(a *cliApp) error {
	switch {
	case c.Resume == "" && len(c.Files) == 0:
		return hint(usagef("no CSV file was given"), "linkcancel run FILE, or linkcancel run --resume REPORT")
	case c.Resume != "" && c.Report != "":
		return usagef("--resume names the report already: omit --report")
	case c.Resume != "" && a.DryRun:
		return usagef("--dry-run cannot be combined with --resume")
	case fromStdin(c.Files):
		return hint(usagef("run reads its files again for the report, so it cannot read standard input"), "save it to a file, or use linkcancel import -")
	}
	if c.ID != "" {
		if err := ledger.CheckBatchID(c.ID); err != nil {
			return usagef("%w", err)
		}
	}
	return c.sendFlags.check()
}

// start begins a new run.
func (c runCmd) start(ctx context.Context, a *cliApp, key *plexy.Key, client *plexy.Client) error {
	if err := sameColumns(c.Files, c.csvFlags); err != nil {
		return err
	}
	s := c.open(key, client)
	defer s.close()
	id := c.ID
	if id == "" {
		id = ledger.NewBatchID(time.Now())
	}
	s.report = cmp.Or(c.Report, c.Files[0]+"."+id+".csv")
	if err := s.checkReportPath(); err != nil {
		return err
	}
	src, done, err := c.source(ctx, a, c.Files)
	if err != nil {
		return err
	}
	if a.DryRun {
		stats, err := countAll(ctx, src)
		if err := done(err); err != nil {
			return err
		}
		return a.dryRun(stats, float64(c.Rate), c.name(c.Files), producer.SourceRun)
	}
	batch, err := producer.MakeBatch(ctx, s.ledger, src, producer.BatchConfig{
		ID: id, Source: producer.SourceRun, Name: c.name(c.Files), Canary: !c.NoCanary,
		Confirm: a.confirmPlan(ctx, float64(c.Rate), question{}),
	})
	if err := done(err); err != nil {
		return err
	}
	files, err := absolute(c.Files)
	if err != nil {
		return err
	}
	s.header = report.Header{
		Batch: batch.ID, Digest: batch.Digest, Name: batch.Name, Files: files, Column: c.Column,
		AnyID: c.AnyID, SkipInvalid: c.SkipInvalid, NoCanary: c.NoCanary, Total: batch.Total, Created: batch.Created,
	}
	if s.journal, err = report.CreateJournal(s.report+partialSuffix, s.header); err != nil {
		return usagef("%w", err)
	}
	return s.execute(ctx, a)
}

// resume continues a run that was interrupted or killed.
func (c runCmd) resume(ctx context.Context, a *cliApp, key *plexy.Key, client *plexy.Client) error {
	path := strings.TrimSuffix(c.Resume, partialSuffix)
	header, state, journal, err := report.OpenJournal(path + partialSuffix)
	if errors.Is(err, os.ErrNotExist) {
		if _, statErr := os.Stat(path); statErr == nil {
			return usagef("nothing to resume: %s is complete (there is no %s)", path, filepath.Base(path)+partialSuffix)
		}
		return hint(usagef("there is no %s to resume from", path+partialSuffix), "give the report name that the interrupted run printed")
	}
	if errors.Is(err, report.ErrBadJournal) {
		return hint(err, "restore the journal, or start a new run: links that are cancelled will read already_cancelled")
	}
	if err != nil {
		return err
	}
	files := header.Files
	if len(c.Files) > 0 {
		if files, err = absolute(c.Files); err != nil {
			return err
		}
	}
	if c.Column != "" {
		header.Column = c.Column
	}
	flags := c.csvFlags
	flags.Column, flags.SkipInvalid, flags.AnyID = header.Column, header.SkipInvalid, header.AnyID || c.AnyID
	s := c.open(key, client)
	s.journal = journal
	defer s.close()
	src, done, err := flags.source(ctx, a, files)
	if err != nil {
		return err
	}
	s.report, s.resumed = path, true
	s.header = header
	s.header.Files = files
	again := state.Tripped()
	state.CanaryOff()
	batch, err := producer.MakeBatch(ctx, s.ledger, src, producer.BatchConfig{
		// A resume switches the canary off.
		ID: header.Batch, Source: producer.SourceRun, Name: header.Name, Created: header.Created,
		Restore: func(chunk, links int) ([]ledger.Record, map[int]string, error) {
			return s.restore(ctx, state, chunk, links)
		},
	})
	if err := done(err); err != nil {
		return err
	}
	if batch.Digest != header.Digest {
		return hint(usagef("the links of %s are not those of the interrupted run: it had %s, now there are %s", strings.Join(files, ", "), humanize.Digits(header.Total), humanize.Digits(batch.Total)), "name the same files, unchanged")
	}
	if err := s.journal.CanaryOff(); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "Resuming batch %s: %s of %s have an outcome.\n", batch.ID,
		humanize.Digits(batch.Counts.Sum()), humanize.Plural(batch.Total, "link"))
	if again {
		fmt.Fprintln(a.stderr, "The links that stopped the run are sent again.")
	}
	return s.execute(ctx, a)
}

// session is one run with its embedded Redis.
type session struct {
	cmd     runCmd
	key     *plexy.Key
	client  *plexy.Client
	broker  *broker.Broker
	ledger  *ledger.Ledger
	report  string
	resumed bool
	header  report.Header
	journal *report.Journal
}

// open starts the embedded Redis.
func (c runCmd) open(key *plexy.Key, client *plexy.Client) *session {
	b := broker.Embedded()
	return &session{cmd: c, key: key, client: client, broker: b, ledger: ledger.New(b.Client())}
}

func (s *session) close() {
	if s.journal != nil {
		_ = s.journal.Close()
	}
	_ = s.broker.Close()
}

// checkReportPath checks that nothing is overwritten.
func (s *session) checkReportPath() error {
	if info, err := os.Stat(filepath.Dir(s.report)); err != nil || !info.IsDir() {
		return hint(usagef("the report %s cannot be written: there is no folder %s", s.report, filepath.Dir(s.report)), "choose another place with --report")
	}
	for _, path := range []string{s.report, s.report + partialSuffix} {
		_, err := os.Lstat(path)
		if errors.Is(err, syscall.ENAMETOOLONG) {
			return hint(usagef("the report %s cannot be written: with %s appended, its name is too long for the file system", s.report, partialSuffix), "choose a shorter one with --report")
		}
		if err == nil {
			advice := "choose another with --report"
			if strings.HasSuffix(path, partialSuffix) {
				advice = "resume it: linkcancel run --resume " + s.report
			}
			return hint(usagef("%s already exists", path), "%s", advice)
		}
	}
	return nil
}

// restore turns the journal's entries of a chunk into records.
func (s *session) restore(ctx context.Context, state *report.State, chunk, links int) ([]ledger.Record, map[int]string, error) {
	records := make([]ledger.Record, links)
	texts := map[int]string{}
	for _, e := range state.Records(chunk, links) {
		r := e.Record
		var err error
		if r.LinkStatus, err = s.ledger.LinkStatus(ctx, s.header.Batch, e.LinkStatus); err != nil {
			return nil, nil, err
		}
		if !e.At.IsZero() && r.Outcome != ledger.None {
			r.After = uint32(max(0, e.At.Sub(s.header.Created)/time.Second))
		}
		records[e.Position] = r
		if e.Error != "" {
			texts[e.Position] = e.Error
		}
	}
	return records, texts, nil
}

// execute cancels the batch, writes the report and prints the summary.
func (s *session) execute(userCtx context.Context, a *cliApp) error {
	ctx, stop := context.WithCancel(userCtx)
	defer stop()
	var badKey, unproved error
	opt := s.cmd.options(a, s.key, s.client)
	opt.Broker, opt.Ledger, opt.Journal, opt.ShowsHolds = s.broker, s.ledger, s.journal, true
	opt.BadKey = func(err error) { badKey = err; stop() }
	opt.Unproved = func(err error) { unproved = err; stop() }
	b, err := s.ledger.Get(ctx, s.header.Batch)
	if err != nil {
		return err
	}
	if b.Counts.Sum() > 0 {
		// The key was good before. The links that are left may be the ones that it is refused for.
		opt.BadKey = nil
	}
	e, err := app.New(ctx, opt)
	if err != nil {
		return err
	}
	stopServing, err := s.cmd.serve(ctx, e)
	if err != nil {
		if !s.resumed {
			_ = s.journal.Remove() // nothing was sent yet
		}
		return err
	}
	defer stopServing()
	files := keepSpare(spareFiles)
	p := newProgress(a.stderr, b, e)
	quiet := context.AfterFunc(userCtx, func() {
		fmt.Fprintln(a.stderr, "\nStopping: calls in flight are finished first. Ctrl-C again quits at once.")
	})
	b, err = e.RunBatch(ctx, b.ID, p.update)
	quiet()
	p.end()
	files.release()
	switch {
	case badKey != nil:
		return s.keyRefusedError(b, badKey)
	case unproved != nil:
		return s.unprovenError(userCtx, b, unproved)
	}
	interrupted := errors.Is(err, app.ErrInterrupted)
	if err != nil && !interrupted {
		return hint(err, "the progress so far is in %s: fix the problem, then linkcancel run --resume %s", s.report+partialSuffix, s.report)
	}
	return s.finish(userCtx, a, b, interrupted)
}

// keyRefusedError is the error when the first answer of the API was that the key is invalid.
// Nothing was recorded, so only the journal of an earlier run stays.
func (s *session) keyRefusedError(b ledger.Batch, badKey error) error {
	if !s.resumed && b.Counts.Sum() == 0 {
		_ = s.journal.Remove()
	}
	return hint(fmt.Errorf("the API refuses the key: %w", badKey), "check PLEXY_API_KEY or --api-key-file, and --base-url (%s)", s.cmd.BaseURL)
}

// unprovenError is the error when nothing has shown that the base URL is the API's. Nothing
// was recorded. The journal stays if a link may have been cancelled.
func (s *session) unprovenError(ctx context.Context, b ledger.Batch, why error) error {
	keep := s.resumed || b.Counts.Sum() > 0
	if !keep {
		found, err := s.ledger.Snapshot(context.WithoutCancel(ctx), b)
		keep = err != nil
		for place := range int(b.Total) {
			keep = keep || found.Record(place).Ambiguous
		}
	}
	advice := fmt.Sprintf("check --base-url (%s)", s.cmd.BaseURL)
	if b.Counts.Sum() == 0 {
		advice += "; no outcome was recorded"
	}
	if keep {
		advice += "; what was sent is in " + s.report + partialSuffix + ": linkcancel run --resume " + s.report
	} else {
		_ = s.journal.Remove()
	}
	return hint(why, "%s", advice)
}

// finish writes the report and prints the summary.
func (s *session) finish(ctx context.Context, a *cliApp, b ledger.Batch, interrupted bool) error {
	// The report must be complete, and a stuck reader of the summary must not block the process.
	ctx = context.WithoutCancel(ctx)
	if out, ok := a.stdout.(*output); ok {
		out.bound()
	}
	write := func(w io.Writer) error {
		return writeReport(ctx, w, s.ledger, b, s.header.Files, s.header.Column, report.Options{})
	}
	overwrite := s.resumed
	if err := report.WriteFile(s.report, overwrite, write); err != nil {
		return hint(err, "the progress so far is in %s: linkcancel run --resume %s continues", s.report+partialSuffix, s.report)
	}
	// A batch paused by its canary is not finished: a resume asks for its links again.
	if b.Pending() == 0 && b.State != ledger.Paused {
		if err := s.journal.Remove(); err != nil {
			return err
		}
	}
	t, err := status.ReadStatuses(ctx, s.ledger, b)
	if err != nil {
		return err
	}
	out := a.stdout
	if a.JSON {
		out = a.stderr
		data := status.ViewOf(b)
		data.Report = s.report
		if err := printJSON(a.stdout, data); err != nil {
			return err
		}
	}
	fmt.Fprintln(out)
	printSummary(out, b, t)
	fmt.Fprintf(out, "\nReport: %s\n", clean.Line(s.report))
	code := linksExit(b, t)
	switch {
	case interrupted && b.Pending() > 0:
		fmt.Fprintf(a.stderr, "Interrupted. Next: linkcancel run --resume %s\n", s.report)
		code = exitInterrupted
	case b.State == ledger.Paused:
		fmt.Fprintf(a.stderr, "Stopped: %s: %s\nTo continue anyway: linkcancel run --resume %s\n", status.Reason(b), canaryHint, s.report)
	case allAlike(b) != "":
		fmt.Fprintf(a.stderr, "Every link is %s: %s\n", allAlike(b), canaryHint)
	case code == exitLinks:
		fmt.Fprintln(a.stderr, "Some links may still be payable: see the report.")
	}
	if code != exitFine {
		return exit(code)
	}
	return nil
}

// sameColumns makes sure that one report can hold all files.
func sameColumns(files []string, flags csvFlags) error {
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			return hint(usagef("%s can be read only once, and run reads its files again for the report", file), "save it to a file, or use linkcancel import")
		}
	}
	var first []string
	for i, file := range files {
		rows, err := linkcsv.OpenRows(file, nil, linkcsv.Options{Column: flags.Column, AnyID: flags.AnyID})
		if err != nil {
			return err
		}
		header := rows.Header()
		if err := rows.Close(); err != nil {
			return err
		}
		if i == 0 {
			first = header
		} else if strings.Join(first, "\x00") != strings.Join(header, "\x00") {
			return hint(usagef("%s and %s have different columns, and one report holds them all", files[0], file), "run them one after the other")
		}
	}
	return nil
}

func absolute(files []string) ([]string, error) {
	paths := make([]string, len(files))
	for i, f := range files {
		var err error
		if paths[i], err = filepath.Abs(f); err != nil {
			return nil, fmt.Errorf("find %s: %w", f, err)
		}
	}
	return paths, nil
}
