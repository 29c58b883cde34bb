package broker

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testservers"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// patience bounds each wait for something that should happen soon.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func optionsFor(b *testservers.Broker) Options {
	return Options{
		Addresses:      []string{b.Address()},
		VHost:          b.VHost,
		LoginMethod:    AMQPlain,
		Login:          b.User,
		Password:       b.Password,
		Heartbeat:      5 * time.Second,
		ConnectionName: "test",
		Version:        "0.0.0",
	}
}

func mustDial(t testing.TB, o Options) *amqp.Connection {
	t.Helper()
	conn, err := Dial(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(time.Second)) })
	return conn
}

func mustChannel(t testing.TB, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// consume declares a queue and consumes from it.
func consume(t testing.TB, conn *amqp.Connection, prefetch int) (queue string, deliveries <-chan amqp.Delivery) {
	t.Helper()
	ch := mustChannel(t, conn)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.Qos(prefetch, 0, false)
	}
	if err == nil {
		deliveries, err = ch.Consume(q.Name, "", false, true, false, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return q.Name, deliveries
}

// receive waits for one delivery and acknowledges it. It fails if the connection is
// closed.
func receive(t testing.TB, deliveries <-chan amqp.Delivery) amqp.Delivery {
	t.Helper()
	select {
	case d, ok := <-deliveries:
		if !ok {
			t.Fatal("the connection was lost")
		}
		if err := d.Ack(false); err != nil {
			t.Fatal(err)
		}
		return d
	case <-time.After(patience):
		t.Fatal("nothing was delivered")
	}
	panic("unreachable")
}

// A rawClient speaks AMQP byte by byte, so that it can send frames that no library sends.
type rawClient struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

// dialRaw logs in and opens channel 1, with publisher confirms.
func dialRaw(t testing.TB, b *testservers.Broker) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := &rawClient{t: t, conn: conn, in: bufio.NewReader(conn)}
	c.write([]byte("AMQP\x00\x00\x09\x01"))
	c.expect(10, 10)
	plain := "\x00" + b.User + "\x00" + b.Password
	c.method(0, 10, 11, long(nil), short("PLAIN"), long([]byte(plain)), short("en_US"))
	c.expect(10, 30)
	c.method(0, 10, 31, []byte{0, 8}, binary.BigEndian.AppendUint32(nil, frameMax), []byte{0, 0})
	c.method(0, 10, 40, short(b.VHost), short(""), []byte{0})
	c.expect(10, 41)
	c.method(1, 20, 10, short(""))
	c.expect(20, 11)
	c.method(1, 85, 10, []byte{0})
	c.expect(85, 11)
	return c
}

// publish sends one message and waits until the broker has confirmed it. body may be
// sent in any number of frames.
func (c *rawClient) publish(queue string, flags uint16, list []byte, body ...[]byte) {
	c.t.Helper()
	c.method(1, 60, 40, []byte{0, 0}, short(""), short(queue), []byte{0})
	size := 0
	for _, b := range body {
		size += len(b)
	}
	c.write(frame(frameHeader, 1, contentHeader(uint64(size), flags, list)))
	for _, b := range body {
		c.write(frame(frameBody, 1, b))
	}
	c.expect(60, 80)
}

func (c *rawClient) method(channel, class, method uint16, arguments ...[]byte) {
	c.t.Helper()
	payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, class), method)
	for _, a := range arguments {
		payload = append(payload, a...)
	}
	c.write(frame(frameMethod, channel, payload))
}

func (c *rawClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads the next method, which must be the given one.
func (c *rawClient) expect(class, method uint16) {
	c.t.Helper()
	for {
		h := make(head, headLen)
		if _, err := io.ReadFull(c.in, h); err != nil {
			c.t.Fatal(err)
		}
		payload := make([]byte, h.size()+1)
		if _, err := io.ReadFull(c.in, payload); err != nil {
			c.t.Fatal(err)
		}
		if h.kind() == frameHeartbeat {
			continue
		}
		if got := [2]uint16{binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])}; got != [2]uint16{class, method} {
			c.t.Fatalf("the broker answered with method %d: %q", got, payload[4:])
		}
		return
	}
}

func frame(kind byte, channel uint16, payload []byte) []byte {
	b := append([]byte{kind}, byte(channel>>8), byte(channel))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, payload...), frameEnd)
}

func contentHeader(bodySize uint64, flags uint16, list []byte) []byte {
	b := []byte{0, 60, 0, 0}
	b = binary.BigEndian.AppendUint64(b, bodySize)
	b = binary.BigEndian.AppendUint16(b, flags)
	return append(b, list...)
}

func short(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func long(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// entry returns an entry of a table.
func entry(name string, kind byte, value ...byte) []byte {
	return append(append(short(name), kind), value...)
}

// Flags of properties.
const (
	withHeaders       = 1 << 13
	withCorrelationID = 1 << 10
	withReplyTo       = 1 << 9
	withMessageID     = 1 << 7
)
