package harness

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A RawCaller publishes frames that the client library would not make. Its
// answers go to another caller.
type RawCaller struct{ conn net.Conn }

func (s *Site) NewRawCaller(t *testing.T) *RawCaller {
	t.Helper()
	r := new(RawCaller)
	conn, err := amqp.DialConfig(s.AMQPURL, amqp.Config{
		Heartbeat: 10 * time.Minute, // none in between our frames
		Dial: func(network, address string) (net.Conn, error) {
			var err error
			r.conn, err = net.Dial(network, address)
			return r.conn, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(Timeout)) })
	if _, err := conn.Channel(); err != nil { // number 1
		t.Fatal(err)
	}
	return r
}

// Publish sends a request with a header table, or with the rest of its property
// list, as given.
func (r *RawCaller) Publish(t *testing.T, m *Request, headers []byte) {
	t.Helper()
	const basic, publish = 60, 40
	const hasHeaders, hasCorrelationID, hasReplyTo = 1 << 13, 1 << 10, 1 << 9
	u16 := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	method := slices.Concat(u16(basic), u16(publish), u16(0), ShortString(m.Exchange), ShortString(m.Key), []byte{0})
	header := slices.Concat(u16(basic), u16(0), binary.BigEndian.AppendUint64(nil, uint64(len(m.Body))),
		u16(hasHeaders|hasCorrelationID|hasReplyTo), LongString(headers), ShortString(m.CorrelationId), ShortString(m.ReplyTo))
	frames := slices.Concat(frame(1, method), frame(2, header), frame(3, m.Body))
	if _, err := r.conn.Write(frames); err != nil {
		t.Fatal(err)
	}
}

func frame(kind byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, 0, 1}, uint32(len(payload)))
	return append(append(b, payload...), 0xce)
}

func ShortString(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func LongString(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// NestedTable returns a header table with so many tables in each other.
func NestedTable(depth int) (table []byte) {
	for range depth {
		table = slices.Concat(ShortString("x"), []byte{'F'}, LongString(table))
	}
	return table
}
