package sandbox

// mix is the finalizer of splitmix64: every bit of x moves about half the bits
// of the result, and no two x have the same result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// What a draw is for. Draws for different ends are independent.
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

// draw returns a number that depends on its arguments alone.
func draw(seed, what, link, n uint64) uint64 {
	return mix(mix(mix(seed+what)+link) + n)
}

// share makes a draw a number from 0 up to, but not including, 1.
func share(draw uint64) float64 { return float64(draw>>11) / (1 << 53) }

// hashRequest makes a method and an id an argument of draw. It is FNV-1a by
// hand, since hash/fnv would allocate for each request.
func hashRequest(method, id string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, text := range [...]string{method, " ", id} {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 0x100000001b3
		}
	}
	return h
}
