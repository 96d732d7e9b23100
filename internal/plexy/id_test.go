package plexy

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestCheckID(t *testing.T) {
	for _, id := range []string{testID, "a", ".a", "..a", "-", "é", "a:b", "a@b", "a;b", "a'b", strings.Repeat("a", 128)} {
		if err := CheckID(id); err != nil {
			t.Errorf("CheckID(%q) = %v", id, err)
		}
	}
	for id, want := range map[string]string{
		"":                       "the id is empty",
		".":                      `the id is ".", which addresses another path`,
		"..":                     `the id is "..", which addresses another path`,
		strings.Repeat("a", 200): "the id is longer than 128 bytes (200)",
		"a\xff":                  "the id is not valid UTF-8",
		"a\ufffdb":               "the id contains U+FFFD: a program put it in the place of a character that it could not read",
		"a b":                    "the id contains white space (U+0020)",
		"a\u00a0b":               "the id contains white space (U+00A0)",
		"a\u2028b":               "the id contains white space (U+2028)",
		"a\tb":                   "the id contains white space (U+0009)",
		"a\x00":                  "the id contains a control character (U+0000)",
		"a\x7f":                  "the id contains a control character (U+007F)",
		"a\u009f":                "the id contains a control character (U+009F)",
		"a\ufe0f":                "the id contains an invisible character (U+FE0F)",
		"a\u3164":                "the id contains an invisible character (U+3164)",
		"a\u200b":                "the id contains an invisible character (U+200B)",
		"a\ufeffb":               "the id contains an invisible character (U+FEFF)",
		"a/b":                    "the id contains '/'",
		`a\b`:                    `the id contains '\\'`,
		"a?b":                    "the id contains '?'",
		"a#b":                    "the id contains '#'",
		"%2e%2e":                 "the id contains '%'",
		"a／b":                    "the id contains '／'",
		"℀":                      "the id contains '℀'",
		"...":                    `the id could be read as ".." or as nothing, which addresses another path`,
		"．．":                     `the id could be read as ".." or as nothing, which addresses another path`,
		"‥":                      `the id could be read as ".." or as nothing, which addresses another path`,
		"..;a":                   `the id could be read as ".." or as nothing, which addresses another path`,
		";a=b":                   `the id could be read as ".." or as nothing, which addresses another path`,
	} {
		err := CheckID(id)
		if err == nil || err.Error() != want || !errors.Is(err, ErrBadID) {
			t.Errorf("CheckID(%q) = %v, want %s", id, err, want)
		}
	}
}

func TestDocumented(t *testing.T) {
	if !Documented(testID) {
		t.Errorf("Documented(%q) = false", testID)
	}
	for _, id := range []string{"", "id", "pl_", testID[:34], testID + "0", strings.ToUpper(testID), "pl_" + strings.Repeat("g", 32), testID[3:], "PL_" + testID[3:], " " + testID[1:]} {
		if Documented(id) {
			t.Errorf("Documented(%q) = true", id)
		}
	}
}

// checkAddress is the invariant of every accepted id: a server that reads the
// URL finds exactly one path segment after /payment-links/, and it is the id.
func checkAddress(t *testing.T, id string) {
	t.Helper()
	links, err := linksURL("https://api.example.com/v1")
	if err != nil {
		t.Fatal(err)
	}
	address := linkURL(links, id)
	u, err := url.ParseRequestURI(address.RequestURI())
	if err != nil {
		t.Fatalf("id %q: %v", id, err)
	}
	segment, ok := strings.CutPrefix(u.EscapedPath(), "/v1/payment-links/")
	if !ok || segment == "" || strings.Contains(segment, "/") || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || address.Host != "api.example.com" {
		t.Fatalf("id %q addresses %s", id, address)
	}
	if got, err := url.PathUnescape(segment); got != id || err != nil {
		t.Fatalf("id %q arrives as %q (%v)", id, got, err)
	}
	// Nor does a server that cleans paths find anything else.
	if clean := (&url.URL{Path: "/v1"}).JoinPath("payment-links", url.PathEscape(id)); clean.Path != u.Path {
		t.Fatalf("id %q: cleaned %q, sent %q", id, clean.Path, u.Path)
	}
}

func FuzzCheckID(f *testing.F) {
	for _, id := range []string{testID, "", ".", "..", "...", "a/b", "%2e", "a?b", "a#b", "a b", "é", "\xff", "a\x00", ";", ":", "+&=@$"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if CheckID(id) == nil {
			checkAddress(t, id)
		}
	})
}
