package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
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
	return s.withHeaders(s.checkHost(origin.Handler(s.routes())))
}

func (s *Server) withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// checkHost answers only to names that the page is known by. Otherwise a page of any site could read
// it through a name that the site points at this machine.
func (s *Server) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.knownHost(r.Host) {
			fail(w, http.StatusMisdirectedRequest, "This page is not served by that name. linkcancel serve --host NAME allows one.")
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

// authorize wants the token: as a bearer token, as a cookie, or once in the query, which sets the
// cookie.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Token == "" {
			next.ServeHTTP(w, r)
			return
		}
		query := r.URL.Query()
		if given := query.Get("token"); given != "" && r.Method == http.MethodGet && s.isToken(given) {
			http.SetCookie(w, &http.Cookie{Name: s.cookie(), Value: given, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			query.Del("token")
			to := *r.URL
			to.RawQuery, to.Scheme, to.Host = query.Encode(), "", ""
			to.Path = "/" + strings.TrimLeft(to.Path, "/") // never another site
			http.Redirect(w, r, to.RequestURI(), http.StatusSeeOther)
			return
		}
		given, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if c, err := r.Cookie(s.cookie()); err == nil && !found {
			given = c.Value
		}
		if !s.isToken(given) {
			fail(w, http.StatusUnauthorized, "Open the page by the link that linkcancel has printed: it has the token.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isToken compares in constant time.
func (s *Server) isToken(given string) bool {
	want, got := sha256.Sum256([]byte(s.cfg.Token)), sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// fail answers with a page that only has a text.
func fail(w http.ResponseWriter, status int, text string) { failWith(w, status, false, text) }

// failWith is fail, for a page that loads itself again if retry is set.
func failWith(w http.ResponseWriter, status int, retry bool, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	l := layout{Title: http.StatusText(status), Shell: true, Retry: retry}
	_ = templates["problem"].ExecuteTemplate(w, "layout", problemPage{layout: l, Text: text})
}
