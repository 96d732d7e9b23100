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
	// documented: the id has the form that the API documents.
	documented bool
	// doubt is why the cell counts only with Options.AnyID; nil: it always does.
	doubt error
}

// parseCell reads the id in a cell. White space, invisible characters, quotes,
// <…> and ="…" around it do not belong to it. Of a URL the id is the one path
// element or query value that has the documented form. The error is why the cell
// holds no id.
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

// looksLikeID tells whether a cell holds an id of the documented form, alone or
// in a URL. It helps to find the column of the links.
func looksLikeID(cell string) bool {
	found, err := parseCell(cell)
	return err == nil && found.documented
}

// unwrap takes off what programs put around an id: spreadsheets write ="…" to keep
// a cell a text, and mail programs write <…> around a URL.
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

// surrounding tells whether r can stand around an id without belonging to it.
func surrounding(r rune) bool {
	return unicode.IsSpace(r) || plexy.Invisible(r) || strings.ContainsRune(quotes, r)
}

// Why a cell is not an id, in any file.
var (
	errEmpty   = errors.New("the id is empty")
	errHeader  = errors.New("this is the name of a column, not a payment link id: is it a second header?")
	errTotal   = errors.New("this looks like a total row: delete it")
	errNumber  = errors.New("this is a number as a spreadsheet shows it, not the id: format the column as text and export it again")
	errUpper   = errors.New("the id is spelled in upper case: pl_ and its digits are lower case, so the file was changed on its way")
	errNoWord  = errors.New("the cell has no letter and no digit")
	errNoURLID = errors.New("no part of the URL is a payment link id (pl_ and 32 hex digits); --any-id takes the last part of the path")
	errForm    = errors.New("the id does not have the form of the others (pl_ and 32 hex digits); --any-id accepts it")
)

// placeholders are words that stand in a cell that has no value.
var placeholders = wordSet("null nil none nan nat na nul n/a n.a n/d void tbd undefined empty blank missing unknown true false yes no нет пусто жоқ")

// totals are words by which a row of sums is known.
var totals = wordSet("total totals subtotal sum gesamt gesamtsumme gesamtbetrag summe insgesamt somme totale totaal razem suma toplam итого всего итог сумма тотал разом усього барлығы жиыны жалпы jami")

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		set[word] = true
	}
	return set
}

// longestWord is more bytes than any word that notID knows.
const longestWord = 24

// notID returns why a cell is not an id in any file, or nil.
func notID(text string) error {
	switch {
	case text == "":
		return errEmpty
	case len(text) <= longestWord && isLinkName(text):
		return errHeader
	case len(text) <= longestWord && isPlaceholder(text):
		return fmt.Errorf("%s stands for no value", quote(text))
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

// isPlaceholder tells whether a cell stands for no value.
func isPlaceholder(text string) bool {
	return placeholders[strings.ToLower(strings.Trim(text, "()[]{}<>#=.:!?"))]
}

// looksLikeData tells whether the first cell of a column of ids is a damaged id
// and not the name of the column: it is a URL, a number, a placeholder, a part of an
// id, or has more digits than a name.
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

// isTotal tells whether one of the words in a cell names a sum.
func isTotal(text string) bool {
	if len(text) > 10*longestWord {
		return false
	}
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(":.()", r) })
	return slices.ContainsFunc(words, func(word string) bool { return totals[word] })
}

// isShownNumber tells whether a text is a number as programs show long ones:
// 1.23457E+15, or 12345.0. Its last digits are lost, or were never there.
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

// idsIn finds the ids of the documented form in a text, each once, in whatever
// case they are spelled.
func idsIn(text string) (ids []string) {
	const prefix, length = "pl_", 32
	if len(text) < len(prefix)+length || strings.IndexByte(text, '_') < 0 {
		return nil
	}
	lower := strings.ToLower(text)
	if len(lower) != len(text) {
		return nil // it has letters that no id has
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

// holdsID tells whether a text has an id of the documented form in it.
func holdsID(text string) bool { return len(idsIn(text)) > 0 }

func isURL(text string) bool {
	scheme, _, found := strings.Cut(text, "://")
	return found && (strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http"))
}

// plainID is the short way for the usual id of another form, such as a UUID or
// ORD-123: letters, digits, '_' and '-', with both letters and digits. Such a
// cell is not a word, a number, or an id of the documented form.
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

// plainURL is the short way for the usual URL, such as https://host/path/pl_…: its
// last path element is an id, and no other id can be in it.
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

// parseURL finds the id in a URL: the one part that has the documented form. Where
// there is none, or several, the last path element may be an id all the same, in
// doubt.
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

// urlParts are the places of a URL where an id may stand: path elements and query
// values, also those of a fragment, which pages use as a path of their own.
func urlParts(u *url.URL) []string {
	parts := strings.Split(u.Path, "/")
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	return append(parts, strings.FieldsFunc(u.Fragment, func(r rune) bool { return strings.ContainsRune("/?&=!", r) })...)
}

// lastElement returns the last path element of a URL that is not empty, with its
// escapes decoded. It splits before it decodes: an escaped slash belongs to an
// element, where plexy.CheckID refuses it.
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
