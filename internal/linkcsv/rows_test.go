package linkcsv

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func id(n int) string { return fmt.Sprintf("pl_%032x", n) }

func TestRows(t *testing.T) {
	text := "\ufeffname;ref\r\nBob;" + id(1) + "\r\n\r\n\"two\r\nlines\";" + id(2) + "\r\nZoe;..\r\nTom\r\n"
	rows, err := OpenRows("-", strings.NewReader(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	if diff := cmp.Diff([]string{"name", "ref"}, rows.Header()); diff != "" {
		t.Error(diff)
	}
	if rows.comma != ';' || !rows.header || rows.column != 1 {
		t.Errorf("comma %q, header %v, column %d", rows.comma, rows.header, rows.column)
	}
	var got []string
	for {
		row, err := rows.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s: %v: %q %q %v", row.File, row.Place, row.Fields, row.Link, row.Err))
	}
	want := []string{
		fmt.Sprintf(`stdin: row 2: ["Bob" %q] %q <nil>`, id(1), id(1)),
		fmt.Sprintf(`stdin: row 4: ["two\nlines" %q] %q <nil>`, id(2), id(2)),
		`stdin: row 5 (line 6), column ref: ["Zoe" ".."] "" the id is "..", which addresses another path`,
		`stdin: row 6 (line 7): ["Tom" ""] "" 1 cell, the header has 2`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := rows.Next(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestHeaderWithoutHeader(t *testing.T) {
	rows, err := OpenRows("-", strings.NewReader("Bob\t"+id(1)+"\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"column_1", "column_2"}, rows.Header()); diff != "" {
		t.Error(diff)
	}
}

// Wherever the look-ahead ends, rows have the numbers of their own lines.
func TestLinesAcrossLookAhead(t *testing.T) {
	for count := range 2*lookAhead + 3 {
		text := strings.Repeat(id(1)+",\"a\nb\"\n", count+1)
		rows, err := OpenRows("-", strings.NewReader(text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		for n := range count + 1 {
			row, err := rows.Next()
			if err != nil || row.Line != 1+2*n || row.Row != 1+n || row.Link != id(1) {
				t.Fatalf("%d rows, row %d: %+v, %v", count+1, n, row, err)
			}
		}
		if _, err := rows.Next(); err != io.EOF {
			t.Fatal(err)
		}
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		fields []string
		n      int
		want   []string
	}{
		{[]string{"a", "b"}, 2, []string{"a", "b"}},
		{[]string{"a"}, 3, []string{"a", "", ""}},
		{[]string{"a", "b", "c"}, 2, []string{"a", "b;c"}},
		{[]string{"a", "b"}, 1, []string{"a;b"}},
	} {
		if diff := cmp.Diff(tt.want, Fit(tt.fields, tt.n, ';')); diff != "" {
			t.Errorf("%q in %d: %s", tt.fields, tt.n, diff)
		}
	}
}

func TestInputErrorCountsTheRest(t *testing.T) {
	e := &InputError{Hint: "Do better."}
	for n := range 12 {
		e.Add(Bad{File: "f.csv", Place: Place{Row: n + 1, Line: n + 1, Column: "id"}, Why: "bad"})
	}
	lines := strings.Split(e.Error(), "\n")
	if len(lines) != 12 || lines[9] != "f.csv: row 10, column id: bad" || lines[10] != "… and 2 more" || lines[11] != "Do better." {
		t.Errorf("got\n%v", e)
	}
}
