package importer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
	"linkcancel/internal/testutil"
)

// expand replaces @n by the n-th link id.
func expand(text string) string {
	for n := range 10 {
		text = strings.ReplaceAll(text, fmt.Sprintf("@%d", n), testutil.LinkID(n))
	}
	return text
}

func zip(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// readAll returns all links of a source up to its error; nil stands for io.EOF.
func readAll(cfg CSVConfig) (links []string, stats Stats, err error) {
	c, err := OpenCSV(cfg)
	if err != nil {
		return nil, Stats{}, err
	}
	defer func() {
		if closeErr := c.Close(); err == nil {
			err = closeErr
		}
	}()
	for {
		link, err := c.Next()
		if err == io.EOF {
			return links, c.Stats(), nil
		}
		if err != nil {
			return links, c.Stats(), err
		}
		links = append(links, link)
	}
}

func TestCSVAccepts(t *testing.T) {
	tests := []struct {
		name   string
		text   string // @1 stands for an id
		column string
		want   string // ids by their numbers
	}{
		{"a known header", "name,link_id\nBob,@1\nEve,@2\n", "", "@1 @2"},
		{"a known header, spelt otherwise", "name, Payment-Link ID \nBob,@1\n", "", "@1"},
		{"ids that do not look like ids under a known header", "external_id\nORD-1\nORD_2\n", "", "ORD-1 ORD_2"},
		{"an unknown header over ids", "name,ref\nBob,@1\n", "", "@1"},
		{"no header", "@1\n@2\n", "", "@1 @2"},
		{"no header, two columns", "Bob,@1\nEve,@2\n", "", "@1 @2"},
		{"no line end at the end", "id\n@1", "", "@1"},
		{"no line end, one id alone", "@1", "", "@1"},
		{"semicolons", "name;id\n\"a,b,c\";@1\n", "", "@1"},
		{"one column of URLs with semicolons", "Ссылка\nhttps://c.example/pay;a=1?id=@1\nhttps://c.example/x;y/@2\n", "", "@1 @2"},
		{"tabs", "name\tid\nBob\t@1\n", "", "@1"},
		{"most frequent delimiter", "a;b;c,d;id\n1;2;3;@1\n", "", "@1"},
		{"delimiters in quotes do not count", "\"a;b;c;d\",id\n1,@1\n", "", "@1"},
		{"Windows", "\ufeffid,name\r\n@1,Bob\r\n@2,Eve\r\n", "", "@1 @2"},
		{"byte-order mark before a quoted header", "\ufeff\"id\"\n@1\n", "", "@1"},
		{"quotes of CSV", "\"id\"\n\"@1\"\n", "", "@1"},
		{"quotes in the cell", "id\n\"\"\"@1\"\"\"\n'@2'\n", "", "@1 @2"},
		{"spaces around", "id,x\n @1 ,\n", "", "@1"},
		{"checkout URLs", "url\nhttps://checkout.plexypay.com/@1\nhttps://checkout.plexypay.com/checkout/pl/@2\n", "", "@1 @2"},
		{"duplicates, also as URL", "id\n@1\n@2\n@1\nhttps://checkout.plexypay.com/@2\n", "", "@1 @2"},
		{"blank lines", "\n\r\nid\n\n@1\n   \n@2\n\n", "", "@1 @2"},
		{"a field of several lines", "id,note\n@1,\"two\nlines\"\n@2,\n", "", "@1 @2"},
		{"gzip", zip(t, expand("id\n@1\n@2\n")), "", "@1 @2"},
		{"gzip of two parts", zip(t, expand("id\n@1\n")) + zip(t, expand("@2\n")), "", "@1 @2"},
		{"gzip with byte-order mark", zip(t, expand("\ufeffid\r\n@1\r\n")), "", "@1"},
		{"old code page beside the ids", "id,name\n@1,\xc8\xe2\xe0\xed\n", "", "@1"},
		{"column by name", "id,ref\n7,@1\n", "ref", "@1"},
		{"column by name, exact before alike", "Ref,ref\n7,@1\n", "ref", "@1"},
		{"column by name, alike", "n,My Ref\n7,@1\n", "my_ref", "@1"},
		{"column by number, header", "n,ref\n7,@1\n", "2", "@1"},
		{"column by number, known header over other ids", "n,id\n7,abc\n", "2", "abc"},
		{"column by number, no header", "7,@1\n8,@2\n", "2", "@1 @2"},
		{"column by number never loses a link", "id,@1\nid,@2\n", "2", "@1 @2"},
		{"column by number, other ids, no header", "7,ORD-1\n8,ORD-2\n", "2", "ORD-1 ORD-2"},
		{"column by number out of two candidates", "@1,@2\n@3,@4\n", "2", "@2 @4"},
		{"column by number out of equal names", "id,id\n@1,@2\n", "2", "@2"},
		{"a separator line", "sep=;\nname;id\n\"a,b,c\";@1\n", "", "@1"},
		{"a separator line of Windows, behind a mark", "\ufeffSEP=|\r\nname|id\r\na|@1\r\n", "", "@1"},
		{"a separator line without header", "sep=,\n@1,x\n", "", "@1"},
		{"two byte-order marks", "\ufeff\ufeff\"id\",\"name\"\r\n\"@1\",\"a\"\r\n", "", "@1"},
		{"a byte-order mark within the header, by name", "n,\ufeffref\n7,ORD-1\n", "ref", "ORD-1"},
		{"a byte-order mark within the header, ids of another form", "n,\ufeffid\n7,ORD-1\n8,ORD-2\n", "", "ORD-1 ORD-2"},
		{"files put together", "id,n\n@1,5\nid,n\n@2,6\n\ufeffid,n\n@3,7\n\ufeff\"id\",n\n@4,8\n", "", "@1 @2 @3 @4"},
		{"rows of empty cells", "id;n;m\r\n@1;5;a\r\n;;\r\n\"\";\" \";\r\n@2;;\r\n;;\r\n", "", "@1 @2"},
		{"rows short by empty cells", "id,n,m\n@1,5,x\n@2,5\n@3\n", "", "@1 @2 @3"},
		{"rows of other ids short by empty cells", "id,n,m\nORD-1,5,x\nORD-2,5\nORD-3\n", "", "ORD-1 ORD-2 ORD-3"},
		{"rows long by empty cells", "id,n\n@1,5,\n@2,6,,\" \"\n", "", "@1 @2"},
		{"Ctrl-Z at the end", "id,n\r\n@1,5\r\n\x1a", "", "@1"},
		{"cells as formulas", "id,n\n=\"@1\",=\"5\"\n\"=\"\"@2\"\"\",6\n", "", "@1 @2"},
		{"a formula in the first row", "=\"@1\",5\n@2,6\n", "", "@1 @2"},
		{"URLs with the id in the query, or not at the end", "url\nhttps://c.example/pay?id=@1\nhttps://c.example/@2/success\n<https://c.example/@3>\n", "", "@1 @2 @3"},
		{"invisible characters behind ids", "id\n@1\ufe0f\n@2\u3164\n", "", "@1 @2"},
		{"ids in one column, some in another", "a,b\n@1,@2\n@3,none\n", "", "@1 @3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			links, stats, err := readAll(CSVConfig{
				Paths: []string{"-"}, Stdin: strings.NewReader(expand(tt.text)), Column: tt.column,
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Fields(expand(tt.want)), links); diff != "" {
				t.Error(diff)
			}
			if stats.Rows != stats.Links+stats.Duplicates || stats.Links != int64(len(links)) {
				t.Errorf("stats do not add up: %+v", stats)
			}
		})
	}
}

