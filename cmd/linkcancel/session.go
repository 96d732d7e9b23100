package main

import (
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
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
)

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

// begin writes the journal of a new run and executes it.
func (s *session) begin(ctx context.Context, a *cliApp, b ledger.Batch) (err error) {
	s.header.Batch, s.header.Digest, s.header.Name, s.header.Total, s.header.Created = b.ID, b.Digest, b.Name, b.Total, b.Created
	s.header.API, s.header.Rate, s.header.Attempts = s.client.BaseURL(), s.cmd.Rate.String(), s.cmd.Attempts
	if s.journal, err = report.CreateJournal(s.report+partialSuffix, s.header); err != nil {
		return hint(usagef("%w", err), "choose another place with --report")
	}
	if pointer, journal := s.pointer(); pointer != journal {
		_ = os.Symlink(journal, pointer) // without it the next run of the file does not find this one
	}
	return s.execute(ctx, a)
}

// pointer is a link to the journal, beside the first file, if the report is elsewhere.
func (s *session) pointer() (pointer, journal string) {
	journal, err := filepath.Abs(s.report + partialSuffix)
	if err != nil || filepath.Dir(journal) == filepath.Dir(s.header.Files[0]) {
		return journal, journal
	}
	return s.header.Files[0] + "." + s.header.Batch + ".csv" + partialSuffix, journal
}

// removeJournal removes the journal of a run that is over, and the link to it.
func (s *session) removeJournal() error {
	if pointer, journal := s.pointer(); pointer != journal {
		if target, err := os.Readlink(pointer); err == nil && target == journal {
			_ = os.Remove(pointer)
		}
	}
	return s.journal.Remove()
}

// makeAgain makes the batch of an interrupted run again, with what its journal knows.
func (s *session) makeAgain(ctx context.Context, a *cliApp, state *report.State) (ledger.Batch, error) {
	cfg := importer.BatchConfig{
		ID: s.header.Batch, Source: importer.SourceRun, Name: s.header.Name, Created: s.header.Created,
		File: fileList(s.header.Files), By: s.cmd.by(), Terms: s.cmd.runTerms(),
		Restore: func(chunk, links int) ([]ledger.Record, map[int]string, error) {
			return s.restore(ctx, state, chunk, links)
		},
	}
	if s.header.Retry {
		links, err := report.ReadUnfinished(s.header.Files[0])
		if err != nil {
			return ledger.Batch{}, err
		}
		return importer.MakeBatch(ctx, s.ledger, unfinishedSource(links), cfg)
	}
	src, done, err := s.cmd.source(ctx, a, s.header.Files)
	if err != nil {
		return ledger.Batch{}, err
	}
	batch, err := importer.MakeBatch(ctx, s.ledger, src, cfg)
	return batch, done(err)
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
	defer setGC(runGC)()
	ctx, stop := context.WithCancel(userCtx)
	defer stop()
	var badKey, unproved error
	opt := s.cmd.options(a, s.key, s.client)
	opt.Broker, opt.Ledger, opt.Journal, opt.Attended = s.broker, s.ledger, s.journal, true
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
			_ = s.removeJournal() // nothing was sent yet
		}
		return err
	}
	defer stopServing()
	if s.cmd.Serve {
		stopPage, err := a.servePage(ctx, s.broker.Client(), s.ledger)
		if err != nil {
			return err
		}
		defer stopPage()
	}
	files := keepSpare(spareFiles)
	p := newProgress(a.notes, b, e)
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
		_ = s.removeJournal()
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
		_ = s.removeJournal()
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
	if s.header.Retry {
		write = func(w io.Writer) error { return rewriteReport(ctx, w, s.ledger, b, s.header.Files[0]) }
	}
	overwrite := s.resumed
	if err := report.WriteFile(s.report, overwrite, write); err != nil {
		return hint(err, "the progress so far is in %s: linkcancel run --resume %s continues", s.report+partialSuffix, s.report)
	}
	// A batch paused by its canary is not finished: a resume asks for its links again. One that is not
	// verified yet is verified by a resume.
	verification, err := latestVerification(ctx, s.ledger, b)
	if err != nil {
		return err
	}
	unverified := verifies(b) && (verification == nil || !verification.Ended())
	if b.Pending() == 0 && b.State != ledger.Paused && !unverified {
		if err := s.removeJournal(); err != nil {
			return err
		}
	}
	result, err := status.ReadResult(ctx, s.ledger, b)
	if err != nil {
		return err
	}
	out := a.says
	if a.JSON {
		out = a.notes
		view := status.ViewOf(b).With(result)
		view.Report = s.report
		if verification != nil {
			v := status.ViewOfVerification(*verification)
			view.Verification = &v
		}
		if err := printJSON(a.stdout, view); err != nil {
			return err
		}
	}
	return a.finished(out, summary{Batch: b, Result: result, interrupted: interrupted, skipped: b.Invalid, verification: verification, unverified: unverified}, s.report)
}
