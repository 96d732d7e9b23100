package plexy

import (
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const redacted = "[redacted]"

// scrubber takes one key out of texts that come from outside: an API, a proxy
// or a broken connection may echo the request.
type scrubber struct{ replacer *strings.Replacer }

// newScrubber makes the scrubber of a key, which is printable ASCII.
func newScrubber(key string) scrubber {
	if key == "" {
		return scrubber{strings.NewReplacer()}
	}
	// The forms in which a text can quote it.
	pairs := []string{key, redacted}
	quoted := strconv.Quote(key)
	forms := []string{quoted[1 : len(quoted)-1], url.QueryEscape(key), url.PathEscape(key)}
	if escaped, err := json.Marshal(key); err == nil {
		inner := string(escaped[1 : len(escaped)-1])
		forms = append(forms, inner, strings.ReplaceAll(inner, "/", `\/`)) // PHP escapes slashes
	}
	for _, form := range forms {
		if form != key {
			pairs = append(pairs, form, redacted)
		}
	}
	return scrubber{strings.NewReplacer(pairs...)}
}

// line returns text as valid UTF-8 on one line, without control and invisible
// characters and without the key.
func (s scrubber) line(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, text)
	// Last, so that no replacement above can put a key together.
	return strings.TrimSpace(s.replacer.Replace(text))
}

// error returns err, or, if its text quotes the key, an error with a text that
// does not. That one has no Unwrap, so that nobody gets at the text inside; it
// still answers errors.Is.
func (s scrubber) error(err error) error {
	text := err.Error()
	if clean := s.replacer.Replace(text); clean != text {
		return &scrubbedError{text: clean, err: err}
	}
	return err
}

type scrubbedError struct {
	text string
	err  error
}

func (e *scrubbedError) Error() string { return e.text }

func (e *scrubbedError) Is(target error) bool { return errors.Is(e.err, target) }

// cut returns at most limit bytes of text and never half a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
