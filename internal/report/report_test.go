package report

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
)

func id(n int) string { return fmt.Sprintf("pl_%032x", n) }

// expand replaces @n by the n-th link id.
func expand(text string) string {
	for n := range 10 {
		text = strings.ReplaceAll(text, fmt.Sprintf("@%d", n), id(n))
	}
	return text
}

var finished = time.Date(2026, 3, 1, 13, 0, 5, 999, time.FixedZone("", 3600))

func sample() []Result {
	return []Result{
		{Link: id(1), Outcome: ledger.Cancelled, HTTPStatus: 204, Attempts: 1, FinishedAt: finished},
		{Link: id(2), Outcome: ledger.NotCancellable, HTTPStatus: 422, LinkStatus: "paid", Attempts: 2, FinishedAt: finished, Error: `code 5: "paid", sorry`},
		{Link: id(3), Attempts: 3},
	}
}

func seq(results []Result) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		for _, r := range results {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func find(link string) (Result, bool) {
	for _, r := range sample() {
		if r.Link == link {
			return r, true
		}
	}
	return Result{}, false
}

func TestWrite(t *testing.T) {
	for _, tt := range []struct {
		name string
		opt  Options
		want string
	}{
		{"csv", Options{}, `link,outcome,http_status,link_status,attempts,finished_at,error
@1,cancelled,204,,1,2026-03-01T12:00:05Z,
@2,not_cancellable,422,paid,2,2026-03-01T12:00:05Z,"code 5: ""paid"", sorry"
@3,pending,,,3,,
`},
		{"some outcomes", Options{Format: FormatCSV, Outcomes: []ledger.Outcome{ledger.None, ledger.Cancelled}}, `link,outcome,http_status,link_status,attempts,finished_at,error
@1,cancelled,204,,1,2026-03-01T12:00:05Z,
@3,pending,,,3,,
`},
		{"jsonl", Options{Format: FormatJSONL}, `{"link":"@1","outcome":"cancelled","http_status":204,"link_status":"","attempts":1,"finished_at":"2026-03-01T12:00:05Z","error":""}
{"link":"@2","outcome":"not_cancellable","http_status":422,"link_status":"paid","attempts":2,"finished_at":"2026-03-01T12:00:05Z","error":"code 5: \"paid\", sorry"}
{"link":"@3","outcome":"pending","http_status":null,"link_status":"","attempts":3,"finished_at":null,"error":""}
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if err := Write(&out, seq(sample()), tt.opt); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(expand(tt.want), out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWriteStopsAtErrors(t *testing.T) {
	broken := errors.New("broken")
	results := func(yield func(Result, error) bool) {
		_ = yield(sample()[0], nil) && yield(Result{}, broken)
	}
	for _, format := range []string{FormatCSV, FormatJSONL} {
		if err := Write(io.Discard, results, Options{Format: format}); !errors.Is(err, broken) {
			t.Errorf("%s: reading: %v", format, err)
		}
		if err := Write(failing{broken}, seq(sample()), Options{Format: format}); !errors.Is(err, broken) {
			t.Errorf("%s: writing: %v", format, err)
		}
	}
	if err := Write(io.Discard, seq(nil), Options{Format: "xml"}); err == nil || !strings.Contains(err.Error(), "xml") {
		t.Errorf("format xml: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func save(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(expand(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWriteJoined(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		opt   Options
		want  string
	}{
		{"the user's rows, duplicates, skipped ones and others", []string{"Name;ID\n\"x;y\";@1\nEve;@3\nBob;https://checkout.plexypay.com/@1\nZoe;..\nTom\nUma;@2;z\nJim;@9\n"}, Options{}, `Name;ID;link;outcome;http_status;link_status;attempts;finished_at;error
"x;y";@1;@1;cancelled;204;;1;2026-03-01T12:00:05Z;
Eve;@3;@3;pending;;;3;;
Bob;https://checkout.plexypay.com/@1;@1;cancelled;204;;1;2026-03-01T12:00:05Z;
Zoe;..;;skipped;;;;;"skipped: the id is ""..""` + `, which addresses another path"
Tom;;;skipped;;;;;skipped: 1 cell, the header has 2
Uma;"@2;z";;skipped;;;;;skipped: 3 cells, the header has 2
Jim;@9;@9;;;;;;not in this batch
`},
		{"columns that collide", []string{"ERROR,id,lc_error, Link\n=x,@1,,\n"}, Options{}, `ERROR,id,lc_error," Link",lc_link,outcome,http_status,link_status,attempts,finished_at,lc_lc_error
'=x,@1,,,@1,cancelled,204,,1,2026-03-01T12:00:05Z,
`},
		{"no header, two files, no guard", []string{"=x,@1\n", "y\t@3\n"}, Options{NoFormulaGuard: true}, `column_1,column_2,link,outcome,http_status,link_status,attempts,finished_at,error
=x,@1,@1,cancelled,204,,1,2026-03-01T12:00:05Z,
y,@3,@3,pending,,,3,,
`},
		{"some outcomes", []string{"id\n@1\n..\n@3\n@9\n"}, Options{Outcomes: []ledger.Outcome{ledger.None}}, `id,link,outcome,http_status,link_status,attempts,finished_at,error
@3,@3,pending,,,3,,
`},
		{"jsonl", []string{"id,a,a,,Outcome\n@1,=1+1,\"<b>\n\",,7\n..,,,,\n"}, Options{Format: FormatJSONL}, `{"id":"@1","a":"=1+1","a_2":"\u003cb\u003e\n","column_4":"","Outcome":"7","link":"@1","lc_outcome":"cancelled","http_status":204,"link_status":"","attempts":1,"finished_at":"2026-03-01T12:00:05Z","error":""}
{"id":"..","a":"","a_2":"","column_4":"","Outcome":"","link":"","lc_outcome":"skipped","http_status":null,"link_status":"","attempts":null,"finished_at":null,"error":"skipped: the id is \"..\", which addresses another path"}
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var paths []string
			for n, text := range tt.files {
				paths = append(paths, save(t, fmt.Sprintf("%d.csv", n), text))
			}
			var out strings.Builder
			if err := WriteJoined(&out, paths, "", find, tt.opt); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(expand(tt.want), out.String()); diff != "" {
				t.Error(diff)
			}
			for line := range strings.Lines(out.String()) {
				if tt.opt.Format == FormatJSONL && !json.Valid([]byte(line)) {
					t.Errorf("no JSON: %s", line)
				}
			}
		})
	}
}

