package broker

import (
	"encoding/binary"
	"errors"
)

// The payload of a content header frame:
//
//	0          2        4           12               14
//	+----------+--------+-----------+----------------+------------- - -
//	| class-id | weight | body size | property flags | property list...
//	+----------+--------+-----------+----------------+------------- - -
//
// There is a flag for each property that the list may contain, the first one in the highest
// bit. The two lowest bits have no property; RabbitMQ forwards them unchanged.
const (
	bodySizeAt   = 4
	flagsAt      = 12
	propertiesAt = 14
)

// properties has the encoding of each property, in the order of the flags.
var properties = [14]encoding{
	shortString, // content-type
	shortString, // content-encoding
	table,       // headers
	octet,       // delivery-mode
	octet,       // priority
	shortString, // correlation-id
	shortString, // reply-to
	shortString, // expiration
	shortString, // message-id
	timestamp,   // timestamp
	shortString, // type
	shortString, // user-id
	shortString, // app-id
	shortString, // cluster-id
}

type encoding byte

const (
	shortString encoding = iota // a length of one byte, and that many bytes
	table                       // a length of four bytes, and that many bytes
	octet
	timestamp // eight bytes
)

// span returns how many bytes a property takes at the start of b, including its length.
// If the result is more than len(b), b ends before the property does, or before its
// length is known.
func (e encoding) span(b []byte) int {
	switch e {
	case octet:
		return 1
	case timestamp:
		return 8
	case table:
		if len(b) < 4 {
			return 4
		}
		return 4 + int(binary.BigEndian.Uint32(b))
	default:
		if len(b) < 1 {
			return 1
		}
		return 1 + int(b[0])
	}
}

// headersAt is the index of the headers in properties.
const headersAt = 2

// frontMax is the most bytes of payload before the contents of the headers table: the
// fixed part, two short strings and the table's length.
const frontMax = propertiesAt + 2*256 + 4

var errProperties = errors.New("the properties of a message end early")

// A header is the payload of a content header frame, or its beginning.
type header []byte

func (h header) bodySize() uint64     { return binary.BigEndian.Uint64(h[bodySizeAt:]) }
func (h header) setBodySize(n uint64) { binary.BigEndian.PutUint64(h[bodySizeAt:], n) }

func (h header) flags() uint16         { return binary.BigEndian.Uint16(h[flagsAt:]) }
func (h header) has(property int) bool { return h.flags()&(1<<(15-property)) != 0 }

// clearFlag clears the flag of a property. The caller removes the property itself.
func (h header) clearFlag(property int) {
	binary.BigEndian.PutUint16(h[flagsAt:], h.flags()&^(1<<(15-property)))
}

// locate returns where a property begins and how many bytes it takes; 0 if the property
// is absent. h must contain everything before the property.
func (h header) locate(property int) (at, span int, err error) {
	if len(h) < propertiesAt {
		return 0, 0, errProperties
	}
	at = propertiesAt
	for i, e := range properties[:property] {
		if h.has(i) {
			at += e.span(h[at:])
		}
		if at > len(h) {
			return 0, 0, errProperties
		}
	}
	if h.has(property) {
		span = properties[property].span(h[at:])
	}
	return at, span, nil
}

// validate returns an error if the list is shorter than the flags say. It may be
// longer: RabbitMQ and the library ignore the rest.
func (h header) validate() error {
	at, span, err := h.locate(len(properties) - 1)
	if err == nil && at+span > len(h) {
		err = errProperties
	}
	return err
}
