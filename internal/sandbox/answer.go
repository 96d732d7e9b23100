package sandbox

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Answer is an answer that a script, a gateway or a poisoned link gives instead of the API.
type Answer struct {
	// Status is the HTTP status. 0 means the normal answer, unless Cut or Hang is set.
	Status int
	// Body is sent as it is, as JSON if it begins with { or [, else as HTML.
	Body   string
	Header map[string]string
	// Apply cancels the link, if it is active, before the answer. It works in scripts only.
	Apply bool
	// Cut closes the connection instead of answering. Hang never answers.
	Cut, Hang bool
	// Method is that of the requests to answer. "" means DELETE in scripts, all for poison.
	Method string
}

// apiError is the API's error body. Source: the vendor's pages.
type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Source  string `json:"source"`
	Type    string `json:"type"`
}

// The documented codes.
const (
	codeUnavailable   = 1
	codeWrong         = 2
	codeInvalid       = 3
	codeNotFound      = 4
	codeUnprocessable = 5
)

func errorAnswer(status, code int, message string) Answer {
	kind, source := "apiError", "payment-links"
	if code == codeUnprocessable || code == codeInvalid {
		kind = "validationError"
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		source = "keys"
	}
	return jsonAnswer(status, apiError{Code: code, Message: message, Source: source, Type: kind})
}

func jsonAnswer(status int, v any) Answer {
	body, err := json.Marshal(v)
	if err != nil { // cannot happen with the types above
		return Answer{Status: http.StatusInternalServerError}
	}
	return Answer{Status: status, Body: string(body)}
}

func notFound() Answer {
	return errorAnswer(http.StatusNotFound, codeNotFound, "payment link not found")
}

const friendlyPage = "<!doctype html><html><head><title>Welcome</title></head><body>Please sign in to the network.</body></html>"

// write sends a. For a cut it returns without an answer. The caller has waited for a hang.
func (a Answer) write(w http.ResponseWriter) {
	if a.Cut || a.Hang {
		cut(w)
		return
	}
	if a.Body != "" {
		kind := "text/html; charset=utf-8"
		if strings.HasPrefix(a.Body, "{") || strings.HasPrefix(a.Body, "[") {
			kind = "application/json"
		}
		w.Header().Set("Content-Type", kind)
	}
	for name, value := range a.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.Status)
	if a.Body != "" {
		_, _ = w.Write([]byte(a.Body))
	}
}

// cut closes the connection without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 and recorders: the documented way to abort
	}
	_ = conn.Close()
}
