package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"linkcancel/internal/linkcsv"
)

// InputError means that the user's input is refused. It has the first bad rows with file, row,
// column and reason, the number of further ones, and a hint. Nothing was done with the input.
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
	// Paths are the files in this order; "-" is Stdin. Each has its own format.
	Paths []string
	Stdin io.Reader

	// Column is the name or number (from 1) of the links' column. Empty: it is detected.
	Column string

	// AnyID accepts ids in another form than the others, and URLs without a documented id.
	AnyID bool

	// SkipInvalid skips bad rows. A file that cannot be split into rows is still refused.
	SkipInvalid bool

	// Rejects receives the skipped rows as CSV, with line and error. Nil: they are only counted.
	Rejects io.Writer

	// Max refuses input with more distinct links than this. 0 means no limit.
	Max int64
	// Stop, when closed, ends the reading with context.Canceled. May be nil.
	Stop <-chan struct{}
}

// badMost is the maximum number of bad rows that are counted. 10 MB of gzip may hold billions.
const badMost = 1_000_000

// stopEvery is the number of rows between checks of Stop.
const stopEvery = 1000

// Stats counts what a source has read: Rows = Links + Duplicates + Invalid.
type Stats struct {
	Rows       int64 // without headers and blank lines
	Links      int64 // distinct ones
	Duplicates int64
	Invalid    int64
	Headers    int64 // rows that repeat the header of their file
}

// CSV is a source of the distinct links of CSV files, in order. It keeps about 25 bytes a link.
type CSV struct {
	cfg     CSVConfig
	paths   []string      // not yet opened
	rows    *linkcsv.Rows // nil between files
	seen    *linkcsv.Index
	rejects *rejects
	column  string // of the first file
	sample  string // the first link
	skipped rowRanges
	stats   Stats
	bad     InputError // rows for which the input is refused
	err     error      // the last error of Next
}

// OpenCSV checks that all files exist and reads the first head. It may be an *InputError.
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
		return nil, refuseInput("standard input is given more than once", "Give - once.")
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

// About describes the input for someone who is asked about it.
type About struct {
	Column  string // of the first file: column 2 "Link"
	Sample  string // the first link
	Skipped string // the skipped rows: rows 302–308, 310
}

// About describes what was read so far.
func (c *CSV) About() About {
	return About{Column: c.column, Sample: c.sample, Skipped: c.skipped.text(len(c.cfg.Paths) > 1)}
}

// Has reports whether a link was read.
func (c *CSV) Has(link string) bool {
	_, ok := c.seen.Find(link)
	return ok
}

func refuseInput(why, hint string) error {
	return &InputError{Bad: []linkcsv.Bad{{Why: why}}, Hint: hint}
}

// open opens the next file.
func (c *CSV) open() error {
	rows, err := linkcsv.OpenRows(c.paths[0], c.cfg.Stdin, linkcsv.Options{
		Column: c.cfg.Column, AnyID: c.cfg.AnyID, Ahead: c.cfg.SkipInvalid,
	})
	if errors.Is(err, linkcsv.ErrNoRows) && len(c.paths) > 1 {
		c.paths = c.paths[1:] // another file has rows
		return c.open()
	}
	if err != nil {
		return err
	}
	c.rows, c.paths = rows, c.paths[1:]
	if c.column == "" {
		c.column = rows.ColumnText()
	}
	return nil
}

// Next returns the next new link, which has passed plexy.CheckID. At the end the error is
// io.EOF. With an *InputError the whole input is refused, including the links that Next
// returned before. Any other error comes from reading the input or writing the rejects.
// After an error Next returns it again.
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
		if c.stats.Links == 1 {
			c.sample = strings.Clone(row.Link)
		}
		if len(c.bad.Bad) > 0 {
			continue // the input is refused already, and only its bad rows matter
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
		// The row is one string. Without a copy, the link would keep all other columns.
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
			err := c.open()
			if errors.Is(err, linkcsv.ErrNoRows) && c.stats.Rows > 0 {
				c.paths = nil // the last file has none, and earlier ones had
				continue
			}
			if err != nil {
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

// invalid handles a bad row.
func (c *CSV) invalid(row linkcsv.Row) error {
	if !c.cfg.SkipInvalid {
		c.bad.Add(linkcsv.Bad{File: row.File, Place: row.Place, Why: row.Err.Error()})
		if c.stats.Invalid >= badMost {
			c.bad.Hint = "Nothing was done, and the rest was not read. Is it the right file, and the right column?"
			return &c.bad
		}
		return nil
	}
	c.skipped.add(row.File, row.Row)
	if c.rejects == nil {
		return nil
	}
	return c.rejects.write(c.rows, row)
}

// end returns the error of Next for the end of the input or an error of reading it.
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
		// Next returned them before a later row showed that they are bad.
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
		return refuseInput(fmt.Sprintf("none of the %d rows has a payment link", c.stats.Rows),
			HintNone)
	}
	return io.EOF
}

// Stats returns the counts so far.
func (c *CSV) Stats() Stats { return c.stats }

// Close closes the open file and writes the remaining rejects.
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
