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

// apiError turns an answer that is not what was asked for into an *Error.
func (a *answer) apiError() *Error {
	e := &Error{Method: a.method, Status: a.status}
	e.Code, e.Message, e.Type = decodeErrorBody(a.body[:min(len(a.body), maxBody)], a.whole() && len(a.body) <= maxBody, a.scrub)
	e.RetryAfter, e.HasRetryAfter = retryAfter(a.header, time.Now())
	return e
}

// decodeErrorBody reads {"code":1,"message":…,"source":…,"type":…}. The code
// comes as a number and as a string. Empty bodies and pages of HTML happen too:
// without the documented fields, the message is an excerpt.
func decodeErrorBody(body []byte, whole bool, scrub scrubber) (code, message, kind string) {
	if fields := decodeObject(body); fields != nil {
		code = cut(scrub.line(scalar(fields["code"])), maxWord)
		message = cut(scrub.line(scalar(fields["message"])), maxMessage)
		kind = cut(scrub.line(scalar(fields["type"])), maxWord)
	}
	if message == "" && code == "" {
		message = excerpt(body, whole, scrub)
	}
	return code, message, kind
}

// excerpt returns the beginning of body as one line.
func excerpt(body []byte, whole bool, scrub scrubber) string {
	// The key must be found before anything is cut, or a part of it could stay;
	// and where the body itself is cut, its last word may be a part of the key.
	words := strings.Fields(scrub.line(string(body)))
	if !whole && len(words) > 0 {
		words = words[:len(words)-1]
	}
	line := []rune(strings.Join(words, " "))
	if len(line) > maxExcerpt {
		line = append(line[:maxExcerpt-1], '…')
	}
	return cut(string(line), maxMessage)
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
