package linkcsv

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// An Index numbers distinct links from 0 in order. It keeps 16 bytes of each link's SHA-256 sum:
// with 10 million links two share them with a chance below 1 in 10^24. The table takes another 5 to
// 11 bytes a link. A map would take 28 to 45 bytes in all, and make reading 10% slower. Find may
// run in many goroutines at once, Add may not.
type Index struct {
	blocks [][]sum  // the sums in order, in blocks, so that growing copies none
	table  []uint32 // position+1 of a sum; 0 is a free slot
	n      int
	bytes  []byte // of the link being added
}

type sum [16]byte

// blockLen is how many sums a block holds: 64 KiB.
const blockLen = 1 << 12

// NewIndex returns an index with room for capacity links. It grows when more are added.
func NewIndex(capacity int) *Index {
	capacity = max(capacity, 48)
	return &Index{table: make([]uint32, capacity+capacity/3+1)}
}

// Add returns the position of the link and whether it is new.
func (x *Index) Add(link string) (pos int, added bool) {
	x.bytes = append(x.bytes[:0], link...)
	key := sumOf(x.bytes)
	if (x.n+1)*4 > len(x.table)*3 {
		x.grow()
	}
	at, pos, found := x.probe(key)
	if found {
		return pos, false
	}
	if x.n%blockLen == 0 {
		x.blocks = append(x.blocks, make([]sum, 0, blockLen))
	}
	last := &x.blocks[len(x.blocks)-1]
	*last = append(*last, key)
	pos = x.n
	x.n++
	x.table[at] = uint32(x.n)
	return pos, true
}

// Find returns the position of a link that was added.
func (x *Index) Find(link string) (pos int, ok bool) {
	_, pos, ok = x.probe(sumOf([]byte(link)))
	return pos, ok
}

func sumOf(link []byte) sum {
	full := sha256.Sum256(link)
	return sum(full[:16])
}

// probe finds a sum, or the free slot where it belongs.
func (x *Index) probe(key sum) (at, pos int, found bool) {
	for at = x.home(key); x.table[at] != 0; at++ {
		pos = int(x.table[at]) - 1
		if x.blocks[pos/blockLen][pos%blockLen] == key {
			return at, pos, true
		}
		if at == len(x.table)-1 {
			at = -1
		}
	}
	return at, 0, false
}

// home is the slot where the search for a sum starts: the sum scaled to the table's length.
func (x *Index) home(key sum) int {
	at, _ := bits.Mul64(binary.BigEndian.Uint64(key[:]), uint64(len(x.table)))
	return int(at)
}

func (x *Index) grow() {
	x.table = make([]uint32, 2*len(x.table))
	for pos := range x.n {
		at := x.home(x.blocks[pos/blockLen][pos%blockLen])
		for x.table[at] != 0 {
			if at++; at == len(x.table) {
				at = 0
			}
		}
		x.table[at] = uint32(pos + 1)
	}
}
