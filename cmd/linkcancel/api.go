package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/status"
)

type apiCmd struct {
	Show apiShowCmd `cmd:"" default:"withargs" help:"Show which API the fleet on this Redis works for."`
	Set  apiSetCmd  `cmd:"" help:"Replace the API, while no worker is running."`
}

// Help is shown by api --help.
func (apiCmd) Help() string {
	return `All workers and sweeps on one Redis database work for one API. The first of them stores its base URL there. A worker with another base URL refuses to start, because it would look for links where they do not exist. When no batch is open and no worker is running, a new worker replaces the stored URL.

    linkcancel api show
    linkcancel api set https://api.plexypay.com/v1`
}

type apiShowCmd struct{ redisFlags }

// apiJSON is how the fleet's API is printed with --json.
type apiJSON struct {
	URL    string     `json:"url"`    // "": none yet
	Since  *time.Time `json:"since"`  // when it was stored
	Proved *time.Time `json:"proved"` // when it first answered as the API does; null: never
}

func (c apiShowCmd) Run(ctx context.Context, a *cliApp) error {
	return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error { return a.showAPI(ctx, l) })
}

func (a *cliApp) showAPI(ctx context.Context, l *ledger.Ledger) error {
	api, err := l.API(ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		return printJSON(a.stdout, apiJSON{URL: api.URL, Since: status.Time(api.Since), Proved: status.Time(api.Proved)})
	}
	switch {
	case api.URL == "":
		fmt.Fprintln(a.stdout, "No API is stored: the first worker or sweep stores its --base-url.")
	case api.Proved.IsZero():
		fmt.Fprintf(a.stdout, "%s  since %s, has not answered as the API yet\n", api.URL, minute(api.Since))
	default:
		fmt.Fprintf(a.stdout, "%s  since %s\n", api.URL, minute(api.Since))
	}
	return nil
}

type apiSetCmd struct {
	URL          string `arg:"" name:"url" help:"The base URL, such as https://api.plexypay.com/v1."`
	InsecureHTTP bool   `name:"insecure-http" help:"Allow plain http to other machines."`
	reasonFlag
	redisFlags
}

func (c apiSetCmd) Run(ctx context.Context, a *cliApp) error {
	url, err := plexy.NormalizeURL(c.URL, c.InsecureHTTP)
	if err != nil {
		return usagef("%w", err)
	}
	return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error {
		if a.DryRun {
			fmt.Fprintln(a.stderr, dryRunNote)
			return a.showAPI(ctx, l)
		}
		err := l.SetAPI(ctx, url, c.by())
		if errors.Is(err, ledger.ErrWorkersAlive) {
			return hint(err, "stop the workers (linkcancel rate show lists them), then set the API again")
		}
		if err != nil {
			return err
		}
		return a.showAPI(ctx, l)
	})
}

// claimAPI makes sure that all on this Redis work for one API.
func (a *cliApp) claimAPI(ctx context.Context, l *ledger.Ledger, url string) error {
	if !a.DryRun {
		return otherAPI(l.ClaimAPI(ctx, url, history.By{Actor: a.id, Auto: true}))
	}
	api, err := l.API(ctx)
	if err == nil && api.URL != "" && api.URL != url {
		err = &ledger.OtherAPIError{Has: api.URL, Wants: url}
	}
	return otherAPI(err)
}

// otherAPI adds to an OtherAPIError what the user can do.
func otherAPI(err error) error {
	var other *ledger.OtherAPIError
	if errors.As(err, &other) {
		return hint(usagef("this Redis database belongs to another API: its links are those of %s, and --base-url is %s", other.Has, other.Wants), "give that --base-url, or use another Redis database; linkcancel api set %s replaces it while no worker is running", other.Wants)
	}
	return err
}
