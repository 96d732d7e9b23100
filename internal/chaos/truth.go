package main

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/sandbox"
)

// violation is a promise that was not kept.
type violation struct {
	rule  string
	batch string
	link  string
	what  string
	log   string // file with the details
	at    time.Time
}

// truth is what really happened in a round: the API's log beside the ledger.
type truth struct {
	r        *round
	requests []sandbox.Request
	of       map[string][]sandbox.Request // by link
	opened   map[uint32]sandbox.Request   // the first request of each connection
	batches  []ledger.Batch               // sealed, the oldest first
	rows     map[string][]ledger.LinkRecord
	in       map[string][]place // by link, the oldest batch first; no verifications
	verified map[string][]place // by link, the verifications

	// documented are the links that a documented limit explains, by which.
	documented map[string]int
}

// place is a link in a batch.
type place struct {
	batch  *ledger.Batch
	record ledger.LinkRecord
}

func (r *round) truth(ctx context.Context) (*truth, error) {
	t := &truth{
		r: r, requests: r.api.box.Requests(), of: map[string][]sandbox.Request{}, opened: map[uint32]sandbox.Request{},
		rows: map[string][]ledger.LinkRecord{}, in: map[string][]place{}, verified: map[string][]place{}, documented: map[string]int{},
	}
	for _, q := range t.requests {
		if _, ok := t.opened[q.Conn]; !ok {
			t.opened[q.Conn] = q
		}
		if q.ID != "" {
			t.of[q.ID] = append(t.of[q.ID], q)
		}
	}
	all, err := r.ledger.List(ctx)
	if err != nil {
		return nil, err
	}
	t.batches = slices.DeleteFunc(all, func(b ledger.Batch) bool { return b.State == ledger.Importing })
	slices.SortFunc(t.batches, func(a, b ledger.Batch) int { return a.Created.Compare(b.Created) })
	for i := range t.batches {
		b := &t.batches[i]
		for row, err := range r.ledger.Walk(ctx, *b) {
			if err != nil {
				return nil, err
			}
			t.rows[b.ID] = append(t.rows[b.ID], row)
			in := t.in
			if b.Verifies() {
				in = t.verified
			}
			in[row.Link] = append(in[row.Link], place{b, row})
		}
	}
	return t, nil
}

// check holds ledger and log against each other.
func (t *truth) check() {
	t.checkBatches()
	for link, places := range t.in {
		t.checkLink(link, places)
	}
	for link, places := range t.verified {
		for _, p := range places {
			t.checkVerified(link, p)
		}
	}
	for link, requests := range t.of {
		if len(t.in[link]) == 0 {
			t.violate("only links of sealed batches are sent", "", link, requests[0].Time, "%d requests for it, and no sealed batch has it", len(requests))
		}
	}
	t.checkPoisoned()
	t.checkSweeps()
	t.checkStops()
	t.checkHours()
	t.checkNotified()
	t.checkRate()
	if t.r.plan.before == "" {
		t.checkConnections()
	}
}

func (t *truth) violate(rule, batch, link string, at time.Time, format string, args ...any) {
	t.r.violate(violation{rule: rule, batch: batch, link: link, at: at, what: fmt.Sprintf(format, args...)})
}

// checkBatches: nothing is lost on the way into the ledger, and the sums are right.
func (t *truth) checkBatches() {
	known := map[string]*ledger.Batch{}
	for i := range t.batches {
		b := &t.batches[i]
		known[b.ID] = b
		var counts ledger.Counts
		seen := map[string]bool{}
		for _, row := range t.rows[b.ID] {
			counts[row.Record.Outcome]++
			if seen[row.Link] {
				t.violate("a link is once in a batch", b.ID, row.Link, b.Created, "it is there twice")
			}
			seen[row.Link] = true
		}
		pending := counts[ledger.None]
		counts[ledger.None] = 0
		if counts != b.Counts || int64(len(t.rows[b.ID])) != b.Total {
			t.violate("the counts are those of the records", b.ID, "", b.Finished, "the batch says %v of %d, its records %v of %d", b.Counts, b.Total, counts, len(t.rows[b.ID]))
		}
		if pending > 0 || b.Pending() != 0 {
			t.violate("every link has one outcome", b.ID, "", b.Created, "%d links of the %s batch have none; it says that %d are pending", pending, b.State, b.Pending())
		}
	}
	for id, made := range t.r.batches {
		b := known[id]
		switch {
		case made.sealed && b == nil && made.parent == "":
			t.violate("a sealed batch stays", id, "", made.asked, "the command that made it came back well, and it is not there")
		case b == nil || made.links == nil:
		case !slices.EqualFunc(made.links, t.rows[id], func(link string, row ledger.LinkRecord) bool { return link == row.Link }):
			t.violate("a batch has the links of its file", id, "", made.asked, "the file has %d links, the batch has %d others", len(made.links), len(t.rows[id]))
		}
	}
}

