package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

const (
	// maxForm is the largest form, in bytes.
	maxForm = 16 << 10
	// changeTimeout is how long a change may take: a retry of a million links reads and writes them.
	changeTimeout = 10 * time.Minute
	// retryPatience is how long a retry waits for another one of the same batch.
	retryPatience = 5 * time.Second
	// maxHold is the longest hold with an end.
	maxHold = 30 * 24 * time.Hour
)

// action makes a change, and returns the address of the page that shows it.
type action func(ctx context.Context, r *http.Request, by history.By) (to string, err error)

// refusal is the error of a change that cannot be made.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// change answers a form: it makes a change, and leads to the page that shows it. A browser that breaks
// off does not break off the change.
func (s *Server) change(do action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(pageTimeout))
		_ = control.SetWriteDeadline(time.Now().Add(changeTimeout))
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), changeTimeout)
		defer cancel()
		to, err := s.attempt(ctx, w, r, do)
		s.reader.expire() // the next page shows what has changed
		if err != nil {
			s.refused(w, r, err)
			return
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
	}
}

func (s *Server) attempt(ctx context.Context, w http.ResponseWriter, r *http.Request, do action) (to string, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" && (kind != "" || r.ContentLength != 0) {
		return "", refuse(http.StatusUnsupportedMediaType, "Nothing was changed: this is not a form. Programs use /api/v1.")
	}
	if err := r.ParseForm(); err != nil {
		return "", refuse(http.StatusBadRequest, "The form cannot be read.")
	}
	by, err := history.Person(visitorOf(ctx).name, r.PostForm.Get("reason"))
	if err != nil {
		return "", refuse(http.StatusBadRequest, "Nothing was changed: %v.", err)
	}
	return do(ctx, r, by)
}

// refused says why a change was not made, with the way back to its page.
func (s *Server) refused(w http.ResponseWriter, r *http.Request, err error) {
	p := problemPage{Back: "/rate"}
	if id := r.PathValue("id"); id != "" {
		p.Back = batchAddress(id)
	}
	var known *refusal
	why, away := broker.Away(err)
	switch {
	case errors.As(err, &known):
		p.Text = known.text
		p.answer(w, known.status)
	case errors.Is(err, ledger.ErrNoBatch):
		p.Text, p.Back = "There is no such batch.", ""
		p.answer(w, http.StatusNotFound)
	case errors.Is(err, ledger.ErrNewer):
		p.Text = "A newer release of linkcancel made this batch."
		p.answer(w, http.StatusConflict)
	case away:
		p.Text = "Redis cannot be reached: " + s.say(why) + ". Look whether the change was made before you try again."
		p.answer(w, http.StatusServiceUnavailable)
	default:
		s.cfg.Log.Warn("cannot make a change by the page", "error", err)
		p.Text = "The change failed: " + s.say(err.Error())
		p.answer(w, http.StatusInternalServerError)
	}
}

func batchAddress(id string) string { return "/batches/" + url.PathEscape(id) }

// changed is the end of a change of a batch's state. to: what it may be in now.
func changed(b ledger.Batch, verb string, state ledger.State, err error, to ...ledger.State) (string, error) {
	if err == nil && !slices.Contains(to, state) {
		err = refuse(http.StatusConflict, "Batch %s cannot be %s: it is %s.", b.ID, verb, state)
	}
	return batchAddress(b.ID), err
}

func (s *Server) pause(ctx context.Context, r *http.Request, by history.By) (string, error) {
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return "", err
	}
	state, _, err := s.cfg.Ledger.Pause(ctx, b.ID, by)
	return changed(b, "paused", state, err, ledger.Paused)
}

func (s *Server) resume(ctx context.Context, r *http.Request, by history.By) (string, error) {
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return "", err
	}
	return s.resumeAbove(ctx, b, r.PostForm.Get("pause_above"), by)
}

// resumeAbove continues a batch, with another stop condition if it is not "".
func (s *Server) resumeAbove(ctx context.Context, b ledger.Batch, pauseAbove string, by history.By) (string, error) {
	pauseAbove, err := ledger.ParsePauseAbove(pauseAbove)
	if err != nil {
		return "", refuse(http.StatusBadRequest, "The batch was not resumed: for “pause above”, use a share such as 5%%, a number of links, or off.")
	}
	state, _, err := s.cfg.Ledger.ResumeWith(ctx, b.ID, pauseAbove, by)
	return changed(b, "resumed", state, err, ledger.Running, ledger.Ready)
}

