package importer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"linkcancel/internal/linkcsv"
)

// ColumnHeader is the header of a Column. CSV skips a row that repeats the header, so the header is a
// text that is not a valid link.
const ColumnHeader = "a column of links"

// Column is a CSV text of links that come from elsewhere, so that the rules of CSV hold for them: see
// CSVConfig.Stdin. It is made while it is read.
type Column struct {
	*io.PipeReader
	ended chan struct{}
	links int64
	err   error
}

// NewColumn reads links from write in a goroutine, which calls add with each of them, and ends when
// add or it returns an error. The reader of the column gets the error, too.
func NewColumn(write func(add func(link string) error) error) *Column {
	r, w := io.Pipe()
	c := &Column{PipeReader: r, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		rows := bufio.NewWriter(w)
		// Each cell is in quotes, so that nothing in it looks like a separator.
		row := func(cell string) error {
			_, err := rows.WriteString(`"` + strings.ReplaceAll(cell, `"`, `""`) + "\"\n")
			return err
		}
		add := func(link string) error {
			// A decoder has put U+FFFD in the place of what it could not read: the link was another one.
			if !utf8.ValidString(link) || strings.ContainsRune(link, utf8.RuneError) || strings.ContainsFunc(link, unicode.IsControl) {
				return &InputError{Bad: []linkcsv.Bad{{File: fmt.Sprintf("links[%d]", c.links), Why: "it has a control character, or is not valid Unicode"}}, Hint: HintRows}
			}
			c.links++
			return row(link)
		}
		if c.err = row(ColumnHeader); c.err == nil {
			c.err = write(add)
		}
		if err := rows.Flush(); c.err == nil {
			c.err = err
		}
		_ = w.CloseWithError(c.err)
	}()
	return c
}

// Stop ends the column.
func (c *Column) Stop() { _ = c.PipeReader.Close() }

// Err ends the column, and returns the error of its function.
func (c *Column) Err() error {
	c.Stop()
	<-c.ended
	return c.err
}

// Check returns an error unless each link of the column was a row. CSV leaves out empty rows and
// repeated headers. Call it at the end of the rows.
func (c *Column) Check(stats Stats) error {
	<-c.ended
	if missing := c.links - stats.Rows; missing != 0 && c.err == nil {
		return refuseInput(fmt.Sprintf("%d of the %d links are empty", missing, c.links), HintRows)
	}
	return nil
}

// Ended waits until all links are read.
func (c *Column) Ended() { <-c.ended }

// Places names the places of the bad links in err by their index, from 0. It ends the column.
func (c *Column) Places(err error) error {
	var input *InputError
	if errors.As(c.Err(), &input) { // before the rules of CSV
		return input
	}
	if !errors.As(err, &input) {
		return err
	}
	for i, bad := range input.Bad {
		input.Bad[i].File, input.Bad[i].Place = "", linkcsv.Place{}
		if index := bad.Row - 2; index >= 0 { // below the header
			input.Bad[i].File = fmt.Sprintf("links[%d]", index)
		}
	}
	return input
}
