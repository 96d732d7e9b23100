package plexy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Link is a payment link as a GET shows it. Source: the vendor's page and public callers.
type Link struct {
	ID string
	// Status is as the API spells it: see Cancelled and Ended.
	Status string
	// CreatedAt and ExpiresAt are zero if absent, null or unreadable.
	CreatedAt, ExpiresAt time.Time
	// CreatedNote and ExpiresNote are problems of these dates.
	CreatedNote, ExpiresNote DateNote
	// Amount is in minor units of Currency, 0 if absent or unreadable.
	Amount   int64
	Currency string
}

// Cancelled reports whether a status means cancelled. Both spellings count, in any case.
func Cancelled(status string) bool {
	return strings.EqualFold(status, "cancelled") || strings.EqualFold(status, "canceled")
}

// Active reports whether a status means that the link can be paid. Source: the vendor's page.
func Active(status string) bool { return strings.EqualFold(status, "active") }

// Ended reports whether a link with this status is cancelled, paid or expired. Source: public
// callers, because the vendor documents only "active". An unknown status counts as payable.
func Ended(status string) bool {
	for _, ended := range [...]string{"paid", "charged", "authorized", "success", "completed", "expired"} {
		if strings.EqualFold(status, ended) {
			return true
		}
	}
	return Cancelled(status)
}

// decodeLink reads the link with an id: a JSON object with a status and that id or external id
// (Source: the vendor's Cancel page). All other fields may be missing or odd.
func decodeLink(body []byte, id string, scrub scrubber) (Link, error) {
	if len(body) > maxBody {
		return Link{}, fmt.Errorf("the answer is not a payment link: it is longer than %d KiB", maxBody>>10)
	}
	fields := decodeObject(body)
	if fields == nil {
		return Link{}, notLink(body, scrub)
	}
	var status string
	if json.Unmarshal(fields["status"], &status) != nil || scrub.line(status) == "" {
		return Link{}, errors.New("the answer is not a payment link: it has no status")
	}
	if err := checkSame(fields, id, scrub); err != nil {
		return Link{}, err
	}
	text := func(name string) string { return scrub.line(scalar(fields[name])) }
	link := Link{
		ID:       id,
		Status:   cut(scrub.line(status), maxMessage),
		Currency: text("currency"),
	}
	link.readDates(fields, scrub)
	if amount, err := strconv.ParseInt(text("amount"), 10, 64); err == nil {
		link.Amount = amount
	}
	return link, nil
}

// checkSame returns why the fields are not those of the requested link.
func checkSame(fields map[string]json.RawMessage, id string, scrub scrubber) error {
	for _, name := range [...]string{"id", "externalId", "external_id"} {
		if scalar(fields[name]) == id {
			return nil
		}
	}
	if other := scrub.line(scalar(fields["id"])); other != "" {
		return fmt.Errorf("the answer is another payment link: %s", cut(other, maxWord))
	}
	return errors.New("the answer is not a payment link: it has no id")
}

// notLink returns the error of an answer that is not a JSON object.
func notLink(body []byte, scrub scrubber) error {
	if text := excerpt(string(body), true, maxExcerpt, scrub); text != "" {
		return fmt.Errorf("the answer is not a payment link: %s", text)
	}
	return errors.New("the answer is not a payment link: it is empty")
}

// readDates reads the dates of a link, by the names on the vendor's page or in snake_case.
func (l *Link) readDates(fields map[string]json.RawMessage, scrub scrubber) {
	l.CreatedAt, l.CreatedNote = readDate(fields, scrub, "createdAt", "created_at")
	l.ExpiresAt, l.ExpiresNote = readDate(fields, scrub, "expiresAt", "expires_at")
}
