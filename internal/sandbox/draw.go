package sandbox

// mix is the finalizer of splitmix64, a bijection that mixes all bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Purposes of draws. Draws for different purposes are independent.
const (
	drawStatus = iota + 1
	drawAge
	drawExpiry
	drawAmount
	drawOrder
	drawFault
	drawLatency
	drawGateway
	drawPoison
	drawForbidden
)

// draw returns a random number that depends only on its arguments.
func draw(seed, what, link, n uint64) uint64 {
	return mix(mix(mix(seed+what)+link) + n)
}

// share maps a draw to [0, 1).
func share(draw uint64) float64 { return float64(draw>>11) / (1 << 53) }

// hashRequest hashes a method and an id for draw. It is FNV-1a without the allocation of hash/fnv.
func hashRequest(method, id string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, text := range [...]string{method, " ", id} {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 0x100000001b3
		}
	}
	return h
}
