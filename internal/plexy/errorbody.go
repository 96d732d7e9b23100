package plexy

import (
	"encoding/json"
	"strings"
	"time"
)

// Limits for texts from an answer.
const (
	maxMessage = 256 // bytes
	maxWord    = 64  // bytes of a code or a type
	maxExcerpt = 200 // characters
)

// apiError returns the *Error of an answer. A proven one below 500 keeps the connection.
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

// notWanted returns the *Error of a 2xx without the expected content.
func (a *answer) notWanted(why error) *Error {
	e := &Error{Method: a.method, Status: a.status, Message: why.Error()}
	a.unproven(e, why)
	return e
}

// errorBody is the parsed body of an error.
type errorBody struct {
	code, message, source, kind string
	rawCode                     string // as it was sent, must not be shown
	// documented means that the body has every field of the API's errors. Source: the example on
	// the vendor's pages. Others, such as grpc-gateway, send code and message too.
	documented bool
}

// decodeErrorBody reads {"code":1,"message":…,"source":…,"type":…}, where the code may be a
// number or a string. Without the documented fields the message is an excerpt of the body.
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

// isText reports whether raw is a non-blank JSON string.
func isText(raw json.RawMessage) bool {
	var text string
	return len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil && strings.TrimSpace(text) != ""
}

// excerpt returns the start of text as one line of at most most characters and maxMessage bytes.
func excerpt(text string, whole bool, most int, scrub scrubber) string {
	// The key is removed before anything is cut, or a part of it could remain. Where the
	// body itself is cut, its last word may be a part of the key.
	words := strings.Fields(scrub.line(text))
	if !whole && len(words) > 0 {
		words = words[:len(words)-1]
	}
	return cut(shorten(strings.Join(words, " "), most), maxMessage)
}

// shorten returns at most that many characters of text, ending with an ellipsis if it is cut.
func shorten(text string, most int) string {
	if line := []rune(text); len(line) > most {
		return string(line[:most-1]) + "…"
	}
	return text
}

// decodeObject returns the fields of a JSON object by their exact names, or nil.
func decodeObject(body []byte) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return nil
	}
	return fields
}

// scalar returns the text of a JSON string or number, and "" for anything else.
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
