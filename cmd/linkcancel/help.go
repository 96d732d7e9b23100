package main

import (
	"context"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command, such as batch retry; all by default."`
}

// Help is shown by help --help. The long help texts of other commands are in their files.
func (helpCmd) Help() string {
	return `The same is shown by COMMAND --help.

    linkcancel help batch retry`
}

func (c helpCmd) Run(ctx context.Context, a *cliApp) error {
	shown := false
	parser, err := newParser(&cli{}, a.stdout, a.stderr, kong.Exit(func(int) { shown = true }))
	if err != nil {
		return err
	}
	node := parser.Model.Node
	for _, word := range c.Command {
		if node = child(node, word); node == nil {
			return hint(usagef("there is no command %s", strings.Join(c.Command, " ")), "linkcancel help lists them all")
		}
	}
	// Where a command of a group is missing, Parse complains when all is shown.
	if _, err := parser.Parse(append(slices.Clone(c.Command), "--help")); !shown {
		return err
	}
	return nil
}

func (demoCmd) Help() string {
	return `Some of the sandbox links are paid, expired or missing, and some answers are lost, so that the summary shows several outcomes. Nothing leaves this machine.

    linkcancel demo --links 200 --rate 50/s`
}

func (runCmd) Help() string {
	return `It reads the files, shows what would be cancelled, asks for confirmation, cancels the links and writes a report: your own columns, followed by the outcome of each link. Ctrl-C finishes the requests in flight and prints the command that continues. --resume continues, also after a crash. A cancelled link cannot be made active again: --dry-run shows what would happen. If it was the wrong file, press Ctrl-C: the report lists what is cancelled.

The files are CSV with a comma, a semicolon or a tab, with or without a header, compressed with gzip or not. The column is found by its name or its content. Links may be ids or checkout URLs. If one row is bad, the whole input is refused before anything is sent.

The exit code is 3 if some links are failed, rejected, aborted, or not cancellable but still active or unknown, and 130 after Ctrl-C.

    linkcancel run stale.csv --rate 20/s
    linkcancel run stale.csv --column link --skip-invalid --rejects bad.csv
    linkcancel run stale.csv --dry-run
    linkcancel run --resume stale.csv
    linkcancel run --retry stale.csv.20260301-120000-0a1b2c.csv`
}

func (workerCmd) Help() string {
	return `Any number of workers, on any number of machines, share one Redis and one rate limit: the lowest --rate among them. At SIGTERM or Ctrl-C a worker takes no more links, finishes its requests in flight and returns the rest to the queue.

    linkcancel worker --rate 20/s --api-key-file /run/secrets/plexy
    linkcancel worker --sweep-cron "0 2 * * *" --sweep-timezone Asia/Almaty`
}

func (importCmd) Help() string {
	return `All rows are read and checked before the first link is cancelled. If one row is bad, the whole input is refused. Standard output has the id of the batch. The same command with the same --id and the same links returns the same batch.

    linkcancel import stale.csv --name "March, stale"
    linkcancel import stale.csv --yes --quiet --wait --timeout 2h -o report.csv
    psql -c "copy (select link_id from stale) to stdout csv header" | linkcancel import - --yes --quiet`
}

func (sweepCmd) Help() string {
	return `It reads the API's whole list, selects links by expiry, age and status, leaves out those that wait in an unfinished batch, asks for confirmation and makes a batch of the rest. With --yes --quiet it prints nothing if all is well, as cron wants it. sweep status shows the last and the next sweep, also one that selected nothing.

    linkcancel sweep --dry-run
    linkcancel sweep --older-than 30d --expired --exclude keep.csv
    linkcancel sweep --yes --quiet
    linkcancel sweep status`
}

func (rateSetCmd) Help() string {
	return `It acts on all running workers within a second, and on workers that start later.

    linkcancel rate set 50/s
    linkcancel rate set auto`
}

func (rateHoldCmd) Help() string {
	return `Nothing is sent by any worker until linkcancel rate release, or until the time is over. Requests in flight are finished.

    linkcancel rate hold
    linkcancel rate hold --for 10m`
}

func (rateReleaseCmd) Help() string {
	return `It also ends the holds of single workers and those for the API's answers. If the cause is still there, they begin again.

    linkcancel rate release`
}

func (rateCmd) Help() string {
	return `All workers on a Redis database share one limit: the lowest --rate among them, or the value of rate set. It is reduced when the API answers 429, and rises again afterwards. Commands act on running workers within a second.

    linkcancel rate
    linkcancel rate set 50/s
    linkcancel rate hold --for 10m`
}

func (sandboxCmd) Help() string {
	return `It answers like the API, with generated links or links from a file, and with the faults that you choose. It ends at Ctrl-C and prints the number of requests.

    linkcancel sandbox --links 500 --write-csv links.csv --error-500 0.05
    PLEXY_API_KEY=test linkcancel run links.csv --base-url http://127.0.0.1:8080/v1

--gateway simulates a gateway that answers in place of the API, so that nothing happens to the link. Its answer is a status from 200 to 599 and a body: html (by default), text, json, grpc (JSON like grpc-gateway's), empty, or api (the documented body of the API itself). A redirect leads to a login page. --poison takes the same answers, by default with the body api, and a Retry-After after it.

    linkcancel sandbox --gateway 404:html --gateway-share 0.5 --gateway-from 10s --gateway-for 15s
    linkcancel sandbox --poison 1:429:api:20s --poison 1:403:html --empty-errors`
}

func (healthcheckCmd) Help() string {
	return `For containers and scripts. It reads the worker's /readyz, and prints the reason if the worker is not ready.

    linkcancel healthcheck --metrics-addr 127.0.0.1:9464`
}
