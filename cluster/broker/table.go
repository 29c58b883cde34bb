package broker

import "encoding/binary"

// What a headers table may hold, all its nested tables and arrays taken
// together. The library gives up beyond a depth of 32 and 8192 elements in one
// table or array; so much could also take the memory of many such messages.
const (
	maxTableDepth  = 8
	maxTableValues = 1024
)

// checkTable reports whether the library can read a field table, given without
// its length. It takes the field types that the library knows: RabbitMQ has 'L'
// besides.
func checkTable(b []byte) bool {
	values := 0
	return checkFields(b, true, 0, &values)
}

// checkFields checks the contents of a table, in which a short string names each
// value, or of an array, in which they have no names.
func checkFields(b []byte, named bool, depth int, values *int) bool {
	for len(b) > 0 {
		if named {
			n := shortString.span(b)
			if n > len(b) {
				return false
			}
			b = b[n:]
		}
		var ok bool
		if b, ok = checkValue(b, depth, values); !ok {
			return false
		}
	}
	return true
}

// checkValue checks the value at the start of b and returns what follows it.
func checkValue(b []byte, depth int, values *int) (rest []byte, ok bool) {
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
		ok = depth < maxTableDepth && checkFields(b[:n], kind == 'F', depth+1, values)
		return b[n:], ok
	}
	return b[n:], true
}
