package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
)

const (
	idPrefix = "pl_"
	idLength = len(idPrefix) + 32
)

// seedBase is the first input for the ids of a seed. The constant is needed because mix
// maps 0 to 0.
func seedBase(seed uint64) uint64 { return mix(seed + 0x9e3779b97f4a7c15) }

// seedID returns the id of a seeded link. The first half of its digits is the mixed index,
// so that seedIndex can invert it: a million links need no map. The second half is a
// checksum.
func seedID(seed uint64, index int) string {
	var raw [16]byte
	base := seedBase(seed)
	half := mix(base + uint64(index))
	binary.BigEndian.PutUint64(raw[:8], half)
	binary.BigEndian.PutUint64(raw[8:], mix(half^base))
	var id [idLength]byte
	copy(id[:], idPrefix)
	hex.Encode(id[len(idPrefix):], raw[:])
	return string(id[:])
}

// seedIndex returns the index of a seeded link. The caller checks it against the number of
// links.
func seedIndex(seed uint64, id string) (index uint64, ok bool) {
	if len(id) != idLength || !strings.HasPrefix(id, idPrefix) {
		return 0, false
	}
	var digits [32]byte
	copy(digits[:], id[len(idPrefix):])
	for _, c := range digits {
		if 'A' <= c && c <= 'F' { // ids are case-sensitive, but hex.Decode is not
			return 0, false
		}
	}
	var raw [16]byte
	if _, err := hex.Decode(raw[:], digits[:]); err != nil {
		return 0, false
	}
	base := seedBase(seed)
	half := binary.BigEndian.Uint64(raw[:8])
	if binary.BigEndian.Uint64(raw[8:]) != mix(half^base) {
		return 0, false
	}
	return unmix(half) - base, true
}
