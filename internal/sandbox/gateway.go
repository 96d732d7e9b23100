package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Gateway answers instead of the API, like a default backend, a firewall or a login page.
// It checks no key and no rate, and changes no link. The zero value means that there is no gateway.
type Gateway struct {
	// Answer is its answer: see ParseAnswer. Apply and Method have no effect.
	Answer Answer
	// Share is the share (0 to 1) of requests that it answers: a pure function of seed,
	// method, id and the number of such requests since the gateway was set. With Sticky it
	// depends on seed and id only, so it answers all requests for a link or none.
	Share  float64
	Sticky bool
	// From is when it begins, since the server's start. For is how long it lasts; 0: forever.
	From, For time.Duration
	// SpareGets passes GET requests for links to the API, and SpareLists those for the list.
	SpareGets, SpareLists bool
	// Page restricts it to pages of the list from this number on. 0: all pages.
	Page int
}

// Check returns what is wrong with the gateway.
func (g Gateway) Check() error {
	switch {
	case g.Share < 0 || g.Share > 1:
		return fmt.Errorf("the share %g of the gateway is not between 0 and 1", g.Share)
	case g.From < 0 || g.For < 0:
		return errors.New("the time of the gateway is negative")
	case g.Page < 0:
		return errors.New("the page of the gateway is negative")
	}
	return nil
}

// on reports whether the gateway answers anything.
func (g Gateway) on() bool {
	return g.Share > 0 && (g.Answer.Status != 0 || g.Answer.Cut || g.Answer.Hang)
}

// up reports whether the gateway is active at a time since the start of the server.
func (g Gateway) up(age time.Duration) bool {
	return age >= g.From && (g.For == 0 || age < g.From+g.For)
}

// asked is a request as the gateway sees it.
type asked struct {
	what   target
	method string
	id     string // of a link, "?page=N" for a page, or an unknown path
	page   int    // of the list
}

// takes reports whether the gateway may answer such requests.
func (g Gateway) takes(q asked) bool {
	switch q.what {
	case single:
		return g.Page == 0 && !(g.SpareGets && q.method == http.MethodGet)
	case collection:
		return q.page >= g.Page && !g.SpareLists
	}
	return g.Page == 0
}

// gatewayState is the gateway with its counters.
type gatewayState struct {
	Gateway
	// seen counts requests by method and id, if Share is used.
	seen map[uint64]uint32
}

// hits decides whether the gateway answers a request, and counts it.
func (g *gatewayState) hits(seed uint64, q asked, age time.Duration) bool {
	if !g.on() || !g.takes(q) {
		return false
	}
	u := 0.0
	switch {
	case g.Share >= 1:
	case g.Sticky:
		u = share(draw(seed, drawGateway, hashRequest("", q.id), 0))
	default:
		name := hashRequest(q.method, q.id)
		if g.seen == nil {
			g.seen = make(map[uint64]uint32)
		}
		u = share(draw(seed, drawGateway, name, uint64(g.seen[name])))
		g.seen[name]++
	}
	return u < g.Share && g.up(age)
}

// SetGateway sets the gateway from the next request on. The zero value removes it.
func (s *Server) SetGateway(g Gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gateway = gatewayState{Gateway: g}
}
