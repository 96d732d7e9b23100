package plexy

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"linkcancel/internal/clean"
)

const redacted = clean.Redacted

// scrubber removes one key from outside texts, which may echo the request.
type scrubber struct{ key *clean.Secrets }

func newScrubber(key string) scrubber { return scrubber{clean.NewSecrets(key)} }

// line returns text as one line of valid UTF-8 without control characters and the key.
func (s scrubber) line(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, text)
	// Last, because a replacement above could create the key.
	return strings.TrimSpace(s.key.Hide(text))
}

// error returns err. If its text contains the key, is not one clean line or is longer than
// maxMessage, it returns an error with a clean text: a certificate and a status line come from the
// server. That error has no Unwrap, so the original text stays hidden, but it answers errors.Is.
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

// cut returns at most limit bytes of text, without splitting a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
