package partition

import "encoding/binary"

const (
	// golden is the fraction of the golden ratio in 32 bits, with which lookup2 begins.
	golden = 0x9e3779b9

	// binaries is the initial value by which Erlang distinguishes binaries from other
	// terms: the thirteenth multiple of golden.
	binaries = 13 * golden & (1<<32 - 1)
)

// phash2 returns the value of Erlang's erlang:phash2 for a binary, a number below 2^27.
func phash2(key []byte) uint32 {
	return lookup2(key, binaries) & (1<<27 - 1)
}

// lookup2 returns Bob Jenkins' hash of a key. For an empty key it returns the initial
// value, as Erlang does.
func lookup2(key []byte, initial uint32) uint32 {
	if len(key) == 0 {
		return initial
	}
	a, b, c := uint32(golden), uint32(golden), initial
	rest := key
	for ; len(rest) >= 12; rest = rest[12:] {
		a += binary.LittleEndian.Uint32(rest[0:])
		b += binary.LittleEndian.Uint32(rest[4:])
		c += binary.LittleEndian.Uint32(rest[8:])
		a, b, c = mix(a, b, c)
	}
	// The lowest byte of the last word holds the length of the key.
	var last [12]byte
	copy(last[:], rest)
	a += binary.LittleEndian.Uint32(last[0:])
	b += binary.LittleEndian.Uint32(last[4:])
	c += binary.LittleEndian.Uint32(last[8:])<<8 + uint32(len(key))
	_, _, c = mix(a, b, c)
	return c
}

// mix makes each bit of a, b and c affect all of c.
func mix(a, b, c uint32) (uint32, uint32, uint32) {
	a = (a - b - c) ^ c>>13
	b = (b - c - a) ^ a<<8
	c = (c - a - b) ^ b>>13
	a = (a - b - c) ^ c>>12
	b = (b - c - a) ^ a<<16
	c = (c - a - b) ^ b>>5
	a = (a - b - c) ^ c>>3
	b = (b - c - a) ^ a<<10
	c = (c - a - b) ^ b>>15
	return a, b, c
}
