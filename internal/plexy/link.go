package plexy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Link is what a GET shows of a payment link. Source: the vendor's page and
// the code of public callers.
type Link struct {
	ID string
	// Status is as the API spells it; see Active and Cancelled.
	Status string
	// URL is the checkout page.
	URL            string
	OrderReference string
	// CreatedAt and ExpiresAt are zero when absent, null or unreadable.
	CreatedAt, ExpiresAt time.Time
	// CreatedNote and ExpiresNote tell what is wrong with these dates.
	CreatedNote, ExpiresNote DateNote
	// Amount is in minor units of Currency, 0 when absent or unreadable.
	Amount   int64
	Currency string
}

// Cancelled reports whether a status means cancelled. The spelling on the wire
// is not documented, so both are taken, in any case.
func Cancelled(status string) bool {
	return strings.EqualFold(status, "cancelled") || strings.EqualFold(status, "canceled")
}

// Ended reports whether a link with this status cannot be paid any more: it is
// cancelled, paid or expired. Source: the vendor documents only "active"; the
// names of paid and expired links are those that public callers of the API use.
// A status that is not known counts as payable.
func Ended(status string) bool {
	for _, ended := range [...]string{"paid", "charged", "authorized", "success", "completed", "expired"} {
		if strings.EqualFold(status, ended) {
			return true
		}
	}
	return Cancelled(status)
}

// decodeLink reads the link that was asked for by id. It insists on what makes
// an answer a proof: a JSON object with a status and the requested id. The id
// may also be its external id, as the vendor's Cancel page calls the id in the
// path. All the rest may be missing or odd.
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
		ID:             id,
		Status:         cut(scrub.line(status), maxMessage),
		URL:            text("url"),
		OrderReference: text("orderReference"),
		Currency:       text("currency"),
	}
	link.readDates(fields, scrub)
	if amount, err := strconv.ParseInt(text("amount"), 10, 64); err == nil {
		link.Amount = amount
	}
	return link, nil
}

// checkSame tells why the fields are not those of the link that was asked for.
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

// notLink says what came instead of a JSON object.
func notLink(body []byte, scrub scrubber) error {
	if text := excerpt(string(body), true, maxExcerpt, scrub); text != "" {
		return fmt.Errorf("the answer is not a payment link: %s", text)
	}
	return errors.New("the answer is not a payment link: it is empty")
}

// readDates reads the dates of a link. Source of the first names: the vendor's
// page. The others are those that servers with snake_case names use.
func (l *Link) readDates(fields map[string]json.RawMessage, scrub scrubber) {
	l.CreatedAt, l.CreatedNote = readDate(fields, scrub, "createdAt", "created_at")
	l.ExpiresAt, l.ExpiresNote = readDate(fields, scrub, "expiresAt", "expires_at")
}
