package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/report"
)

// source opens the CSV files. done closes them and the rejects. It takes and returns the command's
// error. After an error it removes the rejects, because there is no batch.
func (f csvFlags) source(ctx context.Context, a *cliApp, files []string) (src *importer.CSV, done func(error) error, err error) {
	if f.ID != "" {
		if err := ledger.CheckBatchID(f.ID); err != nil {
			return nil, nil, usagef("%w", err)
		}
	}
	if f.Rejects != "" && !f.SkipInvalid {
		return nil, nil, usagef("--rejects needs --skip-invalid: without it a bad row refuses the file")
	}
	cfg := importer.CSVConfig{Paths: files, Stdin: a.stdin, Column: f.Column, AnyID: f.AnyID, SkipInvalid: f.SkipInvalid, Stop: ctx.Done()}
	if f.Max != nil {
		if *f.Max < 1 {
			return nil, nil, usagef("--max %d: use 1 or more", *f.Max)
		}
		cfg.Max = *f.Max
	}
	discard, commit := func() {}, func() error { return nil }
	if f.Rejects != "" {
		out, err := report.Create(f.Rejects, false)
		if errors.Is(err, report.ErrExists) {
			return nil, nil, hint(usagef("%s already exists, and is never overwritten", f.Rejects), "choose another with --rejects")
		}
		if err != nil {
			return nil, nil, usagef("--rejects: %w", err)
		}
		cfg.Rejects, discard, commit = out, out.Discard, out.Commit
	}
	src, err = importer.OpenCSV(cfg)
	if err != nil {
		discard()
		return nil, nil, err
	}
	return src, func(err error) error {
		closeErr := src.Close()
		if err == nil {
			err = closeErr
		}
		if err == nil {
			err = commit()
		}
		discard()
		return err
	}, nil
}

// name is what the batch is called.
func (f csvFlags) name(files []string) string {
	switch {
	case f.Name != "":
		return f.Name
	case files[0] == "-":
		return "stdin"
	}
	return filepath.Base(files[0])
}

func fromStdin(files []string) bool { return slices.Contains(files, "-") }

// countAll reads a source to its end, for --dry-run.
func countAll(ctx context.Context, src *importer.CSV) (importer.Stats, error) {
	if _, err := importer.Digest(ctx, src); err != nil {
		return importer.Stats{}, err
	}
	return src.Stats(), nil
}
