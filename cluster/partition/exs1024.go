package partition

// An exs1024 is the random number generator exs1024 of Erlang's module rand:
// xorshift1024*; its state is a ring of 16 words.
type exs1024 struct {
	words   [16]uint64
	current uint // the index of the latest word; the next one is the oldest
}

// seed sets g to the generator that Erlang makes from the triple {seed, seed, seed}. It
// uses the low 21 bits of each.
//
// From these 63 bits, another generator, xorshift64*, makes the words. The last word
// becomes the first of the ring, and is the first to be used. So all words have to be
// made.
func (g *exs1024) seed(seed uint32) {
	part := func(prime uint64) uint64 {
		const mask = 1<<21 - 1
		return (uint64(seed)&mask + 1) * prime & mask
	}
	x := part(2097131)<<43 | part(2097133)<<22 | part(2097143)<<1 | 1
	for i := len(g.words) - 1; i >= 0; i-- {
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		g.words[i] = x * 2685821657736338717
	}
	g.current = 0
}

// next returns the next 64 random bits.
func (g *exs1024) next() uint64 {
	last := g.words[g.current]
	g.current = (g.current + 1) % uint(len(g.words))
	oldest := g.words[g.current]
	oldest ^= oldest << 31
	word := oldest ^ oldest>>11 ^ last ^ last>>30
	g.words[g.current] = word
	return word * 1181783497276652981
}

// uniform returns the next random number from 0 to 1, both included: 64 bits as a
// fraction, rounded to a float64.
//
// It adds two halves, which are exact, and so rounds once. A conversion of all 64 bits
// gives the same result, but has to branch on a random bit.
func (g *exs1024) uniform() float64 {
	bits := g.next()
	return float64(uint32(bits>>32))*0x1p-32 + float64(uint32(bits))*0x1p-64
}
