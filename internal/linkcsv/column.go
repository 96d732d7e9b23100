package linkcsv

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"linkcancel/internal/clean"
)

// chooser decides from the first rows whether a file has a header and which column has the links.
type chooser struct {
	file  string
	at    Place      // of the first row
	first []string   // the header, or the first row of data
	rest  [][]string // the readable rows after it
}

// The hints of an InputError about the column with the links.
const (
	HintColumn       = "Choose the column, by its name or by its number from 1."
	HintColumnRange  = "Give the column a number from 1 to"
	HintColumnName   = "Give the column one of these names, or a number from 1."
	HintColumnNumber = "Give the column the number instead of the name."
)

// choose returns whether the first row is a header, and the index of the column with the links.
// want is the name or number (from 1) that the user gave, or empty. The error is an *InputError.
func (c chooser) choose(want string) (header bool, column int, err error) {
	want = strings.TrimSpace(want)
	if want == "" {
		return c.find()
	}
	if number, err := strconv.Atoi(want); err == nil {
		return c.byNumber(number)
	}
	column, err = c.byName(want)
	return true, column, err
}

func (c chooser) byNumber(number int) (header bool, column int, err error) {
	if number < 1 || number > len(c.first) {
		return false, 0, c.refuse(fmt.Sprintf("there is no column %d; the columns are %s", number, c.list()),
			fmt.Sprintf("%s %d, or a name.", HintColumnRange, len(c.first)))
	}
	column = number - 1
	switch {
	case looksLikeID(c.first[column]):
		return false, column, nil // never take a link for a header
	case slices.ContainsFunc(c.first, isLinkName):
		return true, column, nil
	}
	if c.onlyHeader() {
		return true, column, nil
	}
	ids, others := c.count(c.rest, column)
	return ids > 0 && others == 0 && !looksLikeData(c.first[column]), column, nil
}

// onlyHeader reports whether the file has nothing but names of columns: one row, whose cells have
// letters and no digits.
func (c chooser) onlyHeader() bool {
	return len(c.rest) == 0 && !slices.ContainsFunc(c.first, func(cell string) bool {
		return !strings.ContainsFunc(cell, unicode.IsLetter) || strings.ContainsFunc(cell, unicode.IsDigit)
	})
}

func (c chooser) byName(want string) (int, error) {
	found := c.columns(func(cell string) bool { return trimCell(cell) == want })
	if len(found) == 0 {
		found = c.columns(func(cell string) bool { return normalise(cell) == normalise(want) })
	}
	switch len(found) {
	case 0:
		return 0, c.refuse(fmt.Sprintf("there is no column %s; the columns are %s", quote(want), c.list()),
			HintColumnName)
	case 1:
		return found[0], nil
	}
	return 0, c.refuse(fmt.Sprintf("%s columns are named %s: %s", count(len(found)), quote(want), c.names(found, true)),
		HintColumnNumber)
}

// find decides without a choice of the user.
func (c chooser) find() (header bool, column int, err error) {
	// "id" may number customers, so ids count more. But ids may have any form, so names come first.
	named := c.columns(isLinkName)
	alike := c.byContent(c.rest)
	switch {
	case len(named) > 1:
		return true, 0, c.twoColumns(named)
	case len(named) == 1:
		ids, _ := c.count(c.rest, named[0])
		if ids == 0 && len(alike) > 0 && !slices.Contains(alike, named[0]) {
			return true, 0, c.twoColumns(append(named, alike...))
		}
		return true, named[0], nil
	}

	header = len(alike) > 0 && !slices.ContainsFunc(c.first, looksLikeID) &&
		!slices.ContainsFunc(alike, func(column int) bool { return looksLikeData(c.first[column]) })
	if !header {
		alike = c.byContent(append([][]string{c.first}, c.rest...))
	}
	switch len(alike) {
	case 0:
		if c.onlyHeader() {
			return true, 0, nil
		}
		return header, 0, c.refuse("no column looks like payment link ids; the columns are "+c.list(), HintColumn)
	case 1:
		return header, alike[0], nil
	}
	if !header {
		return header, 0, c.refuse(fmt.Sprintf("%s columns could hold the links: %s", count(len(alike)), c.numbers(alike)), HintColumn)
	}
	return header, 0, c.twoColumns(alike)
}

