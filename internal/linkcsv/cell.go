package linkcsv

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"linkcancel/internal/plexy"
)

// cellID is the payment link id in a cell.
type cellID struct {
	id string // it passed plexy.CheckID
	// documented means that the id has the form that the API documents.
	documented bool
	// doubt is why the cell is valid only with Options.AnyID. nil means that it is valid without.
	doubt error
}

// parseCell reads the id in a cell without white space, invisible characters, quotes, <…> and ="…"
// around it. In a URL it is the one path element or query value of the documented form.
func parseCell(cell string) (cellID, error) {
	if plexy.Documented(cell) {
		return cellID{id: cell, documented: true}, nil
	}
	if id, ok := plainURL(cell); ok {
		return cellID{id: id, documented: true}, nil
	}
	if plainID(cell) {
		return cellID{id: cell}, nil
	}
	text := unwrap(cell)
	if isURL(text) {
		return parseURL(text)
	}
	if err := notID(text); err != nil {
		return cellID{}, err
	}
	if err := plexy.CheckID(text); err != nil {
		return cellID{}, err
	}
	return cellID{id: text, documented: plexy.Documented(text)}, nil
}

// LinkID returns the payment link id in a text, such as a checkout URL.
func LinkID(text string) (string, error) {
	found, err := parseCell(text)
	return found.id, err
}

// looksLikeID reports whether a cell holds an id of the documented form, alone or in a URL.
func looksLikeID(cell string) bool {
	found, err := parseCell(cell)
	return err == nil && found.documented
}

// unwrap removes what surrounds an id: ="…" of spreadsheets and <…> of mail programs.
func unwrap(cell string) string {
	for {
		text := strings.TrimFunc(cell, surrounding)
		if inner, found := strings.CutPrefix(text, "="); found && (inner == "" || strings.TrimLeftFunc(inner, surrounding) != inner) {
			text = inner
		}
		if strings.HasPrefix(text, "<") && strings.HasSuffix(text, ">") && len(text) > 1 {
			text = text[1 : len(text)-1]
		}
		if text == cell {
			return text
		}
		cell = text
	}
}

const quotes = "'\"`´‘’‚‛“”„‟«»‹›′″＇＂"

// surrounding reports whether r is ignored around an id.
func surrounding(r rune) bool {
	return unicode.IsSpace(r) || plexy.Invisible(r) || strings.ContainsRune(quotes, r)
}

// Reasons why a cell is not an id.
var (
	errEmpty    = errors.New("the id is empty")
	errHeader   = errors.New("this is the name of a column, not a payment link id: is it a second header?")
	errTotal    = errors.New("this looks like a total row: delete it")
	errNumber   = errors.New("this is a number as a spreadsheet shows it, not the id: format the column as text and export it again")
	errUpper    = errors.New("the id is spelled in upper case: pl_ and its digits are lower case, so a program changed the file")
	errNotASCII = errors.New("the id has a character beyond ASCII, and the file is not UTF-8")
	errNoWord   = errors.New("the cell has no letter and no digit")
	errNoURLID  = errors.New("no part of the URL is a payment link id (pl_ and 32 hex digits); --any-id takes the last part of the path")
	errForm     = errors.New("the id does not have the form of the others (pl_ and 32 hex digits); --any-id accepts it")
)

// placeholders are words that mean an empty cell.
var placeholders = wordSet("null nil none nan nat na nul n/a n.a n/d void tbd undefined empty blank missing unknown true false yes no нет пусто жоқ")

// totals are words that mark a row of sums.
var totals = wordSet("total totals subtotal sum gesamt gesamtsumme gesamtbetrag summe insgesamt somme totale totaal razem suma toplam итого всего итог сумма тотал разом усього барлығы жиыны жалпы jami")

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		set[word] = true
	}
	return set
}

// longestWord is more than the length in bytes of any word that notID knows.
const longestWord = 24

// notID returns why a cell is not an id in any file, or nil.
func notID(text string) error {
	switch {
	case text == "":
		return errEmpty
	case len(text) <= longestWord && isLinkName(text):
		return errHeader
	case len(text) <= longestWord && isPlaceholder(text):
		return fmt.Errorf("%s is a placeholder, not an id", quote(text))
	case !strings.ContainsFunc(text, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }):
		if plexy.CheckID(text) != nil {
			return plexy.CheckID(text)
		}
		return errNoWord
	case isTotal(text):
		return errTotal
	case isShownNumber(text):
		return errNumber
	}
	switch ids := idsIn(text); {
	case len(ids) > 1:
		return fmt.Errorf("the cell holds %d ids: give each a row of its own", len(ids))
	case len(ids) == 1 && len(text) == len(ids[0]) && !plexy.Documented(text):
		return errUpper
	}
	if i := strings.IndexAny(text, ",;|"); i >= 0 {
		return fmt.Errorf("the cell contains %q, which separates ids: give each a row of its own", text[i])
	}
	return nil
}

// isPlaceholder reports whether a cell means an empty one.
func isPlaceholder(text string) bool {
	return placeholders[strings.ToLower(strings.Trim(text, "()[]{}<>#=.:!?"))]
}

// looksLikeData reports whether the first cell of a column of ids is a damaged id, not a name: a
// URL, a number, a placeholder, a part of an id, or mostly digits.
func looksLikeData(cell string) bool {
	text := unwrap(cell)
	digits, letters := 0, 0
	for _, r := range text {
		switch {
		case unicode.IsDigit(r):
			digits++
		case unicode.IsLetter(r):
			letters++
		}
	}
	return isURL(text) || isPlaceholder(text) || holdsID(text) || strings.HasPrefix(strings.ToLower(text), "pl_") ||
		digits > letters || digits >= 6
}

