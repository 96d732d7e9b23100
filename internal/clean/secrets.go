package clean

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Redacted replaces a secret.
const Redacted = "[redacted]"

// shortSecret is the length in bytes below which a secret is replaced only as a whole word.
const shortSecret = 8

// Secrets removes secrets from texts, in each form in which a program that quotes a request
// would show them. The zero Secrets has none. It is safe for concurrent use.
type Secrets struct {
	mu    sync.RWMutex
	known []string
	words []string          // forms of short secrets
	forms []string          // forms of long ones
	long  *strings.Replacer // replaces forms, may be nil
}

// NewSecrets returns a set of secrets.
func NewSecrets(secrets ...string) *Secrets {
	s := &Secrets{}
	for _, secret := range secrets {
		s.Add(secret)
	}
	return s
}

// Add adds a secret. It ignores an empty one.
func (s *Secrets) Add(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret == "" || slices.Contains(s.known, secret) {
		return
	}
	s.known = append(s.known, secret)
	if len(secret) < shortSecret {
		s.words = append(s.words, quotedForms(secret)...)
		return
	}
	s.forms = append(s.forms, allForms(secret)...)
	for _, part := range strings.Fields(secret) {
		if len(part) >= shortSecret && part != secret { // a text may be cut there
			s.forms = append(s.forms, allForms(part)...)
		}
	}
	var replace []string
	for _, form := range s.forms {
		replace = append(replace, form, Redacted)
	}
	s.long = strings.NewReplacer(replace...)
}

// Hide returns text with all secrets replaced by "[redacted]".
func (s *Secrets) Hide(text string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.long != nil {
		text = s.long.Replace(text)
	}
	for _, word := range s.words {
		text = hideWord(text, word)
	}
	return text
}

// allForms returns the forms of a long secret.
func allForms(secret string) []string {
	forms := quotedForms(secret)
	for _, form := range quotedForms(secret) {
		forms = append(forms, quotedForms(form)...) // an error that quotes an answer
	}
	return distinct(append(forms, encodedForms(secret)...))
}

// quotedForms returns the secret and its quoted forms.
func quotedForms(secret string) []string {
	quoted := strconv.Quote(secret)
	forms := []string{secret, quoted[1 : len(quoted)-1], url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret)}
	if escaped, err := json.Marshal(secret); err == nil {
		inner := string(escaped[1 : len(escaped)-1])
		forms = append(forms, inner, strings.ReplaceAll(inner, "/", `\/`)) // PHP escapes slashes
	}
	return distinct(forms)
}

// encodedForms returns the secret in hexadecimal and base64, alone or inside a longer text.
func encodedForms(secret string) []string {
	digits := hex.EncodeToString([]byte(secret))
	forms := []string{digits, strings.ToUpper(digits)}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := encoding.EncodeToString(append(make([]byte, before), secret...))
			// Only characters whose bits all come from the secret.
			first, end := (before*8+5)/6, (before+len(secret))*8/6
			forms = append(forms, text[first:end])
		}
	}
	return distinct(forms)
}

func distinct(forms []string) []string {
	// The longest first, because one may be the prefix of another.
	slices.SortStableFunc(forms, func(a, b string) int { return len(b) - len(a) })
	var kept []string
	for _, form := range forms {
		if !slices.Contains(kept, form) {
			kept = append(kept, form)
		}
	}
	return kept
}

// hideWord replaces a word unless it is part of a longer one.
func hideWord(text, word string) string {
	if !strings.Contains(text, word) {
		return text
	}
	var b strings.Builder
	before := ' '
	for {
		at := strings.Index(text, word)
		if at < 0 {
			b.WriteString(text)
			return b.String()
		}
		if at > 0 {
			before, _ = utf8.DecodeLastRuneInString(text[:at])
		}
		after, _ := utf8.DecodeRuneInString(text[at+len(word):])
		b.WriteString(text[:at])
		if inWord(before) || inWord(after) {
			// The next match may begin inside this one.
			_, size := utf8.DecodeRuneInString(word)
			b.WriteString(word[:size])
			before, _ = utf8.DecodeRuneInString(word)
			text = text[at+size:]
			continue
		}
		b.WriteString(Redacted)
		before = ']'
		text = text[at+len(word):]
	}
}

func inWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