// nameOf is the name of a batch that a person types.
func nameOf(b ledger.Batch) string {
	if name := strings.TrimSpace(clean.Line(b.Name)); name != "" {
		return name
	}
	return b.ID
}

// asTyped leaves out what a person cannot see: how spaces and accents are written.
func asTyped(name string) string { return norm.NFC.String(strings.Join(strings.Fields(name), " ")) }

func (s *Server) abort(ctx context.Context, r *http.Request, by history.By) (string, error) {
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return "", err
	}
	if b.State == ledger.AbortedState {
		return batchAddress(b.ID), nil
	}
	if !b.Open() {
		return changed(b, "aborted", b.State, nil)
	}
	typed := r.PostForm.Get("name")
	if asTyped(typed) != asTyped(nameOf(b)) && asTyped(typed) != b.ID {
		return "", refuse(http.StatusBadRequest, "The batch was not aborted: you typed “%s”, and its name is “%s”.", clean.Line(typed), nameOf(b))
	}
	shown, err := strconv.ParseInt(r.PostForm.Get("pending"), 10, 64)
	if err != nil || b.Pending() > shown {
		return "", refuse(http.StatusConflict, "The batch was not aborted: %s are pending now. Look at it again.", humanize.Plural(b.Pending(), "link"))
	}
	state, _, err := s.cfg.Ledger.AbortNow(ctx, b, by)
	return changed(b, "aborted", state, err, ledger.AbortedState)
}

// retryable are the outcomes whose links can be retried, those that help first.
var retryable = []ledger.Outcome{ledger.Failed, ledger.Rejected, ledger.Aborted, ledger.NotCancellable, ledger.NotFound}

func (s *Server) retry(ctx context.Context, r *http.Request, by history.By) (string, error) {
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return "", err
	}
	if r.PostForm.Has("still_payable") {
		shown, err := strconv.ParseInt(r.PostForm.Get("still_payable"), 10, 64)
		if err != nil {
			return "", refuse(http.StatusBadRequest, "The form cannot be read.")
		}
		retried, _, err := s.retryLinks(ctx, b, retryOf{shown: &shown}, by)
		return batchAddress(retried.ID), err
	}
	var outcomes []ledger.Outcome
	shown := int64(0)
	for _, o := range retryable {
		if !r.PostForm.Has(o.String()) {
			continue
		}
		n, err := strconv.ParseInt(r.PostForm.Get(o.String()), 10, 64)
		if err != nil {
			return "", refuse(http.StatusBadRequest, "The form cannot be read.")
		}
		outcomes, shown = append(outcomes, o), shown+n
	}
	if len(outcomes) == 0 {
		return "", refuse(http.StatusBadRequest, "Nothing was retried: choose at least one outcome.")
	}
	retried, _, err := s.retryLinks(ctx, b, retryOf{outcomes: outcomes, shown: &shown}, by)
	return batchAddress(retried.ID), err
}

// retryOf says what is retried.
type retryOf struct {
	outcomes []ledger.Outcome // empty: those that a verification found payable
	id, name string           // of the new batch; "": chosen
	shown    *int64           // how many links there were when a person looked; nil: nobody did
}

