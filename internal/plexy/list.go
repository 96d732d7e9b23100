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
	// Links are the entries whose id passes CheckID, in order. All other fields may be empty.
	Links []Link
	// Unusable is the number of other entries.
	Unusable int
	// Total is the number of links on all pages by the list. It is valid only with HasTotal.
	Total    int64
	HasTotal bool
	// Date is the answer's Date header, the API's clock. It is zero without one.
	Date time.Time
}

// List asks for one page of all payment links.
//
// The API documents only the path of the list. page and size are those of GET
// /transactions; 0 leaves the parameter out. The server decides whether pages count from 0
// or 1, and whether it respects size.
//
// The error is an *Error for an answer that is not a list, including a 2xx, and a
// *TransportError if there is no answer or it is cut off.
func (c *Client) List(ctx context.Context, page, size int) (Page, error) {
	a, err := c.send(ctx, http.MethodGet, listURL(c.links, page, size), maxPage)
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

func listURL(links *url.URL, page, size int) *url.URL {
	query := url.Values{}
	if page > 0 {
		query.Set("page", strconv.Itoa(page))
	}
	if size > 0 {
		query.Set("size", strconv.Itoa(size))
	}
	u := *links
	u.RawQuery = query.Encode()
	return &u
}

// envelopes are the names of the array of links: that of GET /transactions, then likely ones.
var envelopes = [...]string{"data", "items", "paymentLinks", "results", "content"}

// totals are the names of the total.
var totals = [...]string{"total", "totalElements"}

// nesting is the envelope that may contain an object with another envelope.
const nesting = "data"

// maxEntries is the maximum number of entries in a page, five times what a full page has.
const maxEntries = 100_000

// decodePage reads a page: an array of links, or an object with such an array and perhaps a total.
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
	// Decoded one by one, because maps of a long page would take fifty times its size.
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

// open finds the array of links and the total in an object, or nil. An array of the object comes
// before one in a nested object, and a total beside the array before one outside.
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

// readTotal reads the total of an object, if there is a valid one.
func (p *Page) readTotal(fields map[string][]byte) {
	for _, name := range totals {
		if total, err := strconv.ParseInt(scalar(fields[name]), 10, 64); err == nil && total >= 0 {
			p.Total, p.HasTotal = total, true
			return
		}
	}
}

// pageFields returns the relevant fields of an object, or nil if body, which is JSON or empty, is
// not one. The values are parts of body, because copies could be as long as a page.
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

// envelope returns the array of links, or nil. null is an empty array only beside a total.
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

// decodeEntry reads one link of a page. Only its id is required.
func decodeEntry(entry []byte, scrub scrubber) (link Link, ok bool) {
	if len(entry) > maxBody {
		return Link{}, false
	}
	fields := decodeObject(entry)
	id := scalar(fields["id"])
	// The JSON decoder replaces invalid UTF-8 by U+FFFD, so the id is not that of the link.
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

// notList returns the error of an answer that is not a list.
func notList(body []byte, scrub scrubber) error {
	body = body[:min(len(body), maxBody)]
	if text := excerpt(string(body), len(body) < maxBody, maxExcerpt, scrub); text != "" {
		return fmt.Errorf("the answer is not a page of payment links: %s", text)
	}
	return errors.New("the answer is not a page of payment links: it is empty")
}
