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

// Help is shown by help --help. The long help texts of other commands are in the
// files of those commands.
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
	return `Some of the sandbox links are paid, expired or gone, and some answers get lost, so that the summary has something of everything. Nothing leaves this machine.

    linkcancel demo --links 200 --rate 50/s`
}

func (runCmd) Help() string {
	return `It reads the files, says how many links there are and how long they take, asks, cancels them and writes a report: your own columns, then what became of each link. Ctrl-C finishes the calls in flight and says how to go on; --resume goes on, also after a crash.

The files are CSV with a comma, a semicolon or a tab, with or without a header, gzip or not. The column is found by its name or its content; links may stand as checkout URLs. One bad row refuses the whole input before anything is sent.

The exit code is 3 if some links are failed, rejected, aborted, or not cancellable but still active or unknown, and 130 after Ctrl-C.

    linkcancel run stale.csv --rate 20/s
    linkcancel run stale.csv --column link --skip-invalid --rejects bad.csv
    linkcancel run --resume stale.csv.20260301-120000-0a1b2c.csv`
}

func (workerCmd) Help() string {
	return `As many workers as you like, on as many machines, share one Redis and one limit: the lowest --rate among them. At SIGTERM or Ctrl-C a worker takes no more, finishes its calls in flight and gives the rest back.

    linkcancel worker --rate 20/s --api-key-file /run/secrets/plexy
    linkcancel worker --sweep-cron "0 2 * * *" --sweep-timezone Asia/Almaty`
}

func (importCmd) Help() string {
	return `A batch is written whole, checked and counted before its first link is cancelled: one bad row refuses the input. Standard output has the id of the batch. The same --id with the same links again is the same batch.

    linkcancel import stale.csv --name "March, stale"
    psql -c "copy (select link_id from stale) to stdout csv header" | linkcancel import - --yes`
}

func (rateCmd) Help() string {
	return `The limit is one for all workers on a Redis database: the lowest --rate among them, or what rate set says. It is cut when the API answers 429, and climbs back by itself. Commands act on running workers within a second.

    linkcancel rate
    linkcancel rate set 50/s
    linkcancel rate hold --for 10m`
}

func (sandboxCmd) Help() string {
	return `It answers as the API is known to, with links that are made up or loaded from a file, and with the faults you ask for. It ends at Ctrl-C, with a count of what came in.

    linkcancel sandbox --links 500 --write-csv links.csv --error-500 0.05
    PLEXY_API_KEY=test linkcancel run links.csv --base-url http://127.0.0.1:8080/v1

--gateway puts something in front of the API that answers instead of it: nothing is done to a link. Its answer is a status from 200 to 599 and a body: html (by default), text, json, grpc (JSON as of grpc-gateway), empty, or api (the documented body of the API itself). A redirect leads to a login page. --poison takes the same answers, by default with the body api, and a Retry-After behind it.

    linkcancel sandbox --gateway 404:html --gateway-share 0.5 --gateway-from 10s --gateway-for 15s
    linkcancel sandbox --poison 1:429:api:20s --poison 1:403:html --empty-errors`
}

func (healthcheckCmd) Help() string {
	return `For containers and scripts: it asks /readyz of the worker, and says why if it is not ready.

    linkcancel healthcheck --metrics-addr 127.0.0.1:9464`
}
