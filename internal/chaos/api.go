package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"linkcancel/internal/sandbox"
)

// api is the sandbox API, whose own log is the truth.
type api struct {
	box  *sandbox.Server
	addr string

	mu       sync.Mutex
	server   *http.Server
	faults   map[int]sandbox.Faults // those that are on, by event
	elsewise map[string]time.Time   // links that someone else cancelled, and when
	changed  map[string]string      // what links were before they became payable again, or were deleted
}

// requestsKept is more than a round can send.
const requestsKept = 1 << 20

func startAPI(cfg sandbox.Config) (*api, error) {
	cfg.KeepRequests = requestsKept
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	a := &api{box: sandbox.New(cfg), addr: fmt.Sprintf("127.0.0.1:%d", port), faults: map[int]sandbox.Faults{-1: cfg.Faults}, elsewise: map[string]time.Time{}, changed: map[string]string{}}
	return a, a.up()
}

func (a *api) url() string { return "http://" + a.addr + "/v1" }

// up lets the API listen, at the address it had before.
func (a *api) up() error {
	var l net.Listener
	err := again(func() (err error) {
		l, err = net.Listen("tcp", a.addr)
		return err
	})
	if err != nil {
		return fmt.Errorf("the API: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = &http.Server{Handler: a.box, ConnContext: a.box.ConnContext, ErrorLog: log.New(io.Discard, "", 0)}
	go func(s *http.Server) { _ = s.Serve(l) }(a.server)
	return nil
}

// down closes the port and all connections: calls in flight get no answer, new ones none at all.
func (a *api) down() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.server.Close()
}

// fault adds what goes wrong under a name, or takes it away if it is nothing.
func (a *api) fault(name int, f sandbox.Faults) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.faults[name] = f; f == (sandbox.Faults{}) {
		delete(a.faults, name)
	}
	var sum sandbox.Faults
	for _, key := range slices.Sorted(maps.Keys(a.faults)) {
		f := a.faults[key]
		sum.Error500 += f.Error500
		sum.HTML502 += f.HTML502
		sum.Cut += f.Cut
		sum.CutBefore += f.CutBefore
		sum.Hang += f.Hang
		sum.HangApplied = sum.HangApplied || f.HangApplied
		sum.BadRequest += f.BadRequest
		sum.Friendly += f.Friendly
		sum.Gets = sum.Gets || f.Gets
	}
	a.box.SetFaults(sum)
}

// cancelElsewhere lets someone else cancel a link, if it is active.
func (a *api) cancelElsewhere(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, changed := a.changed[id]
	if status, _ := a.box.Status(id); status == "active" && !changed {
		a.box.SetStatus(id, "cancelled")
		a.elsewise[id] = time.Now()
	}
}

// change makes a link payable again, or deletes it.
func (a *api) change(id, status string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changed[id], _ = a.box.Status(id)
	a.box.SetStatus(id, status)
}

// population is the links that the API has, before anything happened.
type population struct {
	status          map[string]string // "" for one that is missing
	imports, sweeps []string          // links for imports, and those that a sweep takes
}

// sweepOlder is the age in days from which on a sweep takes a link. Imports take
// none that is near it: no link is in an import and in a sweep.
const sweepOlder = 50

// populate reads what links there are in an API like cfg.
func populate(cfg sandbox.Config) (population, error) {
	box := sandbox.New(sandbox.Config{Seed: cfg.Seed, Links: cfg.Links, Paid: cfg.Paid, Expired: cfg.Expired, Cancelled: cfg.Cancelled, Missing: cfg.Missing, PageSize: 1 << 20})
	defer box.Close()
	p := population{status: map[string]string{}}
	age, err := ages(box, cfg.Links)
	if err != nil {
		return p, err
	}
	const day = 24 * time.Hour
	for _, id := range box.IDs() {
		status, _ := box.Status(id)
		p.status[id] = status
		switch old, listed := age[id]; {
		case !listed || old < (sweepOlder-1)*day:
			p.imports = append(p.imports, id)
		case old > (sweepOlder+1)*day && status == "active":
			p.sweeps = append(p.sweeps, id)
		}
	}
	if len(p.imports) == 0 || len(p.sweeps) == 0 {
		return p, fmt.Errorf("%d links are too few", cfg.Links)
	}
	return p, nil
}

// ages reads the age of every listed link.
func ages(box http.Handler, links int) (map[string]time.Duration, error) {
	req := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/v1/payment-links?size=%d", links), nil)
	req.Header.Set("Authorization", "any")
	answer := httptest.NewRecorder()
	box.ServeHTTP(answer, req)
	var page struct {
		Data []struct {
			ID        string
			CreatedAt time.Time
		}
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &page); err != nil {
		return nil, fmt.Errorf("read the sandbox API's list: %w", err)
	}
	age := map[string]time.Duration{}
	for _, link := range page.Data {
		age[link.ID] = time.Since(link.CreatedAt)
	}
	return age, nil
}