func TestCSVRefuses(t *testing.T) {
	utf16LE := func(text string, bom bool) string {
		units := utf16.Encode([]rune(text))
		var b []byte
		if bom {
			b = append(b, 0xff, 0xfe)
		}
		for _, u := range units {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	rows := strings.Repeat(testutil.LinkID(1)+"\n", 60) // more than is looked ahead
	tests := []struct {
		name   string
		text   string
		column string
		want   string // the start of the error
	}{
		{"empty", "", "", "stdin: the file is empty"},
		{"only a byte-order mark", "\ufeff", "", "stdin: the file is empty"},
		{"only blank lines", "\n\r\n  \n\n", "", "stdin: the file is empty"},
		{"a header and no rows", "id,name\n", "", "stdin: a header and no rows"},
		{"a header and no rows, by name", "ref\n", "ref", "stdin: a header and no rows"},
		{"no column of ids", "name,ref\nBob,7\n", "", `stdin: row 1: no column looks like payment link ids; the columns are 1 "name" (such as "Bob"), 2 "ref" (such as "7")`},
		{"no header, and only half of a column are ids", "@1\na/b\n", "", "stdin: row 1: no column looks like payment link ids"},
		{"two candidates by name", "id,url,n\n@1,@2,3\n", "", "stdin: row 1: two columns could hold the links: id, url\n" + linkcsv.HintColumn},
		{"two candidates of one name", "id,id\n@1,@2\n", "", "stdin: row 1: two columns could hold the links: id (1), id (2)\n" + linkcsv.HintColumn},
		{"two candidates by content", "a,b\n@1,@2\n", "", "stdin: row 1: two columns could hold the links: a, b\n" + linkcsv.HintColumn},
		{"two candidates without header", "@1,@2\n", "", "stdin: row 1: two columns could hold the links: 1, 2\n" + linkcsv.HintColumn},
		{"name and content differ", "id,ref\n7,@1\n", "", "stdin: row 1: two columns could hold the links: id, ref\n" + linkcsv.HintColumn},
		{"no such column", "id,name\n@1,Bob\n", "link", `stdin: row 1: there is no column "link"; the columns are 1 "id"`},
		{"a name twice", "ref,ref\n@1,@2\n", "ref", `stdin: row 1: two columns are named "ref": ref (1), ref (2)`},
		{"column 9 of 3", "id,b,c\n@1,2,3\n", "9", `stdin: row 1: there is no column 9; the columns are 1 "id"`},
		{"column 0", "id\n@1\n", "0", "stdin: row 1: there is no column 0"},
		{"column -1", "id\n@1\n", "-1", "stdin: row 1: there is no column -1"},
		{"too few cells, and not the one of the id", "b,c,id\n1,2,@1\n2,@2\n", "", "stdin: row 3: 2 cells, the header has 3"},
		{"one cell, and not the one of the id", "b,c,id\n@1\n", "", "stdin: row 2: 1 cell, the header has 3"},
		{"too few cells around an id of another form", "b,id,c\n1,ORD-1,2\nORD-2,3\n", "", "stdin: row 3: 2 cells, the header has 3"},
		{"an id of another form cut off at the end", "id,b\nORD-1,2\nORD", "", "stdin: row 3: 1 cell, the header has 2"},
		{"too many fields", "@1,2\n@2,2,3\n", "", "stdin: row 2: 3 cells, the first row has 2"},
		{"too few fields after the look-ahead", rows + "\n@2,x\n", "", "stdin: row 62: 2 cells, the first row has 1"},
		{"an empty id", "n,id\n7,\n", "", "stdin: row 2, column id: the id is empty"},
		{"empty cells in quotes are a blank line", "id\n\"\"\n\"  \"\n", "", "stdin: a header and no rows"},
		{"id .", "id\n.\n", "", `stdin: row 2, column id: the id is "."`},
		{"id ..", "id\n..\n", "", `stdin: row 2, column id: the id is ".."`},
		{"id a/b", "id\na/b\n", "", "stdin: row 2, column id: the id contains '/'"},
		{"id of 200", "id\n" + strings.Repeat("x", 200) + "\n", "", "stdin: row 2, column id: the id is longer"},
		{"id with a space", "id\na b\n", "", "stdin: row 2, column id: the id contains white space"},
		{"id with a control character", "id\na\x01b\n", "", "stdin: row 2, column id: the id contains a control character"},
		{"id not UTF-8", "id\na\xffb\n", "", "stdin: row 2, column id: the id has a character beyond ASCII, and the file is not UTF-8"},
		{"id with a line end", "id\n\"a\nb\"\n", "", "stdin: row 2, column id: the id contains white space"},
		{"bad id after the look-ahead", "n,id\n" + strings.Repeat("7,@1\n", 40) + "777,a/b\n", "", "stdin: row 42, column id: the id contains '/'"},
		{"bad id in the look-ahead, after lines in quotes", "note,id\n\"a\nb\nc\",@1\nx,a/b\n", "", "stdin: row 3 (line 5), column id: the id contains '/'"},
		{"bad id with a byte-order mark and Windows line ends", "\ufeffid,x\r\n\r\n@1,\r\na/b,\r\n", "", "stdin: row 4, column id: the id contains '/'"},
		{"a slip in an id is a bad row, not a missing header", "@1\n@2\na/b\n", "", "stdin: row 3, column 1: the id contains '/'"},
		{"an id of another form among ids", "id\n@1\nORD-1\n", "", "stdin: row 3, column id: the id does not have the form of the others"},
		{"an id of another form before ids", "id\nORD-1\n@1\n", "", "stdin: row 2, column id: the id does not have the form of the others"},
		{"ids of another form long before ids", "id\n" + strings.Repeat("ORD-1\n", 40) + "@1\n", "", "stdin: row 2, column id: the id does not have the form of the others"},
		{"an id cut off", "id\n@1\npl_0000", "", "stdin: row 3, column id: the id does not have the form of the others"},
		{"an id in upper case", "id\n" + strings.ToUpper(testutil.LinkID(10)) + "\n", "", "stdin: row 2, column id: the id is spelled in upper case"},
		{"a placeholder", "id\n@1\nNULL\n", "", `stdin: row 3, column id: "NULL" is a placeholder, not an id`},
		{"a placeholder among other ids", "id\nORD-1\nnan\n", "", `stdin: row 3, column id: "nan" is a placeholder, not an id`},
		{"numbers of a spreadsheet", "id,n\n1.23457E+15,5\n1.23457E+15,6\n", "", "stdin: row 2, column id: this is a number as a spreadsheet shows it"},
		{"two ids in a cell", "id\n\"@1;@2\"\n", "", "stdin: row 2, column id: the cell holds 2 ids"},
		{"two other ids in a cell", "id\nORD-1|ORD-2\n", "", "stdin: row 2, column id: the cell contains '|'"},
		{"a total row", "id,n\n@1,5\nTotal,5\n", "", "stdin: row 3, column id: this looks like a total row"},
		{"a total row, the word in another column", "name;id;n\nBob;@1;5\nИтого:;;5\n", "", "stdin: row 3, column id: this looks like a total row"},
		{"a title row", "Stale links,\n,\nid,n\n@1,5\n", "", "stdin: row 1: this looks like a title: the header seems to be in row 3"},
		{"a title row of one cell", "Stale links\n\nСсылка,n\n@1,5\n", "", "stdin: row 1: this looks like a title: the header seems to be in row 3"},
		{"a title of two rows, without a delimiter", "Отчёт\nза март\n\nСсылка;Сумма\n@1;5\n", "", "stdin: row 1: this looks like a title: the header seems to be in row 4"},
		{"no header, and a damaged first id", testutil.LinkID(5)[:34] + ",x\n@1,1\n@2,2\n", "", "stdin: row 1, column 1: the id does not have the form of the others"},
		{"no header, and a placeholder first", "NULL,x\n@1,1\n@2,2\n", "", `stdin: row 1, column 1: "NULL" is a placeholder, not an id`},
		{"no header, and a URL without an id first", "https://x.example/foo,x\n@1,1\n@2,2\n", "", "stdin: row 1, column 1: no part of the URL"},
		{"no header, and a UUID first", "3fa85f64-5717-4562-b3fc-2c963f66afa6,x\n@1,1\n@2,2\n", "", "stdin: row 1, column 1: the id does not have the form"},
		{"no header, and a damaged first id, by number", testutil.LinkID(5)[:34] + ",x\n@1,1\n@2,2\n", "1", "stdin: row 1, column 1: the id does not have the form of the others"},
		{"no header, upper case first", strings.ToUpper(testutil.LinkID(10)) + "\n@1\n@2\n", "", "stdin: row 1, column 1: the id is spelled in upper case"},
		{"URLs with a locale that begins like an id", "url\nhttps://p.example/pl_PL/3fa85f64\nhttps://p.example/pl_PL/4fa85f64\n", "", "stdin: row 2, column url: no part of the URL"},
		{"a title row over other ids", "Stale links,\nid,n\nORD-1,5\n", "", "stdin: row 1: this looks like a title: the header seems to be in row 2"},
		{"a title row, and a column by name", "Stale links,\nid,n\n@1,5\n", "id", "stdin: row 1: this looks like a title: the header seems to be in row 2"},
		{"a URL without an id", "url\nhttps://c.example/pay?x=1\n", "", "stdin: row 2, column url: no part of the URL is a payment link id"},
		{"a URL with two ids", "url\nhttps://c.example/@1?next=@2\n", "", "stdin: row 2, column url: the URL holds 2 different ids"},
		{"a second header of other columns", "id,n\nORD-1,5\nid,m\n", "", "stdin: row 3, column id: this is the name of a column"},
		{"two files put together without a line end", "id\n@1id\n@2\n", "", "stdin: row 2, column id: the id does not have the form of the others"},
		{"the name of the column without a header", "id,Ссылка\n1,@1\n2,..\n", "2", `stdin: row 3, column Ссылка: the id is ".."`},
		{"UTF-16 with a mark", utf16LE("id\nabc\n", true), "", "stdin: the file is in UTF-16"},
		{"UTF-16 without a mark", utf16LE("id\nabc\n", false), "", "stdin: the file is in UTF-16"},
		{"UTF-16, big end first", "\x00i\x00d\x00\n\x00a\x00b\x00\n", "", "stdin: the file is in UTF-16"},
		{"a spreadsheet", "PK\x03\x04\x14\x00rest", "", "stdin: a spreadsheet or zip file, not a CSV file"},
		{"an old spreadsheet", "\xd0\xcf\x11\xe0\xa1\xb1", "", "stdin: a spreadsheet or zip file"},
		{"a binary file", "\x7fELF\x02\x01\x01\x00\x00\x00\x03", "", "stdin: a binary file"},
		{"a binary file without zeros", strings.Repeat("\x01\x8f\x12\xee", 100), "", "stdin: a binary file"},
		{"carriage returns alone", "id\r@1\r@2\r", "", "stdin: its lines end with a carriage return alone"},
		{"broken gzip", zip(t, expand("id\n@1\n"))[:20], "", "stdin: the gzip file is damaged or cut off"},
		{"gzip and something else", zip(t, expand("id\n@1\n")) + "text", "", "stdin: the gzip file is damaged or cut off"},
		{"a gzip head alone", "\x1f\x8b", "", "stdin: the gzip file is damaged or cut off"},
		{"gzip of a binary file", zip(t, "\x7fELF\x00\x00"), "", "stdin: a binary file"},
		{"ends inside quotes", "id,note\n@1,\n@2,\"no end\n@3,\n", "", "stdin: row 3 (line 3, byte 37): +the file ends inside a quoted cell that opens here"},
		{"ends inside quotes after the look-ahead", "id,note\n" + strings.Repeat("@1,\n", 40) + "@2,\"no end\n@3,\n", "", "stdin: row 42 (line 42, byte 37): +the file ends inside"},
		{"ends inside quotes in the first row", "id,\"note\n@1,\n", "", "stdin: row 1 (line 1, byte 4): the file ends inside a quoted cell"},
		{"a quote that takes in rows", "id,note\n@1,\"x\n@2,\n@3,\"y\n", "", "stdin: row 2 (line 2, byte 37): a quoted cell that opens here meets another quote in line 4"},
		{"bare quote", "id,note\n@1,5\" wide\n", "", "stdin: row 2 (line 2, byte 38): a quote inside a cell that is not quoted"},
		{"quote not doubled", "id,note\n@1,\"5\" wide\"\n", "", "stdin: row 2 (line 2, byte 39): a quote inside a quoted cell that is not written twice"},
		{"bare quote in the first row", "id,5\" wide\n@1,\n", "", "stdin: row 1 (line 1, byte 5): a quote inside a cell that is not quoted"},
		{"bare quotes after the look-ahead", rows + "\"x\"y\n", "", "stdin: row 61 (line 61, byte 3): a quote inside a quoted cell"},
		{"a row without end", "id,note\n@1,\"" + strings.Repeat("x,\n", 1<<20), "", "stdin: row 2 (line 2, byte 37): a quoted cell that opens here does not end within 1 MiB"},
		{"a line without end", rows + strings.Repeat("x", 2<<20), "", "stdin: row 61: the row is longer than 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			links, stats, err := readAll(CSVConfig{
				Paths: []string{"-"}, Stdin: strings.NewReader(expand(tt.text)), Column: tt.column,
			})
			var refused *InputError
			if !errors.As(err, &refused) {
				t.Fatalf("got %d links, stats %+v and error %v; want an *InputError", len(links), stats, err)
			}
			// Columns in the table are written for the length of "@1,", so that
			// a reader can count them; " +" marks those.
			want := strings.Replace(tt.want, " +", " ", 1)
			if !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error\n%s\ndoes not start with\n%s", err, want)
			}
		})
	}
}