func TestWriteJoinedRefuses(t *testing.T) {
	a := save(t, "a.csv", "id,name\n@1,x\n")
	for _, tt := range []struct {
		files []string
		want  string
	}{
		{nil, "no file is named"},
		{[]string{a, save(t, "b.csv", "name,id\nx,@1\n")}, `its columns are ["name" "id"], those of ` + a},
		{[]string{a, a + ".missing"}, "no such file"},
		{[]string{"-"}, "standard input cannot be read here"},
	} {
		err := WriteJoined(io.Discard, tt.files, "", find, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want one with %q", tt.files, err, tt.want)
		}
		var refused *linkcsv.InputError
		if len(tt.files) > 0 && !errors.As(err, &refused) {
			t.Errorf("%q: error %v is no *InputError", tt.files, err)
		}
	}
	broken := errors.New("broken")
	if err := WriteJoined(failing{broken}, []string{a}, "", find, Options{}); !errors.Is(err, broken) {
		t.Errorf("writing: %v", err)
	}
}

// A retry takes each link that may still be payable. Only some statuses say that a link is not.
func TestReadUnfinished(t *testing.T) {
	const header = "id,link,outcome,http_status,link_status,attempts,finished_at,error"
	for row, want := range map[string]struct{ taken, ambiguous bool }{
		"cancelled,204,,1,,":              {},
		"already_cancelled,422,,1,,":      {},
		"not_found,404,,1,,":              {},
		"not_cancellable,422,Paid,1,,":    {},
		"not_cancellable,422,expired,1,,": {},
		"not_cancellable,409,active,1,,":  {true, false},
		"not_cancellable,409,,1,,":        {true, false}, // the status is not known
		"not_cancellable,409,frozen,1,,":  {true, false}, // nor is its meaning
		"rejected,400,,1,,":               {true, false},
		"failed,500,,2,,":                 {true, true},
		"failed,,,0,,":                    {true, false},
		"aborted,,,1,,":                   {true, true},
		"pending,,,,,":                    {true, false},
		"pending,,,3,,":                   {true, true},
		",,,,,not in this batch":          {},
		"skipped,,,,,":                    {},

		"cancelled,204,,1,,,not_payable,cancelled,":          {},
		"cancelled,204,,1,,,still_payable,active,":           {true, true},
		"not_cancellable,409,frozen,1,,,not_payable,frozen,": {true, false},
	} {
		head := header
		if strings.Count(row, ",") > 5 {
			head += ",verified,verified_status,verified_at"
		}
		u, err := ReadUnfinished(save(t, "a.csv", head+"\n"+strings.Repeat("@1,@1,"+row+"\n", 2)))
		if err != nil {
			t.Errorf("%s: %v", row, err)
			continue
		}
		var all Unfinished
		if want.taken {
			all = Unfinished{[]string{id(1)}, []bool{want.ambiguous}}
		}
		if diff := cmp.Diff(all, u); diff != "" {
			t.Errorf("%s: %s", row, diff)
		}
	}
	if _, err := ReadUnfinished(save(t, "a.csv", "id\n@1\n")); !errors.Is(err, ErrNoReport) {
		t.Errorf("another file: %v", err)
	}
}

