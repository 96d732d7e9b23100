package plexy

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Error is an unexpected answer. Its texts are short and clean, and never contain the key.
type Error struct {
	// Method is DELETE or GET.
	Method string
	// Status is the HTTP status. It is a 2xx for a GET without a link.
	Status int
	// Code, Message, Type and Source are from the API's error body. Known codes: 1 service
	// unavailable, 2 something went wrong, 3 invalid request parameters, 4 not found, 5
	// unprocessable entity. Without such a body only Message is set, to a line of the answer.
	Code, Message, Type, Source string
	// Proven means that the API itself gave the answer, and not a gateway in front of it: the whole
	// body was read, and it is a JSON object with a code that fits the status, a message, and a
	// source or a type. Source: the vendor's pages. A 2xx or a 3xx is never proven.
	Proven bool
	// Kind identifies similar answers by the status, the media type, the Server header and
	// a hash of the body, such as "404 text/html nginx 1f3a9c20", with "-" for a missing
	// part. It is printable ASCII of at most 64 bytes, and empty for a proven answer.
	Kind string
	// RetryAfter is how long to wait, 0 to 10 years. It is valid only with HasRetryAfter.
	RetryAfter    time.Duration
	HasRetryAfter bool

	saw string // result of Saw, "" for a proven answer
}

// Saw describes the answer for people: for a proven one "404 (code 4: payment link not found)", for
// others the media type and the beginning of the body or the title of HTML, such as "404,
// text/html, “404 Not Found”", with at most 60 characters of the answer.
func (e *Error) Saw() string {
	switch {
	case e.Proven:
		return fmt.Sprintf("%d (code %s: %s)", e.Status, e.Code, shorten(e.Message, maxSeen))
	case e.saw != "":
		return e.saw
	case e.Message == "":
		return fmt.Sprintf("%d, empty", e.Status)
	}
	return fmt.Sprintf("%d, “%s”", e.Status, shorten(e.Message, maxSeen))
}

// Error returns a line such as "DELETE answered 422 (Unprocessable Entity): code 5, …".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s answered %d", e.Method, e.Status)
	if text := http.StatusText(e.Status); text != "" {
		fmt.Fprintf(&b, " (%s)", text)
	}
	separator := ": "
	if e.Code != "" {
		b.WriteString(separator + "code " + e.Code)
		separator = ", "
	}
	if e.Type != "" {
		b.WriteString(separator + e.Type)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	return b.String()
}

// TransportError means that a request got no usable answer.
type TransportError struct {
	// Method is DELETE or GET.
	Method string
	// Sent means that the request may have reached the API. Otherwise nothing was sent: the dial,
	// the name look-up or the TLS handshake failed, or the context ended before the write.
	Sent bool
	// Local means that nothing was sent: this machine ran out of files, ports or memory.
	Local bool
	// Err is the cause. errors.Is finds context.Canceled and context.DeadlineExceeded.
	Err error
}

func (e *TransportError) Error() string {
	if e.Sent {
		return fmt.Sprintf("%s has no answer, though it may have reached the API: %v", e.Method, e.Err)
	}
	return fmt.Sprintf("%s was not sent: %v", e.Method, e.Err)
}

func (e *TransportError) Unwrap() error { return e.Err }
