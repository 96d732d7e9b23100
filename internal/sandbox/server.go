// Package sandbox is a sandbox Plexy API: it has payment links, answers as far as the
// vendor documents it, and fails on demand. What happens to a request depends on the seed
// and the number of earlier requests for that link, never on scheduling.
package sandbox

import (
	"cmp"
	"net/http"
	"sync"
	"time"
)

// Server is the sandbox API, an http.Handler. It is safe for concurrent use.
type Server struct {
	cfg    Config
	closed chan struct{}
	once   sync.Once

	// One lock is enough: a request holds it for less than a microsecond.
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

// script identifies a queue of scripted answers.
type script struct{ method, id string }

// New returns a sandbox API.
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

// Close ends hanging and waiting requests without an answer, and flushes the log.
func (s *Server) Close() {
	s.once.Do(func() { close(s.closed) })
	_ = s.Flush()
}

// Flush flushes the log's buffer. It returns the first error of the log's writer.
func (s *Server) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.flush()
}

// IDs returns the ids of all links, including missing ones, in the order of their addition.
func (s *Server) IDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, len(s.links.all))
	for i, p := range s.links.all {
		ids[i] = p.id
	}
	return ids
}

// Status returns the status of a link. ok is false if the API has no such link.
func (s *Server) Status(id string) (status string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.links.byID[id]
	if p == nil || p.status == "" {
		return "", false
	}
	return p.status, true
}

// SetStatus sets the status of a link and adds the link if there is none. "" makes it missing.
func (s *Server) SetStatus(id, status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.links.add(id)
	p.status, p.updated = status, s.cfg.Now()
	s.links.present = nil
}

// Applied returns how many DELETEs cancelled the link: at most 1 without SetStatus.
func (s *Server) Applied(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.links.byID[id]; p != nil {
		return p.applied
	}
	return 0
}

// Script adds answers for the next requests for id, which need not be a link. They come
// after the checks of key and rate, and before everything else.
func (s *Server) Script(id string, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range answers {
		a.Method = cmp.Or(a.Method, http.MethodDelete)
		name := script{a.Method, id}
		s.scripts[name] = append(s.scripts[name], a)
	}
}

// SetFaults sets the faults from the next request on.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// SetKey sets Config.Key.
func (s *Server) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// SetOutage answers every request with that status, without doing the work. 0 ends it.
func (s *Server) SetOutage(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outage = status
}

// SetRate sets Config.Rate and starts a new window.
func (s *Server) SetRate(rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = newRateLimit(rate)
}

// Requests returns the latest Config.KeepRequests requests, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.requests()
}

// Counts returns the numbers of requests so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.snapshot()
}
