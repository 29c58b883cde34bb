// Package msgpack decodes the body of a request into Go values, within limits. It
// distinguishes a body that is not msgpack (an [*Error]) from a body that is msgpack but
// not a request (for example, with an [Opaque] value).
//
// A float without a fraction, up to 2^53, is decoded as the integer that it is. So an
// integer may be encoded either way, and is the same value for everything behind Decode.
//
// It uses the byte functions of github.com/tinylib/msgp and adds the checks that a
// service needs for bodies from untrusted callers. A container must not announce more
// elements than the remaining bytes can hold. Depth and number of values are limited.
// Strings must be UTF-8. No bytes may follow the value. Therefore the limits bound the
// memory for a body, whatever sizes the body announces.
//
// Specification of the format: https://github.com/msgpack/msgpack/blob/master/spec.md
package msgpack

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"
)

// Limits bound the bodies that Decode accepts. Zero allows nothing, so all three must be
// set.
type Limits struct {
	Bytes  int // length of the body
	Depth  int // nested containers; a body that is a scalar has depth 0
	Values int // number of scalars, containers and map keys together
}

// An Error is the reason why a body is not one whole msgpack value within the limits. It
// never contains parts of the body.
type Error struct {
	Offset int // where decoding stopped, in bytes from the start of the body
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("msgpack: %s at byte %d", e.Reason, e.Offset)
}

// Opaque is the encoding of a value that no request uses: a value of an extension type,
// such as a timestamp, or a map with a key that is not a string. Such a value is correct
// msgpack, so the caller must refuse it for its type.
type Opaque string

// A Message is a decoded body.
type Message struct {
	// Tree is nil, bool, int64, uint64 (only above the range of int64), float64 (only
	// with a fraction, or beyond ±2^53), string, []byte, Opaque, []any or
	// map[string]any. If a map contains a key twice, the last value counts.
	Tree any

	// Raw has the encoded value of each key, if Tree is a map. The slices share
	// memory with the body.
	Raw map[string][]byte

	// NUL is true if a string or a key contains U+0000, which PostgreSQL cannot store.
	NUL bool
}

// Decode decodes body, which must be one msgpack value. Every error is an *Error. The
// message shares no memory with body, except Raw.
func Decode(body []byte, limits Limits) (Message, error) {
	d := decoder{limits: limits, size: len(body)}
	if len(body) > limits.Bytes {
		return Message{}, &Error{Offset: limits.Bytes, Reason: fmt.Sprintf("body exceeds %d bytes", limits.Bytes)}
	}
	tree, rest, err := d.value(body, 0)
	if err != nil {
		return Message{}, err
	}
	if len(rest) > 0 {
		return Message{}, d.fail(rest, "trailing bytes")
	}
	d.msg.Tree = tree
	return d.msg, nil
}

type decoder struct {
	limits Limits
	size   int // of the body, for offsets in errors
	values int // decoded so far
	msg    Message
}

func (d *decoder) fail(rest []byte, reason string) error {
	return &Error{Offset: d.size - len(rest), Reason: reason}
}

func (d *decoder) value(b []byte, depth int) (any, []byte, error) {
	if d.values++; d.values > d.limits.Values {
		return nil, nil, d.fail(b, fmt.Sprintf("more than %d values", d.limits.Values))
	}
	switch msgp.NextType(b) {
	case msgp.NilType:
		return nil, b[1:], nil
	case msgp.MapType:
		return d.mapping(b, depth)
	case msgp.ArrayType:
		return d.array(b, depth)
	case msgp.StrType:
		return d.str(b)
	}
	v, rest, err := scalar(b)
	if err != nil {
		return nil, nil, d.fail(b, err.Error())
	}
	return v, rest, nil
}

