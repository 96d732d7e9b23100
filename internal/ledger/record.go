package ledger

import (
	"encoding/binary"
	"time"
)

// RecordSize is the length of one encoded record in bytes.
//
//	byte 0     outcome (bits 0-3), ambiguous (bit 4), settling (bit 5);
//	           plain (bit 6), or plains (bits 6-7) while there is no outcome
//	byte 1     attempts
//	bytes 2-3  HTTP status (bits 0-9), index of the link status (bits 10-15)
//	bytes 4-7  seconds from the batch's creation to the outcome; before that
//	           index of the kind (bits 26-31), due (bits 0-25)
//
// Numbers are big-endian. Zeros mean a link that was never touched, so a missing or short
// record string reads as pending.
//
// Format 1 has zeros in bits 6-7 of byte 0, and in bytes 4-7 while there is no outcome.
// Releases that know only format 1 neither read nor keep these bits of pending links, so
// this release writes them to batches of format 1 too. The index of the kind has its own
// bits, because those releases copy the bits of the link status into the outcome.
const RecordSize = 8

const (
	flagAmbiguous = 1 << 4
	flagSettling  = 1 << 5
	flagPlain     = 1 << 6
	plainsShift   = 6
	kindShift     = 26

	maxStatus     = 1<<10 - 1
	maxLinkStatus = 1<<6 - 1
	maxDue        = 1<<kindShift - 1
	maxPlains     = 3
)

// Record is what the ledger stores about a link besides its id.
type Record struct {
	Outcome    Outcome
	Ambiguous  bool // an attempt may have been applied although no clear answer came
	Settling   bool // a GET must show what the answer to the DELETE means, or whether a payable link stays so
	Attempts   uint8
	HTTPStatus int // of the last answer to a DELETE, 0 if there was none
	// LinkStatus is an index into the batch's table of link statuses, 0 if unknown. In a pending
	// record with Plains > 0 it is the index of a kind of answers: see SliceView.Kinds.
	LinkStatus int
	// After is the seconds from the batch's creation to the outcome, 0 without one.
	After uint32

	// Plain means that the outcome rests on answers that may not come from the API.
	Plain bool
	// Plains counts plain answers of one kind in a row, up to 3. With an outcome it is 0.
	Plains uint8
	// Due is when a pending link may be sent, in seconds from the batch's creation. 0 means at
	// once.
	Due uint32
}

// Append appends the encoded record to b.
func (r Record) Append(b []byte) []byte {
	first := byte(r.Outcome)&0x0f | flags(r)
	link, last := min(max(r.LinkStatus, 0), maxLinkStatus), r.After
	switch {
	case r.Outcome != None && r.Plain:
		first |= flagPlain
	case r.Outcome == None:
		last = min(r.Due, maxDue)
		if plains := min(r.Plains, maxPlains); plains > 0 {
			first |= plains << plainsShift
			last |= uint32(link) << kindShift
			link = 0
		}
	}
	b = append(b, first, r.Attempts)
	b = binary.BigEndian.AppendUint16(b, status(r)|uint16(link)<<10)
	return binary.BigEndian.AppendUint32(b, last)
}

// head is the part of a record that a worker sends. record.lua adds the rest.
//
//	byte 0     outcome (bits 0-3), ambiguous (bit 4), settling (bit 5), plain (bit 6), proven (bit 7)
//	byte 1     attempts
//	bytes 2-3  HTTP status (bits 0-9), plains (bits 10-11); payable (bit 10) with an outcome
func (r Record) head(proven, payable bool) [4]byte {
	first := byte(r.Outcome)&0x0f | flags(r)
	rest := status(r)
	switch {
	case r.Outcome == None:
		rest |= uint16(min(r.Plains, maxPlains)) << 10
	case r.Plain:
		first |= flagPlain
	}
	if payable && r.Outcome != None {
		rest |= 1 << 10
	}
	if proven {
		first |= 1 << 7
	}
	return [4]byte{first, r.Attempts, byte(rest >> 8), byte(rest)}
}

func flags(r Record) (b byte) {
	if r.Ambiguous {
		b |= flagAmbiguous
	}
	if r.Settling {
		b |= flagSettling
	}
	return b
}

func status(r Record) uint16 { return uint16(min(max(r.HTTPStatus, 0), maxStatus)) }

// DecodeRecord decodes the record at the start of b. Missing bytes read as zeros.
func DecodeRecord(b []byte) Record {
	if len(b) < RecordSize {
		b = append(make([]byte, 0, RecordSize), b...)[:RecordSize]
	}
	first, packed, last := b[0], binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[4:])
	r := Record{
		Outcome:    Outcome(first & 0x0f),
		Ambiguous:  first&flagAmbiguous != 0,
		Settling:   first&flagSettling != 0,
		Attempts:   b[1],
		HTTPStatus: int(packed & maxStatus),
		LinkStatus: int(packed >> 10),
	}
	if r.Outcome != None {
		r.Plain, r.After = first&flagPlain != 0, last
		return r
	}
	r.Plains, r.Due = first>>plainsShift, last&maxDue
	if r.Plains > 0 {
		r.LinkStatus = int(last >> kindShift)
	}
	return r
}

// Time returns when the outcome was recorded in a batch created at that time, or zero.
func (r Record) Time(created time.Time) time.Time {
	if r.Outcome == None {
		return time.Time{}
	}
	return created.Add(time.Duration(r.After) * time.Second)
}

// Rest returns how long the link must not be sent yet. It may be sent if that is 0 or less.
func (r Record) Rest(created, now time.Time) time.Duration {
	if r.Outcome != None || r.Due == 0 {
		return 0
	}
	return created.Add(time.Duration(r.Due) * time.Second).Sub(now)
}
