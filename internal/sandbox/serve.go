package sandbox

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// target is the addressee of a path.
type target int

const (
	nowhere target = iota
	collection
	single
)

// locate parses a path in its escaped form, so that an escaped slash stays part of an id.
func locate(prefix, path string) (what target, id string) {
	rest, ok := strings.CutPrefix(path, prefix+"/payment-links")
	if !ok {
		return nowhere, ""
	}
	if rest == "" || rest == "/" {
		return collection, ""
	}
	if rest[0] != '/' || strings.Contains(rest[1:], "/") {
		return nowhere, ""
	}
	id, err := url.PathUnescape(rest[1:])
	if err != nil {
		return nowhere, ""
	}
	return single, id
}

// decision is how a request is handled.
type decision struct {
	answer  Answer
	fault   string // in the log, "" for a normal answer
	applied bool
	wait    time.Duration
}

// ServeHTTP decides and does the work at once, under the lock. Then it waits and answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := s.decide(r)
	if d.answer.Hang {
		s.sleep(r, -1)
	} else if d.wait > 0 && !s.sleep(r, d.wait) {
		cut(w)
		return
	}
	d.answer.write(w)
}

// sleep waits, forever if wait is negative. It returns false if the client or server stopped.
func (s *Server) sleep(r *http.Request, wait time.Duration) bool {
	var over <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
		return true
	case <-r.Context().Done():
		return false
	case <-s.closed:
		return false
	}
}

func (s *Server) decide(r *http.Request) decision {
	what, id := locate(s.cfg.Prefix, r.URL.EscapedPath())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if now.Before(s.last) {
		now = s.last // the windows need monotonic times
	}
	s.last = now
	conn, _ := r.Context().Value(connectionKey{}).(connection)
	d, turnedAway := s.before(conn, request(r, what, id), now)
	if !turnedAway {
		d = s.gate(r, now)
	}
	if !turnedAway && d.fault == "" {
		d = s.api(r, what, id, now)
	}
	q := Request{Time: now, Method: r.Method, ID: id, Status: d.answer.Status, Applied: d.applied, Fault: d.fault, Conn: conn.number}
	if d.answer.Cut || d.answer.Hang {
		q.Status = 0
	}
	s.recorder.add(q)
	return d
}

// request returns r as a gateway sees it.
func request(r *http.Request, what target, id string) asked {
	q := asked{what: what, method: r.Method, id: id}
	switch what {
	case nowhere:
		q.id = r.URL.EscapedPath()
	case collection:
		var text string
		q.page, text = pageOf(r)
		q.id = "?page=" + text
	}
	return q
}

// before handles requests that do not reach the API.
func (s *Server) before(conn connection, q asked, now time.Time) (d decision, turnedAway bool) {
	switch {
	case s.left(conn):
		return decision{fault: "moved", answer: movedAnswer()}, true
	case s.gateway.hits(s.cfg.Seed, q, now.Sub(s.start)):
		return decision{fault: "gateway", answer: s.gateway.Answer}, true
	}
	return decision{}, false
}

// api handles requests that reach the API with its key.
func (s *Server) api(r *http.Request, what target, id string, now time.Time) (d decision) {
	switch what {
	case single:
		d = s.single(r.Method, id, now)
	case collection:
		d = s.collection(r)
	default:
		d.answer = errorAnswer(http.StatusNotFound, codeNotFound, "no such resource")
		d.wait = s.cfg.Latency
	}
	if s.cfg.EmptyErrors && (d.fault == "" || d.fault == "bad_request") {
		switch d.answer.Status {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusUnprocessableEntity:
			d.answer.Body = ""
		}
	}
	return d
}

// gate refuses requests before the link is looked up. It answers at once.
func (s *Server) gate(r *http.Request, now time.Time) decision {
	switch key := r.Header.Get("Authorization"); {
	case s.outage != 0:
		return decision{fault: "outage", answer: errorAnswer(s.outage, codeUnavailable, "service unavailable")}
	case key == "" || s.key != "" && key != s.key:
		return decision{fault: "unauthorized", answer: errorAnswer(http.StatusUnauthorized, codeWrong, "invalid api key")}
	case !s.limit.allow(now.UnixNano()):
		a := errorAnswer(http.StatusTooManyRequests, codeWrong, "too many requests")
		a.Header = map[string]string{"Retry-After": s.retryAfter(now)}
		return decision{fault: "throttled", answer: a}
	}
	return decision{}
}

func (s *Server) retryAfter(now time.Time) string {
	if s.cfg.RetryAfterDate {
		// A date has whole seconds: round up.
		return now.Add(s.cfg.RetryAfter + time.Second - 1).UTC().Format(http.TimeFormat)
	}
	return strconv.FormatInt(int64((s.cfg.RetryAfter+time.Second-1)/time.Second), 10)
}

