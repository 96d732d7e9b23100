package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

// apiPrefix is before the paths of all endpoints.
const apiPrefix = "/api/v1"

func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }

// endpoint is a route of the API with all that its description needs.
type endpoint struct {
	method, path string // under apiPrefix
	summary      string
	params       []param
	body         any // a zero value of the document that is sent; nil: none
	reply        any // of the document that is answered; nil: see kinds
	kinds        []string
	statuses     []int // of success; the first is the usual one
	do           func(ctx context.Context, w http.ResponseWriter, r *http.Request) error
}

// param is a parameter of the query or a header.
type param struct {
	name, in, text string
	schema         map[string]any
}

func (s *Server) endpoints() []endpoint {
	state := query("state", "Only batches in this state.", text("importing", "ready", "running", "paused", "done", "aborted", "newer"))
	source := query("source", "Only batches of this source.", text("import", "sweep", "run", "verify"))
	size := query("page_size", "How many to return, 1 to 1000.", map[string]any{"type": "integer", "minimum": 1, "maximum": maxPageSize, "default": pageSize})
	format := query("format", "The format of the report.", text("csv", "jsonl"))
	outcome := query("outcome", "Only links with these outcomes, separated by commas.", text())
	return []endpoint{
		{method: "GET", path: "/batches", summary: "List batches, the newest first", do: s.apiBatches, reply: BatchList{},
			params: []param{state, source, size, query("page_token", "The next_page_token of the page before.", text())}},
		{method: "POST", path: "/batches", summary: "Make a batch of links", do: s.apiSubmit, reply: status.BatchView{}, body: Submission{}, kinds: []string{"text/csv"},
			statuses: []int{http.StatusCreated, http.StatusOK}, params: submitParams},
		{method: "GET", path: "/batches/{id}", summary: "Show a batch", do: s.apiBatch, reply: status.DetailsView{}},
		{method: "GET", path: "/batches/{id}/report", summary: "The outcome of each link", kinds: []string{"text/csv", "application/jsonl"}, params: []param{format, outcome},
			do: func(_ context.Context, w http.ResponseWriter, r *http.Request) error { return s.writeReport(w, r) }},
		{method: "GET", path: "/batches/{id}/events", summary: "Follow a batch to its end: each event has what batch watch --json prints", kinds: []string{"text/event-stream"}, do: s.apiEvents},
		{method: "POST", path: "/batches/{id}/pause", summary: "Pause a batch", body: Reason{}, reply: status.BatchView{}, do: s.apiChange(s.pause)},
		{method: "POST", path: "/batches/{id}/resume", summary: "Continue a paused batch", body: ResumeRequest{}, reply: status.BatchView{}, do: s.apiResume},
		{method: "PUT", path: "/batches/{id}/priority", summary: "Change the share of an open batch", body: PriorityRequest{}, reply: status.BatchView{}, do: s.apiPriority},
		{method: "POST", path: "/batches/{id}/abort", summary: "Abort a batch: its pending links are not sent", body: Reason{}, reply: status.BatchView{}, do: s.apiAbort},
		{method: "POST", path: "/batches/{id}/retry", summary: "Make a new batch of links of a batch", body: RetryRequest{}, reply: status.BatchView{}, do: s.apiRetry,
			statuses: []int{http.StatusCreated, http.StatusOK}},
		{method: "POST", path: "/batches/{id}/verify", summary: "Make a batch that reads the links of a batch again", body: VerifyRequest{}, reply: status.BatchView{}, do: s.apiVerify,
			statuses: []int{http.StatusCreated}},
		{method: "GET", path: "/links/{id}", summary: "Find a link in all batches, by its id or its checkout URL", reply: status.LinkView{}, do: s.apiLink},
		{method: "GET", path: "/rate", summary: "Show the limit and the workers", reply: status.FleetView{}, do: s.apiRate},
		{method: "PUT", path: "/rate", summary: "Set the limit", body: LimitRequest{}, reply: status.FleetView{}, do: s.apiSetRate},
		{method: "POST", path: "/rate/hold", summary: "Hold sending", body: HoldRequest{}, reply: status.FleetView{}, do: s.apiHold},
		{method: "POST", path: "/rate/release", summary: "End any hold, or open a closed window once", body: ReleaseRequest{}, reply: status.FleetView{}, do: s.apiRelease},
		{method: "PUT", path: "/rate/window", summary: "Send at some times of the day only", body: WindowRequest{}, reply: status.FleetView{}, do: s.apiWindow},
		{method: "GET", path: "/sweeps", summary: "Show the schedule and the last sweeps", reply: status.SweepsView{}, do: s.apiSweeps},
		{method: "GET", path: "/activity", summary: "Who changed what, the newest entry first", reply: ActivityList{}, do: s.apiActivity,
			params: []param{query("batch", "Only entries of this batch.", text())}},
	}
}

