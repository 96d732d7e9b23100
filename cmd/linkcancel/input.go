package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/producer"
)

// source opens the CSV files. done closes them, and the rejects; it is given the
// error that the command ends with, or nil, and returns what to end with. After
// an error there is no batch, so no rejects stay behind either.
func (f csvFlags) source(a *app, files []string) (src *producer.CSV, done func(error) error, err error) {
	if f.ID != "" {
		if err := ledger.CheckBatchID(f.ID); err != nil {
			return nil, nil, usagef("%w", err)
		}
	}
	if f.Rejects != "" && !f.SkipInvalid {
		return nil, nil, usagef("--rejects needs --skip-invalid: without it a bad row refuses the file")
	}
	cfg := producer.CSVConfig{Paths: files, Stdin: a.stdin, Column: f.Column, SkipInvalid: f.SkipInvalid}
	if f.Max != nil {
		if *f.Max < 1 {
			return nil, nil, usagef("--max %d: use 1 or more", *f.Max)
		}
		cfg.Max = *f.Max
	}
	closeRejects := func() error { return nil }
	if f.Rejects != "" && !a.DryRun {
		out, err := os.OpenFile(f.Rejects, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil, nil, usagef("%s exists already, and is never overwritten\nhint: choose another with --rejects", f.Rejects)
		}
		if err != nil {
			return nil, nil, usagef("write rejects: %w", err)
		}
		cfg.Rejects, closeRejects = out, out.Close
	}
	discard := func() {
		if cfg.Rejects != nil {
			_ = os.Remove(f.Rejects)
		}
	}
	src, err = producer.OpenCSV(cfg)
	if err != nil {
		_ = closeRejects()
		discard()
		return nil, nil, err
	}
	return src, func(err error) error {
		closeErr := src.Close()
		if rejectsErr := closeRejects(); closeErr == nil {
			closeErr = rejectsErr
		}
		if err != nil {
			discard()
			return err
		}
		return closeErr
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

// plan says what is about to happen and how long it takes.
func plan(stats producer.Stats, rate float64) string {
	text := fmt.Sprintf("%s at %v: %s", plural(stats.Links, "link"), ratelimit.Rate(rate),
		spoken(time.Duration(float64(stats.Links)/rate*float64(time.Second))))
	if stats.Duplicates > 0 {
		text += fmt.Sprintf(" (%s left out)", plural(stats.Duplicates, "duplicate"))
	}
	if stats.Invalid > 0 {
		text += fmt.Sprintf(" (%s left out)", plural(stats.Invalid, "invalid row"))
	}
	return text
}

// countAll reads a source to its end, for --dry-run.
func countAll(a *app, src *producer.CSV) (producer.Stats, error) {
	if _, err := producer.Digest(a.ctx, src); err != nil {
		return producer.Stats{}, err
	}
	return src.Stats(), nil
}