// checkPoisoned: a link that always gets the same answer has its end, too.
func (t *truth) checkPoisoned() {
	for link, answer := range t.r.poisoned {
		for _, p := range t.in[link] {
			if o := p.record.Record.Outcome; o != ledger.Failed && o != ledger.Rejected {
				t.violate("a poisoned link ends failed or rejected", p.batch.ID, link, p.batch.Created, "it always got %s, and is %s", answer, o)
			}
		}
	}
}

// checkSweeps: a sweep takes all that is stale, or makes no batch. No import has a
// link that a sweep takes.
func (t *truth) checkSweeps() {
	for i := range t.batches {
		b := &t.batches[i]
		if b.Source != "sweep" {
			continue
		}
		for _, link := range t.r.links.sweeps {
			if len(t.in[link]) == 0 {
				t.violate("a sweep takes all that is stale", b.ID, link, b.Created, "no batch has it, and the batch has %d links", b.Total)
			}
		}
		return
	}
}

// checkConnections: a connection that may lead to a gateway, or to a server that is
// about to go away, is closed.
func (t *truth) checkConnections() {
	bad := map[uint32]sandbox.Request{}
	for _, q := range t.requests {
		if q.Conn == 0 {
			continue
		}
		if was, ok := bad[q.Conn]; ok {
			t.violate("a connection is not used again after a 5xx or a gateway's answer", "", q.ID, q.Time, "it brought %d (%s), and was used again %v later", was.Status, was.Fault, q.Time.Sub(was.Time))
			return
		}
		if q.Status >= 500 || q.Fault == "gateway" && q.Status != 204 && t.r.plan.wrong == "" {
			bad[q.Conn] = q
		}
	}
}

// slack is how late a request may be on its way, by the API's log, after a stop that
// acts within a second: the second, and the way.
const slack = 1500 * time.Millisecond

// checkLink holds what the ledger says of one link against what the API saw.
func (t *truth) checkLink(link string, places []place) {
	status, _ := t.r.api.box.Status(link)
	if was, ok := t.r.api.changed[link]; ok {
		status = was
	}
	var applied time.Time
	for _, q := range t.of[link] {
		if q.Applied {
			applied = q.Time
		}
	}
	cancelled := applied
	if at, ok := t.r.api.elsewise[link]; ok && applied.IsZero() {
		cancelled = at
	}
	for i, p := range places {
		from, to := p.batch.Created, time.Now()
		if i == 0 {
			from = time.Time{}
		}
		if i+1 < len(places) {
			to = places[i+1].batch.Created
		}
		// What was on its way when the batch was aborted and retried is still of it.
		way := to
		if i+1 < len(places) && places[i+1].batch.Parent == p.batch.ID {
			way = to.Add(slack)
		}
		var mine []sandbox.Request
		for _, q := range t.of[link] {
			if !q.Time.Before(from) && q.Time.Before(way) {
				mine = append(mine, q)
			}
		}
		c := claim{
			t: t, link: link, place: p, status: status, initial: t.r.links.status[link], requests: mine, until: to, cancelled: cancelled,
			ours: !applied.IsZero() && !applied.Before(from) && applied.Before(way),
		}
		// A retry remembers what its parent may have done.
		if parent := p.batch.Parent; parent != "" && !applied.IsZero() && applied.Before(to) {
			c.ours = c.ours || slices.ContainsFunc(places[:i], func(p place) bool { return p.batch.ID == parent })
		}
		c.check()
	}
}

// claim is what a batch says of a link, with all that bears on it.
type claim struct {
	t         *truth
	link      string
	place     place
	status    string // at the API, now
	initial   string // and before anything happened
	requests  []sandbox.Request
	until     time.Time // when the next batch with it was made
	cancelled time.Time // when it was, by whomever; zero: never, or from the beginning
	ours      bool      // it was cancelled by a request of this batch
}

func (c *claim) violate(rule, format string, args ...any) {
	at := c.finished()
	if at.IsZero() {
		at = c.place.batch.Created
	}
	c.t.violate(rule, c.place.batch.ID, c.link, at, format, args...)
}

func (c *claim) documented(why string) { c.t.documented[why]++ }

// finished is when the outcome was recorded, up to a second too early.
func (c *claim) finished() time.Time { return c.place.record.Record.Time(c.place.batch.Created) }

// answered says whether the API ever answered a request of that method so.
func (c *claim) answered(method string, ok func(sandbox.Request) bool) bool {
	return slices.ContainsFunc(c.requests, func(q sandbox.Request) bool { return q.Method == method && ok(q) })
}

