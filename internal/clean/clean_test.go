package clean

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const secret = `sk_live_0123<>&/"+ ~abc`

func TestHide(t *testing.T) {
	s := NewSecrets(secret, "", "hunter2")
	encode := func(before, after string) string {
		return base64.StdEncoding.EncodeToString([]byte(before + secret + after))
	}
	marshalled, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{
		secret, fmt.Sprintf("%q", secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), string(marshalled),
		strings.ReplaceAll(string(marshalled), "/", `\/`), url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret),
		encode("", ""), encode("a", ""), encode("ab", "c"), encode("Authorization: ", "\r\nHost: x"),
		base64.URLEncoding.EncodeToString([]byte("x" + secret)), strconv.Quote(string(marshalled)), strconv.Quote(strconv.Quote(secret)),
		strings.Fields(secret)[0],
	} {
		got := s.Hide("before " + form + " after")
		if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") || !strings.Contains(got, Redacted) {
			t.Errorf("%s: %s", form, got)
		}
		if len(got) > len("before "+Redacted+" after")+48 { // its surroundings in base64
			t.Errorf("%s leaves %s", form, got)
		}
		if strings.Contains(got, "0123") || strings.Contains(got, hex.EncodeToString([]byte("0123"))) {
			t.Errorf("%s leaves a part: %s", form, got)
		}
	}
	if got := s.Hide("nothing of it"); got != "nothing of it" {
		t.Error(got)
	}
	if got := s.Hide(secret + secret); got != Redacted+Redacted {
		t.Error(got)
	}
}

// A short secret does not cut other words to pieces.
func TestHideShort(t *testing.T) {
	s := NewSecrets("test", "a", "&")
	for text, want := range map[string]string{
		"test":                     Redacted,
		"latest":                   "latest",
		"tests":                    "tests",
		"_test":                    "_test",
		"testtest test":            "testtest " + Redacted,
		`bad key "test"`:           `bad key "` + Redacted + `"`,
		"Authorization: test\r\n":  "Authorization: " + Redacted + "\r\n",
		"an apple a day":           "an apple " + Redacted + " day",
		"étest teste\u0301 -test-": "étest teste\u0301 -" + Redacted + "-",
		"x&amp;y":                  "x&amp;y",
		"- &amp; -":                "- " + Redacted + " -",
		"":                         "",
	} {
		if got := s.Hide(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := NewSecrets("aba").Hide("ababa aba"); got != "ababa "+Redacted {
		t.Error(got)
	}
}

var hostile = map[string]string{
	"plain":                   "plain",
	"Jürgen 東京 … 😀":           "Jürgen 東京 … 😀",
	"no\u00a0break":           "no\u00a0break",
	"\x1b[31mred\x1b[0m":      `\x1b[31mred\x1b[0m`,
	"\x1b]0;title\a":          `\x1b]0;title\a`,
	"\u009b31m":               `\u009b31m`,
	"del\x7f":                 `del\x7f`,
	"gpj\u202efdp":            `gpj\u202efdp`,
	"zero\u200bwidth\ufeff":   `zero\u200bwidth\ufeff`,
	"\u2066a\u2069":           `\u2066a\u2069`,
	"tag\U000e0041":           `tag\U000e0041`,
	"\u2028\u2029":            `\u2028\u2029`,
	"bad \xff\x9b utf8":       `bad \xff\x9b utf8`,
	"over\rwritten":           `over\rwritten`,
	"back\b\bspace":           `back\b\bspace`,
	"\ufffd is a character":   "\ufffd is a character",
	"a backslash \\x1b stays": "a backslash \\x1b stays",
}

func TestLine(t *testing.T) {
	for text, want := range hostile {
		if got := Line(text); got != want {
			t.Errorf("Line(%q) = %q, want %q", text, got, want)
		}
		if got := Text(text); got != want {
			t.Errorf("Text(%q) = %q, want %q", text, got, want)
		}
	}
	if got := Line("a\n\tb"); got != `a\n\tb` {
		t.Error(got)
	}
	if got := Text("a\n\tb\x1b"); got != "a\n\tb\\x1b" {
		t.Error(got)
	}
}

func TestJSON(t *testing.T) {
	for text := range hostile {
		encoded, err := json.Marshal(map[string]string{text: text})
		if err != nil {
			t.Fatal(err)
		}
		got := JSON(encoded)
		if strings.ContainsFunc(string(got), hidden) {
			t.Errorf("%q stays in %q", text, got)
		}
		var back map[string]string
		if err := json.Unmarshal(got, &back); err != nil || len(back) != 1 {
			t.Fatalf("%s: %v", got, err)
		}
		want := strings.ToValidUTF8(text, "\ufffd")
		for key, value := range back {
			// encoding/json has one replacement for each byte.
			if key != value || utf8.ValidString(text) && value != want {
				t.Errorf("%q comes back as %q: %q", text, key, value)
			}
		}
	}
	if got := string(JSON([]byte("{\n \"é\": 1\n}\n"))); got != "{\n \"é\": 1\n}\n" {
		t.Error(got)
	}
}

// A character in several pieces is one character.
func TestWriter(t *testing.T) {
	const text = "é \u009b31m 😀 \u202e \xff\n\xf0\x9f end"
	for size := 1; size < 6; size++ {
		var out strings.Builder
		w := &Writer{To: &out}
		for i := 0; i < len(text); i += size {
			part := text[i:min(i+size, len(text))]
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if got := out.String(); got != Text(text) {
			t.Errorf("%d bytes a time: %q, want %q", size, got, Text(text))
		}
	}
}

// Nothing that is shown has a character that a terminal obeys, or the secret.
func FuzzText(f *testing.F) {
	for text := range hostile {
		f.Add(text, "hunter2")
	}
	f.Add(secret, secret)
	f.Add("ababa aba", "aba")
	f.Fuzz(func(t *testing.T, text, word string) {
		for _, shown := range []string{Line(text), Text(text)} {
			if !utf8.ValidString(shown) || strings.ContainsFunc(strings.NewReplacer("\n", "", "\t", "").Replace(shown), hidden) {
				t.Errorf("%q is shown as %q", text, shown)
			}
			if Text(shown) != shown {
				t.Errorf("%q changes again", shown)
			}
		}
		if utf8.ValidString(text) && !strings.ContainsFunc(text, hidden) && Line(text) != text {
			t.Errorf("%q changes to %q", text, Line(text))
		}
		s := NewSecrets(word)
		if got := s.Hide(text); len(word) >= shortSecret && strings.Contains(got, word) && !strings.Contains(got, Redacted) {
			t.Errorf("%q shows in %q", word, got)
		}
		if encoded, err := json.Marshal(text); err != nil || !json.Valid(JSON(encoded)) {
			t.Errorf("%q: %s, %v", text, JSON(encoded), err)
		}
	})
}
