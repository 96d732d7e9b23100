package web

import (
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// noPage is the pattern for everything that is not a page.
const noPage = "/"

// newPages are the pages by their addresses. What is not listed here does not exist.
func (s *Server) newPages() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, b := range map[string]build{
		"GET /{$}":                s.batchesPage,
		"GET /batches/{id}":       s.batchPage,
		"GET /batches/{id}/links": s.linksPage,
		"GET /rate":               s.ratePage,
		"GET /sweeps":             s.sweepsPage,
		"GET /activity":           s.activityPage,
		"GET /link":               s.linkPage,
	} {
		mux.Handle(pattern, &pageHandler{s, b})
	}
	mux.HandleFunc(noPage, func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, http.StatusNotFound, "There is no such page.")
	})
	return mux
}

// routes are the pages, the changes, and what belongs to them. Only the style, the script and
// the health need no token.
func (s *Server) routes() http.Handler {
	private := http.NewServeMux()
	private.Handle("/", s.pages)
	private.HandleFunc("GET /live", s.hub.live)
	private.HandleFunc("GET /batches/{id}/report", s.report)
	for pattern, a := range map[string]action{
		"POST /batches/{id}/pause":  s.pause,
		"POST /batches/{id}/resume": s.resume,
		"POST /batches/{id}/abort":  s.abort,
		"POST /batches/{id}/retry":  s.retry,
		"POST /batches/{id}/verify": s.verify,
		"POST /rate":                s.setRate,
		"POST /rate/hold":           s.hold,
		"POST /rate/release":        s.release,
	} {
		private.HandleFunc(pattern, s.change(a))
	}
	s.addAPI(private)
	public := http.NewServeMux()
	public.HandleFunc("GET /static/{name}", static)
	public.HandleFunc("GET /healthz", healthy)
	public.Handle("/", s.ifAllowed(s.authorize(s.onlyOperators(private))))
	return public
}

// healthy says that the process serves. Without Redis it still does: the page says so.
func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// types are the files that are served.
var types = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

func static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	text, err := fs.ReadFile(files, "static/"+name)
	kind, known := types[path.Ext(name)]
	if err != nil || !known || strings.Contains(name, "/") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(text)
}
