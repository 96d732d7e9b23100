package ledger

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// A chunk of the manifest is one string: its ids with newlines between them, or, if the API documents
// the form of all its ids, packedMark and then the 16 bytes of each id. No id contains a control
// character (plexy.CheckID), so no other chunk begins with the mark. A full chunk has 16,001 bytes: with
// the header of a Redis string it fits the allocator's size of 16,384.
const (
	packedMark = "\x01"
	packedSize = 16 // bytes of an id

	idPrefix = "pl_" // before 2·packedSize lower-case hex digits
	idSize   = len(idPrefix) + 2*packedSize
)

// packID appends the bytes of an id, if it has the documented form. It reports whether it has.
func packID(to []byte, id string) ([]byte, bool) {
	if len(id) != idSize || id[:len(idPrefix)] != idPrefix {
		return to, false
	}
	const lowerCase = 0x20 // a bit of all hex digits but A to F
	bits := byte(lowerCase)
	digits := id[len(idPrefix):]
	for i := range len(digits) {
		bits &= digits[i]
	}
	if bits == 0 {
		return to, false
	}
	packed, err := hex.AppendDecode(to, []byte(digits))
	if err != nil {
		return to, false
	}
	return packed, true
}

// encodeChunk returns the string of a chunk, and the oldest format that has it.
func encodeChunk(links []string) (chunk string, format int) {
	packed := append(make([]byte, 0, len(packedMark)+packedSize*len(links)), packedMark...)
	for _, link := range links {
		var ok bool
		if packed, ok = packID(packed, link); !ok {
			return strings.Join(links, "\n"), plainFormat
		}
	}
	return string(packed), packedFormat
}

// decodeChunk returns the ids of a chunk. They share the memory of one string.
func decodeChunk(chunk string) ([]string, error) {
	packed, ok := strings.CutPrefix(chunk, packedMark)
	if !ok {
		return strings.Split(chunk, "\n"), nil
	}
	if packed == "" || len(packed)%packedSize != 0 {
		return nil, fmt.Errorf("packed ids of %d bytes: not a multiple of 16 after the mark", len(chunk))
	}
	links := make([]string, len(packed)/packedSize)
	var all strings.Builder
	all.Grow(len(links) * idSize)
	var digits [2 * packedSize]byte
	for i := range links {
		hex.Encode(digits[:], []byte(packed[i*packedSize:(i+1)*packedSize]))
		all.WriteString(idPrefix)
		all.Write(digits[:])
	}
	for i := range links {
		links[i] = all.String()[i*idSize : (i+1)*idSize]
	}
	return links, nil
}
