package sandbox

import (
	"fmt"
	"time"
)

// status is an index into links.names.
type status uint16

// Statuses of every sandbox. The vendor documents only "active"; the other spellings are
// likely.
const (
	active status = iota
	paid
	expired
	cancelled
	missing // the link answers 404
)

// link is the mutable part of a link, 12 bytes, so that a million links take 12 MB. The
// rest is drawn from the seed on demand.
type link struct {
	updated       uint32 // seconds after the start of the server + 1, 0 for never
	deletes, gets uint16 // number of requests, for the draws; may wrap around
	status        status
	applied       uint8 // DELETEs that cancelled it, at most 255
}

// links are all links by index, the seeded ones first. The caller locks.
type links struct {
	seed   uint64
	seeded int
	state  []link
	added  []string       // ids of the others
	index  map[string]int // of the others
	names  []string       // status → text
	codes  map[string]status
	start  time.Time
	there  []uint32 // indices of the links that are not missing, nil if unknown
}

func newLinks(cfg Config, start time.Time) *links {
	l := &links{
		seed:   cfg.Seed,
		seeded: max(cfg.Links, 0),
		index:  make(map[string]int),
		names:  []string{"active", "paid", "expired", "cancelled", ""},
		start:  start.Truncate(time.Second),
	}
	l.codes = map[string]status{"active": active, "paid": paid, "expired": expired, "cancelled": cancelled, "": missing}
	l.state = make([]link, l.seeded)
	for i := range l.state {
		l.state[i].status = seededStatus(cfg, i)
	}
	for _, id := range cfg.IDs {
		l.add(id)
	}
	return l
}

// seededStatus draws the status of a seeded link.
func seededStatus(cfg Config, index int) status {
	u := share(draw(cfg.Seed, drawStatus, uint64(index), 0))
	for _, s := range []struct {
		share  float64
		status status
	}{{cfg.Paid, paid}, {cfg.Expired, expired}, {cfg.Cancelled, cancelled}, {cfg.Missing, missing}} {
		if u < s.share {
			return s.status
		}
		u -= s.share
	}
	return active
}

// add adds an active link unless the id exists, and returns its index.
func (l *links) add(id string) int {
	if i, ok := l.find(id); ok {
		return i
	}
	i := len(l.state)
	l.state = append(l.state, link{status: active})
	l.there = nil
	l.added = append(l.added, id)
	l.index[id] = i
	return i
}

// find returns the index of a link, including missing ones.
func (l *links) find(id string) (int, bool) {
	if i, ok := seedIndex(l.seed, id); ok && i < uint64(l.seeded) {
		return int(i), true
	}
	i, ok := l.index[id]
	return i, ok
}

// id returns the id of a link.
func (l *links) id(index int) string {
	if index < l.seeded {
		return seedID(l.seed, index)
	}
	return l.added[index-l.seeded]
}

// count increments the number of requests of a method for the link and returns the previous
// value.
func (l *links) count(index int, method string) uint16 {
	p := &l.state[index]
	switch method {
	case "DELETE":
		p.deletes++
		return p.deletes - 1
	case "GET":
		p.gets++
		return p.gets - 1
	}
	return 0
}

// cancel cancels a link if it is active, and reports whether it did.
func (l *links) cancel(index int, now time.Time) bool {
	p := &l.state[index]
	if p.status != active {
		return false
	}
	p.status = cancelled
	p.applied = min(p.applied, 254) + 1
	l.touch(index, now)
	return true
}

// touch sets the time of the last change.
func (l *links) touch(index int, now time.Time) {
	l.state[index].updated = uint32(max(now.Sub(l.start)/time.Second, 0)) + 1
}

// code returns the number of a status text and adds a new text.
func (l *links) code(text string) status {
	if s, ok := l.codes[text]; ok {
		return s
	}
	s := status(len(l.names))
	l.names = append(l.names, text)
	l.codes[text] = s
	return s
}

