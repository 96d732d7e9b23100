package report

import "strings"

// guard puts a ' before a cell that a spreadsheet would run as a formula when
// the report is opened in it. Texts of customers and of the API end up in the
// report, so nobody has vouched for them.
func guard(cell string) string {
	if cell == "" || !strings.ContainsRune("=+-@\t\r", rune(cell[0])) || isNumber(cell) {
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
