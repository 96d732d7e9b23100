package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
	"linkcancel/internal/notify"
)

// Variables of notifications. A URL may be a secret, so no flag takes one.
const (
	notifyURLVariable    = "LINKCANCEL_NOTIFY_URL"
	notifySecretVariable = "LINKCANCEL_NOTIFY_SECRET"
)

// notifyFlags say who gets notifications.
type notifyFlags struct {
	NotifyURLFile      string `name:"notify-url-file" env:"LINKCANCEL_NOTIFY_URL_FILE" help:"File with the URLs that get notifications, one a line; or set LINKCANCEL_NOTIFY_URL, with spaces between several." placeholder:"FILE"`
	NotifyFormat       string `enum:"generic,slack" default:"generic" env:"LINKCANCEL_NOTIFY_FORMAT" help:"Format of notifications: ${enum}. generic is JSON by the Standard Webhooks specification."`
	NotifySecretFile   string `env:"LINKCANCEL_NOTIFY_SECRET_FILE" help:"File with the secret that signs notifications: whsec_ and 24 random bytes or more in base64; or set LINKCANCEL_NOTIFY_SECRET." placeholder:"FILE"`
	NotifyInsecureHTTP bool   `name:"notify-insecure-http" env:"LINKCANCEL_NOTIFY_INSECURE_HTTP" help:"Allow plain http to notify beyond this machine."`
}

// receivers returns who gets notifications, perhaps nobody.
func (f notifyFlags) receivers(a *cliApp) ([]*notify.Receiver, error) {
	urls := strings.Fields(os.Getenv(notifyURLVariable))
	if f.NotifyURLFile != "" {
		if len(urls) > 0 {
			return nil, usagef("--notify-url-file and %s cannot be combined", notifyURLVariable)
		}
		text, err := os.ReadFile(f.NotifyURLFile)
		if err != nil {
			return nil, usagef("--notify-url-file: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				urls = append(urls, line)
			}
		}
		if len(urls) == 0 {
			return nil, usagef("--notify-url-file: %s has no URL", f.NotifyURLFile)
		}
	}
	slices.Sort(urls)
	urls = slices.Compact(urls)
	for _, url := range urls {
		a.secrets.Add(url)
	}
	secret := strings.TrimSpace(os.Getenv(notifySecretVariable))
	if f.NotifySecretFile != "" {
		text, err := os.ReadFile(f.NotifySecretFile)
		if err != nil {
			return nil, usagef("--notify-secret-file: %w", err)
		}
		secret = strings.TrimSpace(string(text))
	}
	if secret != "" {
		a.secrets.Add(secret)
	}
	receivers, err := notify.Receivers(notify.Config{
		URLs: urls, Format: f.NotifyFormat, Secret: secret, InsecureHTTP: f.NotifyInsecureHTTP, UserAgent: "linkcancel/" + version,
	})
	switch {
	case errors.Is(err, notify.ErrPlainHTTP):
		return nil, hint(usagef("notifications to %w", err), "use https, or give --notify-insecure-http")
	case err != nil:
		return nil, usagef("notifications: %w", err)
	case len(urls) > 0 && secret == "" && f.NotifyFormat == notify.FormatGeneric:
		a.log.Warn("notifications are not signed: receivers cannot tell who sent them", "next", "set "+notifySecretVariable+" to whsec_ and 24 random bytes in base64")
	}
	return receivers, nil
}

type notifyCmd struct {
	Test notifyTestCmd `cmd:"" help:"Send a test notification now."`
	List notifyListCmd `cmd:"" help:"Show the notifications that wait and the latest that were sent."`
}

// Help is shown by notify --help.
func (notifyCmd) Help() string {
	return `The workers send notifications to the URLs of LINKCANCEL_NOTIFY_URL or --notify-url-file: when a batch is done, paused or aborted, when a verification has ended, and when a sweep is done, has failed, or was refused by --max. Give all workers the same settings.

    LINKCANCEL_NOTIFY_URL=https://example.com/hook linkcancel notify test
    linkcancel notify list`
}

type notifyTestCmd struct{ notifyFlags }

// Help is shown by notify test --help.
func (notifyTestCmd) Help() string {
	return `It sends an event of the type test to each URL, once, from this machine, and prints the answers. It needs no Redis.

    linkcancel notify test --notify-url-file /etc/linkcancel/notify-urls`
}

