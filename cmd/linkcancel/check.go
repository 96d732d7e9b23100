package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/status"
)

type checkCmd struct {
	Link string `arg:"" optional:"" help:"Read this link; by default the first of the API's list."`
	redisFlags
	apiFlags
}

// Help is shown by check --help.
func (checkCmd) Help() string {
	return `It sends one or two GET requests and changes nothing: it reads the list of links, and one link. Redis is needed by workers, import, sweep and batch, not by run. The exit code is 0 if all is well, and 1 if something must be done.

    linkcancel check
    linkcancel check pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f`
}

// finding is one line of check.
type finding struct {
	Name   string `json:"check"`
	State  string `json:"state"` // ok, warning, problem or skipped
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// The states of a finding.
const (
	fine    = "ok"
	warning = "warning"
	problem = "problem"
	left    = "skipped"
)

func (c checkCmd) Run(ctx context.Context, a *cliApp) error {
	k := &checker{a: a}
	client, key := c.checkAPI(ctx, a, k)
	c.checkRedis(ctx, a, k, client, key)
	if a.JSON {
		if err := printJSON(a.stdout, map[string]any{"checks": k.findings}); err != nil {
			return err
		}
	}
	if k.problems > 0 {
		return exit(exitFailed)
	}
	return nil
}

// checker prints findings as they are made.
type checker struct {
	a        *cliApp
	findings []finding
	problems int
}

func (k *checker) add(name, state, text, advice string) {
	f := finding{Name: name, State: state, Text: clean.Line(text), Advice: clean.Line(advice)}
	k.findings = append(k.findings, f)
	if state == problem {
		k.problems++
	}
	if k.a.JSON || k.a.Quiet && state != problem && state != warning {
		return
	}
	color := map[string]string{problem: red, warning: yellow}[state]
	w, t := k.a.stdout, terminalOf(k.a.stdout)
	paintLine(w, t, color, fmt.Sprintf("  %-8s %-12s %s", state, name, f.Text))
	if f.Advice != "" {
		fmt.Fprintf(w, "  %-8s %-12s → %s\n", "", "", f.Advice)
	}
}

// failed adds a problem with the advice for its error.
func (k *checker) failed(name string, err error) {
	k.add(name, problem, err.Error(), adviceFor(err))
}

// checkAPI checks the key and the API with one or two GET requests. The client is nil without a key.
func (c checkCmd) checkAPI(ctx context.Context, a *cliApp, k *checker) (*plexy.Client, *plexy.Key) {
	key, client, err := c.connect(a, 1)
	if err != nil {
		k.failed("key", err)
		return nil, nil
	}
	defer client.CloseIdle()
	text := "from " + key.Source()
	if w := key.Warning(); w != "" {
		k.add("key", warning, text+": "+w, "chmod 600 the file")
	} else {
		k.add("key", fine, text, "")
	}
	began := time.Now()
	page, err := client.List(ctx, 0, 1)
	took := time.Since(began)
	link := c.Link
	switch {
	case err == nil:
		k.add("API", fine, fmt.Sprintf("%s answered in %d ms", client.BaseURL(), took.Milliseconds()), "")
		k.clock("API clock", time.Now(), page.Date)
		if link == "" && len(page.Links) > 0 {
			link = page.Links[0].ID
		}
	case link != "" && forbidden(err):
		k.add("API", warning, client.BaseURL()+" does not let this key read the list of links", "run and import need no list, but sweep does")
	case forbidden(err):
		k.add("API", warning, client.BaseURL()+" does not let this key read the list of links", "name a link to check the key: linkcancel check LINK")
	default:
		probe := explainProbe(err, client.BaseURL(), "")
		k.add("API", problem, probe.err.Error(), probe.advice)
		return client, key
	}
	if link == "" {
		k.add("link", left, "there is no link to read", "")
		return client, key
	}
	if probe := probeLink(ctx, client, link); probe.err != nil {
		k.add("link", problem, probe.err.Error(), probe.advice)
	} else {
		k.add("link", fine, probe.text, "")
	}
	return client, key
}

// forbidden reports whether the API itself refused a request that its key may not make.
func forbidden(err error) bool {
	var api *plexy.Error
	return errors.As(err, &api) && api.Status == 403
}

// clock compares a clock with this machine's.
func (k *checker) clock(name string, here, there time.Time) {
	if there.IsZero() {
		return
	}
	if off := there.Sub(here).Abs(); off > maxClockOff {
		k.add(name, problem, fmt.Sprintf("differs from this machine's by %s", humanize.Duration(off)), "set both by NTP: leases, retries and expiry dates depend on them")
		return
	}
	k.add(name, fine, "matches this machine's", "")
}

// maxClockOff is how far a clock may be off. The API's has a resolution of a second.
const maxClockOff = 5 * time.Second

const (
	permissionAdvice = "deploy/README.md has the rules for workers and for operators"
	fleetAdvice      = "give that --base-url, or use another Redis database"
)

// checkRedis checks Redis, and what the fleet has stored there.
func (c checkCmd) checkRedis(ctx context.Context, a *cliApp, k *checker, client *plexy.Client, key *plexy.Key) {
	b, err := c.open(ctx, a)
	if errors.Is(err, broker.ErrNoAnswer) && c.RedisURL == broker.DefaultURL {
		k.add("Redis", left, "there is none at "+broker.DefaultURL, "linkcancel run needs none; for workers, name one with --redis-url or LINKCANCEL_REDIS_URL")
		return
	}
	if err != nil {
		k.failed("Redis", err)
		return
	}
	defer b.Close()
	version, err := b.Version(ctx)
	if err != nil {
		k.failed("Redis", err)
		return
	}
	k.add("Redis", fine, fmt.Sprintf("%s, version %s", b, version), "")
	if text := b.Warning(ctx); text != "" {
		k.add("policy", warning, text, "")
	} else {
		k.add("policy", fine, "keeps all keys when memory is short", "")
	}
	if err := b.CheckPermissions(ctx); err != nil {
		k.add("permissions", problem, err.Error(), permissionAdvice)
	} else {
		k.add("permissions", fine, "all that linkcancel needs", "")
	}
	l := ledger.New(b.Client())
	now, err := l.Now(ctx)
	if err != nil {
		k.failed("Redis clock", err)
		return
	}
	k.clock("Redis clock", time.Now(), now)
	c.checkFleet(ctx, k, b, l, client, key)
}

// checkFleet compares this command's API and key with those of the fleet.
func (c checkCmd) checkFleet(ctx context.Context, k *checker, b *broker.Broker, l *ledger.Ledger, client *plexy.Client, key *plexy.Key) {
	api, err := l.API(ctx)
	if err != nil {
		k.failed("workers", err)
		return
	}
	fleet, err := status.ReadFleet(ctx, b.Client(), l)
	if err != nil {
		k.failed("workers", err)
		return
	}
	others, err := otherKeys(ctx, l, fleet, key)
	if err != nil {
		k.failed("workers", err)
		return
	}
	workers := humanize.Plural(int64(len(fleet.Workers)), "worker")
	switch {
	case client != nil && api.URL != "" && api.URL != client.BaseURL():
		k.add("workers", problem, fmt.Sprintf("they work for %s, and --base-url is %s", api.URL, client.BaseURL()), fleetAdvice)
	case others > 0:
		k.add("workers", warning, fmt.Sprintf("%s; %d of them have another API key", workers, others), "give all of them the same key")
	case len(fleet.Workers) == 0:
		k.add("workers", fine, "none is running", "")
	default:
		k.add("workers", fine, fmt.Sprintf("%s, limit %s", workers, fleet.Limit()), "")
	}
}

// otherKeys counts the workers that have another API key. Without a worker it reads nothing: the
// salt of fingerprints is made by the first reader.
func otherKeys(ctx context.Context, l *ledger.Ledger, fleet status.Fleet, key *plexy.Key) (n int, err error) {
	if key == nil || len(fleet.Heartbeats) == 0 {
		return 0, nil
	}
	salt, err := l.Salt(ctx)
	if err != nil {
		return 0, err
	}
	for _, beat := range fleet.Heartbeats {
		if beat.Key != "" && beat.Key != key.Fingerprint(salt) {
			n++
		}
	}
	return n, nil
}

// probe is the result of one GET for a link.
type probe struct {
	link   string
	status string
	text   string // pl_1 is active, if err is nil
	err    error
	advice string
}

// probeView is a probe for programs.
type probeView struct {
	Link   string `json:"link"`
	OK     bool   `json:"ok"`
	Status string `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
}

func (p probe) view() *probeView {
	v := &probeView{Link: p.link, OK: p.err == nil, Status: p.status}
	if p.err != nil {
		v.Error = p.err.Error()
	}
	return v
}

// probeLink reads one link. A good answer proves the key, the URL and the merchant.
func probeLink(ctx context.Context, client *plexy.Client, id string) probe {
	link, err := client.Get(ctx, id)
	if err != nil {
		return explainProbe(err, client.BaseURL(), id)
	}
	return probe{link: id, status: link.Status, text: linkText(id, link)}
}

// linkText says what the API shows of a link.
func linkText(id string, link plexy.Link) string {
	text := fmt.Sprintf("%s is %s", id, link.Status)
	if !link.ExpiresAt.IsZero() {
		text += ", expires " + minute(link.ExpiresAt) + " UTC"
	}
	return text
}

// explainProbe says what an answer to a GET means. id is "" for the list.
func explainProbe(err error, baseURL, id string) probe {
	p := probe{link: id, err: err, advice: "check --base-url (" + baseURL + ")"}
	var api *plexy.Error
	if !errors.As(err, &api) {
		p.err = fmt.Errorf("the API cannot be reached: %w", err)
		return p
	}
	switch class := api.Class(); {
	case class == plexy.Unauthorized && api.Status == 403 && id != "":
		p.err = fmt.Errorf("the API does not let this key read %s: %w", id, err)
		p.advice = "linkcancel check shows whether the key is good"
	case class == plexy.Unauthorized:
		p.err = fmt.Errorf("the API refuses the key: %w", err)
		p.advice = "check PLEXY_API_KEY or --api-key-file, and --base-url (" + baseURL + ")"
	case class == plexy.Throttled, class == plexy.Transient:
		p.err = fmt.Errorf("the API is not available: %w", err)
		p.advice = "try again later"
	case class == plexy.Proven && api.Status == 404 && id != "":
		p.err = fmt.Errorf("the API does not know %s: %w", id, err)
		p.advice = "is it another merchant's link, or is --base-url (" + baseURL + ") wrong?"
	case class == plexy.Proven:
		p.err = fmt.Errorf("the API refuses to show it: %w", err)
	default:
		p.err = fmt.Errorf("something other than the API answered: %w", err)
	}
	return p
}
