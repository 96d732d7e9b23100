package importer

import (
	"strings"
	"testing"

	"linkcancel/internal/ledger"
)

func TestRetryID(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, tt := range []struct {
		parent string
		taken  []string
		want   string
	}{
		{"march", nil, "march-retry"},
		{"march", []string{"march", "april-retry"}, "march-retry"},
		{"march", []string{"march-retry"}, "march-retry-2"},
		{"march", []string{"march-retry", "march-retry-2", "march-retry-4"}, "march-retry-3"},
		{"march-retry", []string{"march-retry"}, "march-retry-2"},
		{"march-retry-2", []string{"march-retry", "march-retry-2"}, "march-retry-3"},
		{"march-retry-2", nil, "march-retry"},
		{"march-retry-x", nil, "march-retry-x-retry"},
		{long, nil, long[:58] + "-retry"},
		{long, []string{long[:58] + "-retry"}, long[:56] + "-retry-2"},
	} {
		taken := map[string]bool{}
		for _, id := range tt.taken {
			taken[id] = true
		}
		got := retryID(tt.parent, taken)
		if got != tt.want {
			t.Errorf("of %s beside %q: %s, want %s", tt.parent, tt.taken, got, tt.want)
		}
		if err := ledger.CheckBatchID(got); err != nil {
			t.Error(err)
		}
	}
}