func (c notifyTestCmd) Run(ctx context.Context, a *cliApp) error {
	receivers, err := c.receivers(a)
	if err != nil {
		return err
	}
	if len(receivers) == 0 {
		return hint(usagef("nobody gets notifications"), "set %s, or give --notify-url-file", notifyURLVariable)
	}
	event := notify.OfTest(time.Now(), actor())
	failed := 0
	type result struct {
		Receiver string `json:"receiver"`
		Event    string `json:"event"`
		Status   int    `json:"http_status"`
		Error    string `json:"error"`
	}
	results := []result{}
	for _, r := range receivers {
		d, err := r.Delivery(event)
		if err != nil {
			return err
		}
		if a.DryRun {
			fmt.Fprintf(a.says, "%s would get %s\n", r.Name, d.Body)
			continue
		}
		status, err := r.Send(ctx, d)
		one := result{Receiver: r.Name, Event: d.ID, Status: status}
		if err != nil {
			failed++
			one.Error = clean.Line(err.Error())
			fmt.Fprintf(a.stderr, "%s: %s\n", r.Name, one.Error)
		} else if !a.JSON {
			fmt.Fprintf(a.says, "%s answered %d\n", r.Name, status)
		}
		results = append(results, one)
	}
	if a.JSON && !a.DryRun {
		if err := printJSON(a.stdout, map[string]any{"notifications": results}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return hint(fmt.Errorf("%d of %d notifications were not taken", failed, len(receivers)), "check the URL, and whether this machine may reach it")
	}
	return nil
}

type notifyListCmd struct {
	Limit int `default:"20" help:"Show at most so many that have ended, 0 means all; by default ${default}." placeholder:"N"`
	redisFlags
}

// Help is shown by notify list --help.
func (notifyListCmd) Help() string {
	return `Those that wait come first, then the latest that were delivered or given up. A notification is tried for a day. A receiver is shown as its host and a fingerprint of its URL, which may be a secret.

    linkcancel notify list
    linkcancel notify list --json | jq '.notifications[] | select(.state == "waiting")'`
}

// notificationView is a notification for programs.
type notificationView struct {
	Event    string     `json:"event"`
	Type     string     `json:"type"`
	About    string     `json:"about"` // a batch, or lc:sweep
	Receiver string     `json:"receiver"`
	State    string     `json:"state"` // waiting, delivered or given_up
	Time     time.Time  `json:"time"`  // of the event
	Attempts int        `json:"attempts"`
	Status   int        `json:"http_status"` // of the last answer; 0: none
	Error    string     `json:"error"`
	Next     *time.Time `json:"next"`  // attempt; null: none
	Ended    *time.Time `json:"ended"` // null: it waits
}

func viewOfDelivery(d ledger.Delivery) notificationView {
	v := notificationView{
		Event: d.ID, Type: d.Type, About: d.Subject, Receiver: d.Receiver, State: "waiting", Time: d.Created,
		Attempts: d.Attempts, Status: d.Status, Error: clean.Line(d.Error),
	}
	switch {
	case d.Ended.IsZero():
		v.Next = &d.Next
	case d.OK:
		v.State, v.Ended = "delivered", &d.Ended
	default:
		v.State, v.Ended = "given_up", &d.Ended
	}
	return v
}

func (c notifyListCmd) Run(ctx context.Context, a *cliApp) error {
	if c.Limit < 0 {
		return usagef("--limit %d: use 0 or more", c.Limit)
	}
	return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error {
		waiting, err := l.Deliveries(ctx)
		if err != nil {
			return err
		}
		ended, err := l.Delivered(ctx, c.Limit)
		if err != nil {
			return err
		}
		views := []notificationView{}
		for _, d := range append(waiting, ended...) {
			views = append(views, viewOfDelivery(d))
		}
		switch {
		case a.JSON:
			return printJSON(a.stdout, map[string]any{"notifications": views})
		case len(views) == 0:
			fmt.Fprintln(a.notes, "There are no notifications. Next: linkcancel notify test")
			return nil
		}
		return printNotifications(a.stdout, views)
	})
}

func printNotifications(w io.Writer, views []notificationView) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TIME (UTC)\tTYPE\tABOUT\tRECEIVER\tSTATE\tATTEMPTS\tLAST ERROR")
	for _, v := range views {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", v.Time.UTC().Format("2006-01-02 15:04:05"), v.Type, clean.Line(v.About), v.Receiver, v.State, v.Attempts, v.Error)
	}
	return table.Flush()
}
