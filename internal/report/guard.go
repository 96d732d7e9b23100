package report

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// guard puts a ' before a cell that a spreadsheet would run as a formula when
// the report is opened in it. Texts of customers and of the API end up in the
// report, so nobody has vouched for them.
func guard(cell string) string {
	// Before it may stand what is not seen, such as a byte-order mark.
	seen := strings.TrimLeftFunc(cell, func(r rune) bool { return unicode.Is(unicode.Cf, r) })
	first, _ := utf8.DecodeRuneInString(seen)
	if seen == "" || !strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) || isNumber(cell) {
		return cell
	}
	return "'" + cell
}

// isNumber tells whether a cell is a plain number or a telephone number: an
// optional sign, then digits with what is set between them. It can have no
// name and no reference in it, so at worst a spreadsheet computes with it.
func isNumber(cell string) bool {
	if cell[0] == '+' || cell[0] == '-' {
		cell = cell[1:]
	}
	return strings.ContainsAny(cell, "0123456789") && strings.Trim(cell, "0123456789 .,()-") == ""
}
