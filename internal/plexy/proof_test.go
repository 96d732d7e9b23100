package plexy

import (
	"errors"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// answered is an answer with that body, as it was read.
func answered(status int, body, media, server string) *answer {
	header := http.Header{}
	if media != "" {
		header.Set("Content-Type", media)
	}
	if server != "" {
		header.Set("Server", server)
	}
	return &answer{method: http.MethodDelete, status: status, header: header, body: []byte(body), limit: maxBody, scrub: newScrubber(testKey)}
}

func TestProof(t *testing.T) {
	body := func(code string) string {
		return `{"code":` + code + `,"message":"no","source":"payment-links","type":"apiError"}`
	}
	for _, test := range []struct {
		status int
		body   string
		proven bool
	}{
		{400, body("3"), true},
		{404, body("4"), true},
		{404, body(`"4"`), true}, // comes as a string, too
		{422, body("5"), true},
		{500, body("1"), true}, // "Code 1 may come with HTTP 500"
		{500, body("2"), true},
		{503, body("1"), true},
		{599, body("2"), true},
		{404, `{"code":4,"message":"no","source":"payment-links"}`, true},
		{404, `{"code":4,"message":"no","type":"apiError","details":[],"more":{}}`, true},
		// The vendor documents nothing for these.
		{401, body("2"), true},
		{403, body("2"), true},
		{405, body("3"), true},
		{409, body("99"), true},
		{410, body("7"), true},
		{429, body("1"), true},
		{429, body("4"), false},
		{403, body("5"), false},
		{401, body("0"), false},
		{401, body("100"), false},
		{401, body("401"), false},
		{403, body("-1"), false},
		// Codes that do not fit.
		{404, body("5"), false},
		{404, body("3"), false},
		{404, body("1"), false},
		{422, body("4"), false},
		{400, body("4"), false},
		{400, body("1"), false},
		{500, body("4"), false},
		{502, body("3"), false},
		{404, body("404"), false}, // many frameworks repeat the status
		{404, body("4.0"), false},
		{404, body("4e0"), false},
		{404, body(`"04"`), false},
		{404, body(`"+4"`), false},
		{404, body(`" 4"`), false},
		{404, body(`"four"`), false},
		{404, body("true"), false},
		{404, body("null"), false},
		{404, body("[4]"), false},
		{404, body("4e999999999"), false},
		// Never a 2xx or a 3xx.
		{200, body("4"), false},
		{204, body("1"), false},
		{302, body("1"), false},
		{101, body("1"), false},
		// Bodies that are not the API's.
		{404, `{"code":5,"message":"Not Found","details":[]}`, false},                   // grpc-gateway
		{404, `{"code":4,"message":"Not Found","details":[]}`, false},                   // grpc-gateway would not, others may
		{404, `{"message":"no Route matched with those values"}`, false},                // Kong
		{404, `{"message":"Not Found","type":"x","source":"y"}`, false},                 // no code
		{404, `{"code":4,"type":"x","source":"y"}`, false},                              // no message
		{404, `{"code":4,"message":"","type":"x"}`, false},                              // blank
		{404, `{"code":4,"message":" \t","type":"x"}`, false},                           // blank
		{404, `{"code":4,"message":7,"type":"x"}`, false},                               // no text
		{404, `{"code":4,"message":"no","type":""}`, false},                             // blank
		{404, `{"code":4,"message":"no","type":null,"source":7}`, false},                // no text
		{404, `{"Code":4,"Message":"no","Type":"x"}`, false},                            // names are exact
		{404, `[` + body("4") + `]`, false},                                             // no object
		{404, `{"error":` + body("4") + `}`, false},                                     // deeper
		{404, body("4") + " x", false},                                                  // more behind it
		{404, body("4")[:40], false},                                                    // cut off
		{404, "<html><title>404 Not Found</title></html>", false},                       // nginx
		{404, "default backend - 404", false},                                           // ingress-nginx
		{404, "", false},                                                                // nothing
		{404, "null", false},                                                            // no object
		{404, `{"code":404,"message":"no","type":"x","errors":[]}`, false},              // Feathers and others
		{404, `{"statusCode":404,"message":"Cannot DELETE /","code":4}`, false},         // NestJS, nearly
		{404, strings.Replace(body("4"), "no", `no sk_test_0123456789/\"abc`, 1), true}, // an echo of the key is hidden
		{404, strings.Replace(body("4"), "{", "{ \n", 1) + "\r\n", true},                // white space
		{404, body("4") + strings.Repeat(" ", maxBody), false},                          // too long to be read whole
		{404, strings.Replace(body("4"), "{", `{"code":"404",`, 1), true},               // the last one counts
		{404, strings.Replace(body("4"), "}", `,"code":"404"}`, 1), false},              // the last one counts
		{404, strings.Replace(body("4"), "}", "\xff}", 1), false},                       // no JSON
		{404, strings.Replace(body("4"), `"no"`, `{"text":"no"}`, 1), false},            // no text
		{404, strings.Replace(body("4"), `"no"`, `"\u0000"`, 1), true},                  // odd, but a text
		{404, strings.Replace(body("4"), `"apiError"`, `["apiError"]`, 1), true},        // there is a source
	} {
		e := answered(test.status, test.body, "application/json", "").apiError()
		if e.Proven != test.proven || (e.Kind == "") != test.proven {
			t.Errorf("%d %.90q: proven %v, kind %q", test.status, test.body, e.Proven, e.Kind)
		}
	}
	cutOff := answered(404, body("4"), "application/json", "")
	cutOff.bodyErr = errors.New("unexpected EOF") // though all of it seems to be there
	if e := cutOff.apiError(); e.Proven || e.Code != "4" {
		t.Errorf("cut off: %+v", e)
	}
}

// An error shows everything that the API said.
func TestProvenError(t *testing.T) {
	c := serve(t, reply(404, `{"code":4,"message":"payment link not found","source":"payment-links","type":"apiError"}`))
	_, err := c.Cancel(t.Context(), testID)
	var e *Error
	if !errors.As(err, &e) || !e.Proven || e.Source != "payment-links" || e.Type != "apiError" || e.Kind != "" {
		t.Errorf("got %+v", e)
	}
	if got, want := e.Saw(), "404 (code 4: payment link not found)"; got != want {
		t.Errorf("Saw = %q, want %q", got, want)
	}
}

// An answer without the requested link proves nothing, whatever its status.
func TestUnprovenSuccess(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "nginx")
		if strings.HasSuffix(r.URL.Path, "other") {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, documented)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<html><head><title>Sign in</title>")
	})
	_, get := c.Get(t.Context(), testID)
	_, list := c.List(t.Context(), 0, 0)
	for _, err := range []error{get, list} {
		var e *Error
		if !errors.As(err, &e) || e.Proven || e.Saw() != "200, text/html, “Sign in”" || e.Kind != "200 text/html nginx a967ea28" {
			t.Errorf("%v: %+v", err, e)
		}
	}
	_, err := c.Get(t.Context(), "other")
	var e *Error
	if !errors.As(err, &e) || e.Proven || e.Saw() != "200, application/json, the answer is another payment link: pl_5e9f8f8f9d9e9e9d9e9f…" {
		t.Errorf("%v: %q", err, e.Saw())
	}
}