// BatchList is a page of batches.
type BatchList struct {
	Batches       []status.BatchView `json:"batches"`
	NextPageToken string             `json:"next_page_token,omitempty"` // absent on the last page
}

// ActivityList is a list of entries.
type ActivityList struct {
	Activity []status.EntryView `json:"activity"`
}

// Reason says why something is changed, for the history.
type Reason struct {
	Reason string `json:"reason,omitempty"`
}

// ResumeRequest may change the stop condition.
type ResumeRequest struct {
	Reason
	PauseAbove string `json:"pause_above,omitempty"` // a share such as 5%, a number of links, or off; as before without it
}

// PriorityRequest is a priority.
type PriorityRequest struct {
	Priority string `json:"priority"` // high, normal or low
	Reason
}

// ReleaseRequest says what is released.
type ReleaseRequest struct {
	Reason
	Once bool `json:"once,omitempty"` // only the window, until it opens by itself
}

// WindowRequest says when the fleet may send.
type WindowRequest struct {
	Window   string `json:"window"`             // such as 22:00-06:00, or off
	Timezone string `json:"timezone,omitempty"` // UTC without it
	Reason
}

// RetryRequest says which links are retried.
type RetryRequest struct {
	Reason
	Outcomes []string `json:"outcomes,omitempty"` // failed without any
	ID       string   `json:"id,omitempty"`       // of the new batch
	Name     string   `json:"name,omitempty"`
	// StillPayable takes the links that the latest verification found payable.
	StillPayable bool `json:"still_payable,omitempty"`
}

// VerifyRequest says which links to verify.
type VerifyRequest struct {
	Reason
	Sample string `json:"sample,omitempty"` // a share such as 5%, or a number of links; all without it
}

// LimitRequest is a limit.
type LimitRequest struct {
	Limit string `json:"limit"` // such as 50/s, or auto
	Reason
}

// HoldRequest says how long sending is held.
type HoldRequest struct {
	For string `json:"for"` // such as 15m, or released
	Reason
}

// addAPI adds the endpoints and their description.
func (s *Server) addAPI(mux *http.ServeMux) {
	endpoints := s.endpoints()
	for _, e := range endpoints {
		mux.HandleFunc(e.method+" "+apiPrefix+e.path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), changeTimeout)
			defer cancel()
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(pageTimeout))
			if r.Method == http.MethodHead { // a stream would never end
				w.Header().Set("Allow", e.method)
				problem{Status: http.StatusMethodNotAllowed, Detail: "HEAD is not supported."}.answer(w)
				return
			}
			err := e.checkQuery(r.URL.RawQuery)
			if err == nil {
				err = e.do(ctx, w, r)
			}
			if err != nil {
				s.apiProblem(w, err)
			}
		})
	}
	description, err := describe(endpoints)
	if err != nil {
		panic(err) // the endpoints are constants
	}
	mux.HandleFunc("GET "+apiPrefix+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(description)
	})
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			other := r.Clone(r.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); strings.HasPrefix(pattern, method) {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			problem{Status: http.StatusMethodNotAllowed, Detail: "The endpoint does not know this method."}.answer(w)
			return
		}
		problem{Status: http.StatusNotFound, Detail: "There is no such endpoint.", Hint: "GET " + apiPrefix + "/openapi.json lists them"}.answer(w)
	})
}