// document is a link as the API shows it. Source: the vendor's Retrieve Payment Link page.
// Like the API, it leaves expiresAt out or sends null.
type document struct {
	Amount         int64             `json:"amount"`
	AutoClearing   bool              `json:"autoClearing"`
	CreatedAt      string            `json:"createdAt"`
	Currency       string            `json:"currency"`
	CustomerID     string            `json:"customerId"`
	Description    string            `json:"description"`
	ExpiresAt      any               `json:"expiresAt,omitempty"`
	ID             string            `json:"id"`
	Metadata       map[string]string `json:"metadata"`
	OrderReference string            `json:"orderReference"`
	Status         string            `json:"status"`
	UpdatedAt      string            `json:"updatedAt"`
	URL            string            `json:"url"`
	Validation     bool              `json:"validation"`
	CreatedBy      string            `json:"createdBy"`
}

// lifetime is how long a link can be paid.
const lifetime = 14 * 24 * time.Hour

// document draws the fields of a link.
func (l *links) document(index int) document {
	drawn := func(what, n uint64) uint64 { return draw(l.seed, what, uint64(index), n) }
	p := l.state[index]
	age := time.Duration(share(drawn(drawAge, 0)) * float64(60*24*time.Hour))
	if p.status == expired {
		age = lifetime + age/2
	}
	created := l.start.Add(-age).Truncate(time.Second)
	updated := created
	if p.updated > 0 {
		updated = l.start.Add(time.Duration(p.updated-1) * time.Second)
	}
	id := l.id(index)
	d := document{
		Amount:       int64(1+drawn(drawAmount, 0)%10_000) * 100,
		AutoClearing: true,
		CreatedAt:    wireTime(created),
		Currency:     "KZT",
		CustomerID:   fmt.Sprintf("customer-%04d", drawn(drawOrder, 1)%10_000),
		Description:  "Payment for services",
		ID:           id,
		Metadata: map[string]string{
			"callbackUrl": "https://example.com/callback",
			"cancelUrl":   "https://example.com/cancel",
			"failureUrl":  "https://example.com/failure",
			"successUrl":  "https://example.com/success",
		},
		OrderReference: fmt.Sprintf("ORD%06d", drawn(drawOrder, 0)%1_000_000),
		Status:         l.names[p.status],
		UpdatedAt:      wireTime(updated),
		URL:            "https://checkout.plexypay.com/" + id,
		CreatedBy:      "sandbox",
	}
	switch n := drawn(drawExpiry, 0) % 16; {
	case n == 0 && p.status != expired: // absent
	case n == 1 && p.status != expired:
		d.ExpiresAt = (*string)(nil) // null
	default:
		d.ExpiresAt = wireTime(created.Add(lifetime))
	}
	return d
}

func wireTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// setStatus sets the status of a link.
func (l *links) setStatus(index int, s status) {
	if (l.state[index].status == missing) != (s == missing) {
		l.there = nil
	}
	l.state[index].status = s
}

// page returns a page of the existing links, from 1, and their number on all pages. filter
// is a status, or "" for all.
func (l *links) page(number, size int, filter string) (data []document, total int) {
	data = []document{}
	first := (number - 1) * size
	if filter == "" {
		// Fast with many links, because a whole list is thousands of pages.
		there := l.list()
		for i := first; i < min(first+size, len(there)); i++ {
			data = append(data, l.document(int(there[i])))
		}
		return data, len(there)
	}
	want, known := l.codes[filter]
	if !known {
		return data, 0
	}
	for i := range l.state {
		if l.state[i].status != want {
			continue
		}
		if total >= first && len(data) < size {
			data = append(data, l.document(i))
		}
		total++
	}
	return data, total
}

// list returns the indices of the existing links.
func (l *links) list() []uint32 {
	if l.there == nil {
		l.there = make([]uint32, 0, len(l.state))
		for i := range l.state {
			if l.state[i].status != missing {
				l.there = append(l.there, uint32(i))
			}
		}
	}
	return l.there
}
