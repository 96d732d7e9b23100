package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Bodies that ParseAnswer accepts.
const (
	BodyHTML  = "html"  // an HTML page, a login page with a 2xx
	BodyText  = "text"  // plain text, as of a default backend
	BodyJSON  = "json"  // {"message":…}, as of an API gateway
	BodyGRPC  = "grpc"  // {"code":…,"message":…,"details":[]}, as of grpc-gateway
	BodyEmpty = "empty" // no body and no Content-Type
	BodyAPI   = "api"   // the documented error body of the API itself
)

// gatewayServer is the Server header of all answers except the API's own.
const gatewayServer = "gateway/1.0"

// loginURL is the target of a redirect.
const loginURL = "https://login.example.com/"

// ParseAnswer parses STATUS[:BODY][:RETRY_AFTER], such as 404:html, 302:empty or 429:api:20s. The
// status is 200 to 599, and the body one of the constants above or body. Retry-After is a duration
// or a number of seconds. It is sent in whole seconds, rounded up.
func ParseAnswer(text, body string) (Answer, error) {
	parts := strings.Split(text, ":")
	status, err := strconv.Atoi(parts[0])
	if err != nil || status < 200 || status > 599 {
		return Answer{}, fmt.Errorf("answer %q: %q is not a status from 200 to 599", text, parts[0])
	}
	bodiless := status == http.StatusNoContent || status == http.StatusNotModified
	if bodiless {
		body = BodyEmpty
	}
	rest := parts[1:]
	if len(rest) > 0 {
		if _, err := seconds(rest[0]); err != nil {
			if rest[0] != "" {
				body = rest[0]
			}
			rest = rest[1:]
		}
	}
	a, err := madeAnswer(status, body)
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("answer %q: %w", text, err)
	case bodiless && body != BodyEmpty:
		return Answer{}, fmt.Errorf("answer %q: a %d has no body", text, status)
	case len(rest) > 1:
		return Answer{}, fmt.Errorf("answer %q: %q is too much", text, strings.Join(rest[1:], ":"))
	case len(rest) == 1:
		wait, err := seconds(rest[0])
		if err != nil {
			return Answer{}, fmt.Errorf("answer %q: Retry-After: %w", text, err)
		}
		a.Header["Retry-After"] = wait
	}
	return a, nil
}

// seconds parses a duration or a number of seconds for Retry-After.
func seconds(text string) (string, error) {
	wait, err := time.ParseDuration(text)
	if n, numberErr := strconv.ParseUint(text, 10, 31); numberErr == nil {
		wait, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || wait < 0 {
		return "", fmt.Errorf("%q is not a duration", text)
	}
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10), nil
}

// madeAnswer returns an answer with one of the known bodies.
func madeAnswer(status int, body string) (Answer, error) {
	if body == BodyAPI {
		a := errorAnswer(status, codeFor(status), strings.ToLower(statusText(status)))
		a.Header = map[string]string{}
		return a, nil
	}
	a := Answer{Status: status, Header: map[string]string{"Server": gatewayServer}}
	if status/100 == 3 && status != http.StatusNotModified {
		a.Header["Location"] = loginURL
	}
	switch body {
	case BodyHTML:
		a.Body = htmlPage(status)
	case BodyText:
		a.Body = fmt.Sprintf("default backend - %d", status)
		a.Header["Content-Type"] = "text/plain; charset=utf-8"
	case BodyJSON:
		a.Body = gatewayJSON(status)
	case BodyGRPC:
		a.Body = grpcJSON(status)
	case BodyEmpty:
	default:
		return Answer{}, fmt.Errorf("%q is not a body: use html, text, json, grpc, empty or api", body)
	}
	return a, nil
}

// codeFor returns the API's code for a status. Source: the vendor's pages.
func codeFor(status int) int {
	switch {
	case status == http.StatusBadRequest:
		return codeInvalid
	case status == http.StatusNotFound:
		return codeNotFound
	case status == http.StatusUnprocessableEntity:
		return codeUnprocessable
	case status >= 500:
		return codeUnavailable
	}
	return codeWrong
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return text
	}
	return "Status " + strconv.Itoa(status)
}

// htmlPage returns the HTML of an nginx error page, or of a login page for a 2xx.
func htmlPage(status int) string {
	if status/100 == 2 {
		return friendlyPage
	}
	title := fmt.Sprintf("%d %s", status, statusText(status))
	return fmt.Sprintf("<html>\r\n<head><title>%s</title></head>\r\n<body><center><h1>%[1]s</h1></center></body>\r\n</html>\r\n", title)
}

// gatewayJSON returns the error body of a gateway. That of a 404 is Kong's.
func gatewayJSON(status int) string {
	message := statusText(status)
	if status == http.StatusNotFound {
		message = "no Route matched with those values"
	}
	return marshal(map[string]string{"message": message})
}

// grpcJSON returns the error body of grpc-gateway with the gRPC code for the status.
func grpcJSON(status int) string {
	code, known := map[int]int{400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}[status]
	if !known {
		code = 2 // UNKNOWN
	}
	return marshal(struct {
		Code    int      `json:"code"`
		Message string   `json:"message"`
		Details []string `json:"details"`
	}{code, statusText(status), []string{}})
}

func marshal(v any) string {
	body, err := json.Marshal(v)
	if err != nil { // the types above always marshal
		return ""
	}
	return string(body)
}