// checkQuery refuses parameters that are unknown, there twice, or not as described: a dry run that is
// not understood must not become a batch.
func (e endpoint) checkQuery(raw string) error {
	given, err := url.ParseQuery(raw)
	if err != nil {
		return refuse(http.StatusBadRequest, "The query cannot be read: %v.", clean.Line(err.Error()))
	}
	for name, values := range given {
		i := slices.IndexFunc(e.params, func(p param) bool { return p.in == "query" && p.name == name })
		switch {
		case i < 0:
			return refuse(http.StatusBadRequest, "There is no parameter %q.", clean.Line(name))
		case len(values) > 1:
			return refuse(http.StatusBadRequest, "The parameter %s is there twice.", name)
		case values[0] == "" && name != "outcome" && name != "page_token":
			return refuse(http.StatusBadRequest, "The parameter %s is empty.", name)
		}
		if err := e.params[i].check(values[0]); err != nil {
			return err
		}
	}
	return nil
}

// check refuses a value that is not as the schema says.
func (p param) check(value string) error {
	switch p.schema["type"] {
	case "boolean":
		if value != "true" && value != "false" {
			return refuse(http.StatusBadRequest, "%s is true or false.", p.name)
		}
	case "integer":
		n, err := strconv.ParseInt(value, 10, 64)
		least, _ := p.schema["minimum"].(int)
		most, limited := p.schema["maximum"].(int)
		if err != nil || n < int64(least) || limited && n > int64(most) {
			return refuse(http.StatusBadRequest, "%s is not a number that is allowed.", p.name)
		}
	}
	if values, ok := p.schema["enum"].([]string); ok && !slices.Contains(values, value) {
		return refuse(http.StatusBadRequest, "%s is one of %s.", p.name, strings.Join(values, ", "))
	}
	if !utf8.ValidString(value) {
		return refuse(http.StatusBadRequest, "%s is not valid Unicode.", p.name)
	}
	return nil
}

// problem is an error for programs: a problem document of RFC 9457.
type problem struct {
	Type   string         `json:"type"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail"`
	Hint   string         `json:"hint,omitempty"`
	Errors []problemPlace `json:"errors,omitempty"` // the first bad rows of the input
	More   int64          `json:"more,omitempty"`   // how many more there are
}

// problemPlace is a bad row.
type problemPlace struct {
	Place string `json:"place"`
	Line  int    `json:"line,omitempty"`
	Why   string `json:"why"`
}

func (p problem) answer(w http.ResponseWriter) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Del("Content-Disposition")
	w.WriteHeader(p.Status)
	writeJSON(w, p)
}

func writeJSON(w io.Writer, doc any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err == nil {
		_, _ = w.Write(clean.JSON(b.Bytes()))
	}
}

// reply answers with a document.
func reply(w http.ResponseWriter, status int, doc any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeJSON(w, doc)
	return nil
}

// apiWords are the parameters of the API instead of flags.
var apiWords = strings.NewReplacer("--any-id", "any_id=true", "--column", "column")