func TestGuard(t *testing.T) {
	for cell, want := range map[string]string{
		"":                 "",
		"Bob":              "Bob",
		"a=b":              "a=b",
		"=1+1":             "'=1+1",
		"=HYPERLINK(1)":    "'=HYPERLINK(1)",
		"+1+cmd|' /C x'!A": "'+1+cmd|' /C x'!A",
		"-x":               "'-x",
		"-":                "'-",
		"@sum":             "'@sum",
		"\tx":              "'\tx",
		"\rx":              "'\rx",
		"-12.50":           "-12.50",
		"-1,000":           "-1,000",
		"+7 (727) 123-45":  "+7 (727) 123-45",
		"--1":              "--1",
		"+":                "'+",
		"-()":              "'-()",
		"=1":               "'=1",
		"@1":               "'@1",
		"+1\n=2":           "'+1\n=2",
		"\n=2":             "'\n=2",
		"＝1+1":             "'＝1+1",
		"＋1":               "'＋1",
		"－x":               "'－x",
		"＠sum":             "'＠sum",
		"\ufeff=1":         "'\ufeff=1",
		"\u200b\u202e@x":   "'\u200b\u202e@x",
		"\ufeff":           "\ufeff",
		"\ufffd=":          "\ufffd=",
		"\xff":             "\xff",
		"é=":               "é=",
	} {
		if got := guard(cell); got != want {
			t.Errorf("guard(%q) = %q, want %q", cell, got, want)
		}
	}
}

// Whatever the user's cells contain, a reader of the report gets it back, with
// no more than a guard before it.
func FuzzJoined(f *testing.F) {
	f.Add("name", "Bob")
	f.Add("=link", "\"a\r\nb\";,\t")
	f.Add("", "@x")
	f.Add("Имя", "Ёлкин")
	f.Fuzz(func(t *testing.T, name, cell string) {
		var text strings.Builder
		w := csv.NewWriter(&text)
		_ = w.WriteAll([][]string{{"x", name}, {id(1), cell}, {id(2), ""}})
		path := filepath.Join(t.TempDir(), "a.csv")
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, opt := range []Options{{}, {Format: FormatJSONL}} {
			var out strings.Builder
			if err := WriteJoined(&out, []string{path}, "1", find, opt); err != nil {
				var refused *linkcsv.InputError
				if !errors.As(err, &refused) {
					t.Fatal(err)
				}
				return
			}
			if opt.Format == FormatJSONL {
				for line := range strings.Lines(out.String()) {
					if !json.Valid([]byte(line)) {
						t.Errorf("no JSON: %q", line)
					}
				}
				continue
			}
			// The report keeps the delimiter that was found, so read with it.
			rows, err := linkcsv.OpenRows(path, nil, linkcsv.Options{Column: "1"})
			if err != nil {
				t.Fatal(err)
			}
			report, marked := strings.CutPrefix(out.String(), "\ufeff")
			if ascii := strings.IndexFunc(out.String(), func(r rune) bool { return r >= utf8.RuneSelf }) < 0; marked == ascii {
				t.Errorf("a byte-order mark: %v in %q", marked, out.String())
			}
			r := csv.NewReader(strings.NewReader(report))
			r.Comma = rows.Comma()
			header := rows.Header()
			_ = rows.Close()
			records, err := r.ReadAll()
			if err != nil {
				t.Fatalf("%v in %q", err, out.String())
			}
			for i, want := range header {
				// Reading turns \r\n into \n once more.
				if want = strings.ReplaceAll(guard(want), "\r\n", "\n"); records[0][i] != want {
					t.Errorf("column %q, want %q", records[0][i], want)
				}
			}
			for _, record := range records {
				for _, got := range record {
					if guard(got) != got && !strings.HasPrefix(got, "'") {
						t.Errorf("cell %q is not guarded", got)
					}
				}
			}
		}
	})
}
