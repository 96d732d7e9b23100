package main

import (
	"context"
	"errors"
	"fmt"

	"linkcancel/internal/archive"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
)

type archiveCmd struct {
	Verify archiveVerifyCmd `cmd:"" help:"Check that every byte of the archives is as it was written."`
}

type archiveVerifyCmd struct {
	Dir string `arg:"" help:"The folder of worker --archive-dir, or one archive in it." placeholder:"DIR"`
}

// Help is shown by archive verify --help.
func (archiveVerifyCmd) Help() string {
	return `A worker with --archive-dir archives each finished batch: report.csv.gz, batch.json, history.jsonl, and SHA256SUMS with the sums of the others. The history of the batch has the SHA-256 of SHA256SUMS itself, which this command prints with --json: so it shows that nobody has replaced both a file and its sum.

The exit code is 0, or 1 if anything is missing or changed. sha256sum -c SHA256SUMS checks the same within one archive.

    linkcancel archive verify /var/lib/linkcancel/archive
    linkcancel archive verify DIR --json | jq -r '.archives[] | select(.ok | not) | .archive'`
}

// archiveView is one archive for programs.
type archiveView struct {
	Archive  string   `json:"archive"`
	OK       bool     `json:"ok"`
	Sum      string   `json:"sha256"` // of SHA256SUMS
	Problems []string `json:"problems"`
}

func (c archiveVerifyCmd) Run(_ context.Context, a *cliApp) error {
	found, err := archive.Verify(c.Dir)
	if errors.Is(err, archive.ErrNone) {
		return hint(err, "worker --archive-dir %s writes them", c.Dir)
	}
	if err != nil {
		return err
	}
	views, damaged := []archiveView{}, 0
	for _, one := range found {
		v := archiveView{Archive: one.Name, OK: one.OK(), Sum: one.Sum, Problems: one.Problems}
		if v.OK {
			v.Problems = []string{}
		} else {
			damaged++
		}
		views = append(views, v)
	}
	if a.JSON {
		if err := printJSON(a.stdout, map[string]any{"archives": views}); err != nil {
			return err
		}
	}
	for _, v := range views {
		for _, problem := range v.Problems {
			if !a.JSON {
				fmt.Fprintf(a.stdout, "%s: %s\n", clean.Line(v.Archive), clean.Line(problem))
			}
		}
	}
	if damaged > 0 {
		return fmt.Errorf("%s of %d damaged", humanize.Plural(int64(damaged), "archive"), len(found))
	}
	if !a.JSON {
		fmt.Fprintf(a.says, "%s checked: every byte is as it was written\n", humanize.Plural(int64(len(found)), "archive"))
	}
	return nil
}