// apiProblem answers with an error.
func (s *Server) apiProblem(w http.ResponseWriter, err error) {
	var refused *refusal
	var missing *notFoundError
	var input *importer.InputError
	var large *http.MaxBytesError
	why, away := broker.Away(err)
	p := problem{Status: http.StatusInternalServerError}
	switch {
	case errors.As(err, &refused):
		p.Status, p.Detail = refused.status, refused.text
	case errors.As(err, &missing):
		p.Status, p.Detail = http.StatusNotFound, missing.text
	case errors.As(err, &input):
		p.Status, p.Detail, p.Hint, p.More = http.StatusUnprocessableEntity, "The links are refused.", input.Hint, input.More
		for _, bad := range input.Bad {
			place := bad.Place.String()
			if bad.Row == 0 {
				place = bad.File
			}
			p.Errors = append(p.Errors, problemPlace{Place: place, Line: bad.Line, Why: apiWords.Replace(s.say(bad.Why))})
		}
	case errors.Is(err, linkcsv.ErrNoRows):
		p.Status, p.Detail = http.StatusUnprocessableEntity, "There are no links."
	case errors.As(err, &large):
		p.Status, p.Detail = http.StatusRequestEntityTooLarge, fmt.Sprintf("The document has more than %d bytes.", large.Limit)
	case errors.Is(err, ledger.ErrNoBatch):
		p.Status, p.Detail, p.Hint = http.StatusNotFound, "There is no such batch.", "linkcancel activity shows whether it was deleted"
	case errors.Is(err, ledger.ErrNewer):
		p.Status, p.Detail = http.StatusConflict, "A newer release of linkcancel made this batch."
	case errors.Is(err, importer.ErrOtherLinks):
		p.Status, p.Detail, p.Hint = http.StatusConflict, "A batch with this id has other links.", "use another id or Idempotency-Key"
	case errors.Is(err, ledger.ErrDeleted):
		p.Status, p.Detail = http.StatusConflict, s.say(err.Error())
	case errors.Is(err, ledger.ErrTaken):
		w.Header().Set("Retry-After", "1")
		p.Status, p.Detail = http.StatusConflict, "The batch was taken over or removed while it was being made: send it again."
	case errors.Is(err, ledger.ErrBusy):
		w.Header().Set("Retry-After", "5")
		p.Status, p.Detail = http.StatusConflict, "Another request makes a batch with this id at this moment."
	case away && strings.HasPrefix(why, "OOM"):
		w.Header().Set("Retry-After", "30")
		p.Status, p.Detail = http.StatusServiceUnavailable, "Redis is full: it has reached maxmemory."
	case away:
		w.Header().Set("Retry-After", "5")
		p.Status, p.Detail = http.StatusServiceUnavailable, "Redis cannot be reached: "+s.say(why)+"."
	case errors.Is(err, context.Canceled):
		p.Status, p.Detail = http.StatusBadRequest, "The request broke off."
	default:
		s.cfg.Log.Warn("the API cannot answer", "error", err)
		p.Detail = s.say(err.Error())
	}
	p.answer(w)
}

// document reads the document of a request. An empty body is an empty document.
func document[T any](w http.ResponseWriter, r *http.Request) (doc T, err error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(pageTimeout))
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return doc, nil
	} else if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return doc, err
		}
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return doc, refuse(http.StatusBadRequest, "The document is not as openapi.json describes it: %s is a %s.", cmp.Or(kind.Field, "the whole of it"), kind.Value)
		}
		return doc, refuse(http.StatusBadRequest, "The document cannot be read: %v.", clean.Line(strings.TrimPrefix(err.Error(), "json: ")))
	}
	if dec.More() {
		return doc, refuse(http.StatusBadRequest, "There is something after the document.")
	}
	return doc, nil
}

// byOf says who makes a change, and why.
func byOf(ctx context.Context, reason string) (history.By, error) {
	by, err := history.Person(visitorOf(ctx).name, reason)
	if err != nil {
		return by, refuse(http.StatusBadRequest, "Nothing was changed: %v.", err)
	}
	return by, nil
}

// pages of batches
const pageSize, maxPageSize = 100, 1000

