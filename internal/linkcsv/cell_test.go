package linkcsv

import (
	"errors"
	"strings"
	"testing"

	"linkcancel/internal/plexy"
)

const testID = "pl_5e9f8f8f9d9e9e9d9e9f8f8f8f9d9e9f"

func TestParseCell(t *testing.T) {
	other := "pl_" + strings.Repeat("a", 32)
	for cell, want := range map[string]string{
		testID:                       testID,
		" \t" + testID + "\r\n":      testID,
		"\ufeff" + testID:            testID,
		"\ufeff \"" + testID + "\" ": testID,
		`"` + testID:                 testID,
		`""` + testID + `"`:          testID,
		`'"` + testID + `"'`:         testID,
		" ' " + testID + " ' ":       testID,
		"“" + testID + "”":           testID,
		"„" + testID + "“":           testID,
		"«" + testID + "»":           testID,
		"‘" + testID + "’":           testID,
		testID + "\u200b":            testID,
		testID + "\ufe0f":            testID,
		testID + "\u3164":            testID,
		`="` + testID + `"`:          testID,
		`"=""` + testID + `"""`:      testID,
		`=“` + testID + `”`:          testID,
		"<" + testID + ">":           testID,
		` "<` + testID + `>" `:       testID,
		"O'Brien":                    "O'Brien",
		"ORD-1":                      "ORD-1",
		"12345":                      "12345",
		"1e":                         "1e",
		"7e3f9a":                     "7e3f9a",
		"totally":                    "totally",
		"https://checkout.plexypay.com/checkout/pl/" + testID:         testID,
		"https://checkout.plexypay.com/" + testID + "/":               testID,
		"HTTP://checkout.plexypay.com/" + testID + "//":               testID,
		`"https://c.example/` + testID + `?lang=kk#pay"`:              testID,
		"<https://c.example/" + testID + ">":                          testID,
		`="https://c.example/` + testID + `"`:                         testID,
		"https://c.example/pay?id=" + testID:                          testID,
		"https://c.example/pl/" + testID + "/success":                 testID,
		"https://c.example/" + testID + "?to=pl_7":                    testID,
		"https://c.example/#/pay/" + testID:                           testID,
		"https://c.example/" + testID + "?id=" + testID:               testID,
		"https://c.example/" + strings.Replace(testID, "_", "%5F", 1): testID,
	} {
		got, err := parseCell(cell)
		if got.id != want || err != nil || got.doubt != nil || got.documented != (want == testID) {
			t.Errorf("parseCell(%q) = %+v, %v, want %q", cell, got, err, want)
		}
	}
	for cell, want := range map[string]string{
		"":                           "the id is empty",
		` "" `:                       "the id is empty",
		`=""`:                        "the id is empty",
		"https://":                   "the URL names no host",
		"https:///pl_1":              "the URL names no host",
		"https:///" + testID:         "the URL names no host",
		"https://c.example":          "the URL has no path, so no payment link id",
		"https://c.example//?id=pl1": "the URL has no path, so no payment link id",
		"https://c.example/..":       `the id is "..", which addresses another path`,
		"https://c.example/a%2Fb":    "the id contains '/'",
		"https://c.example/a%20":     "the id contains white space (U+0020)",
		"https://c.example/%zz":      "the URL cannot be read",
		"https://c.example/" + strings.ToUpper(testID): errUpper.Error(),
		"c.example/pl_1":           "the id contains '/'",
		"ftp://c.example/pl_1":     "the id contains '/'",
		"pl_1 pl_3":                "the id contains white space (U+0020)",
		"pl_1;pl_2":                `the cell contains ';', which separates ids: give each a row of its own`,
		"ORD-1,":                   `the cell contains ',', which separates ids: give each a row of its own`,
		"a|b":                      `the cell contains '|', which separates ids: give each a row of its own`,
		testID + ";" + other:       "the cell holds 2 ids: give each a row of its own",
		testID + other:             "the cell holds 2 ids: give each a row of its own",
		testID + " & " + other:     "the cell holds 2 ids: give each a row of its own",
		testID + "\n" + other:      "the cell holds 2 ids: give each a row of its own",
		strings.ToUpper(testID):    errUpper.Error(),
		"Pl_" + testID[3:]:         errUpper.Error(),
		"NULL":                     `"NULL" is a placeholder, not an id`,
		"(null)":                   `"(null)" is a placeholder, not an id`,
		"nan":                      `"nan" is a placeholder, not an id`,
		"N/A":                      `"N/A" is a placeholder, not an id`,
		"#N/A":                     `"#N/A" is a placeholder, not an id`,
		"None":                     `"None" is a placeholder, not an id`,
		"<nil>":                    `"nil" is a placeholder, not an id`,
		"нет":                      `"нет" is a placeholder, not an id`,
		"-":                        "the cell has no letter and no digit",
		"—":                        "the cell has no letter and no digit",
		".":                        `the id is ".", which addresses another path`,
		"1.23457E+15":              errNumber.Error(),
		"1,23457E+15":              errNumber.Error(),
		"1E+15":                    errNumber.Error(),
		"-1.5e-07":                 errNumber.Error(),
		"1e15":                     errNumber.Error(),
		"12345.0":                  errNumber.Error(),
		"Total":                    errTotal.Error(),
		"Grand total: 5":           errTotal.Error(),
		"Итого:":                   errTotal.Error(),
		"id":                       errHeader.Error(),
		"Payment-Link ID":          errHeader.Error(),
		"=HYPERLINK(\"#a\",\"b\")": "the cell contains ',', which separates ids: give each a row of its own",
	} {
		got, err := parseCell(cell)
		if err == nil || err.Error() != want {
			t.Errorf("parseCell(%q) = %+v, %v, want %s", cell, got, err, want)
		}
	}
}

