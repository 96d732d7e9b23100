package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"linkcancel/internal/linkcsv"
)

// InputError says that the user's input is refused: the first bad rows as
// FILE:LINE:COLUMN and why, how many more there are, and a hint. Nothing was
// done with the input, so a command exits with 2.
type InputError = linkcsv.InputError

// The hints of an InputError of a CSV source.
const (
	HintMax   = "Nothing was done. Allow more links, or give a smaller file."
	HintStdin = "Nothing was done. Standard input is read only once: save it to a file to leave such rows out, or accept all ids."
	HintRows  = "Nothing was done. Correct these rows, or leave them out."
	HintNone  = "Read them without leaving rows out, or choose another column."
)

// CSVConfig configures OpenCSV.
type CSVConfig struct {
	// Paths are the files, read in this order; "-" is Stdin. Each has its own
	// delimiter, header and compression.
	Paths []string
	Stdin io.Reader

	// Column is the header name of the links' column, or its number from 1.
	// Empty: it is found.
	Column string

	// AnyID accepts ids that have another form than the others of their file, and
	// URLs without an id of the documented form.
	AnyID bool

	// SkipInvalid passes over rows that cannot be used. A file that cannot be
	// split into rows is refused all the same.
	SkipInvalid bool

	// Rejects gets the rows that SkipInvalid passed over, as CSV: their own
	// columns, then line and error. Nil: they are only counted.
	Rejects io.Writer

	// Max refuses more distinct links than this; 0 is no limit. It never
	// truncates.
	Max int64
	// Stop ends the reading with context.Canceled once it is closed: a file may
	// have millions of rows between two links. Nil: nothing does.
	Stop <-chan struct{}
}

// badMost is the maximum number of bad rows that are counted. Beyond that nobody wants to know,
// and 10 MB of gzip may hold some billions.
const badMost = 1_000_000

// stopEvery is after how many rows Stop is looked at.
const stopEvery = 1000

// Stats counts what a source has read: Rows = Links + Duplicates + Invalid.
type Stats struct {
	Rows       int64 // without headers and blank lines
	Links      int64 // distinct ones
	Duplicates int64
	Invalid    int64
	Headers    int64 // rows that repeat the header of their file
}

// CSV is a source of links: the distinct ones of some CSV files, in order. It
// keeps about 25 bytes a link to know duplicates, and else nothing.
type CSV struct {
	cfg     CSVConfig
	paths   []string      // not yet opened
	rows    *linkcsv.Rows // nil between files
	seen    *linkcsv.Index
	rejects *rejects
	stats   Stats
	bad     InputError // rows that refuse the input
	err     error      // how Next ended
}

// OpenCSV looks for all the files and reads the head of the first. If the
// input is refused the error is an *InputError.
func OpenCSV(cfg CSVConfig) (*CSV, error) {
	if len(cfg.Paths) == 0 {
		return nil, refuseInput("no CSV file was given", "Give at least one file, or - for standard input.")
	}
	stdins := 0
	for _, path := range cfg.Paths {
		if err := linkcsv.CheckPath(path); err != nil {
			return nil, err
		}
		if path == "-" {
			stdins++
		}
	}
	if stdins > 1 {
		return nil, refuseInput("standard input is named more than once", "Give - once.")
	}
	c := &CSV{cfg: cfg, paths: cfg.Paths, seen: linkcsv.NewIndex(0)}
	if cfg.SkipInvalid && cfg.Rejects != nil {
		c.rejects = newRejects(cfg.Rejects, len(cfg.Paths) > 1)
	}
	if err := c.open(); err != nil {
		return nil, err
	}
	return c, nil
}

func refuseInput(why, hint string) error {
	return &InputError{Bad: []linkcsv.Bad{{Why: why}}, Hint: hint}
}

// open opens the next file.
func (c *CSV) open() error {
	rows, err := linkcsv.OpenRows(c.paths[0], c.cfg.Stdin, linkcsv.Options{
		Column: c.cfg.Column, AnyID: c.cfg.AnyID, Ahead: c.cfg.SkipInvalid,
	})
	if err != nil {
		return err
	}
	c.rows, c.paths = rows, c.paths[1:]
	return nil
}