func (s *Server) apiBatches(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	size := pageSize
	if n, err := strconv.Atoi(q.Get("page_size")); err == nil {
		size = n
	}
	after, err := parsePageToken(q.Get("page_token"))
	if err != nil {
		return err
	}
	all, _, err := s.reader.readBatches(ctx, freshFor)
	if err != nil {
		return err
	}
	list := BatchList{Batches: []status.BatchView{}}
	gone := after != nil && !slices.ContainsFunc(all, func(b *ledger.Batch) bool { return b.ID == after.id })
	begun := after == nil || gone
	for i, b := range all {
		if !begun {
			begun = b.ID == after.id
			continue
		}
		if gone && b.Created.UnixMilli() > after.created {
			continue
		}
		if state := q.Get("state"); state != "" && state != string(b.State) {
			continue
		}
		if source := q.Get("source"); source != "" && source != b.Source {
			continue
		}
		if len(list.Batches) == size {
			list.NextPageToken = pageToken{all[i-1].ID, all[i-1].Created.UnixMilli()}.String()
			break
		}
		list.Batches = append(list.Batches, status.ViewOf(*b))
	}
	return reply(w, http.StatusOK, list)
}

// pageToken names the batch before a page.
type pageToken struct {
	id      string
	created int64
}

func (t pageToken) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", t.created, t.id))
}

func parsePageToken(token string) (*pageToken, error) {
	if token == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	created, id, found := strings.Cut(string(text), " ")
	n, wrong := strconv.ParseInt(created, 10, 64)
	if err != nil || !found || wrong != nil {
		return nil, refuse(http.StatusBadRequest, "page_token is not one that this API has given.")
	}
	return &pageToken{id, n}, nil
}

func (s *Server) apiBatch(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	b, _, err := s.reader.readBatch(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	fleet, _, err := s.reader.readFleet(ctx)
	if err != nil {
		return err
	}
	now := status.Batch{Batch: b, Fleet: fleet}
	d, err := s.reader.readRecords(ctx, now)
	if err != nil {
		return err
	}
	d.Batch = now // the records may be older
	return reply(w, http.StatusOK, d.View())
}

func (s *Server) apiEvents(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	next := func() (status.LiveView, bool, error) {
		b, _, err := s.reader.readBatch(ctx, id)
		if err != nil {
			return status.LiveView{}, false, err
		}
		fleet, _, err := s.reader.readFleet(follow(ctx))
		rate, known := s.reader.rate(id)
		return status.Batch{Batch: b, Fleet: fleet}.View(rate, known), b.Ended(), err
	}
	view, ended, err := next()
	if err != nil {
		return err
	}
	if !s.hub.enter() {
		w.Header().Set("Retry-After", "5")
		return refuse(http.StatusServiceUnavailable, "There are %d streams: ask for the batch now and then instead.", maxStreams)
	}
	defer s.hub.leave()
	stream := newEventStream(w)
	var last []byte
	for {
		var b bytes.Buffer
		writeJSON(&b, view)
		doc := bytes.TrimSpace(b.Bytes())
		if !bytes.Equal(doc, last) || stream.silent() {
			if !stream.send("data: %s\n\n", doc) {
				return nil
			}
			last = doc
		}
		if ended {
			stream.send("event: end\ndata: %s\n\n", doc)
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-s.ending:
			return nil
		case <-time.After(streamEvery):
		}
		switch again, end, err := next(); {
		case err == nil:
			view, ended = again, end
		case errors.Is(err, ledger.ErrNoBatch):
			stream.send("event: gone\ndata: {}\n\n")
			return nil
		}
	}
}

// apiChange makes an endpoint of a change that the page makes, too.
func (s *Server) apiChange(do action) func(context.Context, http.ResponseWriter, *http.Request) error {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
		doc, err := document[Reason](w, r)
		if err != nil {
			return err
		}
		by, err := byOf(ctx, doc.Reason)
		if err == nil {
			_, err = do(context.WithoutCancel(ctx), r, by)
		}
		s.reader.expire()
		if err != nil {
			return err
		}
		return s.replyBatch(ctx, w, http.StatusOK, r.PathValue("id"), false)
	}
}

// replyBatch answers with a batch.
func (s *Server) replyBatch(ctx context.Context, w http.ResponseWriter, code int, id string, existed bool) error {
	b, err := s.cfg.Ledger.Get(ctx, id)
	if err != nil {
		return err
	}
	view := status.ViewOf(b)
	view.Existed = existed
	if code == http.StatusCreated {
		w.Header().Set("Location", apiPrefix+"/batches/"+url.PathEscape(id))
	}
	return reply(w, code, view)
}