func (c *claim) check() {
	record := c.place.record.Record
	// Only what the API itself says counts, or what it says of a locked link.
	shown := c.answered("GET", func(q sandbox.Request) bool {
		return q.Status == 200 && q.Fault == "" && !q.Time.Before(c.cancelled)
	})
	refused := c.answered("DELETE", func(q sandbox.Request) bool {
		return q.Fault == "bad_request" || q.Fault == "poison" && q.Status == 401
	})
	switch record.Outcome {
	case ledger.None: // reported with the sums
	case ledger.Cancelled:
		proved := shown || c.answered("DELETE", func(q sandbox.Request) bool { return q.Status == 204 && q.Fault == "" })
		switch {
		case c.status != "cancelled":
			c.violate("cancelled is said of cancelled links only", "the API has it as %q", c.status)
		case !proved:
			c.violate("cancelled needs a 204, or a GET that shows it", "there was neither")
		case c.ours:
		case !record.Ambiguous:
			c.violate("cancelled is said of what we cancelled", "no request of this batch did it, and none may have")
		default:
			c.documented("cancelled by others, and possibly by us: reads cancelled")
		}
	case ledger.AlreadyCancelled:
		switch {
		case c.ours:
			c.violate("one of ours is never called already_cancelled", "a DELETE of this batch cancelled it")
		case c.status != "cancelled":
			c.violate("already_cancelled is said of cancelled links only", "the API has it as %q", c.status)
		case !shown:
			c.violate("already_cancelled needs a GET that shows it", "there was none")
		}
	case ledger.NotFound:
		if c.initial != "" {
			c.violate("not_found is said of missing links only", "the API has it as %q; cancelled by this batch: %v", c.status, c.ours)
		}
	case ledger.NotCancellable:
		switch said := c.place.record.LinkStatus; {
		case said == "unknown" && c.ours:
			c.documented("cancelled by us, and no GET was ever answered: reads not_cancellable, unknown")
		case said == "unknown":
		case said != c.status || said == "cancelled" || said == "active" || c.status == "":
			c.violate("not_cancellable is said of what the API refuses", "the ledger says that it is %q, the API has it as %q", said, c.status)
		}
	case ledger.Rejected:
		switch {
		case c.ours && record.Ambiguous && c.t.forgotten(c.cancelled):
			c.documented("refused, and cancelled by another worker after a failover: reads rejected")
		case c.ours:
			c.violate("one of ours is never called rejected", "a DELETE of this batch cancelled it")
		case !refused:
			c.violate("rejected needs a refusal", "the API itself refused no DELETE of it")
		}
	case ledger.Failed:
		last := len(c.requests) - 1
		switch {
		case record.Attempts < attempts:
			c.violate("failed comes after all attempts", "%d attempts of %d: %q", record.Attempts, attempts, c.place.record.Error)
		case c.ours && last >= 0 && c.requests[last].Status == 200 && c.requests[last].Fault == "":
			c.violate("one of ours is never called failed", "the last GET was answered")
		case c.ours:
			c.documented("cancelled by us, and neither DELETE nor the last GET was answered: reads failed")
		}
	case ledger.Aborted:
		switch {
		case c.place.batch.State != ledger.AbortedState:
			c.violate("aborted is said in an aborted batch only", "the batch is %s", c.place.batch.State)
		case c.ours:
			c.documented("cancelled by us, and the batch aborted before the answer was recorded: reads aborted")
		}
	}
	if record.HTTPStatus != 0 && !c.answered("DELETE", func(q sandbox.Request) bool { return q.Status == record.HTTPStatus }) {
		c.violate("the HTTP status is one that the API gave", "the ledger says %d, and no DELETE was answered so", record.HTTPStatus)
	}
	if record.Outcome == ledger.None || record.Outcome == ledger.Aborted {
		return
	}
	for _, q := range c.requests {
		// A second, since a record has whole seconds.
		if late := q.Time.Sub(c.finished()) - time.Second; late > slack && q.Time.Before(c.until) && !c.t.thawed(q.Time) && !c.t.control(q) && !c.t.verifying(q) {
			if record.Ambiguous && c.t.forgotten(q.Time) {
				c.documented("in doubt since a failover: sent again after its outcome")
			} else {
				c.violate("what has its outcome is not sent again", "%s %v after it", q.Method, late.Round(time.Millisecond))
			}
			return
		}
	}
}

// control says whether a request may be a control: a GET, on a new connection, of any
// link that the API has shown. It asks how the API is, and nothing about the link.
func (t *truth) control(q sandbox.Request) bool {
	return q.Method == "GET" && q.Conn > 0 && t.opened[q.Conn] == q
}

// verifying says whether a request may be that of a verification.
func (t *truth) verifying(q sandbox.Request) bool {
	return q.Method == "GET" && slices.ContainsFunc(t.verified[q.ID], func(p place) bool { return !q.Time.Before(p.batch.Created) })
}