// scalar decodes a value that is no container and needs only the library's own checks.
func scalar(b []byte) (v any, rest []byte, err error) {
	switch msgp.NextType(b) {
	case msgp.BoolType:
		v, rest, err = msgp.ReadBoolBytes(b)
	case msgp.IntType:
		v, rest, err = msgp.ReadInt64Bytes(b)
	case msgp.UintType:
		var u uint64
		u, rest, err = msgp.ReadUint64Bytes(b)
		if v = u; u <= math.MaxInt64 {
			v = int64(u)
		}
	case msgp.Float32Type:
		var f float32
		f, rest, err = msgp.ReadFloat32Bytes(b)
		v = number(float64(f))
	case msgp.Float64Type:
		var f float64
		f, rest, err = msgp.ReadFloat64Bytes(b)
		v = number(f)
	case msgp.BinType:
		v, rest, err = msgp.ReadBytesBytes(b, nil)
	case msgp.InvalidType:
		if len(b) == 0 {
			return nil, nil, msgp.ErrShortBytes
		}
		return nil, nil, msgp.InvalidPrefixError(b[0])
	default:
		if rest, err = msgp.Skip(b); err == nil {
			v = Opaque(b[:len(b)-len(rest)])
		}
	}
	return v, rest, err
}

// maxExactFloat is 2^53. Up to this magnitude a float64 represents every integer.
// Beyond it, the caller's integer may have been rounded.
const maxExactFloat = 1 << 53

// number returns f as an int64 if f has no fraction and is in the range in which
// float64 is exact, otherwise f. JavaScript has only floats, and its encoders write
// integers above 32 bits as floats.
func number(f float64) any {
	if math.Abs(f) <= maxExactFloat && f == math.Trunc(f) {
		return int64(f)
	}
	return f
}

func (d *decoder) str(b []byte) (string, []byte, error) {
	s, rest, err := msgp.ReadStringZC(b)
	if err != nil {
		return "", nil, d.fail(b, err.Error())
	}
	if !utf8.Valid(s) {
		return "", nil, d.fail(b, "string is not UTF-8")
	}
	text := string(s)
	if strings.IndexByte(text, 0) >= 0 {
		d.msg.NUL = true
	}
	return text, rest, nil
}

func (d *decoder) array(b []byte, depth int) (any, []byte, error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, nil, d.fail(b, err.Error())
	}
	if err := d.checkContainer(rest, depth, uint64(n)); err != nil {
		return nil, nil, err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], rest, err = d.value(rest, depth+1); err != nil {
			return nil, nil, err
		}
	}
	return list, rest, nil
}

func (d *decoder) mapping(b []byte, depth int) (any, []byte, error) {
	n, rest, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, nil, d.fail(b, err.Error())
	}
	if err := d.checkContainer(rest, depth, 2*uint64(n)); err != nil {
		return nil, nil, err
	}
	m := make(map[string]any, n)
	hasOtherKeys := false
	if depth == 0 {
		d.msg.Raw = make(map[string][]byte, n)
	}
	for range n {
		var key, val any
		if key, rest, err = d.value(rest, depth+1); err != nil {
			return nil, nil, err
		}
		start := rest
		if val, rest, err = d.value(rest, depth+1); err != nil {
			return nil, nil, err
		}
		name, ok := key.(string)
		if !ok {
			hasOtherKeys = true
			continue
		}
		m[name] = val
		if depth == 0 {
			d.msg.Raw[name] = start[:len(start)-len(rest)]
		}
	}
	if hasOtherKeys {
		return Opaque(b[:len(b)-len(rest)]), rest, nil
	}
	return m, rest, nil
}

// checkContainer checks the announced size of a container before memory is allocated for
// it. Each element needs at least one byte.
func (d *decoder) checkContainer(rest []byte, depth int, elements uint64) error {
	switch {
	case depth >= d.limits.Depth:
		return d.fail(rest, fmt.Sprintf("nested deeper than %d", d.limits.Depth))
	case elements > uint64(len(rest)):
		return d.fail(rest, "container longer than the body")
	case elements > uint64(d.limits.Values-d.values):
		return d.fail(rest, fmt.Sprintf("more than %d values", d.limits.Values))
	}
	return nil
}
