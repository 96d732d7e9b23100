package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
)

type apiCmd struct {
	Show apiShowCmd `cmd:"" default:"withargs" help:"Show which API the fleet on this Redis works for."`
	Set  apiSetCmd  `cmd:"" help:"Replace it, while no worker is running."`
}

// Help is shown by api --help.
func (apiCmd) Help() string {
	return `All workers and sweeps on one Redis database work for one API. The first of them stores its base URL there, and one with another base URL refuses to start: it would look for links where they do not exist. The stored URL is replaced without a command when no batch is open and no worker is running.

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
	b, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	return a.showAPI(ctx, ledger.New(b.Client()))
}

func (a *cliApp) showAPI(ctx context.Context, l *ledger.Ledger) error {
	api, err := l.API(ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		optional := func(t time.Time) *time.Time {
			if t.IsZero() {
				return nil
			}
			return &t
		}
		return printJSON(a.stdout, apiJSON{URL: api.URL, Since: optional(api.Since), Proved: optional(api.Proved)})
	}
	switch {
	case api.URL == "":
		fmt.Fprintln(a.stdout, "No API is stored: the first worker or sweep stores its --base-url.")
		return nil
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
	redisFlags
}

func (c apiSetCmd) Run(ctx context.Context, a *cliApp) error {
	url, err := plexy.NormalizeURL(c.URL, c.InsecureHTTP)
	if errors.Is(err, plexy.ErrPlainHTTP) {
		return usagef("%w\nhint: --insecure-http allows it", err)
	}
	if err != nil {
		return usagef("%w", err)
	}
	b, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	l := ledger.New(b.Client())
	if a.DryRun {
		fmt.Fprintln(a.stderr, "Dry run: nothing was sent or changed.")
		return a.showAPI(ctx, l)
	}
	switch err := l.SetAPI(ctx, url); {
	case errors.Is(err, ledger.ErrWorkersAlive):
		return fmt.Errorf("%w\nhint: stop the workers (linkcancel rate show lists them), then set the API again", err)
	case err != nil:
		return err
	}
	return a.showAPI(ctx, l)
}

// claimAPI makes sure that all on this Redis work for one API.
func (a *cliApp) claimAPI(ctx context.Context, l *ledger.Ledger, url string) error {
	if !a.DryRun {
		return otherAPI(l.ClaimAPI(ctx, url))
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
		return usagef("this Redis database belongs to another API: its links are those of %s, and --base-url is %s\nhint: give that --base-url, or use another Redis database; linkcancel api set %s replaces it while no worker is running",
			other.Has, other.Wants, other.Wants)
	}
	return err
}
