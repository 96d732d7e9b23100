package history

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"linkcancel/internal/clean"
)

const (
	// MaxReason is the longest reason, in characters.
	MaxReason = 500
	maxName   = 100
)

// Person is a By of a person. The error says that the reason is too long.
func Person(name, reason string) (By, error) {
	if n := utf8.RuneCountInString(reason); n > MaxReason {
		return By{}, fmt.Errorf("the reason has %d characters: use at most %d", n, MaxReason)
	}
	return By{Actor: Name(name), Reason: clean.Line(strings.TrimSpace(reason))}, nil
}

// Name is a name of a user or of files as histories have it: cleaned, and 100 bytes at most.
func Name(text string) string {
	name := clean.Line(strings.TrimSpace(text))
	if len(name) <= maxName {
		return name
	}
	end := maxName - len("…")
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end] + "…"
}
