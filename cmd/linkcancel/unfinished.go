package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/report"
)

// unfinished looks for an unfinished run of the files, and asks whether to resume it. It returns the
// report of that run, or "" for a new run.
func (c runCmd) unfinished(ctx context.Context, a *cliApp, files []string, p preview) (path string, err error) {
	paths := journalsOf(append([]string{filepath.Dir(c.Report)}, folders(files)...), files)
	if len(paths) == 0 {
		return "", nil
	}
	path = paths[len(paths)-1] // the latest
	name := strings.Join(files, ", ")
	h, done, busy, err := report.Progress(path + partialSuffix)
	what := doneText(done, h.Total)
	switch {
	case busy:
		return "", hint(usagef("a run of %s is at work now: %s", name, what), "wait for its end; its report is %s", path)
	case err != nil: // the resume will say what is wrong with the journal
		what = path + partialSuffix
	}
	another := "linkcancel run " + name
	if c.Retry != "" {
		another = "linkcancel run --retry " + name
	}
	refusal := refuseSecond(name, what, path, another)
	if a.Yes || err != nil {
		return "", refusal
	}
	if _, _, err := a.terminal(question{}); err != nil {
		return "", refusal
	}
	fmt.Fprintf(a.stderr, "%s has an unfinished run: %s.\n", name, what)
	c.restoreFlags(a, h) // of this copy, for the rate
	p.rate = float64(c.Rate)
	p.printAPI(a.stderr, h.Total-done)
	err = a.confirm(ctx, resumeQuestion(h.Total-done))
	if errors.Is(err, errDeclined) {
		return "", nil
	}
	return path, err
}

func doneText(done, total int64) string {
	return fmt.Sprintf("%s of %s are done", humanize.Digits(done), humanize.Plural(total, "link"))
}

// refuseSecond refuses to start a second run beside an unfinished one.
func refuseSecond(name, what, report, another string) error {
	return hint(usagef("%s has an unfinished run: %s", name, what), "linkcancel run --resume %s continues it; %s --new starts another", report, another)
}

func resumeQuestion(left int64) question {
	return question{text: fmt.Sprintf("Resume it, and cancel the %s left? This cannot be undone.", humanize.Plural(left, "link")), yes: true}
}

// folders are the folders of files, and the present one.
func folders(files []string) []string {
	all := []string{"."}
	for _, file := range files {
		all = append(all, filepath.Dir(file), filepath.Dir(realPath(file)))
	}
	return all
}

// realPath is the absolute path of a file, without symbolic links.
func realPath(path string) string {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if resolved, err := filepath.EvalSymlinks(absolute); err == nil {
		return resolved
	}
	return absolute
}

// journalsOf returns the reports of the unfinished runs of any of the files that are in the folders,
// the latest last.
func journalsOf(folders, files []string) []string {
	wanted := map[string]bool{}
	for _, file := range files {
		wanted[realPath(file)] = true
	}
	found := map[string]time.Time{}
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue // the run will say what is wrong with the folder
		}
		for _, entry := range entries {
			path := filepath.Join(folder, entry.Name())
			if !strings.HasSuffix(path, partialSuffix) {
				continue
			}
			if target, err := os.Readlink(path); err == nil {
				path = target // of a run whose report is elsewhere
			}
			h, err := report.ReadHeader(path)
			if err == nil && slices.ContainsFunc(h.Files, func(file string) bool { return wanted[realPath(file)] }) {
				found[strings.TrimSuffix(path, partialSuffix)] = h.Created
			}
		}
	}
	byFile := map[string]string{} // by real path, the shortest name
	for path := range found {
		if other, ok := byFile[realPath(path+partialSuffix)]; !ok || len(path) < len(other) {
			byFile[realPath(path+partialSuffix)] = path
		}
	}
	return slices.SortedFunc(maps.Values(byFile), func(x, y string) int {
		return cmp.Or(found[x].Compare(found[y]), cmp.Compare(x, y))
	})
}

// findJournal returns the report whose journal a user means: by the report, the journal, or the CSV
// file of the run.
func findJournal(name string) (path string, err error) {
	path = strings.TrimSuffix(name, partialSuffix)
	if _, err := os.Lstat(path + partialSuffix); err == nil {
		return path, nil
	}
	found := journalsOf(folders([]string{path}), []string{path})
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		return "", hint(usagef("%s has %d unfinished runs", path, len(found)), "name one of their reports: %s", strings.Join(found, ", "))
	}
	if header, err := linkcsv.Header(path); err == nil && report.IsReport(header) {
		return "", usagef("nothing to resume: %s is complete (there is no %s)", path, filepath.Base(path)+partialSuffix)
	}
	if _, err := os.Stat(path); err == nil {
		return "", hint(usagef("nothing to resume: there is no unfinished run of %s here", path), "if its report is elsewhere, give the name of the report")
	}
	return "", hint(usagef("there is no %s to resume from", path+partialSuffix), "give the report name that the interrupted run printed")
}

// refuseReports refuses a report of linkcancel as input, unless its column was chosen.
func refuseReports(files []string, flags csvFlags) error {
	if flags.Column != "" {
		return nil
	}
	for _, file := range files {
		header, err := linkcsv.Header(file)
		if err == nil && report.IsReport(header) {
			return hint(usagef("%s is a report of linkcancel", file), "linkcancel run --retry %s runs its unfinished links again; --column link takes all its links", file)
		}
	}
	return nil
}
