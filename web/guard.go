package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
)

// policy allows what the page itself has, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// handler is everything that is served. Its checks come in this order: the name of the host, the
// origin of the request, the token, the route.
func (s *Server) handler() http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, http.StatusForbidden, "This request comes from another site.")
	}))
	return s.withHeaders(s.checkHost(checkPath(origin.Handler(s.routes()))))
}

func (s *Server) withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin") // with no-referrer, a form's origin would be null
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// checkHost answers only to names that the page is known by. Otherwise a page of any site could read
// it through a name that the site points at this machine.
func (s *Server) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.knownHost(r.Host) {
			fail(w, r, http.StatusMisdirectedRequest, "This page is not served by that name. linkcancel serve --host NAME allows one.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) knownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "localhost" || slices.ContainsFunc(s.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || !s.addr.IP.IsUnspecified() && ip.String() == s.addr.IP.String())
}

// cookie is the name of the token's cookie. Cookies do not tell ports apart, so the name does.
func (s *Server) cookie() string { return fmt.Sprintf("linkcancel_%d", s.addr.Port) }

// authorize finds out who has sent a request. A token in the query becomes a cookie first.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, access := r.URL.Query(), s.cfg.Access
		if given := query.Get("token"); reads(r) && !isAPI(r) && (is(given, access.Viewer) || is(given, access.Operator)) {
			http.SetCookie(w, &http.Cookie{
				Name: s.cookie(), Value: given, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
				Secure: r.Header.Get("X-Forwarded-Proto") == "https", // who lies here only harms himself
			})
			query.Del("token")
			to := *r.URL
			to.RawQuery, to.Scheme, to.Host = query.Encode(), "", ""
			to.Path = "/" + strings.TrimLeft(to.Path, "/") // never another site
			if fromElsewhere(r) {
				goOn(w, &to)
				return
			}
			http.Redirect(w, r, to.RequestURI(), http.StatusSeeOther)
			return
		}
		v, why := access.identify(r, s.cookie())
		if why != "" && fromElsewhere(r) {
			goOn(w, r.URL) // the browser leaves out the cookie, if there is one
			return
		}
		if why != "" && isAPI(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			why = "Send the token as Authorization: Bearer TOKEN."
		}
		if why != "" {
			fail(w, r, http.StatusUnauthorized, why)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, v)))
	})
}

// fromElsewhere reports whether a person follows a link on another site. With it a browser sends no
// SameSite=Strict cookie.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && (site == "cross-site" || site == "same-site") && !isAPI(r)
}

// goOn lets a browser go to an address of this site by itself, with its cookie.
func goOn(w http.ResponseWriter, to *url.URL) {
	p := problemPage{Text: "One moment …", Back: to.RequestURI()}
	p.Next = to.RequestURI()
	p.answer(w, http.StatusUnauthorized)
}

// checkPath refuses paths that the routes would clean: each page has one address.
func checkPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.EscapedPath(); p != "/" && path.Clean(p) != p {
			fail(w, r, http.StatusNotFound, "There is no such page.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// ifAllowed answers 404 to all but GET and HEAD, unless changes are allowed.
func (s *Server) ifAllowed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !reads(r) && !s.cfg.Access.Actions {
			fail(w, r, http.StatusNotFound, "This page changes nothing. linkcancel serve --allow-actions lets operators do so.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// onlyOperators lets nobody else send anything but GET and HEAD.
func (s *Server) onlyOperators(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitorOf(r.Context())
		switch {
		case reads(r):
		case !v.operator:
			fail(w, r, http.StatusForbidden, "You may only look. Operators open the page by its second link, or are named by linkcancel serve --operator.")
			return
		case r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "" && !v.bearer:
			// No browser of today leaves out both, so nothing shows where it comes from.
			fail(w, r, http.StatusForbidden, "It is unknown where this request comes from. A program has to send its token as a bearer token.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fail answers with a text: as a page, or as a problem to programs.
func fail(w http.ResponseWriter, r *http.Request, status int, text string) {
	if isAPI(r) {
		problem{Status: status, Detail: text}.answer(w)
		return
	}
	problemPage{Text: text}.answer(w, status)
}
