// Package sandbox is a sandbox Plexy API: it has payment links, answers as far
// as the vendor documents it, and fails as told. What happens to a request
// depends on the seed and on how often that link was asked for before, never on
// scheduling.
package sandbox

import (
	"net/http"
	"sync"
	"time"
)

// Server is the sandbox API, an http.Handler. It is safe for concurrent use.
type Server struct {
	cfg    Config
	closed chan struct{}
	once   sync.Once

	// One lock is enough: it is held for less than a microsecond a request.
	mu       sync.Mutex
	links    *links
	faults   Faults
	gateway  gatewayState
	poison   map[string]Answer // by id
	key      string
	outage   int
	limit    *rateLimit
	scripts  map[script][]Answer
	pages    map[string]uint64 // requests seen, by page of the list, for the draws
	recorder *recorder
	start    time.Time
	last     time.Time // of the latest request

	connections uint32 // accepted
	moves       int
}

// script names a queue of scripted answers.
type script struct{ method, id string }

// New makes a sandbox API.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	start := cfg.Now()
	s := &Server{
		cfg:      cfg,
		closed:   make(chan struct{}),
		links:    newLinks(cfg, start),
		faults:   cfg.Faults,
		gateway:  gatewayState{Gateway: cfg.Gateway},
		poison:   make(map[string]Answer),
		key:      cfg.Key,
		start:    start,
		limit:    newRateLimit(cfg.Rate),
		scripts:  make(map[script][]Answer),
		pages:    make(map[string]uint64),
		recorder: newRecorder(cfg.KeepRequests, cfg.Log),
	}
	for id, a := range cfg.Poison {
		s.poisoned(id, a)
	}
	return s
}

// Close releases the requests that hang or wait, without an answer, and flushes
// the log. Requests that come later are served as before, but never wait.
func (s *Server) Close() {
	s.once.Do(func() { close(s.closed) })
	_ = s.Flush() // who needs the error calls Flush
}

// Flush writes out what the log's buffer holds. The error is the first one of
// the log's writer.
func (s *Server) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.flush()
}

// IDs returns the ids of all links, the missing ones too: the seeded ones, then
// the others in the order in which they were added.
func (s *Server) IDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, len(s.links.all))
	for i, p := range s.links.all {
		ids[i] = p.id
	}
	return ids
}

// Status returns a link's status; ok is false when the API has no such link.
func (s *Server) Status(id string) (status string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.links.byID[id]
	if p == nil || p.status == "" {
		return "", false
	}
	return p.status, true
}

// SetStatus changes a link's status, and adds the link if there is none. The
// status "" makes it missing.
func (s *Server) SetStatus(id, status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.links.add(id)
	p.status, p.updated = status, s.cfg.Now()
	s.links.present = nil
}

// Applied returns how many DELETEs made the link cancelled: at most 1, unless
// SetStatus made it active again.
func (s *Server) Applied(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.links.byID[id]; p != nil {
		return p.applied
	}
	return 0
}

// Script adds answers for the next requests for id, which need not be a link.
// They come after the checks of key and rate, and before everything else.
func (s *Server) Script(id string, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range answers {
		if a.Method == "" {
			a.Method = http.MethodDelete
		}
		name := script{a.Method, id}
		s.scripts[name] = append(s.scripts[name], a)
	}
}

// SetFaults changes what goes wrong from the next request on.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// SetKey changes the accepted key, as in Config.
func (s *Server) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// SetOutage gives every request that status, and nothing is done, until it is
// set to 0.
func (s *Server) SetOutage(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outage = status
}

// SetRate changes the rate limit, as in Config. The new limit starts afresh.
func (s *Server) SetRate(rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = newRateLimit(rate)
}

// Requests returns the latest Config.KeepRequests requests, the oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.requests()
}

// Counts returns how many requests came in so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.snapshot()
}
