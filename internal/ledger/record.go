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
//	bytes 4-7  seconds from the batch's creation to the outcome; while there is
//	           none: index of the kind (bits 26-31), due (bits 0-25)
//
// Numbers are big-endian. A string of zeros is a record of a link that was
// never touched, so a missing or short record string reads as pending.
//
// Format 1 has zeros in bits 6-7 of byte 0, and in bytes 4-7 while there is no
// outcome. The releases that know no other format neither read them then nor keep
// them, so this release writes them to batches of format 1, too. The index of the
// kind is not in the place of the link status, because those releases carry what
// they find there over into the outcome.
const RecordSize = 8

const (
	flagAmbiguous = 1 << 4
	flagSettling  = 1 << 5
	flagPlain     = 1 << 6
	plainsShift   = 6
	kindShift     = 26

	maxStatus     = 1<<10 - 1
	maxLinkStatus = 1<<6 - 1
	maxKind       = 1<<6 - 1
	maxDue        = 1<<kindShift - 1
	maxPlains     = 3
)

// A Record is what the ledger remembers of one link beside its id.
type Record struct {
	Outcome    Outcome
	Ambiguous  bool // an attempt may have been applied though we saw no clear answer
	Settling   bool // the DELETE is answered; a GET has still to tell what it means
	Attempts   uint8
	HTTPStatus int // of the last answer to a DELETE; 0 if there was none
	// LinkStatus is an index into the batch's table of link statuses, 0 if
	// unknown. Of a pending record with Plains > 0 it is the index of the kind of
	// these answers: see SliceView.Kinds.
	LinkStatus int
	// After is in seconds from the batch's creation to the outcome; 0 while there
	// is none.
	After uint32

	// Plain: the outcome rests on answers that the API may not have given.
	Plain bool
	// Plains counts, while there is no outcome, the answers of one kind in a row
	// that the API may not have given; 3 at most.
	Plains uint8
	// Due is when a link without an outcome may be sent again, in seconds from the
	// batch's creation, two years at most; 0: at once.
	Due uint32
}

// Append encodes r at the end of b.
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

// head is what a worker sends of a record: Redis adds the rest.
//
//	byte 0     outcome (bits 0-3), ambiguous (bit 4), settling (bit 5), plain (bit 6), proven (bit 7)
//	byte 1     attempts
//	bytes 2-3  HTTP status (bits 0-9), plains (bits 10-11)
func (r Record) head(proven bool) [4]byte {
	first := byte(r.Outcome)&0x0f | flags(r)
	rest := status(r)
	switch {
	case r.Outcome == None:
		rest |= uint16(min(r.Plains, maxPlains)) << 10
	case r.Plain:
		first |= flagPlain
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

// DecodeRecord reads the record at the start of b; what is missing reads as
// zeros.
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

// Time is when the outcome was recorded, in a batch created at the given
// time; zero for a link without an outcome.
func (r Record) Time(created time.Time) time.Time {
	if r.Outcome == None {
		return time.Time{}
	}
	return created.Add(time.Duration(r.After) * time.Second)
}