// twoColumns returns the error for a file with a header and several possible columns.
func (c chooser) twoColumns(columns []int) error {
	names := c.names(columns, false)
	seen := make(map[string]bool)
	for _, i := range columns {
		if seen[c.first[i]] {
			names = c.names(columns, true) // add numbers to equal names
		}
		seen[c.first[i]] = true
	}
	return c.refuse(fmt.Sprintf("%s columns could hold the links: %s", count(len(columns)), names), HintColumn)
}

// byContent returns the columns where every non-empty cell looks like an id. If there are
// none, it returns those where most cells do, because a typo in an id is reported later.
func (c chooser) byContent(rows [][]string) []int {
	var all, most []int
	for column := range c.first {
		switch ids, others := c.count(rows, column); {
		case ids > 0 && others == 0:
			all = append(all, column)
		case ids > others:
			most = append(most, column)
		}
	}
	if len(all) > 0 {
		return all
	}
	return most
}

// count returns how many cells of a column look like ids, and how many other cells are not empty.
// It skips rows with another length than the first, because their columns may be shifted.
func (c chooser) count(rows [][]string, column int) (ids, others int) {
	for _, row := range rows {
		switch {
		case len(row) != len(c.first) || strings.TrimSpace(row[column]) == "":
		case looksLikeID(row[column]):
			ids++
		default:
			others++
		}
	}
	return ids, others
}

func (c chooser) columns(is func(cell string) bool) []int {
	var found []int
	for i, cell := range c.first {
		if is(cell) {
			found = append(found, i)
		}
	}
	return found
}

// list describes all columns for an error: number, name and a sample.
func (c chooser) list() string {
	columns := make([]int, len(c.first))
	for i := range columns {
		columns[i] = i
	}
	return some(columns, func(i int) string {
		part := fmt.Sprintf("%d %s", i+1, quote(c.first[i]))
		for _, row := range c.rest {
			if len(row) == len(c.first) && strings.TrimSpace(row[i]) != "" {
				return part + " (such as " + quote(row[i]) + ")"
			}
		}
		return part
	})
}

// some lists the first columns and counts the others.
func some(columns []int, describe func(column int) string) string {
	const most = 20
	parts := make([]string, 0, min(len(columns), most+1))
	for _, column := range columns[:min(len(columns), most)] {
		parts = append(parts, describe(column))
	}
	if more := len(columns) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("… and %d more", more))
	}
	return strings.Join(parts, ", ")
}

func (c chooser) names(columns []int, numbered bool) string {
	return some(columns, func(column int) string {
		name := trimCell(c.first[column])
		if name == "" || len(name) > 40 || clean.Line(name) != name || strings.ContainsAny(name, ",\ufffd") {
			name = quote(name)
		}
		if numbered {
			name = fmt.Sprintf("%s (%d)", name, column+1)
		}
		return name
	})
}

func (c chooser) numbers(columns []int) string {
	return some(columns, func(column int) string { return strconv.Itoa(column + 1) })
}

func (c chooser) refuse(why, hint string) error {
	return refuse(c.file, c.at, why, hint)
}

// isLinkName reports whether a column name is one that people use for payment links.
func isLinkName(cell string) bool {
	switch normalise(cell) {
	case "id", "external_id", "link_id", "payment_link_id", "url", "payment_link":
		return true
	}
	return false
}

var nameSeparators = strings.NewReplacer(" ", "_", "-", "_")

func normalise(cell string) string {
	return nameSeparators.Replace(strings.ToLower(trimCell(cell)))
}

// trimCell removes white space and byte-order marks, which joined files have in the middle.
func trimCell(cell string) string {
	return strings.TrimSpace(strings.Trim(cell, "\ufeff"))
}

// quote formats a cell for an error: printable, and at most 40 runes.
func quote(cell string) string {
	const most = 40
	runes := 0
	for i := range cell {
		if runes == most {
			return strconv.Quote(cell[:i]) + "…"
		}
		runes++
	}
	return strconv.Quote(cell)
}

func count(n int) string {
	if n == 2 {
		return "two"
	}
	return strconv.Itoa(n)
}
