package sandbox

import (
	"cmp"
	"net/http"
	"slices"
)

// SetPoison sets a permanent answer for id, as for a locked object, without changing the link. An
// answer without Status, Cut or Hang removes it. With a Method it applies to that method only. The
// answer comes after the checks of key and rate, and after those of Script.
func (s *Server) SetPoison(id string, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poisoned(id, a)
}

func (s *Server) poisoned(id string, a Answer) {
	if a.Status == 0 && !a.Cut && !a.Hang {
		delete(s.poison, id)
		return
	}
	s.poison[id] = a
}

// PoisonLinks calls SetPoison for n links and returns their ids. The seed chooses them
// among active links without poison, of which there may be fewer.
func (s *Server) PoisonLinks(n int, a Answer) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*link
	for _, p := range s.links.all {
		if _, has := s.poison[p.id]; !has && p.status == "active" {
			all = append(all, p)
		}
	}
	rank := func(p *link) uint64 { return draw(s.cfg.Seed, drawPoison, uint64(p.index), 0) }
	slices.SortFunc(all, func(a, b *link) int { return cmp.Compare(rank(a), rank(b)) })
	ids := make([]string, min(max(n, 0), len(all)))
	for i := range ids {
		ids[i] = all[i].id
		s.poisoned(ids[i], a)
	}
	return ids
}

// refusal handles requests that a poisoned or forbidden link always refuses.
func (s *Server) refusal(method, id string) (a Answer, fault string) {
	if len(s.poison) > 0 {
		if a, ok := s.poison[id]; ok && (a.Method == "" || a.Method == method) {
			return a, "poison"
		}
	}
	switch {
	case s.cfg.GetsForbidden && method == http.MethodGet:
		return errorAnswer(http.StatusForbidden, codeWrong, "access denied"), "forbidden_get"
	case s.cfg.ForbiddenLinks > 0 && share(draw(s.cfg.Seed, drawForbidden, hashRequest("", id), 0)) < s.cfg.ForbiddenLinks:
		return errorAnswer(http.StatusForbidden, codeWrong, "access denied"), "forbidden_link"
	}
	return Answer{}, ""
}