// Every id counts where the user says so; what can be no id never does.
func TestCSVAnyID(t *testing.T) {
	text := expand("id\nORD-1\n@2\nORD-3\nhttps://c.example/pay/x?y=1\nNULL\n")
	links, stats, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(text), AnyID: true, SkipInvalid: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ORD-1", testutil.LinkID(2), "ORD-3", "x"}, links); diff != "" {
		t.Error(diff)
	}
	if want := (Stats{Rows: 5, Links: 4, Invalid: 1}); stats != want {
		t.Errorf("stats %+v, want %+v", stats, want)
	}
}

// A file's first id of the documented form may stand far behind other ids. They
// are left out all the same, and a stream that cannot be read again is refused.
func TestCSVSkipsOtherFormsBeforeTheFirstID(t *testing.T) {
	text := expand("id\n" + strings.Repeat("ORD-1\n", 40) + "@1\nORD-2\n@2\n")
	path := filepath.Join(t.TempDir(), "links.csv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	links, stats, err := readAll(CSVConfig{Paths: []string{path}, SkipInvalid: true})
	if diff := cmp.Diff([]string{testutil.LinkID(1), testutil.LinkID(2)}, links); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if want := (Stats{Rows: 43, Links: 2, Invalid: 41}); stats != want {
		t.Errorf("stats %+v, want %+v", stats, want)
	}
	_, _, err = readAll(CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(text), SkipInvalid: true})
	var refused *InputError
	if !errors.As(err, &refused) || len(refused.Bad)+int(refused.More) != 40 || !strings.Contains(refused.Hint, HintStdin) {
		t.Errorf("standard input: error %v, want an *InputError", err)
	}
}

