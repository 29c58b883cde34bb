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
// A flag stands for each property that the list has, the first for the highest
// bit. The two lowest bits stand for none; RabbitMQ passes them on as they come.
const (
	bodySizeAt   = 4
	flagsAt      = 12
	propertiesAt = 14
)

// properties tells how each property lies in the list, by the order of flags.
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
	shortString encoding = iota // a length of one byte, and so many bytes
	table                       // a length of four bytes, and so many bytes
	octet
	timestamp // eight bytes
)

// span returns how many bytes a property takes at the start of b, with its
// length. More than len(b) means that b ends before that is known, or before the
// property does.
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

// headersAt is the place of the headers in the order of properties.
const headersAt = 2

// frontMax is the most bytes of payload before the contents of the headers
// table: two short strings and the table's length follow the fixed part.
const frontMax = propertiesAt + 2*256 + 4

var errProperties = errors.New("the properties of a message end early")

// A header is the payload of a content header frame, or so much of its beginning
// as is there yet.
type header []byte

func (h header) bodySize() uint64     { return binary.BigEndian.Uint64(h[bodySizeAt:]) }
func (h header) setBodySize(n uint64) { binary.BigEndian.PutUint64(h[bodySizeAt:], n) }

func (h header) flags() uint16         { return binary.BigEndian.Uint16(h[flagsAt:]) }
func (h header) has(property int) bool { return h.flags()&(1<<(15-property)) != 0 }

// clear says that the list has no such property. It is left to the caller to
// take it out.
func (h header) clear(property int) {
	binary.BigEndian.PutUint16(h[flagsAt:], h.flags()&^(1<<(15-property)))
}

// find returns where a property begins and how many bytes it takes, none if it
// is not there. What comes before must lie in h, what it consists of need not.
func (h header) find(property int) (at, span int, err error) {
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

// check reports an error unless the list has all the properties that the flags
// announce. There may be more in it: RabbitMQ and the library pass over that.
func (h header) check() error {
	at, span, err := h.find(len(properties) - 1)
	if err == nil && at+span > len(h) {
		err = errProperties
	}
	return err
}