// thawed says whether a worker that was stopped went on a moment before. What it was
// about to send when it was stopped leaves then, whatever has changed.
func (t *truth) thawed(at time.Time) bool {
	for _, m := range t.r.timeline {
		if m.kind == workerStopped && at.After(m.to.Add(-100*time.Millisecond)) && at.Before(m.to.Add(300*time.Millisecond)) {
			return true
		}
	}
	return false
}

// forgotten says whether a slice may be in the hands of two workers, since Redis failed over and forgot
// that the first took it. That one has it until its lease of 30 s ends.
func (t *truth) forgotten(at time.Time) bool {
	return slices.ContainsFunc(t.r.timeline, func(m moment) bool {
		return m.kind == failedOver && at.After(m.from) && at.Before(m.to.Add(30*time.Second))
	})
}

// checkStops: what was stopped by command sends nothing from a second later on.
func (t *truth) checkStops() {
	for _, hold := range t.r.holds {
		late := t.between(t.requests, hold[0].Add(slack), hold[1])
		if len(late) > 0 {
			t.violate("a held fleet sends nothing", "", late[0].ID, late[0].Time, "%d requests from %v after rate hold came back to its release", len(late), slack)
		}
	}
	for id, b := range t.r.batches {
		var mine []sandbox.Request
		for _, q := range t.requests {
			if places := t.in[q.ID]; len(places) > 0 && t.owner(q) == id && !t.control(q) && !t.verifying(q) {
				mine = append(mine, q)
			}
		}
		for _, pause := range b.pauses {
			if late := t.between(mine, pause[0].Add(slack), pause[1]); len(late) > 0 {
				t.violate("a paused batch sends nothing", id, late[0].ID, late[0].Time, "%d requests from %v after batch pause came back to the resume", len(late), slack)
			}
		}
		if b.aborted.IsZero() {
			continue
		}
		if late := t.between(mine, b.aborted.Add(slack), time.Now()); len(late) > 0 {
			t.violate("an aborted batch sends nothing", id, late[0].ID, late[0].Time, "%d requests from %v after batch abort came back", len(late), slack)
		}
	}
}

// owner is the batch that a request for a link belongs to: the latest that had it.
func (t *truth) owner(q sandbox.Request) (id string) {
	for i, p := range t.in[q.ID] {
		if i == 0 || !q.Time.Before(p.batch.Created) {
			id = p.batch.ID
		}
	}
	return id
}

// between are the requests in a time, but for those that a stopped worker had on its tongue.
func (t *truth) between(requests []sandbox.Request, from, to time.Time) (late []sandbox.Request) {
	first := sort.Search(len(requests), func(i int) bool { return !requests[i].Time.Before(from) })
	for _, q := range requests[first:] {
		if !q.Time.Before(to) {
			break
		}
		if !t.thawed(q.Time) {
			late = append(late, q)
		}
	}
	return late
}

// explain returns everything that is known about a violation.
func (t *truth) explain(v violation) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "    "+format+"\n", args...) }
	fmt.Fprintf(&b, "  VIOLATED: %s\n", v.rule)
	line("%s", v.what)
	if v.batch != "" {
		line("batch  %s", v.batch)
	}
	if v.log != "" {
		line("log    %s", v.log)
	}
	clock := func(at time.Time) string {
		if at.IsZero() {
			return "      never"
		}
		return fmt.Sprintf("%9.3f s", at.Sub(t.r.began).Seconds())
	}
	if v.link != "" {
		line("link   %s", v.link)
		for _, p := range slices.Concat(t.in[v.link], t.verified[v.link]) {
			r := p.record.Record
			line("ledger %s  %s in %s: attempts %d, status %d, link status %q, ambiguous %v, %q", clock(r.Time(p.batch.Created)), r.Outcome,
				p.batch.ID, r.Attempts, r.HTTPStatus, p.record.LinkStatus, r.Ambiguous, p.record.Error)
		}
		for _, q := range t.of[v.link] {
			line("API    %s  %-6s answered %d, cancelled it: %v %s", clock(q.Time), q.Method, q.Status, q.Applied, q.Fault)
		}
		if at, ok := t.r.api.elsewise[v.link]; ok {
			line("API    %s  cancelled by someone else", clock(at))
		}
	}
	from, to := v.at, v.at
	for _, q := range t.of[v.link] {
		if q.Time.Before(from) {
			from = q.Time
		}
		if q.Time.After(to) {
			to = q.Time
		}
	}
	from, to = from.Add(-2*time.Second), to.Add(2*time.Second)
	for _, m := range t.r.timeline {
		if m.to.After(from) && m.from.Before(to) {
			line("fault  %s to %s  %s %s", clock(m.from), clock(m.to), m.kind, m.what)
		}
	}
	return b.String()
}