// Next returns the next link that was not there before; it has passed
// plexy.CheckID. At the end the error is io.EOF. An *InputError refuses the
// whole input, whatever Next returned before; any other error is one of
// reading, or of writing rejects. After an error Next returns it again.
func (c *CSV) Next() (string, error) {
	if c.err != nil {
		return "", c.err
	}
	for {
		row, err := c.next()
		if err != nil {
			c.err = c.end(err)
			return "", c.err
		}
		c.stats.Rows++
		if c.stats.Rows%stopEvery == 0 && c.stopped() {
			c.err = context.Canceled
			return "", c.err
		}
		if row.Err != nil {
			c.stats.Invalid++
			if err := c.invalid(row); err != nil {
				c.err = err
				return "", err
			}
			continue
		}
		if _, added := c.seen.Add(row.Link); !added {
			c.stats.Duplicates++
			continue
		}
		c.stats.Links++
		if len(c.bad.Bad) > 0 {
			continue // the input is refused already; only its mistakes matter
		}
		if c.cfg.Max > 0 && c.stats.Links > c.cfg.Max {
			c.err = &InputError{
				Bad:  []linkcsv.Bad{{File: row.File, Place: row.Place, Why: fmt.Sprintf("more than %d links", c.cfg.Max)}},
				Hint: HintMax,
			}
			return "", c.err
		}
		if len(row.Fields) == 1 {
			return row.Link, nil
		}
		// The row is one string: without a copy, a caller that keeps the link
		// would keep all other columns too.
		return strings.Clone(row.Link), nil
	}
}

func (c *CSV) stopped() bool {
	select {
	case <-c.cfg.Stop:
		return true
	default:
		return false
	}
}

// next returns the next row of all files.
func (c *CSV) next() (linkcsv.Row, error) {
	for {
		if c.rows == nil {
			if len(c.paths) == 0 {
				return linkcsv.Row{}, io.EOF
			}
			if err := c.open(); err != nil {
				return linkcsv.Row{}, err
			}
		}
		row, err := c.rows.Next()
		if err != io.EOF {
			return row, err
		}
		c.mixed()
		if err := c.closeRows(); err != nil {
			return linkcsv.Row{}, err
		}
	}
}

// mixed records that rows of the open file turned out to be bad.
func (c *CSV) mixed() {
	mixed := c.rows.Mixed()
	if mixed == nil {
		return
	}
	for _, bad := range mixed.Bad {
		c.bad.Add(bad)
	}
	c.bad.More += mixed.More
}

// invalid deals with a row that cannot be used.
func (c *CSV) invalid(row linkcsv.Row) error {
	if !c.cfg.SkipInvalid {
		c.bad.Add(linkcsv.Bad{File: row.File, Place: row.Place, Why: row.Err.Error()})
		if c.stats.Invalid >= badMost {
			c.bad.Hint = "Nothing was done, and the rest was not read. Is it the right file, and the right column?"
			return &c.bad
		}
		return nil
	}
	if c.rejects == nil {
		return nil
	}
	return c.rejects.write(c.rows, row)
}

// end decides what the end of reading, or an error of it, means for the input.
func (c *CSV) end(err error) error {
	var refused *InputError
	switch {
	case errors.As(err, &refused) && len(c.bad.Bad) > 0:
		for _, bad := range refused.Bad {
			c.bad.Add(bad)
		}
		c.bad.Hint = "Nothing was done. " + refused.Hint
		return &c.bad
	case err != io.EOF:
		return err
	case len(c.bad.Bad) > 0 && c.cfg.SkipInvalid:
		// They were returned before a later row showed that they are bad.
		c.bad.Hint = HintStdin
		return &c.bad
	case len(c.bad.Bad) > 0:
		c.bad.Hint = HintRows
		return &c.bad
	}
	if c.rejects != nil {
		if err := c.rejects.flush(); err != nil {
			return err
		}
	}
	if c.stats.Links == 0 {
		return refuseInput(fmt.Sprintf("none of the %d rows holds a payment link that can be used", c.stats.Rows),
			HintNone)
	}
	return io.EOF
}

// Stats returns the counts so far.
func (c *CSV) Stats() Stats { return c.stats }

// Close closes the open file and writes out what is left of the rejects.
func (c *CSV) Close() error {
	if c.err == nil {
		c.err = errors.New("the CSV source is closed")
	}
	c.paths = nil
	err := c.closeRows()
	if c.rejects != nil {
		err = errors.Join(err, c.rejects.flush())
	}
	return err
}

func (c *CSV) closeRows() error {
	if c.rows == nil {
		return nil
	}
	c.stats.Headers += c.rows.Repeated()
	err := c.rows.Close()
	c.rows = nil
	return err
}