// Rows that repeat the header are counted, over all files.
func TestCSVCountsHeaders(t *testing.T) {
	_, stats, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(expand("id,n\n@1,5\nid,n\n@2,6\n id , n\n"))})
	if want := (Stats{Rows: 2, Links: 2, Headers: 2}); stats != want || err != nil {
		t.Errorf("stats %+v, error %v; want %+v", stats, err, want)
	}
}

func TestCSVPaths(t *testing.T) {
	folder := t.TempDir()
	a := filepath.Join(folder, "a.csv")
	b := filepath.Join(folder, "b.csv")
	c := filepath.Join(folder, "c.csv")
	for path, text := range map[string]string{
		a: "id\n@1\n@2\n", b: zip(t, expand("name;url\nBob;@2\nEve;@3\n")), c: "@1\n@4\n",
	} {
		if err := os.WriteFile(path, []byte(expand(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	links, stats, err := readAll(CSVConfig{Paths: []string{a, b, "-", c}, Stdin: strings.NewReader(expand("x\n@5\n@3\n"))})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{testutil.LinkID(1), testutil.LinkID(2), testutil.LinkID(3), testutil.LinkID(5), testutil.LinkID(4)}, links); diff != "" {
		t.Error(diff)
	}
	if want := (Stats{Rows: 8, Links: 5, Duplicates: 3}); stats != want {
		t.Errorf("stats %+v, want %+v", stats, want)
	}

	missing := filepath.Join(folder, "missing.csv")
	for _, tt := range []struct {
		paths []string
		want  string
		cause error
	}{
		{nil, "no CSV file was given", nil},
		{[]string{a, missing}, missing + ": no such file", fs.ErrNotExist},
		{[]string{a, folder}, folder + ": this is a directory", nil},
		{[]string{"-", a, "-"}, "standard input is given more than once", nil},
		{[]string{"-"}, "stdin: standard input cannot be read here", nil},
	} {
		_, err := OpenCSV(CSVConfig{Paths: tt.paths})
		var refused *InputError
		if !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want an *InputError %q", tt.paths, err, tt.want)
		}
		if tt.cause != nil && !errors.Is(err, tt.cause) {
			t.Errorf("%q: error %v is not %v", tt.paths, err, tt.cause)
		}
	}
}

// The first ten mistakes are shown and the others counted, over all files.
func TestCSVCollectsBadRows(t *testing.T) {
	folder := t.TempDir()
	a := filepath.Join(folder, "a.csv")
	if err := os.WriteFile(a, []byte(expand("id\n@1\na/b\n"+strings.Repeat("@2\n..\n", 20))), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := OpenCSV(CSVConfig{Paths: []string{a, "-"}, Stdin: strings.NewReader(expand("id\n@3\nx y\n"))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if link, err := c.Next(); link != testutil.LinkID(1) || err != nil {
		t.Fatalf("first link %q, %v", link, err)
	}
	link, err := c.Next()
	if link != "" || err == nil {
		t.Fatalf("a link %q after a bad row, error %v", link, err)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 12 || lines[0] != a+": row 3, column id: the id contains '/'" || lines[10] != "… and 12 more" ||
		!strings.Contains(lines[11], HintRows) {
		t.Errorf("error is\n%v", err)
	}
	if want := (Stats{Rows: 44, Links: 3, Duplicates: 19, Invalid: 22}); c.Stats() != want {
		t.Errorf("stats %+v, want %+v", c.Stats(), want)
	}
	if _, again := c.Next(); again != err {
		t.Errorf("the error does not stay: %v", again)
	}
}

func TestCSVSkipsInvalid(t *testing.T) {
	text := "name;id\nBob;@1\nEve;a/b\nZoe\n\"x;y\";@2;a;b\n5\" wide;@3\nTom;@4\n"
	var rejects strings.Builder
	links, stats, err := readAll(CSVConfig{
		Paths: []string{"-"}, Stdin: strings.NewReader(expand(text)), SkipInvalid: true, Rejects: &rejects,
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{testutil.LinkID(1), testutil.LinkID(4)}, links); diff != "" {
		t.Error(diff)
	}
	if want := (Stats{Rows: 6, Links: 2, Invalid: 4}); stats != want {
		t.Errorf("stats %+v, want %+v", stats, want)
	}
	want := expand(`name;id;line;error
Eve;a/b;3;the id contains '/'
Zoe;;4;1 cell, the header has 2
"x;y";"@2;a;b";5;4 cells, the header has 2
"5"" wide";@3;6;a quote inside a cell that is not quoted
`)
	if diff := cmp.Diff(want, rejects.String()); diff != "" {
		t.Error(diff)
	}
}

// Skipping never passes over a quote that may have taken in other rows.
func TestCSVSkipsNoBrokenFile(t *testing.T) {
	for _, text := range []string{
		"id,n\n@1,\"x\n@2,\n@3,\"y\n@4,\n",
		"id,n\n@1,\n@2,\"x\n",
		"id\n..\n",
	} {
		_, _, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(expand(text)), SkipInvalid: true})
		var refused *InputError
		if !errors.As(err, &refused) {
			t.Errorf("%q: error %v, want an *InputError", text, err)
		}
	}
}

func TestCSVMaxRefuses(t *testing.T) {
	text := expand("id\n@1\n@1\n@2\n@3\n")
	for limit, ok := range map[int64]bool{0: true, 2: false, 3: true} {
		_, _, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader(text), Max: limit})
		var refused *InputError
		if ok && err != nil || !ok && (!errors.As(err, &refused) || !strings.Contains(err.Error(), "stdin: row 5: more than 2 links")) {
			t.Errorf("limit %d: error %v", limit, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A disk that fails is no mistake of the user.
func TestCSVPassesOnErrorsOfTheSystem(t *testing.T) {
	broken := errors.New("disk on fire")
	var refused *InputError
	for _, head := range []string{"", expand("id\n@1\n"), expand("id\n" + strings.Repeat("@1\n", 5000))} {
		_, _, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: io.MultiReader(strings.NewReader(head), failing{broken})})
		if !errors.Is(err, broken) || errors.As(err, &refused) {
			t.Errorf("reading: error %v", err)
		}
	}
	_, _, err := readAll(CSVConfig{
		Paths: []string{"-"}, Stdin: strings.NewReader(expand("id\n@1\n..\n")), SkipInvalid: true, Rejects: failing{broken},
	})
	if !errors.Is(err, broken) || errors.As(err, &refused) {
		t.Errorf("writing rejects: error %v", err)
	}
}

// Nobody reads on through rows of which none can be used, and the reading can be
// stopped between two links.
func TestRowsWithoutAnEnd(t *testing.T) {
	header := "id\n@1\n"
	endless := func(row string) io.Reader {
		return io.MultiReader(strings.NewReader(expand(header)), &repeated{text: expand(row)})
	}
	_, stats, err := readAll(CSVConfig{Paths: []string{"-"}, Stdin: endless("..\n")})
	var refused *InputError
	if !errors.As(err, &refused) || len(refused.Bad) != linkcsv.MaxShown || refused.More != badMost-linkcsv.MaxShown || stats.Invalid != badMost ||
		!strings.HasPrefix(refused.Hint, "Nothing was done, and the rest was not read.") {
		t.Errorf("%v, %+v", err, stats)
	}
	for _, row := range []string{"..\n", "@1\n"} {
		stop := make(chan struct{})
		c, err := OpenCSV(CSVConfig{Paths: []string{"-"}, Stdin: endless(row), SkipInvalid: true, Stop: stop})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
		close(stop)
		for range 2 {
			if _, err := c.Next(); !errors.Is(err, context.Canceled) || c.Stats().Rows > 2*stopEvery {
				t.Errorf("%q: %v after %d rows", row, err, c.Stats().Rows)
			}
		}
	}
}

// repeated is a text again and again.
type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

func FuzzCSV(f *testing.F) {
	for _, text := range []string{
		"id\n@1\n@2\n@1\n", "\ufeffname;url\r\nBob;https://checkout.plexypay.com/@1\r\n", "@1\t@2\n", "a,b\n\"x\ny\",@1\n",
		"id\n\"@1\n", "id\n\"@1\"x\n", "id\na/b\n..\n", "\x1f\x8b\x08", "i\x00d\x00", "id,id\n", "\n\n \n", zip(f, "id\nabc\n"),
	} {
		f.Add([]byte(expand(text)), "", false)
		f.Add([]byte(expand(text)), "1", true)
		f.Add([]byte(expand(text)), "id", true)
	}
	f.Fuzz(func(t *testing.T, text []byte, column string, skip bool) {
		var rejects bytes.Buffer
		read := func(rejects io.Writer) ([]string, Stats, error) {
			return readAll(CSVConfig{
				Paths: []string{"-"}, Stdin: bytes.NewReader(text), Column: column, SkipInvalid: skip, Rejects: rejects,
			})
		}
		links, stats, err := read(&rejects)
		seen := make(map[string]bool)
		for _, link := range links {
			if err := plexy.CheckID(link); err != nil {
				t.Errorf("link %q: %v", link, err)
			}
			if seen[link] {
				t.Errorf("link %q twice", link)
			}
			seen[link] = true
		}
		if stats.Rows != stats.Links+stats.Duplicates+stats.Invalid {
			t.Errorf("stats do not add up: %+v", stats)
		}
		var refused *InputError
		if err != nil && !errors.As(err, &refused) {
			t.Errorf("error %v is no *InputError, though the reader cannot fail", err)
		}
		if err == nil && (stats.Links != int64(len(links)) || len(links) == 0 || !skip && stats.Invalid > 0) {
			t.Errorf("accepted %d links with stats %+v", len(links), stats)
		}
		againLinks, againStats, againErr := read(nil)
		if diff := cmp.Diff(links, againLinks); diff != "" || stats != againStats || fmt.Sprint(err) != fmt.Sprint(againErr) {
			t.Errorf("a second reading differs: %s\n%+v %+v\n%v\n%v", diff, stats, againStats, err, againErr)
		}
	})
}
