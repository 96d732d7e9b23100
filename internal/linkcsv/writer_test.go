package linkcsv

import (
	"strings"
	"testing"
)

func TestWriter(t *testing.T) {
	rows := [][]string{{"a", "b\nc"}, {"d\r\n", "\re"}}
	for _, tt := range []struct {
		crlf, mark bool
		want       string
	}{
		{false, false, "a;\"b\nc\"\n\"d\r\n\";\"\re\"\n"},
		{true, true, "\ufeffa;\"b\nc\"\r\n\"d\r\n\";\"\re\"\r\n"},
	} {
		var b strings.Builder
		w := NewWriter(&b, ';', tt.crlf, tt.mark)
		for _, row := range rows {
			if err := w.Write(row); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil || b.String() != tt.want {
			t.Errorf("%q, %v, want %q", b.String(), err, tt.want)
		}
	}
}

func TestFirstRowIsCRLF(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "a": false, "a\n": false, "a\r\n": true, "\n": false, "\"a\nb\"\r\nc\n": true, "\"a\r\nb\"\nc\r\n": false,
	} {
		if got := firstRowIsCRLF([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
