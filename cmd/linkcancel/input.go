package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/producer"
)

// source opens the CSV files. done closes them, and the rejects.
func (f csvFlags) source(a *app, files []string) (src *producer.CSV, done func() error, err error) {
	if f.ID != "" {
		if err := ledger.CheckBatchID(f.ID); err != nil {
			return nil, nil, usagef("%w", err)
		}
	}
	if f.Rejects != "" && !f.SkipInvalid {
		return nil, nil, usagef("--rejects needs --skip-invalid: without it a bad row refuses the file")
	}
	if f.Max < 0 {
		return nil, nil, usagef("--max %d: use 1 or more", f.Max)
	}
	cfg := producer.CSVConfig{Paths: files, Stdin: a.stdin, Column: f.Column, SkipInvalid: f.SkipInvalid, Max: f.Max}
	closeRejects := func() error { return nil }
	if f.Rejects != "" && !a.DryRun {
		out, err := os.OpenFile(f.Rejects, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, nil, usagef("write rejects: %w", err)
		}
		cfg.Rejects, closeRejects = out, out.Close
	}
	src, err = producer.OpenCSV(cfg)
	if err != nil {
		if f.Rejects != "" && cfg.Rejects != nil {
			_ = closeRejects()
			_ = os.Remove(f.Rejects)
		}
		return nil, nil, err
	}
	return src, func() error {
		err := src.Close()
		if rejectsErr := closeRejects(); err == nil {
			err = rejectsErr
		}
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
