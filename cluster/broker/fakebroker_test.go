package broker

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A turn is a reply of a broker, sent after a number of methods from the client.
type turn struct {
	methods int
	reply   []byte
}

// logIn has the turns of a broker until the virtual host is open.
var logIn = []turn{
	{0, method(0, 10, 10, []byte{0, 9}, long(nil), long([]byte("PLAIN AMQPLAIN EXTERNAL")), long([]byte("en_US")))}, // start
	{1, method(0, 10, 30, []byte{0, 0}, binary.BigEndian.AppendUint32(nil, frameMax), []byte{0, 0})},                // tune
	{2, method(0, 10, 41, short(""))}, // open-ok, after tune-ok and open
}

// logInAndConsume goes on with channel 1 and a consumer with the tag "c".
var logInAndConsume = append(slices.Clone(logIn),
	turn{1, method(1, 20, 11, long(nil))},  // channel.open-ok
	turn{1, method(1, 60, 21, short("c"))}, // basic.consume-ok
)

func method(channel, class, id uint16, arguments ...[]byte) []byte {
	payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, class), id)
	return frame(frameMethod, channel, slices.Concat(payload, slices.Concat(arguments...)))
}

// playBroker plays the turns of a broker on a connection that a client has opened.
func playBroker(conn net.Conn, turns []turn) error {
	if _, err := io.ReadFull(conn, make([]byte, len("AMQP\x00\x00\x09\x01"))); err != nil {
		return err
	}
	for _, t := range turns {
		for range t.methods {
			if err := skipMethod(conn); err != nil {
				return err
			}
		}
		if _, err := conn.Write(t.reply); err != nil {
			return err
		}
	}
	return nil
}

// skipMethod reads up to the end of the next method.
func skipMethod(r io.Reader) error {
	for {
		h := make(head, headLen)
		if _, err := io.ReadFull(r, h); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, make([]byte, h.size()+1)); err != nil {
			return err
		}
		if h.kind() == frameMethod {
			return nil
		}
	}
}

// consumeFromFake returns a connection as Dial makes them, its far end, and the
// deliveries on channel 1 for the consumer "c".
func consumeFromFake(t testing.TB, maxBody int) (net.Conn, <-chan amqp.Delivery) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close() })
	played := make(chan error, 1)
	go func() { played <- playBroker(far, logInAndConsume) }()
	d := &dial{options: Options{LoginMethod: Plain, VHost: "/", Heartbeat: time.Minute, MaxBody: maxBody}}
	conn, err := d.open(near)
	if err != nil {
		t.Fatal(err)
	}
	deliveries, err := mustChannel(t, conn).Consume("q", "c", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-played; err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, far) // ends when near is closed
	return far, deliveries
}

// FuzzHeaders checks the promise with the library itself: it can parse each content
// header that the filter passes or changes.
func FuzzHeaders(f *testing.F) {
	for _, h := range hostile {
		f.Add(uint16(withHeaders|withCorrelationID), append(long(h.table), short("id")...))
	}
	broker, deliveries := consumeFromFake(f, 0)
	f.Fuzz(func(t *testing.T, flags uint16, list []byte) {
		if len(list) > 10_000 || header(contentHeader(0, flags, list)).validate() != nil {
			t.Skip("RabbitMQ sends no such header")
		}
		sent := make(chan error, 1)
		go func() {
			_, err := broker.Write(slices.Concat(deliver(1), frame(frameHeader, 1, contentHeader(0, flags, list))))
			sent <- err
		}()
		select {
		case _, ok := <-deliveries:
			if !ok {
				t.Fatal("the connection was lost")
			}
		case <-time.After(patience):
			t.Fatal("nothing was delivered")
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	})
}
