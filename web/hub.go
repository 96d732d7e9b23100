package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"linkcancel/internal/ledger"
)

const (
	// maxStreams is how many streams are open at once. Others ask every few seconds.
	maxStreams = 64
	// streamEvery is how often a page's texts are sent.
	streamEvery = time.Second
	// keepAlive is how often something is sent at least, so that a dead client is noticed.
	keepAlive = 15 * time.Second
	// streamWrite is how long one message may take.
	streamWrite = 10 * time.Second
)

// hub sends pages' texts to the browsers that show them.
type hub struct {
	server  *Server
	mu      sync.Mutex
	streams int
	docs    map[string]*cell[string] // by the address of the page and who may look at it
}

func newHub(s *Server) *hub { return &hub{server: s, docs: map[string]*cell[string]{}} }

func (h *hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams == maxStreams {
		return false
	}
	h.streams++
	return true
}

// open is how many streams are open.
func (h *hub) open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams
}

func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams--
}

// live serves the texts of a page: as a stream, or once.
func (h *hub) live(w http.ResponseWriter, r *http.Request) {
	page, b := h.server.find(context.WithoutCancel(r.Context()), r.URL.Query().Get("page"))
	if b == nil {
		http.Error(w, "there is no such page", http.StatusNotFound)
		return
	}
	once := r.URL.Query().Has("once")
	if !once && !h.enter() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many streams: ask with once", http.StatusServiceUnavailable)
		return
	}
	if once {
		e, err := h.server.liveEvent(r.Context(), b, page)
		var missing *notFoundError
		if errors.As(err, &missing) || errors.Is(err, ledger.ErrNoBatch) {
			http.Error(w, h.server.say(err.Error()), http.StatusNotFound)
			return
		}
		if err != nil {
			http.Error(w, h.server.say(err.Error()), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(e)
		return
	}
	defer h.leave()
	h.stream(w, r, page, b)
}

// eventStream sends server-sent events, each of which has its time.
type eventStream struct {
	to      io.Writer
	control *http.ResponseController
	sent    time.Time
}

func newEventStream(w http.ResponseWriter) *eventStream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	return &eventStream{to: w, control: http.NewResponseController(w)}
}

// send reports whether the client has taken it so far.
func (s *eventStream) send(format string, args ...any) bool {
	_ = s.control.SetWriteDeadline(time.Now().Add(streamWrite))
	_, err := fmt.Fprintf(s.to, format, args...)
	s.sent = time.Now()
	return err == nil && s.control.Flush() == nil
}

// silent reports whether something has to be sent, so that a dead client is noticed.
func (s *eventStream) silent() bool { return time.Since(s.sent) >= keepAlive }

func (h *hub) stream(w http.ResponseWriter, r *http.Request, page *http.Request, b build) {
	events := newEventStream(w)
	ticker := time.NewTicker(streamEvery)
	defer ticker.Stop()
	var last string
	for {
		doc := h.document(r.Context(), page, b)
		switch {
		case doc != last && !events.send("data: %s\n\n", doc), doc == last && events.silent() && !events.send(": still here\n\n"):
			return
		}
		last = doc
		select {
		case <-r.Context().Done():
			return
		case <-h.server.ending:
			if !h.server.cfg.Brief {
				return // another server may follow
			}
			e, err := h.server.liveEvent(r.Context(), b, page)
			e.Ended = true
			if doc, _ := json.Marshal(e); err == nil {
				events.send("data: %s\n\n", doc)
			}
			return
		case <-ticker.C:
		}
	}
}

// document is the present event of a page, as JSON. All viewers of the page share it, and so do all
// operators. If the page is
// gone, it says so.
func (h *hub) document(ctx context.Context, page *http.Request, b build) string {
	h.mu.Lock()
	c := remember(h.docs, fmt.Sprint(page.URL.RequestURI(), " ", visitorOf(ctx).operator))
	h.mu.Unlock()
	doc, _, _ := c.get(ctx, freshFor, func(ctx context.Context) (string, error) {
		e, err := h.server.liveEvent(ctx, b, page)
		if err != nil {
			e = event{Shape: "gone"} // the script loads the page, which says why
		}
		doc, err := json.Marshal(e)
		return string(doc), err
	})
	return doc
}

// found is a ResponseWriter that takes the builder of a page instead of the page.
type found struct {
	http.ResponseWriter
	request *http.Request
	build   build
}

// pageHandler serves a page.
type pageHandler struct {
	server *Server
	build  build
}

func (p *pageHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f, ok := w.(*found); ok {
		f.request, f.build = r, p.build
		return
	}
	p.server.serve(w, r, p.build)
}

// find returns the request and the builder of a page by its address; nil if there is none.
func (s *Server) find(ctx context.Context, address string) (*http.Request, build) {
	u, err := url.ParseRequestURI(address)
	if err != nil || u.Host != "" {
		return nil, nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.RequestURI(), nil)
	if err != nil {
		return nil, nil
	}
	r.RequestURI = u.RequestURI()
	if _, pattern := s.pages.Handler(r); pattern == "" || pattern == noPage {
		return nil, nil
	}
	f := &found{}
	s.pages.ServeHTTP(f, r)
	return f.request, f.build
}
