package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
)

type runCmd struct {
	Files  []string `arg:"" optional:"" name:"file" help:"CSV files."`
	Report string   `help:"Write the report here; by default FILE.BATCH.csv beside the first file." placeholder:"FILE"`
	Resume string   `help:"Continue an interrupted run, given its report or its CSV file." placeholder:"FILE"`
	Retry  string   `help:"Run the links of a report again that may still be payable. The new report has all its rows." placeholder:"REPORT"`
	Serve  bool     `help:"Serve a page with the progress, on this machine."`
	New    bool     `help:"Start a new run although an unfinished one of the same file is here."`
	csvFlags
	termFlags
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
	switch {
	case c.Resume != "":
		return c.resume(ctx, a, key, client)
	case c.Retry != "":
		return c.retry(ctx, a, key, client)
	}
	return c.start(ctx, a, key, client)
}

func (c runCmd) check(a *cliApp) error {
	switch {
	case c.Resume != "" && c.Retry != "":
		return usagef("--resume and --retry cannot be combined")
	case c.Resume == "" && c.Retry == "" && len(c.Files) == 0:
		return hint(usagef("no CSV file was given"), "linkcancel run FILE, or linkcancel run --resume REPORT")
	case c.Retry != "" && len(c.Files) > 0:
		return usagef("--retry takes its links from the report: omit the files")
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
	if _, err := c.terms(); err != nil {
		return err
	}
	return c.sendFlags.check()
}

// runTerms are the terms of the batch. check has checked them.
func (c runCmd) runTerms() ledger.Terms {
	terms, _ := c.terms()
	return terms
}

// runCreated returns when a batch that is made now was created, in whole seconds: records count seconds from
// there and the journal has Unix seconds, so finished_at stays the same when a run is resumed.
func runCreated() time.Time {
	return time.Now().Truncate(time.Second)
}

// start begins a new run of files, or resumes an unfinished one if the user wants that.
func (c runCmd) start(ctx context.Context, a *cliApp, key *plexy.Key, client *plexy.Client) error {
	if err := refuseReports(c.Files, c.csvFlags); err != nil {
		return err
	}
	if err := sameColumns(c.Files, c.csvFlags); err != nil {
		return err
	}
	if found, err := c.resumeInstead(ctx, a, key, client, c.Files); found || err != nil {
		return err
	}
	s := c.open(key, client)
	defer s.close()
	id := cmp.Or(c.ID, ledger.NewBatchID(time.Now()))
	s.report = cmp.Or(c.Report, c.Files[0]+"."+id+".csv")
	if err := s.checkReportPath(); err != nil {
		return err
	}
	src, done, err := c.source(ctx, a, c.Files)
	if errors.Is(err, linkcsv.ErrNoRows) {
		return a.nothing(c.name(c.Files), importer.SourceRun)
	}
	if err != nil {
		return err
	}
	p := c.preview(client, key)
	p.files, p.about = c.Files, src.About
	if a.DryRun {
		stats, err := countAll(ctx, src)
		if err := done(err); err != nil {
			return err
		}
		return c.dryRunOf(ctx, a, client, p, src.About().Sample, stats)
	}
	batch, err := importer.MakeBatch(ctx, s.ledger, src, importer.BatchConfig{
		ID: id, Source: importer.SourceRun, Name: c.name(c.Files), File: fileList(c.Files), By: c.by(), Canary: !c.NoCanary, Terms: c.runTerms(), Created: runCreated(),
		Confirm: func(stats importer.Stats) error { return a.ask(ctx, p, stats, question{}) },
	})
	if err := done(err); err != nil {
		return err
	}
	files, err := absolute(c.Files)
	if err != nil {
		return err
	}
	s.header = report.Header{
		Files: files, Column: c.Column, AnyID: c.AnyID, SkipInvalid: c.SkipInvalid, NoCanary: c.NoCanary, Verify: c.Verify, PauseAbove: c.PauseAbove,
	}
	return s.begin(ctx, a, batch)
}

// resumeInstead resumes an unfinished run of the files, if there is one and the user wants that.
func (c runCmd) resumeInstead(ctx context.Context, a *cliApp, key *plexy.Key, client *plexy.Client, files []string) (found bool, err error) {
	if c.New || a.DryRun {
		return false, nil
	}
	path, err := c.unfinished(ctx, a, files, c.preview(client, key))
	if path == "" || err != nil {
		return false, err
	}
	c.Resume, c.Retry, c.Files = path, "", nil
	return true, c.resume(ctx, a, key, client)
}

// preview is what the user is shown. Runs share no Redis, so the fingerprint has a fixed salt.
func (c runCmd) preview(client *plexy.Client, key *plexy.Key) preview {
	return preview{
		api: client.BaseURL(), rate: float64(c.Rate),
		key: key.Fingerprint([]byte("linkcancel run")) + " from " + key.Source(),
	}
}

// dryRunOf shows what would happen and reads the first link, which proves key, URL and merchant.
func (c runCmd) dryRunOf(ctx context.Context, a *cliApp, client *plexy.Client, p preview, first string, stats importer.Stats) error {
	probe := probeLink(ctx, client, first)
	if a.JSON {
		if err := a.dryRunJSON(stats, c.name(append(c.Files, c.Retry)), importer.SourceRun, probe.view()); err != nil {
			return err
		}
	} else {
		p.print(a.says, stats)
		probe.printRehearsed(a.says)
	}
	if probe.err != nil {
		return hint(probe.err, "%s", probe.advice)
	}
	return nil
}

// printRehearsed ends a dry run.
func (p probe) printRehearsed(w io.Writer) {
	if p.err == nil {
		fmt.Fprintf(w, "The API says: %s\n", p.text)
	}
	fmt.Fprintln(w, "Dry run: one link was read, and nothing was changed. Canceling links cannot be undone.")
}

// retry begins a run of the unfinished links of a report.
func (c runCmd) retry(ctx context.Context, a *cliApp, key *plexy.Key, client *plexy.Client) error {
	unfinished, err := report.ReadUnfinished(c.Retry)
	if errors.Is(err, report.ErrNoReport) {
		return hint(usagef("%w", err), "give a report that linkcancel run or batch report --join has written")
	}
	if err != nil {
		return err
	}
	if len(unfinished.Links) == 0 {
		if a.JSON {
			return printJSON(a.stdout, status.ViewOf(ledger.Batch{State: "nothing", Source: importer.SourceRun, Name: filepath.Base(c.Retry)}))
		}
		fmt.Fprintf(a.notes, "Nothing to retry: no link of %s may still be payable.\n", c.Retry)
		return nil
	}
	if found, err := c.resumeInstead(ctx, a, key, client, []string{c.Retry}); found || err != nil {
		return err
	}
	s := c.open(key, client)
	defer s.close()
	id := cmp.Or(c.ID, ledger.NewBatchID(time.Now()))
	s.report = cmp.Or(c.Report, retryReport(c.Retry, id))
	if err := s.checkReportPath(); err != nil {
		return err
	}
	p := c.preview(client, key)
	p.files = []string{c.Retry}
	p.about = func() importer.About { return importer.About{Column: `column "link"`, Sample: unfinished.Links[0]} }
	if a.DryRun {
		return c.dryRunOf(ctx, a, client, p, unfinished.Links[0], importer.Stats{Links: int64(len(unfinished.Links))})
	}
	batch, err := importer.MakeBatch(ctx, s.ledger, unfinishedSource(unfinished), importer.BatchConfig{
		ID: id, Source: importer.SourceRun, Name: filepath.Base(c.Retry), File: fileList([]string{c.Retry}), By: c.by(), Canary: !c.NoCanary, Terms: c.runTerms(), Created: runCreated(),
		Restore: func(chunk, links int) ([]ledger.Record, map[int]string, error) {
			records := make([]ledger.Record, links)
			for i := range records {
				records[i].Ambiguous = unfinished.Ambiguous[chunk*ledger.ChunkLinks+i]
			}
			return records, nil, nil
		},
		Confirm: func(stats importer.Stats) error { return a.ask(ctx, p, stats, question{}) },
	})
	if err != nil {
		return err
	}
	files, err := absolute([]string{c.Retry})
	if err != nil {
		return err
	}
	s.header = report.Header{Files: files, NoCanary: c.NoCanary, Retry: true, Verify: c.Verify, PauseAbove: c.PauseAbove}
	return s.begin(ctx, a, batch)
}

// batchInName matches the batch in the name of a report.
var batchInName = regexp.MustCompile(`\.\d{8}-\d{6}-[0-9a-f]{6}\.csv$`)

// retryReport is the default name of the report of a retry: the batch of the first report is
// replaced.
func retryReport(report, id string) string {
	return batchInName.ReplaceAllString(report, "") + "." + id + ".csv"
}

func unfinishedSource(u report.Unfinished) *importer.Links {
	n := int64(len(u.Links))
	return &importer.Links{IDs: u.Links, Counts: importer.Stats{Rows: n, Links: n}}
}

// resume continues a run that was interrupted or killed.
func (c runCmd) resume(ctx context.Context, a *cliApp, key *plexy.Key, client *plexy.Client) error {
	path, err := findJournal(c.Resume)
	if err != nil {
		return err
	}
	header, state, journal, err := report.OpenJournal(path + partialSuffix)
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
	c.restoreFlags(a, header)
	s := c.open(key, client)
	s.journal = journal
	defer s.close()
	s.report, s.resumed = path, true
	s.header = header
	s.header.Files, s.header.Column = files, c.Column
	again := state.Tripped()
	state.CanaryOff()
	// A resume switches the canary off.
	batch, err := s.makeAgain(ctx, a, state)
	if err != nil {
		return err
	}
	if batch.Digest != header.Digest {
		difference := "some are others, or in another order"
		if batch.Total != header.Total {
			difference = fmt.Sprintf("it had %s, now there are %s", humanize.Digits(header.Total), humanize.Digits(batch.Total))
		}
		return hint(usagef("the links of %s are not those of the interrupted run: %s", strings.Join(files, ", "), difference), "name the same files, unchanged")
	}
	if header.API != "" && header.API != client.BaseURL() && batch.Counts.Sum() > 0 {
		return hint(usagef("the run was started with the API %s, and --base-url is %s", header.API, client.BaseURL()), "give --base-url %s, or start a new run with --new", header.API)
	}
	if err := s.journal.CanaryOff(); err != nil {
		return err
	}
	fmt.Fprintf(a.notes, "Resuming batch %s: %s of %s are done.\n", batch.ID,
		humanize.Digits(batch.Counts.Sum()), humanize.Plural(batch.Total, "link"))
	if again {
		fmt.Fprintln(a.notes, "The links that stopped the run are sent again.")
	}
	return s.execute(ctx, a)
}

// restoreFlags gives the run the flags of its first start. Flags that are given again win.
func (c *runCmd) restoreFlags(a *cliApp, h report.Header) {
	c.Column = cmp.Or(c.Column, h.Column)
	c.SkipInvalid, c.AnyID = h.SkipInvalid, h.AnyID || c.AnyID
	if rate, err := ratelimit.ParseRate(h.Rate); err == nil && len(given(a.args, "--rate")) == 0 {
		c.Rate = rate
	}
	c.Verify, c.PauseAbove = cmp.Or(c.Verify, h.Verify), cmp.Or(c.PauseAbove, h.PauseAbove)
	if h.Attempts > 0 && len(given(a.args, "--attempts")) == 0 {
		c.Attempts = h.Attempts
	}
}

// sameColumns makes sure that one report can hold all files.
func sameColumns(files []string, flags csvFlags) error {
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			return hint(usagef("%s can be read only once, and run reads its files again for the report", file), "save it to a file, or use linkcancel import")
		}
	}
	var first []string
	for _, file := range files {
		rows, err := linkcsv.OpenRows(file, nil, linkcsv.Options{Column: flags.Column, AnyID: flags.AnyID})
		if errors.Is(err, linkcsv.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		header := rows.Header()
		if err := rows.Close(); err != nil {
			return err
		}
		if first == nil {
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
