package broker

import (
	"io"
	"slices"
	"sync/atomic"

	"pgregory.net/rapid"
)

// filterAll runs a stream through a filter. It returns the output and the error at its
// end, or nil at the end of the stream.
func filterAll(source io.Reader, maxBody int, onFiltered func(Filtered)) ([]byte, error) {
	return io.ReadAll(newFilter(source, agreed(frameMax), maxBody, onFiltered))
}

func agreed(n int64) *atomic.Int64 {
	var frameMax atomic.Int64
	frameMax.Store(n)
	return &frameMax
}

// deliver returns the beginning of a message.
func deliver(channel uint16) []byte {
	return frame(frameMethod, channel, slices.Concat([]byte{0, 60, 0, 60}, short("c"), make([]byte, 8), []byte{0}, short(""), short("q")))
}

// A pieces reader reads a stream in pieces of random length.
type pieces struct {
	t    *rapid.T
	left []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	longest := min(len(b), len(p.left))
	n := rapid.OneOf(rapid.IntRange(0, min(longest, 20)), rapid.IntRange(1, longest)).Draw(p.t, "read")
	n = copy(b[:n], p.left)
	p.left = p.left[n:]
	return n, nil
}

var anyBytes = rapid.SliceOfN(rapid.Byte(), 0, 300)

// anyValue returns the type and value of a random field, with any nesting that is
// allowed.
func anyValue(depth int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		kinds := map[byte]int{'V': 0, 't': 1, 'b': 1, 'B': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'f': 4, 'D': 5, 'l': 8, 'd': 8, 'T': 8}
		nesting := "SxVtbBsuIifDldTAF"
		if depth == maxTableDepth {
			nesting = nesting[:len(nesting)-2]
		}
		kind := rapid.SampledFrom([]byte(nesting)).Draw(t, "kind")
		var value []byte
		switch kind {
		case 'S', 'x':
			value = long(anyBytes.Draw(t, "string"))
		case 'A':
			value = long(slices.Concat(rapid.SliceOfN(anyValue(depth+1), 0, 3).Draw(t, "array")...))
		case 'F':
			value = long(anyTable(depth+1).Draw(t, "table"))
		default:
			value = rapid.SliceOfN(rapid.Byte(), kinds[kind], kinds[kind]).Draw(t, "value")
		}
		return append([]byte{kind}, value...)
	})
}

func anyTable(depth int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		var table []byte
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			table = append(table, short(string(rapid.SliceOfN(rapid.Byte(), 0, 255).Draw(t, "name")))...)
			table = append(table, anyValue(depth).Draw(t, "value")...)
		}
		return table
	})
}

// assemble returns the bodies in a stream, as a client assembles them.
func assemble(t interface{ Fatalf(string, ...any) }, stream []byte, channels int) [][][]byte {
	bodies := make([][][]byte, channels)
	left := make([]uint64, channels)
	for len(stream) > 0 {
		h := head(stream[:headLen])
		payload := stream[headLen : headLen+h.size()]
		if stream[headLen+h.size()] != frameEnd {
			t.Fatalf("a frame has no end")
		}
		stream = stream[frameOverhead+h.size():]
		i := int(h.channel()) - 1
		switch h.kind() {
		case frameHeader:
			if left[i] != 0 {
				t.Fatalf("a message begins where %d bytes of another are missing", left[i])
			}
			left[i] = header(payload).bodySize()
			bodies[i] = append(bodies[i], []byte{})
		case frameBody:
			last := len(bodies[i]) - 1
			bodies[i][last] = append(bodies[i][last], payload...)
			left[i] -= uint64(len(payload))
		case frameHeartbeat:
			if h.channel() != 0 || h.size() != 0 {
				t.Fatalf("a heartbeat on channel %d with %d bytes", h.channel(), h.size())
			}
		}
	}
	for i, n := range left {
		if n != 0 {
			t.Fatalf("channel %d: %d bytes are missing", i+1, n)
		}
	}
	return bodies
}

// endless repeats a stream.
type endless struct {
	message []byte
	at      int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.message[e.at:])
	e.at = (e.at + n) % len(e.message)
	return n, nil
}
