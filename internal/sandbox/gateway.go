package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Gateway stands in front of the API and answers instead of it: a default
// backend, a firewall, a login page. It asks for no key and counts no rate, and
// nothing is done to a link. The zero value is no gateway.
type Gateway struct {
	// Answer is what it says; see ParseAnswer. Apply and Method do not count.
	Answer Answer
	// Share is the share (0 to 1) of the requests that it answers. Which ones is
	// a pure function of seed, method, id and how often that id was asked for by
	// that method since the gateway was set. With Sticky it is one of seed and
	// id: all requests for a link are answered by it, or none.
	Share  float64
	Sticky bool
	// From is when it begins, since the start of the server, and For how long it
	// stays; 0 is for ever.
	From, For time.Duration
	// SpareGets lets GET requests for links through, and SpareLists those for
	// the list.
	SpareGets, SpareLists bool
	// Page restricts it to the pages of the list from this one on; 0 does not.
	// A request without a number counts as page 1.
	Page int
}

// Check returns what is wrong with a gateway.
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

// on reports whether there is a gateway that answers anything.
func (g Gateway) on() bool {
	return g.Share > 0 && (g.Answer.Status != 0 || g.Answer.Cut || g.Answer.Hang)
}

// up reports whether the gateway is there so long after the server's start.
func (g Gateway) up(age time.Duration) bool {
	return age >= g.From && (g.For == 0 || age < g.From+g.For)
}

// asked is a request as a gateway sees it.
type asked struct {
	what   target
	method string
	id     string // of a link, "?page=N" of a page, or a path that leads nowhere
	page   int    // of the list
}

// takes reports whether the gateway is in front of such requests.
func (g Gateway) takes(q asked) bool {
	switch q.what {
	case single:
		return g.Page == 0 && !(g.SpareGets && q.method == http.MethodGet)
	case collection:
		return q.page >= g.Page && !g.SpareLists
	}
	return g.Page == 0
}

// gatewayState is the gateway that is set, and what it has seen.
type gatewayState struct {
	Gateway
	// seen counts the requests by method and id. It is used only where a share
	// of them is drawn.
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

// SetGateway puts another gateway in front of the API from the next request on;
// the zero value takes it away. From counts from the start of the server.
func (s *Server) SetGateway(g Gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gateway = gatewayState{Gateway: g}
}
