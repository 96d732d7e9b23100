package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/archive"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
)

type archiveCmd struct {
	Verify archiveVerifyCmd `cmd:"" help:"Check that the files of the archives are as they were written."`
}

type archiveVerifyCmd struct {
	Dir     string `arg:"" help:"The folder of worker --archive-dir, or one archive in it." placeholder:"DIR"`
	History bool   `help:"Compare with the histories in Redis, too, as long as they are kept: that finds archives that were replaced or are missing."`
	redisFlags
}

// Help is shown by archive verify --help.
func (archiveVerifyCmd) Help() string {
	return `A worker with --archive-dir archives each finished batch: report.csv.gz, batch.json, history.jsonl, and SHA256SUMS with the sums of the others. Each file is compared with its sum. Somebody who can write to the folder could replace a file and its sum, or remove an archive. --history finds that, too: the history of each batch has the SHA-256 of its SHA256SUMS.

The exit code is 0, or 1 if anything is missing or changed. sha256sum -c SHA256SUMS checks the same within one archive.

    linkcancel archive verify /var/lib/linkcancel/archive --history
    linkcancel archive verify DIR --json | jq -r '.archives[] | select(.ok | not) | .archive'`
}

// archiveView is one archive for programs.
type archiveView struct {
	Archive  string   `json:"archive"`
	OK       bool     `json:"ok"`
	Sum      string   `json:"sha256"` // of SHA256SUMS
	Problems []string `json:"problems"`
}

func (c archiveVerifyCmd) Run(ctx context.Context, a *cliApp) error {
	found, err := archive.Verify(c.Dir)
	none := errors.Is(err, archive.ErrNone)
	if none && !c.History {
		return hint(err, "worker --archive-dir %s writes them", c.Dir)
	}
	if err != nil && !none {
		return err
	}
	if c.History {
		err := c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error {
			entries, err := l.Activity(ctx, 0)
			found = archive.Compare(found, entries)
			return err
		})
		if err != nil {
			return err
		}
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
		text := "every file agrees with its sum"
		if c.History {
			text += ", and with the histories"
		}
		fmt.Fprintf(a.says, "%s checked: %s\n", humanize.Plural(int64(len(found)), "archive"), text)
	}
	return nil
}
