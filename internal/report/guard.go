package report

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// guard puts a ' before a cell that a spreadsheet would run as a formula: cells are not trusted.
func guard(cell string) string {
	// Invisible characters, such as a byte-order mark, may come first.
	seen := strings.TrimLeftFunc(cell, func(r rune) bool { return unicode.Is(unicode.Cf, r) })
	first, _ := utf8.DecodeRuneInString(seen)
	if seen == "" || !strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) || isNumber(cell) {
		return cell
	}
	return "'" + cell
}

// isNumber reports whether a cell is a number or a telephone number: an optional sign, then
// digits with punctuation. It has no names or references, so it is harmless as a formula.
func isNumber(cell string) bool {
	if cell[0] == '+' || cell[0] == '-' {
		cell = cell[1:]
	}
	return strings.ContainsAny(cell, "0123456789") && strings.Trim(cell, "0123456789 .,()-") == ""
}