// plan plans the retry. Without outcomes, it is of what verifications found.
func (of retryOf) plan(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (*importer.RetryPlan, error) {
	if len(of.outcomes) == 0 {
		return importer.PlanFindings(ctx, l, b, of.id)
	}
	return importer.PlanRetry(ctx, l, b, of.outcomes, of.id)
}

// retryLinks makes a batch of links of another one. If an earlier retry has all of them, it returns
// that one.
func (s *Server) retryLinks(ctx context.Context, b ledger.Batch, of retryOf, by history.By) (retried ledger.Batch, existed bool, err error) {
	for began := time.Now(); ; {
		retried, existed, err = s.retryOnce(ctx, b, of, by)
		if !errors.Is(err, ledger.ErrBusy) && !errors.Is(err, ledger.ErrTaken) && !errors.Is(err, importer.ErrOtherLinks) {
			return retried, existed, err
		}
		if time.Since(began) > retryPatience {
			return retried, false, refuse(http.StatusConflict, "Another retry of this batch is being made at this moment. Look at its retries.")
		}
		time.Sleep(200 * time.Millisecond) // the second of two clicks
	}
}

func (s *Server) retryOnce(ctx context.Context, b ledger.Batch, of retryOf, by history.By) (retried ledger.Batch, existed bool, err error) {
	plan, err := of.plan(ctx, s.cfg.Ledger, b)
	switch {
	case errors.Is(err, importer.ErrNotYet), errors.Is(err, importer.ErrNoRetry), errors.Is(err, importer.ErrNotVerified):
		return retried, false, refuse(http.StatusConflict, "Nothing was retried: %v.", err)
	case err != nil:
		return retried, false, err
	case of.shown != nil && plan.Found > *of.shown:
		return retried, false, refuse(http.StatusConflict, "Nothing was retried: there are %s of this kind now. Look at the batch again.", humanize.Plural(plan.Found, "link"))
	case plan.Links() == 0:
		if holder, found := plan.Holder(); found {
			return holder, true, nil // a second click, or an earlier retry
		}
		return retried, false, refuse(http.StatusConflict, "Nothing was retried: the batch has no link with this outcome.")
	}
	existed = true
	retried, err = plan.Make(ctx, of.name, by, func(importer.Stats) error { existed = false; return nil })
	return retried, existed, err
}

func (s *Server) verify(ctx context.Context, r *http.Request, by history.By) (string, error) {
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return "", err
	}
	v, err := s.verifyLinks(ctx, b, r.PostForm.Get("sample"), by)
	return batchAddress(v.ID), err
}

// verifyLinks makes a verification of a batch. sample: see importer.ParseSample.
func (s *Server) verifyLinks(ctx context.Context, b ledger.Batch, sample string, by history.By) (v ledger.Batch, err error) {
	of, err := importer.ParseSample(cmp.Or(sample, "all"))
	if err != nil || of.Off() {
		return v, refuse(http.StatusBadRequest, "Nothing was verified: for the sample, use all, a share such as 5%%, or a number of links.")
	}
	for began := time.Now(); ; {
		plan, err := importer.PlanVerify(ctx, s.cfg.Ledger, b, of, "")
		switch {
		case errors.Is(err, importer.ErrVerifies), errors.Is(err, importer.ErrNotEnded), errors.Is(err, importer.ErrNothingToVerify):
			return v, refuse(http.StatusConflict, "Nothing was verified: %v.", err)
		case err == nil:
			v, err = plan.Make(ctx, "", by, nil)
		}
		busy := errors.Is(err, ledger.ErrBusy) || errors.Is(err, ledger.ErrTaken) || errors.Is(err, importer.ErrOtherLinks)
		if !busy || time.Since(began) > retryPatience {
			return v, err
		}
		time.Sleep(200 * time.Millisecond) // another verification is being made
	}
}

func (s *Server) setRate(ctx context.Context, r *http.Request, by history.By) (string, error) {
	return "/rate", s.limit(ctx, r.PostForm.Get("limit"), by)
}

// limit sets the fleet's limit: a rate, or auto.
func (s *Server) limit(ctx context.Context, text string, by history.By) error {
	var limit ratelimit.Rate // 0: automatic
	if text = strings.TrimSpace(text); !strings.EqualFold(text, "auto") {
		var err error
		if limit, err = ratelimit.ParseRate(text); err != nil {
			return refuse(http.StatusBadRequest, "The limit was not changed: %s.", clean.Line(err.Error()))
		}
	}
	return ratelimit.SetFleetRate(ctx, s.cfg.Redis, limit, by)
}

func (s *Server) hold(ctx context.Context, r *http.Request, by history.By) (string, error) {
	return "/rate", s.holdFor(ctx, r.PostForm.Get("for"), by)
}

// holdFor holds sending for a time such as 15m, or until it is released.
func (s *Server) holdFor(ctx context.Context, text string, by history.By) error {
	var until time.Time // zero: until it is released
	if text != "released" {
		lasts, err := time.ParseDuration(text)
		if err != nil || lasts < time.Second || lasts > maxHold {
			return refuse(http.StatusBadRequest, "Sending was not held: say how long, from 1s to 720h, or released.")
		}
		until = time.Now().Add(lasts)
	}
	return ratelimit.HoldFleet(ctx, s.cfg.Redis, until, by)
}

func (s *Server) release(ctx context.Context, r *http.Request, by history.By) (string, error) {
	if r.PostForm.Get("once") != "" {
		return "/rate", ratelimit.ReleaseOnce(ctx, s.cfg.Redis, by)
	}
	return "/rate", ratelimit.ReleaseFleet(ctx, s.cfg.Redis, by)
}