func (s *Server) apiAbort(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(changeTimeout))
	return s.apiChange(func(ctx context.Context, r *http.Request, by history.By) (string, error) {
		b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
		if err != nil {
			return "", err
		}
		if !b.Open() && b.State != ledger.AbortedState {
			return changed(b, "aborted", b.State, nil)
		}
		state, _, err := s.cfg.Ledger.AbortNow(ctx, b, by)
		return changed(b, "aborted", state, err, ledger.AbortedState)
	})(ctx, w, r)
}

func (s *Server) apiRetry(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[RetryRequest](w, r)
	if err != nil {
		return err
	}
	by, err := byOf(ctx, doc.Reason.Reason)
	if err != nil {
		return err
	}
	of := retryOf{id: doc.ID, name: clean.Line(doc.Name)}
	if of.id != "" && ledger.CheckBatchID(of.id) != nil {
		return refuse(http.StatusBadRequest, "id is not one that a batch may have.")
	}
	if doc.StillPayable && len(doc.Outcomes) > 0 {
		return refuse(http.StatusBadRequest, "Give outcomes or still_payable, not both.")
	}
	if len(doc.Outcomes) == 0 && !doc.StillPayable {
		doc.Outcomes = []string{ledger.Failed.String()}
	}
	for _, name := range doc.Outcomes {
		o, err := ledger.ParseOutcome(name)
		if err != nil || !slices.Contains(retryable, o) {
			return refuse(http.StatusBadRequest, "Links with the outcome %q cannot be retried.", clean.Line(name))
		}
		of.outcomes = append(of.outcomes, o)
	}
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(changeTimeout))
	retried, existed, err := s.retryLinks(context.WithoutCancel(ctx), b, of, by)
	s.reader.expire()
	if err != nil {
		return err
	}
	code := http.StatusCreated
	if existed {
		code = http.StatusOK
	}
	return s.replyBatch(ctx, w, code, retried.ID, existed)
}

func (s *Server) apiVerify(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[VerifyRequest](w, r)
	if err != nil {
		return err
	}
	by, err := byOf(ctx, doc.Reason.Reason)
	if err != nil {
		return err
	}
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(changeTimeout))
	v, err := s.verifyLinks(context.WithoutCancel(ctx), b, doc.Sample, by)
	s.reader.expire()
	if err != nil {
		return err
	}
	return s.replyBatch(ctx, w, http.StatusCreated, v.ID, false)
}

func (s *Server) apiLink(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	id, err := linkcsv.LinkID(r.PathValue("id"))
	if err != nil {
		return refuse(http.StatusBadRequest, "This is not the id or the URL of a link: %v.", err)
	}
	found, err := s.findLink(ctx, []string{id})
	if err != nil {
		return err
	}
	v := status.LinkView{Link: id, Batches: []status.LinkInView{}, Reports: []status.LinkReportView{}}
	for _, in := range found[id] {
		v.Batches = append(v.Batches, in.View())
	}
	return reply(w, http.StatusOK, v)
}

func (s *Server) apiRate(ctx context.Context, w http.ResponseWriter, _ *http.Request) error {
	f, _, err := s.reader.readFleet(ctx)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, f.View())
}

// replyRate answers with the limit after a change.
func (s *Server) replyRate(ctx context.Context, w http.ResponseWriter, err error) error {
	s.reader.expire()
	if err != nil {
		return err
	}
	return s.apiRate(ctx, w, nil)
}

func (s *Server) apiSetRate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[LimitRequest](w, r)
	if err != nil {
		return err
	}
	by, err := byOf(ctx, doc.Reason.Reason)
	if err == nil {
		err = s.limit(ctx, doc.Limit, by)
	}
	return s.replyRate(ctx, w, err)
}

