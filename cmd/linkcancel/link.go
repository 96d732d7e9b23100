package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
)

type linkCmd struct {
	Show linkShowCmd `cmd:"" help:"Show the batches and reports that have a link, and what became of it."`
}

type linkShowCmd struct {
	Links  []string `arg:"" name:"link" help:"Ids or checkout URLs of links."`
	Live   bool     `help:"Ask the API too, which takes one GET for each link."`
	Report []string `help:"Look into these reports of run too." placeholder:"FILE"`
	redisFlags
	apiFlags
}

// Help is shown by link show --help.
func (linkShowCmd) Help() string {
	return `It looks through all batches in Redis, which keeps them for --keep after their end. With --report and no --redis-url it looks only into the reports. The exit code is 1 if a link is found nowhere.

    linkcancel link show pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f
    linkcancel link show https://checkout.plexypay.com/pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f --live
    linkcancel link show pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f --report stale.csv.20260301-120000-0a1b2c.csv`
}

// isLink reports whether a text is a link's id or URL and cannot be the id of a batch.
func isLink(text string) bool {
	id, err := linkcsv.LinkID(text)
	return err == nil && plexy.Documented(id)
}

func (c linkShowCmd) Run(ctx context.Context, a *cliApp) error {
	ids, err := c.ids()
	if err != nil {
		return err
	}
	views := map[string]*status.LinkView{}
	for _, id := range ids {
		views[id] = &status.LinkView{Link: id, Batches: []status.LinkInView{}, Reports: []status.LinkReportView{}}
	}
	if err := c.inReports(ids, views); err != nil {
		return err
	}
	if len(c.Report) == 0 || c.RedisURL != broker.DefaultURL {
		if err := c.inBatches(ctx, a, ids, views); err != nil {
			return err
		}
	}
	if c.Live {
		if err := c.live(ctx, a, ids, views); err != nil {
			return err
		}
	}
	var list []*status.LinkView
	var lost []string
	for _, id := range ids {
		v := views[id]
		list = append(list, v)
		if len(v.Batches)+len(v.Reports) == 0 && (v.Live == nil || v.Live.Error != "") {
			lost = append(lost, id)
		}
	}
	if a.JSON {
		if err := printJSON(a.stdout, map[string]any{"links": list}); err != nil {
			return err
		}
	} else {
		for i, v := range list {
			if i > 0 {
				fmt.Fprintln(a.stdout)
			}
			printLink(a.stdout, v)
		}
	}
	if len(lost) > 0 {
		return exit(exitFailed)
	}
	return nil
}

// ids returns each link once.
func (c linkShowCmd) ids() (ids []string, err error) {
	seen := map[string]bool{}
	for _, text := range c.Links {
		id, err := linkcsv.LinkID(text)
		if err != nil {
			return nil, usagef("%s: %w", clean.Line(text), err)
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (c linkShowCmd) inBatches(ctx context.Context, a *cliApp, ids []string, views map[string]*status.LinkView) error {
	return c.openLedger(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger) error {
		found, err := status.FindLinks(ctx, rdb, l, ids)
		for id, batches := range found {
			for _, in := range batches {
				views[id].Batches = append(views[id].Batches, in.View())
			}
		}
		return err
	})
}

func (c linkShowCmd) inReports(ids []string, views map[string]*status.LinkView) error {
	for _, path := range c.Report {
		found, err := report.Find(path, ids)
		if errors.Is(err, report.ErrNoReport) {
			return hint(usagef("%w", err), "give a report that linkcancel run or batch report has written")
		}
		if err != nil {
			return err
		}
		for id, r := range found {
			views[id].Reports = append(views[id].Reports, status.LinkReportView{
				Report: path, Outcome: r.Outcome, HTTPStatus: r.HTTPStatus, LinkStatus: r.LinkStatus, Attempts: r.Attempts, FinishedAt: r.FinishedAt, Error: r.Error,
			})
		}
	}
	return nil
}

func (c linkShowCmd) live(ctx context.Context, a *cliApp, ids []string, views map[string]*status.LinkView) error {
	_, client, err := c.connect(a, 1)
	if err != nil {
		return err
	}
	defer client.CloseIdle()
	for _, id := range ids {
		link, err := client.Get(ctx, id)
		live := &status.LinkLiveView{Status: link.Status, ExpiresAt: status.Time(link.ExpiresAt)}
		if err != nil {
			probe := explainProbe(err, client.BaseURL(), id)
			live.Error = probe.err.Error()
		}
		views[id].Live = live
	}
	return nil
}

// printLink shows a link to people.
func printLink(w io.Writer, v *status.LinkView) {
	fmt.Fprintln(w, clean.Line(v.Link))
	row := func(name, text string) { fmt.Fprintf(w, "  %-7s %s\n", name, clean.Line(text)) }
	for _, in := range v.Batches {
		row("batch", fmt.Sprintf("%s (%s): %s", in.Batch, in.State, linkOutcome(in)))
	}
	for _, r := range v.Reports {
		text := r.Outcome
		if r.FinishedAt != "" {
			text += " " + r.FinishedAt
		}
		row("report", r.Report+": "+withReason(text, r.HTTPStatus, r.LinkStatus, r.Error))
	}
	if v.Live != nil {
		switch live := v.Live; {
		case live.Error != "":
			row("API", live.Error)
		case live.ExpiresAt != nil:
			row("API", fmt.Sprintf("it is %s now, expires %s UTC", live.Status, minute(*live.ExpiresAt)))
		default:
			row("API", "it is "+live.Status+" now")
		}
	}
	if len(v.Batches)+len(v.Reports) == 0 {
		row("batch", "none that is still kept")
	}
}

// linkOutcome says what became of a link in a batch.
func linkOutcome(in status.LinkInView) string {
	if in.Ahead == nil {
		text := in.Outcome
		if in.FinishedAt != nil {
			text += " " + minute(*in.FinishedAt) + " UTC"
		}
		return withReason(text, fmt.Sprint(in.HTTPStatus), in.LinkStatus, in.Error) + ", " + humanize.Plural(int64(in.Attempts), "attempt")
	}
	text := "pending, " + in.Place()
	if in.Attempts > 0 {
		text += ", " + humanize.Plural(int64(in.Attempts), "attempt")
	}
	if in.Unconfirmed {
		text += ", may be cancelled already"
	}
	return withReason(text, fmt.Sprint(in.HTTPStatus), in.LinkStatus, in.Error)
}

// withReason adds the answers of the API to an outcome.
func withReason(text, httpStatus, linkStatus, why string) string {
	var parts []string
	if httpStatus != "" && httpStatus != "0" {
		parts = append(parts, httpStatus)
	}
	for _, part := range []string{linkStatus, why} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return text
	}
	return text + " (" + strings.Join(parts, ", ") + ")"
}