// isTotal reports whether a word in a cell names a sum.
func isTotal(text string) bool {
	if len(text) > 10*longestWord {
		return false
	}
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(":.()", r) })
	return slices.ContainsFunc(words, func(word string) bool { return totals[word] })
}

// isShownNumber reports whether a text is a rounded number such as 1.23457E+15 or 12345.0.
func isShownNumber(text string) bool {
	if c := text[0]; (c < '0' || c > '9') && c != '-' && c != '+' {
		return false
	}
	text = strings.TrimLeft(text, "+-")
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(text), "e")
	whole, decimals, pointed := strings.Cut(strings.Replace(mantissa, ",", ".", 1), ".")
	if !digits(whole) || pointed && decimals != "" && !digits(decimals) {
		return false
	}
	if scientific {
		exponent = strings.TrimLeft(exponent, "+-")
		return digits(exponent) && len(exponent) <= 3
	}
	return pointed && strings.Trim(decimals, "0") == ""
}

func digits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// idsIn finds the ids of the documented form in a text, each once, in upper or lower case.
func idsIn(text string) (ids []string) {
	const prefix, length = "pl_", 32
	if len(text) < len(prefix)+length || strings.IndexByte(text, '_') < 0 {
		return nil
	}
	lower := strings.ToLower(text)
	if len(lower) != len(text) {
		return nil // it has non-ASCII letters
	}
	for at := 0; ; {
		next := strings.Index(lower[at:], prefix)
		if next < 0 {
			return ids
		}
		start := at + next
		at = start + len(prefix)
		end := at
		for end < len(lower) && strings.IndexByte("0123456789abcdef", lower[end]) >= 0 {
			end++
		}
		if end-at == length && !slices.Contains(ids, text[start:end]) {
			ids = append(ids, text[start:end])
		}
	}
}

// holdsID reports whether a text contains an id of the documented form.
func holdsID(text string) bool { return len(idsIn(text)) > 0 }

func isURL(text string) bool {
	scheme, _, found := strings.Cut(text, "://")
	return found && (strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http"))
}

// plainID is a fast path for ids such as UUIDs or ORD-123: '_', '-', letters and digits, with both.
// Such a cell is not a word, a number or a documented id.
func plainID(cell string) bool {
	digit, letter, underscore := false, false, false
	for i := range len(cell) {
		switch c := cell[i]; {
		case c >= '0' && c <= '9':
			digit = true
		case c == '_':
			underscore = true
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			letter = letter || c|0x20 != 'e' // as in 1E5
		case c != '-':
			return false
		}
	}
	return digit && letter && len(cell) < 100 && (len(cell) < 35 || !underscore)
}

// plainURL is a fast path for https://host/path/pl_…, which cannot hold a second id.
func plainURL(cell string) (id string, ok bool) {
	const idLength = 35
	at := len(cell) - idLength
	if at < 1 || cell[at-1] != '/' || !plexy.Documented(cell[at:]) {
		return "", false
	}
	rest, found := strings.CutPrefix(cell[:at], "https://")
	if !found || rest[0] == '/' {
		return "", false
	}
	for i := range len(rest) {
		if c := rest[i]; (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '/' {
			return "", false
		}
	}
	return cell[at:], true
}

// parseURL finds the id in a URL: the one part that has the documented form. If there is
// none, or if there are several, it returns the last path element, with a doubt.
func parseURL(rawURL string) (cellID, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return cellID{}, errors.New("the URL cannot be read")
	}
	if u.Host == "" {
		return cellID{}, errors.New("the URL names no host")
	}
	plain, err := url.PathUnescape(rawURL)
	if err != nil {
		return cellID{}, errors.New("the URL cannot be read")
	}
	ids := idsIn(plain)
	doubt := errNoURLID
	switch {
	case len(ids) > 1:
		doubt = fmt.Errorf("the URL holds %d different ids", len(ids))
	case len(ids) == 1 && slices.Contains(urlParts(u), ids[0]):
		if !plexy.Documented(ids[0]) {
			return cellID{}, errUpper
		}
		return cellID{id: ids[0], documented: true}, nil
	}
	id, err := lastElement(u)
	if err != nil {
		return cellID{}, err
	}
	return cellID{id: id, documented: plexy.Documented(id), doubt: doubt}, nil
}

// urlParts returns the path elements and query values of a URL, also in its fragment.
func urlParts(u *url.URL) []string {
	parts := strings.Split(u.Path, "/")
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	return append(parts, strings.FieldsFunc(u.Fragment, func(r rune) bool { return strings.ContainsRune("/?&=!", r) })...)
}

// lastElement returns the last non-empty path element of a URL, unescaped. It splits before it
// unescapes, because an escaped slash belongs to an element. plexy.CheckID then refuses it.
func lastElement(u *url.URL) (string, error) {
	path := strings.TrimRight(u.EscapedPath(), "/")
	last := path[strings.LastIndexByte(path, '/')+1:]
	if last == "" {
		return "", errors.New("the URL has no path, so no payment link id")
	}
	id, err := url.PathUnescape(last)
	if err != nil {
		return "", errors.New("the URL cannot be read")
	}
	if err := notID(id); err != nil {
		return "", err
	}
	return id, plexy.CheckID(id)
}
