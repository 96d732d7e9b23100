package plexy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Page is one page of the list of payment links.
type Page struct {
	// Links are those with an id that CheckID passes, as they stand on the page.
	// URL and OrderReference are left empty, and so may be every other field.
	Links []Link
	// Unusable is how many entries have no such id, or are no link at all.
	Unusable int
	// Total is how many links the list says it has on all pages. It counts only
	// with HasTotal.
	Total    int64
	HasTotal bool
	// Date is the answer's Date header, the API's clock; zero without one.
	Date time.Time
}

// List asks for one page of all payment links.
//
// Nothing about the list is documented but its path. page and size are those of
// its sibling GET /transactions; 0 leaves the parameter out. Whether pages
// count from 0 or 1, and whether size is heeded, is the server's choice.
//
// Its errors are an *Error for an answer that is no list, a 2xx included, and a
// *TransportError without an answer or when it is cut off.
func (c *Client) List(ctx context.Context, page, size int) (Page, error) {
	a, err := c.send(ctx, http.MethodGet, listURL(c.base, page, size), maxPage)
	if err != nil {
		return Page{}, err
	}
	defer c.release(a)
	if !a.ok() {
		return Page{}, a.apiError()
	}
	if a.bodyErr != nil {
		return Page{}, &TransportError{Method: a.method, Sent: true, Err: a.bodyErr}
	}
	p, err := decodePage(a.body, a.limit, a.scrub)
	if err != nil {
		return Page{}, a.notWanted(err)
	}
	a.keep = true
	if date, err := http.ParseTime(a.header.Get("Date")); err == nil {
		p.Date = date
	}
	return p, nil
}

func listURL(base string, page, size int) string {
	query := url.Values{}
	if page > 0 {
		query.Set("page", strconv.Itoa(page))
	}
	if size > 0 {
		query.Set("size", strconv.Itoa(size))
	}
	address := base + "/payment-links"
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	return address
}

// envelopes are the names under which an object may hold the links: that of
// GET /transactions first, then likely ones; content is that of Spring.
var envelopes = [...]string{"data", "items", "paymentLinks", "results", "content"}

// totals are the names under which an object may tell how many links there are.
var totals = [...]string{"total", "totalElements"}

// nesting is the envelope that may be an object with another envelope inside.
const nesting = "data"

// maxEntries is how many entries a page may have: five times what fits on one
// of maxPage bytes when its links are as long as the documented one.
const maxEntries = 100_000

// decodePage reads a page: an array of links, or an object with such an array
// and perhaps a total.
func decodePage(body []byte, limit int, scrub scrubber) (Page, error) {
	if len(body) > limit {
		return Page{}, fmt.Errorf("the answer is not a page of payment links: it is longer than %d MiB", limit>>20)
	}
	if !json.Valid(body) {
		return Page{}, notList(body, scrub)
	}
	var p Page
	list := body
	if fields := pageFields(body); fields != nil {
		if list = p.open(fields); list == nil {
			return Page{}, fmt.Errorf("the answer is not a page of payment links: it has no array named %s, nor one of them in an object named %s",
				strings.Join(envelopes[:], ", "), nesting)
		}
	} else if !isArray(body) {
		return Page{}, notList(body, scrub)
	}
	p.Links = []Link{}
	// One entry at a time: a long page of maps would take fifty times its size.
	entries := json.NewDecoder(bytes.NewReader(list))
	_, _ = entries.Token() // the bracket, or the null
	for n := 0; entries.More(); n++ {
		if n == maxEntries {
			return Page{}, fmt.Errorf("the answer is not a page of payment links: it has more than %d entries", maxEntries)
		}
		var entry json.RawMessage
		if err := entries.Decode(&entry); err != nil {
			return Page{}, notList(body, scrub)
		}
		if link, ok := decodeEntry(entry, scrub); ok {
			p.Links = append(p.Links, link)
		} else {
			p.Unusable++
		}
	}
	return p, nil
}

// open finds the array of links in the fields of an object, and the total. An
// array of the object itself goes before one in a nested object, and a total
// beside the array before one outside. It returns nil if there is no list.
func (p *Page) open(fields map[string][]byte) (list []byte) {
	p.readTotal(fields)
	if list = envelope(fields, p.HasTotal); isArray(list) {
		return list
	}
	inner := pageFields(fields[nesting])
	p.readTotal(inner)
	if nested := envelope(inner, p.HasTotal); nested != nil {
		return nested
	}
	return list
}

// readTotal reads the total of an object, if it has one that can be read.
func (p *Page) readTotal(fields map[string][]byte) {
	for _, name := range totals {
		if total, err := strconv.ParseInt(scalar(fields[name]), 10, 64); err == nil && total >= 0 {
			p.Total, p.HasTotal = total, true
			return
		}
	}
}

// pageFields returns those fields of an object that can matter, or nil if body,
// which is JSON or empty, is no object. The values are parts of body, as a copy
// could be as long as a page.
func pageFields(body []byte) map[string][]byte {
	object := json.NewDecoder(bytes.NewReader(body))
	if first, err := object.Token(); err != nil || first != json.Delim('{') {
		return nil
	}
	fields := map[string][]byte{}
	var value json.RawMessage
	for object.More() {
		token, _ := object.Token()
		if object.Decode(&value) != nil {
			return fields
		}
		name := fmt.Sprint(token)
		if slices.Contains(totals[:], name) || slices.Contains(envelopes[:], name) {
			end := object.InputOffset()
			fields[name] = body[end-int64(len(value)) : end]
		}
	}
	return fields
}

// envelope returns the array of links, or nil if there is none. Beside a total, a
// null in the array's place is an empty array, as some servers write it; alone it
// is no sign of a list.
func envelope(fields map[string][]byte, hasTotal bool) (list []byte) {
	for _, name := range envelopes {
		switch raw := fields[name]; {
		case isArray(raw):
			return raw
		case hasTotal && string(raw) == "null":
			list = raw
		}
	}
	return list
}

func isArray(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && body[0] == '['
}

// decodeEntry reads one link of a page. Only its id must be there: what else is
// missing or odd stays zero, and it is for the caller to leave such a link out.
func decodeEntry(entry []byte, scrub scrubber) (link Link, ok bool) {
	if len(entry) > maxBody {
		return Link{}, false
	}
	fields := decodeObject(entry)
	id := scalar(fields["id"])
	// JSON's decoder puts U+FFFD in the place of bytes that are no UTF-8: such an
	// id is not the link's.
	if CheckID(id) != nil || strings.ContainsRune(id, utf8.RuneError) {
		return Link{}, false
	}
	text := func(name string) string { return scrub.line(scalar(fields[name])) }
	link = Link{
		ID:       id,
		Status:   cut(text("status"), maxWord),
		Currency: cut(text("currency"), maxWord),
	}
	link.readDates(fields, scrub)
	if amount, err := strconv.ParseInt(text("amount"), 10, 64); err == nil {
		link.Amount = amount
	}
	return link, true
}

// notList says what came instead of a list.
func notList(body []byte, scrub scrubber) error {
	body = body[:min(len(body), maxBody)]
	if text := excerpt(string(body), len(body) < maxBody, maxExcerpt, scrub); text != "" {
		return fmt.Errorf("the answer is not a page of payment links: %s", text)
	}
	return errors.New("the answer is not a page of payment links: it is empty")
}