func TestSaw(t *testing.T) {
	for _, test := range []struct{ body, media, want string }{
		{"", "", "404, empty"},
		{"", "text/html", "404, empty"},
		{"default backend - 404", "text/plain; charset=utf-8", "404, text/plain, “default backend - 404”"},
		{"no  \r\n route\t", "", "404, “no route”"},
		{"<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>", "text/html", "404, text/html, “404 Not Found”"},
		{"<!DOCTYPE html><HTML><TITLE lang=en>\n Sign&nbsp;in &amp; go </TITLE>", "Text/HTML", "404, Text/HTML, “Sign in & go”"},
		{"<html><title> </title><h1>Not</h1><p>here</p>", "text/html", "404, text/html, “Not here”"},
		{"<html><!-- <title>no</title> --><script>if (1<2) x('</b>')</script ><style>a{}</STYLE><b>Bad gateway</b>", "", "404, “Bad gateway”"},
		{"<html><script>for (;;)", "text/html", "404, text/html, no text"},
		{"<html><script>a</b>c", "text/html", "404, text/html, no text"},
		{"<html><body></body></html>", "text/html", "404, text/html, no text"},
		{"<title>Not found", "text/html", "404, text/html, “Not found”"},
		{"<", "text/html", "404, text/html, no text"},
		{" \n", "text/plain", "404, text/plain, no text"},
		{`<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>`, "application/xml", "404, application/xml, “NoSuchKey gone”"},
		{`{"code":5,"message":"Not Found","details":[]}`, "application/json", `404, application/json, “{"code":5,"message":"Not Found","details":[]}”`},
		{strings.Repeat("é", 61), "", "404, “" + strings.Repeat("é", 59) + "…”"},
		{strings.Repeat("é", 60), "", "404, “" + strings.Repeat("é", 60) + "”"},
		{"bad key " + testKey, "text/plain", "404, text/plain, “bad key [redacted]”"},
		{"<b>bad</b> key sk_test_<i></i>0123456789/&quot;abc", "text/html", "404, text/html, “bad key sk_test_ 0123456789/\"abc”"},
		{"<title>sk_test_0123456789/&quot;abc</title>", "text/html", "404, text/html, “[redacted]”"},
		{"a\x1b[31m\u202eb\x00", "x\x1b/y", "404, x /y, “a [31m b”"},
	} {
		if got := answered(404, test.body, test.media, "").apiError().Saw(); got != test.want {
			t.Errorf("%.80q: %q, want %q", test.body, got, test.want)
		}
	}
	cutOff := answered(502, "", "text/html", "")
	cutOff.bodyErr = errors.New("unexpected EOF")
	if got, want := cutOff.apiError().Saw(), "502, text/html, cut off"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A key with brackets is taken for no tag, or parts of it would stay.
	const odd = `sk_live_01<b>&/"+ ~abcdefgh`
	for _, body := range []string{"<html>bad key " + odd, "<html>bad key " + html.EscapeString(odd), "<title>bad key " + odd + "</title>"} {
		a := answered(404, body, "text/html", "")
		a.scrub = newScrubber(odd)
		if got, want := a.apiError().Saw(), "404, text/html, “bad key [redacted]”"; got != want {
			t.Errorf("Saw() of %q = %q, want %q", body, got, want)
		}
	}
	// Nobody knows whether the last word is whole: it may be a part of the key.
	cutOff.body = []byte("bad key " + testKey[:12])
	if got, want := cutOff.apiError().Saw(), "502, text/html, “bad key”"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// Errors made by hand.
	for want, e := range map[string]*Error{
		"404, empty":      {Status: 404},
		"404, “gone”":     {Status: 404, Message: "gone"},
		"404 (code 4: a)": {Status: 404, Message: "a", Code: "4", Proven: true},
		"403 (code 2: " + strings.Repeat("x", 59) + "…)": {Status: 403, Message: strings.Repeat("x", 100), Code: "2", Proven: true},
	} {
		if got := e.Saw(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestKind(t *testing.T) {
	kind := func(status int, body, media, server string) string {
		return answered(status, body, media, server).apiError().Kind
	}
	for want, got := range map[string]string{
		"404 - - e3b0c442":                                                 kind(404, "", "", ""),
		"404 text/html nginx e3b0c442":                                     kind(404, "", "text/html; charset=utf-8", "nginx"),
		"502 text/plain nginx/1.18_(Ubuntu) 2d711642":                      kind(502, "x", " text/plain ;q=1", "nginx/1.18 (Ubuntu)"),
		"404 application/problem+jsonabcd abcdefghijklmnopqrstuv e3b0c442": kind(404, "", "application/problem+jsonabcdefgh", "abcdefghijklmnopqrstuvwxyz"),
		"404 [redacted] [redacted] e3b0c442":                               kind(404, "", testKey, testKey),
		"404 __/ _[31m e3b0c442":                                           kind(404, "", "\u202e\u00e9/\u00a0", "\x1b[31m"),
	} {
		if got != want || len(got) > maxKind {
			t.Errorf("%q, want %q", got, want)
		}
	}
	long := strings.Repeat("x", maxBody)
	if kind(404, long, "", "") != kind(404, long+"y", "", "") || kind(404, long, "", "") == kind(404, long[1:], "", "") {
		t.Error("the hash is not that of what is read")
	}
}

// Whatever an answer says: what is shown and kept of it is clean, short and never
// the key, and a proof is never more than the documented body.
func FuzzAnswer(f *testing.F) {
	const key = "sk_0123456789"
	for _, body := range []string{
		"", "null", `{"code":4,"message":"no","type":"apiError"}`, `{"code":"5","message":"m","source":"s"}`, "<title>404</title>", "<b>a</b>", "<!-- x", "<script>",
		"<style>a</style>b", "<title>a", key, "sk_<b>0123456789", "sk_<!---->0123456789", "sk_&#48;123456789", "a\xff\u200b\x00", "<<<>>>", `{"message":"` + key,
	} {
		f.Add(404, []byte(body), "text/html; charset=utf-8", "nginx", true)
		f.Add(502, []byte(body), key, "sk 0123456789", false)
	}
	form := regexp.MustCompile(`^\d+ [!-~]+ [!-~]+ [0-9a-f]{8}$`)
	f.Fuzz(func(t *testing.T, status int, body []byte, media, server string, whole bool) {
		a := answered(100+int(uint(status)%500), string(body), media, server)
		a.scrub = newScrubber(key)
		if !whole {
			a.bodyErr = errors.New("cut")
		}
		for _, e := range []*Error{a.apiError(), a.notWanted(errors.New("it has no status"))} {
			saw := e.Saw()
			if !utf8.ValidString(saw) || utf8.RuneCountInString(saw) > maxWord+maxSeen+maxWord+20 || strings.Contains(saw, key) ||
				strings.ContainsFunc(saw, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
				t.Fatalf("Saw is not clean: %q", saw)
			}
			switch {
			case e.Proven && (!whole || e.Status < 400 || e.Kind != "" || e.Code == "" || len(body) > maxBody):
				t.Fatalf("proven: %+v", e)
			case !e.Proven && (!form.MatchString(e.Kind) || len(e.Kind) > maxKind || strings.Contains(e.Kind, key)):
				t.Fatalf("kind %q", e.Kind)
			}
		}
	})
}
