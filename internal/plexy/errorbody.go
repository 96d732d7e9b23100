package plexy

import (
	"encoding/json"
	"strings"
	"time"
)

// Longest texts taken from an answer.
const (
	maxMessage = 256 // bytes
	maxWord    = 64  // bytes of a code or a type
	maxExcerpt = 200 // characters
)

// apiError turns an answer that is not what was asked for into an *Error. The
// connection of a proven one is kept, unless the server is in trouble.
func (a *answer) apiError() *Error {
	body, whole := a.head()
	read := decodeErrorBody(body, whole, a.scrub)
	e := &Error{Method: a.method, Status: a.status, Code: read.code, Message: read.message, Type: read.kind, Source: read.source}
	e.RetryAfter, e.HasRetryAfter = retryAfter(a.header, time.Now())
	if e.Proven = whole && read.documented && codeFits(a.status, read.rawCode); e.Proven {
		a.keep = a.status < 500
	} else {
		a.unproven(e, nil)
	}
	return e
}

// notWanted is the *Error of a 2xx that does not carry what was asked for.
func (a *answer) notWanted(why error) *Error {
	e := &Error{Method: a.method, Status: a.status, Message: why.Error()}
	a.unproven(e, why)
	return e
}

// errorBody is what the body of an error says.
type errorBody struct {
	code, message, source, kind string
	rawCode                     string // as it was sent, not to be shown
	// documented reports whether it has every field of an error of the API. Source: the
	// example on the vendor's pages. Others send code and message too, such as
	// grpc-gateway.
	documented bool
}

// decodeErrorBody reads {"code":1,"message":…,"source":…,"type":…}. The code
// comes as a number and as a string. Empty bodies and pages of HTML happen too:
// without the documented fields, the message is an excerpt.
func decodeErrorBody(body []byte, whole bool, scrub scrubber) (read errorBody) {
	if fields := decodeObject(body); fields != nil {
		read.rawCode = scalar(fields["code"])
		read.code = cut(scrub.line(read.rawCode), maxWord)
		read.message = cut(scrub.line(scalar(fields["message"])), maxMessage)
		read.source = cut(scrub.line(scalar(fields["source"])), maxWord)
		read.kind = cut(scrub.line(scalar(fields["type"])), maxWord)
		read.documented = read.rawCode != "" && isText(fields["message"]) && (isText(fields["source"]) || isText(fields["type"]))
	}
	if read.message == "" && read.code == "" {
		read.message = excerpt(string(body), whole, maxExcerpt, scrub)
	}
	return read
}

// isText reports whether raw is a JSON string that is not blank.
func isText(raw json.RawMessage) bool {
	var text string
	return len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil && strings.TrimSpace(text) != ""
}

// excerpt returns the beginning of text as one line of at most that many
// characters, and at most maxMessage bytes.
func excerpt(text string, whole bool, most int, scrub scrubber) string {
	// The key must be found before anything is cut, or a part of it could stay;
	// and where the body itself is cut, its last word may be a part of the key.
	words := strings.Fields(scrub.line(text))
	if !whole && len(words) > 0 {
		words = words[:len(words)-1]
	}
	return cut(shorten(strings.Join(words, " "), most), maxMessage)
}

// shorten returns at most that many characters of text, with an ellipsis in the
// place of what is left out.
func shorten(text string, most int) string {
	if line := []rune(text); len(line) > most {
		return string(line[:most-1]) + "…"
	}
	return text
}

// decodeObject returns the fields of a JSON object, or nil if body is not one.
// Names are compared exactly, and one odd field does not spoil the others.
func decodeObject(body []byte) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return nil
	}
	return fields
}

// scalar returns a JSON string's text or a JSON number as it is written, and
// "" for anything else.
func scalar(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	if c := raw[0]; c == '-' || '0' <= c && c <= '9' {
		return string(raw)
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return text
}
