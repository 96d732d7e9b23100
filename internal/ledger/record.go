package ledger

import (
	"encoding/binary"
	"time"
)

// RecordSize is the length of one encoded record in bytes.
//
//	byte 0     outcome (bits 0-3), ambiguous (bit 4), settling (bit 5)
//	byte 1     attempts
//	bytes 2-3  HTTP status (bits 0-9), index of the link status (bits 10-15)
//	bytes 4-7  seconds from the batch's creation to the outcome
//
// Numbers are big-endian. A string of zeros is a record of a link that was
// never touched, so a missing or short record string reads as pending.
const RecordSize = 8

const (
	flagAmbiguous = 1 << 4
	flagSettling  = 1 << 5

	maxStatus     = 1<<10 - 1
	maxLinkStatus = 1<<6 - 1
)

// A Record is what the ledger remembers of one link beside its id.
type Record struct {
	Outcome    Outcome
	Ambiguous  bool // an attempt may have been applied though we saw no clear answer
	Settling   bool // the DELETE is answered; a GET has still to tell what it means
	Attempts   uint8
	HTTPStatus int    // of the last answer to a DELETE; 0 if there was none
	LinkStatus int    // index into the batch's table of link statuses; 0 if unknown
	After      uint32 // seconds from the batch's creation to the outcome
}

// Append encodes r at the end of b.
func (r Record) Append(b []byte) []byte {
	b = append(b, r.head()...)
	return binary.BigEndian.AppendUint32(b, r.After)
}

// head is the part of a record that a worker sends; Redis adds the time.
func (r Record) head() []byte {
	first := byte(r.Outcome) & 0x0f
	if r.Ambiguous {
		first |= flagAmbiguous
	}
	if r.Settling {
		first |= flagSettling
	}
	status := min(max(r.HTTPStatus, 0), maxStatus)
	link := min(max(r.LinkStatus, 0), maxLinkStatus)
	packed := uint16(status) | uint16(link)<<10
	return []byte{first, r.Attempts, byte(packed >> 8), byte(packed)}
}

// DecodeRecord reads the record at the start of b; what is missing reads as
// zeros.
func DecodeRecord(b []byte) Record {
	var full [RecordSize]byte
	copy(full[:], b)
	packed := binary.BigEndian.Uint16(full[2:])
	return Record{
		Outcome:    Outcome(full[0] & 0x0f),
		Ambiguous:  full[0]&flagAmbiguous != 0,
		Settling:   full[0]&flagSettling != 0,
		Attempts:   full[1],
		HTTPStatus: int(packed & maxStatus),
		LinkStatus: int(packed >> 10),
		After:      binary.BigEndian.Uint32(full[4:]),
	}
}

// Time is when the outcome was recorded, in a batch created at the given
// time; zero for a link without an outcome.
func (r Record) Time(created time.Time) time.Time {
	if r.Outcome == None {
		return time.Time{}
	}
	return created.Add(time.Duration(r.After) * time.Second)
}
