package sandbox

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
)

func TestSeedIDs(t *testing.T) {
	form := regexp.MustCompile(`^pl_[0-9a-f]{32}$`)
	seen := make(map[string]bool)
	for seed := range uint64(3) {
		for i := range 1000 {
			id := seedID(seed, i)
			if !form.MatchString(id) || seen[id] {
				t.Fatalf("seed %d, index %d: %s", seed, i, id)
			}
			seen[id] = true
		}
	}
	s := New(Config{Links: 5})
	if _, ok := s.Status(seedID(0, 5)); ok {
		t.Error("the link after the last exists")
	}
}

// BenchmarkCancel is the handler alone, with a million links.
func BenchmarkCancel(b *testing.B) {
	s := New(Config{Links: 1_000_000, Faults: Faults{Error500: 0.01}})
	r := httptest.NewRequest(http.MethodDelete, "/v1/payment-links/x", nil)
	r.Header.Set("Authorization", "key")
	w := httptest.NewRecorder()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.URL.Path = fmt.Sprint("/v1/payment-links/", seedID(0, i%1_000_000))
		s.ServeHTTP(w, r)
		i++
	}
}