// single handles a request for one link.
func (s *Server) single(method, id string, now time.Time) decision {
	p := s.links.byID[id]
	var n uint64
	if p != nil {
		n = p.count(method)
	}
	seen := hashRequest(method, id)
	d := decision{wait: s.latency(seen, n)}
	if a, ok := s.scripted(method, id); ok {
		d.fault, d.answer = "script", a
		d.applied = a.Apply && p.cancel(now)
		return d
	}
	if a, fault := s.refusal(method, id); fault != "" {
		d.fault, d.answer = fault, a
		return d
	}
	if p == nil {
		// Requests for unknown ids are not counted, so faults apply to none of them.
		d.answer, _ = s.normal(method, p, now)
		return d
	}
	var f fault
	if method == http.MethodDelete || method == http.MethodGet && s.faults.Gets {
		f = s.faults.pick(share(draw(s.cfg.Seed, drawFault, seen, n)))
	}
	if f.name == "" || f.works {
		d.answer, d.applied = s.normal(method, p, now)
	}
	if f.name != "" {
		d.fault, d.answer = f.name, f.answer
	}
	return d
}

// latency draws how long an answer waits.
func (s *Server) latency(seen uint64, n uint64) time.Duration {
	wait := s.cfg.Latency
	if s.cfg.Jitter > 0 {
		wait += time.Duration(share(draw(s.cfg.Seed, drawLatency, seen, n)) * float64(s.cfg.Jitter))
	}
	return wait
}

// scripted takes the next scripted answer. ok is false if there is none, or only a placeholder.
func (s *Server) scripted(method, id string) (a Answer, ok bool) {
	if len(s.scripts) == 0 {
		return Answer{}, false
	}
	name := script{method, id}
	queue := s.scripts[name]
	if len(queue) == 0 {
		return Answer{}, false
	}
	a = queue[0]
	if len(queue) == 1 {
		delete(s.scripts, name)
	} else {
		s.scripts[name] = queue[1:]
	}
	return a, a.Status != 0 || a.Cut || a.Hang
}

// normal does the work of a request and returns its answer, and whether it cancelled the link.
func (s *Server) normal(method string, p *link, now time.Time) (a Answer, applied bool) {
	switch {
	case method != http.MethodGet && method != http.MethodDelete:
		return methodNotAllowed("GET, DELETE"), false
	case p == nil || p.status == "":
		return notFound(), false
	case method == http.MethodGet:
		return jsonAnswer(http.StatusOK, s.links.document(p)), false
	case p.cancel(now):
		return Answer{Status: http.StatusNoContent}, true
	}
	return errorAnswer(http.StatusUnprocessableEntity, codeUnprocessable,
		"payment link cannot be cancelled: it is "+p.status), false
}

func methodNotAllowed(allow string) Answer {
	a := errorAnswer(http.StatusMethodNotAllowed, codeInvalid, "method not allowed")
	a.Header = map[string]string{"Allow": allow}
	return a
}

// listing is the envelope of the list: undocumented, so that of GET /v1/transactions.
type listing struct {
	Data  []document `json:"data"`
	Page  int        `json:"page"`
	Size  int        `json:"size"`
	Total int        `json:"total"`
}

// collection handles a request for a page of the list.
func (s *Server) collection(r *http.Request) decision {
	_, page := pageOf(r)
	n := s.pages[page]
	s.pages[page]++
	seen := hashRequest(r.Method, "?page="+page)
	d := decision{wait: s.latency(seen, n)}
	if s.cfg.ListForbidden {
		d.fault, d.answer = "forbidden_list", errorAnswer(http.StatusForbidden, codeWrong, "access denied")
		return d
	}
	var f fault
	if s.faults.Lists {
		f = s.faults.pick(share(draw(s.cfg.Seed, drawFault, seen, n)))
	}
	if f.name != "" {
		d.fault, d.answer = f.name, f.answer
		return d
	}
	d.answer = s.list(r)
	return d
}

// pageOf returns the requested page of the list as a number and as the client wrote it. An
// invalid text is "", with number 1, because texts are kept for the draws.
func pageOf(r *http.Request) (n int, text string) {
	text = r.URL.Query().Get("page")
	n, ok := positive(text, 1)
	if !ok {
		return 1, ""
	}
	return n, text
}

// list answers GET /payment-links. page counts from 1, and size is at most PageSize.
func (s *Server) list(r *http.Request) Answer {
	if r.Method != http.MethodGet {
		return methodNotAllowed("GET")
	}
	query := r.URL.Query()
	number, ok1 := positive(query.Get("page"), 1)
	size, ok2 := positive(query.Get("size"), DefaultPageSize)
	if !ok1 || !ok2 {
		return errorAnswer(http.StatusBadRequest, codeInvalid, "page and size must be positive numbers")
	}
	size = min(size, s.cfg.PageSize)
	l := listing{Page: number, Size: size}
	l.Data, l.Total = s.links.page(number, size, query.Get("status"))
	return jsonAnswer(http.StatusOK, l)
}

// positive parses a parameter from 1 to 2³¹−1.
func positive(text string, missing int) (n int, ok bool) {
	if text == "" {
		return missing, true
	}
	n64, err := strconv.ParseInt(text, 10, 32)
	return int(n64), err == nil && n64 > 0
}
