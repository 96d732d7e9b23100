package plexy

// Class is what an error of the API means for sending, whatever was asked for.
type Class uint8

// The classes of errors.
const (
	Unproven     Class = iota // something in front of the API may have answered
	Proven                    // the API itself answered about the request
	Unauthorized              // the key is refused: 401, 403
	Throttled                 // too many requests: 429, or 503 with Retry-After
	Transient                 // it may pass, and the request may have been applied: 408, 425, 5xx
)

// Class returns the class of an error.
func (e *Error) Class() Class {
	switch {
	case e.Status == 401, e.Status == 403:
		return Unauthorized
	case e.Status == 429, e.Status == 503 && e.HasRetryAfter:
		return Throttled
	case e.Status == 408, e.Status == 425, e.Status >= 500:
		return Transient
	case e.Proven:
		return Proven
	}
	return Unproven
}