func (s *Server) apiHold(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[HoldRequest](w, r)
	if err != nil {
		return err
	}
	by, err := byOf(ctx, doc.Reason.Reason)
	if err == nil {
		err = s.holdFor(ctx, doc.For, by)
	}
	return s.replyRate(ctx, w, err)
}

func (s *Server) apiRelease(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[ReleaseRequest](w, r)
	if err != nil {
		return err
	}
	by, err := byOf(ctx, doc.Reason.Reason)
	switch {
	case err != nil:
	case doc.Once:
		err = ratelimit.ReleaseOnce(ctx, s.cfg.Redis, by)
	default:
		err = ratelimit.ReleaseFleet(ctx, s.cfg.Redis, by)
	}
	return s.replyRate(ctx, w, err)
}

func (s *Server) apiWindow(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[WindowRequest](w, r)
	if err != nil {
		return err
	}
	by, err := byOf(ctx, doc.Reason.Reason)
	if err != nil {
		return err
	}
	var window ratelimit.Window
	if doc.Window != "off" {
		if window, err = ratelimit.ParseWindow(doc.Window, doc.Timezone); err != nil {
			return refuse(http.StatusBadRequest, "The window was not changed: %s.", clean.Line(err.Error()))
		}
	}
	return s.replyRate(ctx, w, ratelimit.SetWindow(ctx, s.cfg.Redis, window, by))
}

func (s *Server) apiResume(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[ResumeRequest](w, r)
	if err != nil {
		return err
	}
	return s.apiDo(ctx, w, r, doc.Reason.Reason, func(ctx context.Context, b ledger.Batch, by history.By) (string, error) {
		return s.resumeAbove(ctx, b, doc.PauseAbove, by)
	})
}

func (s *Server) apiPriority(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	doc, err := document[PriorityRequest](w, r)
	if err != nil {
		return err
	}
	if p := ledger.Priority(doc.Priority); p == "" || !p.Valid() {
		return refuse(http.StatusBadRequest, "The priority was not changed: use high, normal or low.")
	}
	return s.apiDo(ctx, w, r, doc.Reason.Reason, func(ctx context.Context, b ledger.Batch, by history.By) (string, error) {
		state, _, err := s.cfg.Ledger.SetPriority(ctx, b.ID, ledger.Priority(doc.Priority), by)
		return changed(b, "given another priority", state, err, ledger.Ready, ledger.Running, ledger.Paused)
	})
}

// apiDo changes a batch and answers with it.
func (s *Server) apiDo(ctx context.Context, w http.ResponseWriter, r *http.Request, reason string, do func(context.Context, ledger.Batch, history.By) (string, error)) error {
	by, err := byOf(ctx, reason)
	if err != nil {
		return err
	}
	b, err := s.cfg.Ledger.Get(ctx, r.PathValue("id"))
	if err == nil {
		_, err = do(context.WithoutCancel(ctx), b, by)
	}
	s.reader.expire()
	if err != nil {
		return err
	}
	return s.replyBatch(ctx, w, http.StatusOK, b.ID, false)
}

func (s *Server) apiSweeps(ctx context.Context, w http.ResponseWriter, _ *http.Request) error {
	view, err := status.ReadSweeps(ctx, s.cfg.Ledger)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, view)
}

func (s *Server) apiActivity(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var entries []history.Entry
	var err error
	if id := r.URL.Query().Get("batch"); id != "" {
		if ledger.CheckBatchID(id) != nil {
			return refuse(http.StatusBadRequest, "batch is not the id of one.")
		}
		if entries, err = s.cfg.Ledger.History(ctx, id); err == nil {
			slices.Reverse(entries)
		}
	} else {
		entries, _, err = s.reader.readActivity(ctx)
	}
	if err != nil {
		return err
	}
	list := ActivityList{Activity: []status.EntryView{}}
	for _, e := range entries {
		list.Activity = append(list.Activity, status.ViewOfEntry(e))
	}
	return reply(w, http.StatusOK, list)
}
