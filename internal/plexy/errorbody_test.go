package plexy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestErrorBody(t *testing.T) {
	for _, test := range []struct{ body, code, message, kind string }{
		{`{"code":1,"message":"service unavailable","source":"keys","type":"apiError"}`, "1", "service unavailable", "apiError"},
		{`{"code":"5","message":"no","source":"x","type":"validationError"}`, "5", "no", "validationError"},
		{`{"code":null,"message":"no"}`, "", "no", ""},
		{`{"code":{},"message":"no","type":7}`, "", "no", "7"},
		{`{"code":3}`, "3", "", ""},
		{`{"message":"a\nb\u0000c\u200bd"}`, "", "a b c d", ""},
		{`{"message":"` + strings.Repeat("é", 200) + `"}`, "", strings.Repeat("é", 128), ""},
		{`{"message":"a` + strings.Repeat("é", 200) + `"}`, "", "a" + strings.Repeat("é", 127), ""},
		{`{"code":"` + strings.Repeat("9", 100) + `"}`, strings.Repeat("9", 64), "", ""},
		{"", "", "", ""},
		{" \n ", "", "", ""},
		{`{"error":"gone"}`, "", `{"error":"gone"}`, ""},
		{`[1,2]`, "", "[1,2]", ""},
		{"<html>\r\n<h1>502   Bad\tGateway</h1>\r\n</html>\r\n", "", "<html> <h1>502 Bad Gateway</h1> </html>", ""},
		{"a\xff\xfeb", "", "a b", ""},
		{strings.Repeat("x", 300), "", strings.Repeat("x", 199) + "…", ""},
	} {
		read := decodeErrorBody([]byte(test.body), true, newScrubber(testKey))
		if read.code != test.code || read.message != test.message || read.kind != test.kind {
			t.Errorf("%.80q: got %+v", test.body, read)
		}
	}
}

// However an answer quotes the key, and wherever it is cut, no part of it that
// would be of use shows up.
func TestErrorBodyHidesKey(t *testing.T) {
	scrub := newScrubber(testKey)
	for _, text := range []string{testKey, fmt.Sprintf("%q", testKey), `sk_test_0123456789\/\"abc`, `sk_test_0123456789/\"abc`, "sk_test_0123456789%2F%22abc"} {
		for _, body := range []string{
			`{"code":1,"message":"bad key ` + text + `"}`,
			"bad key " + text,
			strings.Repeat("x", maxExcerpt-10) + text,
			strings.Repeat("x", maxMessage-10) + text,
		} {
			read := decodeErrorBody([]byte(body), true, scrub)
			if strings.Contains(read.message, "sk_test_0123456789") {
				t.Errorf("%q: %q", body, read.message)
			}
		}
	}
	read := decodeErrorBody([]byte("bad key "+testKey[:15]), false, scrub)
	if read.message != "bad key" {
		t.Errorf("cut body: %q", read.message)
	}
	read = decodeErrorBody(fmt.Appendf(nil, `{"code":%q,"message":%[1]q,"type":%[1]q,"source":%[1]q}`, testKey), true, scrub)
	if want := (errorBody{redacted, redacted, redacted, redacted, testKey, true}); read != want {
		t.Errorf("got %+v", read)
	}
}

func TestTransportErrorHidesKey(t *testing.T) {
	c := serve(t, cutAfter(t, testKey+"\r\n\r\n"))
	_, err := c.Cancel(t.Context(), testID)
	e := transportError(t, err)
	if text := fmt.Sprintf("%v %+v %#v", e, e.Err, e.Error()); strings.Contains(text, "sk_test") || !strings.Contains(text, redacted) {
		t.Errorf("got %s", text)
	}
	inner := fmt.Errorf("with %s: %w", testKey, http.ErrHandlerTimeout)
	if err := newScrubber(testKey).error(inner); err.Error() != "with [redacted]: "+http.ErrHandlerTimeout.Error() {
		t.Errorf("got %v", err)
	}
}

func FuzzErrorBody(f *testing.F) {
	for _, body := range []string{"", `{"code":1,"message":"m","type":"t"}`, `{"code":"1"}`, "<html>", testKey, `{"message":"` + testKey, "a\xff\u200b\x00"} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	const key = "sk_0123456789"
	scrub := newScrubber(key)
	f.Fuzz(func(t *testing.T, body []byte, whole bool) {
		read := decodeErrorBody(body, whole, scrub)
		if len(read.code) > maxWord || len(read.kind) > maxWord || len(read.source) > maxWord || len(read.message) > maxMessage {
			t.Fatalf("too long: %+v", read)
		}
		for _, text := range []string{read.code, read.kind, read.source, read.message} {
			if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, key) {
				t.Fatalf("%q is not clean", text)
			}
		}
	})
}
