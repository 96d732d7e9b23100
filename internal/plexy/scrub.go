package plexy

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"linkcancel/internal/clean"
)

const redacted = clean.Redacted

// scrubber takes one key out of texts that come from outside: an API, a proxy
// or a broken connection may echo the request.
type scrubber struct{ key *clean.Secrets }

func newScrubber(key string) scrubber { return scrubber{clean.NewSecrets(key)} }

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
	return strings.TrimSpace(s.key.Hide(text))
}

// error returns err, or, if its text quotes the key, is no clean line or is
// longer than maxMessage, an error with a text that is fit to be shown: a
// certificate and a status line are the server's words. That one has no Unwrap,
// so that nobody gets at the text inside; it still answers errors.Is.
func (s scrubber) error(err error) error {
	text := err.Error()
	if shown := cut(s.line(text), maxMessage); shown != text {
		return &scrubbedError{text: shown, err: err}
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
