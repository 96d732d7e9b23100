package plexy

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Error is an answer of the API, or of something in front of it, that is not
// what was asked for. All its texts come from outside: they are short, hold no
// control characters, and never the key.
type Error struct {
	// Method is DELETE or GET.
	Method string
	// Status is the HTTP status. It can be a 2xx for a GET that brought no link.
	Status int
	// Code, Message and Type are those of the API's error body. Known codes: 1
	// service unavailable, 2 something went wrong, 3 invalid request
	// parameters, 4 not found, 5 unprocessable entity. Without such a body Code
	// and Type are empty, and Message is a line of what came instead.
	Code, Message, Type string
	// RetryAfter is how long to wait before the next request, 0 to 10 years. It
	// counts only with HasRetryAfter.
	RetryAfter    time.Duration
	HasRetryAfter bool
}

// Error returns one line, such as
// "DELETE answered 422 (Unprocessable Entity): code 5, validationError: the link is paid".
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

// TransportError is a request without a usable answer.
type TransportError struct {
	// Method is DELETE or GET.
	Method string
	// Sent tells that the request may have reached the API. When it is false
	// (the dial, the name look-up or the TLS handshake failed, or the context
	// ended before the write) nothing left this machine.
	Sent bool
	// Err is the cause. errors.Is finds context.Canceled and
	// context.DeadlineExceeded in it.
	Err error
}

func (e *TransportError) Error() string {
	if e.Sent {
		return fmt.Sprintf("%s has no answer, though it may have reached the API: %v", e.Method, e.Err)
	}
	return fmt.Sprintf("%s was not sent: %v", e.Method, e.Err)
}

func (e *TransportError) Unwrap() error { return e.Err }
