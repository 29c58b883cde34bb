package broker

import "encoding/binary"

// Limits of a headers table, for all its nested tables and arrays together. The library
// fails beyond a depth of 32, and beyond 8192 elements in one table or array. Tables of that
// size would also take as much memory as many ordinary messages.
const (
	maxTableDepth  = 8
	maxTableValues = 1024
)

// isReadableTable reports whether the library can parse a field table, given without
// its length. It accepts the field types that the library knows; RabbitMQ knows 'L'
// too.
func isReadableTable(b []byte) bool {
	values := 0
	return areReadableFields(b, true, 0, &values)
}

// areReadableFields checks the contents of a table, in which each value has a short
// string as its name, or of an array, in which values have no names.
func areReadableFields(b []byte, named bool, depth int, values *int) bool {
	for len(b) > 0 {
		if named {
			n := shortString.span(b)
			if n > len(b) {
				return false
			}
			b = b[n:]
		}
		var ok bool
		if b, ok = skipValue(b, depth, values); !ok {
			return false
		}
	}
	return true
}

// skipValue checks the value at the start of b and returns the bytes after it.
func skipValue(b []byte, depth int, values *int) (rest []byte, ok bool) {
	if *values++; *values > maxTableValues || len(b) == 0 {
		return nil, false
	}
	kind, b := b[0], b[1:]
	n := 0
	switch kind {
	case 'V':
	case 't', 'b', 'B':
		n = 1
	case 's', 'u':
		n = 2
	case 'I', 'i', 'f':
		n = 4
	case 'D':
		n = 5
	case 'l', 'd', 'T':
		n = 8
	case 'S', 'x', 'F', 'A':
		if len(b) < 4 {
			return nil, false
		}
		n = int(binary.BigEndian.Uint32(b))
		b = b[4:]
	default:
		return nil, false
	}
	if n > len(b) {
		return nil, false
	}
	if kind == 'F' || kind == 'A' {
		ok = depth < maxTableDepth && areReadableFields(b[:n], kind == 'F', depth+1, values)
		return b[n:], ok
	}
	return b[n:], true
}
