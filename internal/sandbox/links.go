package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// seedID returns the id of a seeded link.
func seedID(seed uint64, index int) string {
	base := mix(seed + 0x9e3779b97f4a7c15) // mix(0) is 0
	half := mix(base + uint64(index))
	raw := binary.BigEndian.AppendUint64(nil, half)
	return "pl_" + hex.EncodeToString(binary.BigEndian.AppendUint64(raw, mix(half^base)))
}

// link is a payment link. What it lacks is drawn from the seed when it is shown.
type link struct {
	id            string
	index         int
	status        string // "": the API answers 404
	updated       time.Time
	deletes, gets uint64 // requests so far, for the draws
	applied       int    // DELETEs that cancelled it
}

// links holds all links: the seeded ones first. The caller locks.
type links struct {
	seed    uint64
	start   time.Time
	all     []*link
	byID    map[string]*link
	present []*link // without those that answer 404; nil: not known
}

func newLinks(cfg Config, start time.Time) *links {
	l := &links{seed: cfg.Seed, start: start.Truncate(time.Second), byID: map[string]*link{}}
	for i := range cfg.Links {
		l.add(seedID(cfg.Seed, i)).status = seededStatus(cfg, i)
	}
	for _, id := range cfg.IDs {
		l.add(id)
	}
	return l
}

// seededStatus draws a seeded link's status. The vendor documents only "active".
func seededStatus(cfg Config, index int) string {
	u := share(draw(cfg.Seed, drawStatus, uint64(index), 0))
	for _, s := range []struct {
		share  float64
		status string
	}{{cfg.Paid, "paid"}, {cfg.Expired, "expired"}, {cfg.Cancelled, "cancelled"}, {cfg.Missing, ""}} {
		if u < s.share {
			return s.status
		}
		u -= s.share
	}
	return "active"
}

// add returns the link with an id. It adds an active one if there is none.
func (l *links) add(id string) *link {
	p := l.byID[id]
	if p == nil {
		p = &link{id: id, index: len(l.all), status: "active"}
		l.all, l.byID[id], l.present = append(l.all, p), p, nil
	}
	return p
}

// count returns how many requests with a method the link had before this one.
func (p *link) count(method string) (before uint64) {
	switch method {
	case "DELETE":
		before = p.deletes
		p.deletes++
	case "GET":
		before = p.gets
		p.gets++
	}
	return before
}

// cancel cancels an active link, and says whether it did.
func (p *link) cancel(now time.Time) bool {
	if p == nil || p.status != "active" {
		return false
	}
	p.status, p.updated = "cancelled", now
	p.applied++
	return true
}

// document is a link as the API shows it. Source: the vendor's Retrieve
// Payment Link page. The API leaves expiresAt out or sends null: so does this.
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

// document draws what a link looks like.
func (l *links) document(p *link) document {
	drawn := func(what, n uint64) uint64 { return draw(l.seed, what, uint64(p.index), n) }
	age := time.Duration(share(drawn(drawAge, 0)) * float64(60*24*time.Hour))
	if p.status == "expired" {
		age = lifetime + age/2
	}
	created := l.start.Add(-age).Truncate(time.Second)
	updated := created
	if !p.updated.IsZero() {
		updated = p.updated
	}
	d := document{
		Amount:       int64(1+drawn(drawAmount, 0)%10_000) * 100,
		AutoClearing: true,
		CreatedAt:    wireTime(created),
		Currency:     "KZT",
		CustomerID:   fmt.Sprintf("customer-%04d", drawn(drawOrder, 1)%10_000),
		Description:  "Payment for services",
		ID:           p.id,
		Metadata: map[string]string{
			"callbackUrl": "https://example.com/callback",
			"cancelUrl":   "https://example.com/cancel",
			"failureUrl":  "https://example.com/failure",
			"successUrl":  "https://example.com/success",
		},
		OrderReference: fmt.Sprintf("ORD%06d", drawn(drawOrder, 0)%1_000_000),
		Status:         p.status,
		UpdatedAt:      wireTime(updated),
		URL:            "https://checkout.plexypay.com/" + p.id,
		CreatedBy:      "sandbox",
	}
	switch n := drawn(drawExpiry, 0) % 16; {
	case n == 0 && p.status != "expired": // absent
	case n == 1 && p.status != "expired":
		d.ExpiresAt = (*string)(nil) // null
	default:
		d.ExpiresAt = wireTime(created.Add(lifetime))
	}
	return d
}

func wireTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// page returns a page, from 1, of the links with a status ("": all), and their total number.
func (l *links) page(number, size int, filter string) (data []document, total int) {
	if l.present == nil { // kept, because a whole list can be thousands of pages
		for _, p := range l.all {
			if p.status != "" {
				l.present = append(l.present, p)
			}
		}
	}
	found := l.present
	if filter != "" {
		found = nil
		for _, p := range l.present {
			if p.status == filter {
				found = append(found, p)
			}
		}
	}
	data = []document{}
	first := min((number-1)*size, len(found))
	for _, p := range found[first:min(first+size, len(found))] {
		data = append(data, l.document(p))
	}
	return data, len(found)
}