// A URL without an id of the documented form, or with several, counts only where
// the user accepts every id.
func TestParseCellInDoubt(t *testing.T) {
	other := "pl_" + strings.Repeat("a", 32)
	for cell, want := range map[string]struct {
		id    string
		doubt string
	}{
		"https://c.example/a%2Db":                                        {"a-b", errNoURLID.Error()},
		"https://c.example/pay?id=7":                                     {"pay", errNoURLID.Error()},
		"https://c.example/x" + testID:                                   {"x" + testID, errNoURLID.Error()},
		"https://c.example/pl_PL/3fa85f64":                               {"3fa85f64", errNoURLID.Error()},
		"https://c.example/pl_7":                                         {"pl_7", errNoURLID.Error()},
		"https://c.example/pay/7?utm=pl_spring":                          {"7", errNoURLID.Error()},
		"https://c.example/pl_7/pl_8":                                    {"pl_8", errNoURLID.Error()},
		"https://c.example/" + testID + "/" + other:                      {other, "the URL holds 2 different ids"},
		"https://c.example/" + testID + "?next=" + other:                 {testID, "the URL holds 2 different ids"},
		"https://c.example/" + testID + "?to=https%3A%2F%2Fd%2F" + other: {testID, "the URL holds 2 different ids"},
	} {
		got, err := parseCell(cell)
		if got.id != want.id || err != nil || got.doubt == nil || got.doubt.Error() != want.doubt {
			t.Errorf("parseCell(%q) = %+v, %v, want %v", cell, got, err, want)
		}
	}
}

func FuzzParseCell(f *testing.F) {
	for _, cell := range []string{testID, `"` + testID + `"`, "\ufeff" + testID, "https://c.example/pl/" + testID + "/?a#b", "http://c/%2e%2e", "https://",
		"“a”", "http://a/%22b%22", `="x"`, "<" + testID + ">", "1e5", "NULL", testID + ";" + testID, strings.Repeat("a", 129)} {
		f.Add(cell)
	}
	f.Fuzz(func(t *testing.T, cell string) {
		got, err := parseCell(cell)
		if err != nil {
			if got != (cellID{}) && !errors.Is(err, plexy.ErrBadID) {
				t.Fatalf("parseCell(%q) = %+v, %v", cell, got, err)
			}
			return
		}
		if err := plexy.CheckID(got.id); err != nil {
			t.Fatalf("parseCell(%q) = %q: %v", cell, got.id, err)
		}
		if got.documented != plexy.Documented(got.id) {
			t.Fatalf("parseCell(%q) = %+v: the form is wrong", cell, got)
		}
		// The short ways find what the long one does.
		if plainID(cell) && (notID(cell) != nil || unwrap(cell) != cell || isURL(cell)) {
			t.Fatalf("plainID(%q) is true, and the long way refuses it: %v", cell, notID(cell))
		}
		if id, ok := plainURL(cell); ok {
			if long, err := parseURL(cell); err != nil || long.id != id || long.doubt != nil {
				t.Fatalf("plainURL(%q) = %q, the long way %+v, %v", cell, id, long, err)
			}
		}
		// The id is in the cell, perhaps with the escapes of a URL.
		if !strings.Contains(cell, got.id) && !strings.Contains(cell, "%") {
			t.Fatalf("parseCell(%q) = %q, which is not in it", cell, got.id)
		}
	})
}
