package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
)

// layout is what every page has.
type layout struct {
	Title string // of the browser's tab
	Nav   string // the part of the site
	Site  string // the title of the fleet
	Shell bool   // without navigation and live texts
	Still bool   // nothing changes while the page is open
	Retry bool   // load the page again in 5 s
	Next  string // go there at once; "": stay
	// Down is since when Redis has not answered; zero while it does.
	Down  time.Time
	Live  string // the address of the page for the stream; "": it does not change
	Shape string // see event
	// Operator: who looks may change something.
	Operator bool
	User     string // who looks, by the proxy; may be empty
}

// problemPage says why there is no page.
type problemPage struct {
	layout
	Text string
	Back string // the page to go on with; "": that of all batches
}

// answer sends the page.
func (p problemPage) answer(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	p.Title, p.Shell = http.StatusText(status), true
	_ = templates["problem"].ExecuteTemplate(w, "layout", p)
}

// view is the data of a page, whose type embeds layout.
type view interface{ common() *layout }

func (l *layout) common() *layout { return l }

// build reads the data of a page.
type build func(ctx context.Context, r *http.Request) (template string, v view, err error)

// notFoundError is an error about what the address names.
type notFoundError struct{ text string }

func (e *notFoundError) Error() string { return e.text }

// renderer is one rendering. In a live rendering the texts that change are left out of the page and
// noted, so that what is left is the page's shape.
type renderer struct {
	live  bool
	texts map[string]string
	sizes map[string]string
}

// text is a text that changes while the page is open.
func (r *renderer) text(key string, value any) template.HTML {
	text := fmt.Sprint(value)
	if r.live {
		r.texts[key] = text
		text = ""
	}
	return template.HTML(`<span data-live="` + template.HTMLEscapeString(key) + `">` + template.HTMLEscapeString(text) + `</span>`)
}

// size is the width of a part of a bar, in percent.
func (r *renderer) size(key string, percent float64) template.HTMLAttr {
	width := strconv.FormatFloat(min(100, max(0, percent)), 'f', 2, 64)
	if r.live {
		r.sizes[key] = width
		width = "0"
	}
	return template.HTMLAttr(`data-live-width="` + template.HTMLEscapeString(key) + `" width="` + width + `"`)
}

var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	funcs := (&renderer{}).funcs()
	all := map[string]*template.Template{}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err)
	}
	for _, file := range names {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" {
			continue
		}
		all[name] = template.Must(template.New(name).Funcs(funcs).ParseFS(files, "templates/layout.html", file))
	}
	return all
}

func (r *renderer) funcs() template.FuncMap {
	return template.FuncMap{
		"live": r.text, "width": r.size,
		"digits":   func(n int64) string { return humanize.Digits(n) },
		"duration": humanize.Duration,
		"line":     clean.Line,
		"time":     timeTag,
		"plural":   humanize.Plural,
		"path":     url.PathEscape,
		"bars":     func(key string, parts []outcomeView) barView { return barView{key, parts} },
		"entries":  func(entries []entryView, batches bool) entriesView { return entriesView{entries, batches} },
	}
}

// barView is a bar, and the key of its live parts.
type barView struct {
	Key   string
	Parts []outcomeView
}

// entriesView is a table of entries, with or without a column for the batch.
type entriesView struct {
	Entries []entryView
	Batches bool
}

// timeTag shows a time in UTC. The script shows it in the zone of the browser.
func timeTag(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%[1]s">%s UTC</time>`, t.Format("2006-01-02T15:04:05Z"), t.Format("2006-01-02 15:04:05")))
}

// render executes a page's template. live: see renderer.
func render(name string, v view, live bool) (page []byte, r *renderer, err error) {
	r = &renderer{live: live, texts: map[string]string{}, sizes: map[string]string{}}
	t, err := templates[name].Clone()
	if err == nil {
		var b bytes.Buffer
		err = t.Funcs(r.funcs()).ExecuteTemplate(&b, "layout", v)
		page = b.Bytes()
	}
	if err != nil {
		return nil, r, fmt.Errorf("render %s: %w", name, err)
	}
	return page, r, nil
}

// event is one message of the stream: all texts of a page.
type event struct {
	Title string            `json:"title"`
	Shape string            `json:"shape"` // another one: the page itself has changed
	Down  string            `json:"down"`  // since when Redis is away, RFC 3339; "" while it is not
	Ended bool              `json:"ended"` // the server ends: this is the last event
	Texts map[string]string `json:"texts"`
	Sizes map[string]string `json:"sizes"`
}

// liveEvent is the present event of a page.
func (s *Server) liveEvent(ctx context.Context, b build, r *http.Request) (event, error) {
	name, v, err := s.page(follow(ctx), b, r)
	if err != nil {
		return event{}, err
	}
	page, rendered, err := render(name, v, true)
	if err != nil {
		return event{}, err
	}
	e := event{Title: v.common().Title, Shape: shapeOf(page), Texts: rendered.texts, Sizes: rendered.sizes}
	if down := v.common().Down; !down.IsZero() {
		e.Down = down.UTC().Format(time.RFC3339)
	}
	return e, nil
}

// shapeOf identifies a page by what is between its main tags.
func shapeOf(page []byte) string {
	if _, after, found := bytes.Cut(page, []byte("<main")); found {
		page, _, _ = bytes.Cut(after, []byte("</main>"))
	}
	h := fnv.New64a()
	_, _ = h.Write(page)
	return strconv.FormatUint(h.Sum64(), 36)
}

// page reads the data of a page, and completes its layout.
func (s *Server) page(ctx context.Context, b build, r *http.Request) (string, view, error) {
	name, v, err := b(ctx, r)
	if err != nil {
		return "", nil, err
	}
	l, who := v.common(), visitorOf(ctx)
	l.Site, l.Operator, l.User = s.cfg.Title, who.operator, who.shown
	if !l.Still {
		l.Live = "/live?page=" + url.QueryEscape(r.URL.RequestURI())
	}
	return name, v, nil
}

// serve answers with a page.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, b build) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(pageTimeout))
	name, v, err := s.page(ctx, b, r)
	var page []byte
	if err == nil {
		page, _, err = render(name, v, true)
	}
	if err == nil {
		v.common().Shape = shapeOf(page)
		page, _, err = render(name, v, false)
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page)
}

// problem answers with the reason why there is no page.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	var missing *notFoundError
	why, away := broker.Away(err)
	switch {
	case errors.As(err, &missing):
		fail(w, r, http.StatusNotFound, missing.text)
	case errors.Is(err, ledger.ErrNoBatch):
		fail(w, r, http.StatusNotFound, "There is no such batch. It may have been deleted: linkcancel activity shows by whom.")
	case errors.Is(err, ledger.ErrNewer):
		fail(w, r, http.StatusNotFound, "A newer release of linkcancel made this batch.")
	case away:
		w.Header().Set("Retry-After", "5")
		p := problemPage{Text: "Redis cannot be reached: " + s.say(why) + ". This page tries again every 5 seconds."}
		p.Retry = true
		p.answer(w, http.StatusServiceUnavailable)
	default:
		s.cfg.Log.Warn("cannot serve a page", "error", err)
		fail(w, r, http.StatusInternalServerError, "The page cannot be shown: "+s.say(err.Error()))
	}
}
