package broker

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testservers"
)

// nested wraps a table or array in the given number of further ones.
func nested(kind byte, depth int) []byte {
	value := []byte{kind, 0, 0, 0, 0}
	for range depth - 1 {
		content := value
		if kind == 'F' {
			content = append([]byte{0}, value...)
		}
		value = append([]byte{kind}, long(content)...)
	}
	return append(short("x"), value...)
}

func array(n int, element ...byte) []byte {
	return entry("x", 'A', long(bytes.Repeat(element, n))...)
}

// hostile has headers that RabbitMQ accepts, by their special property.
var hostile = []struct {
	name      string
	table     []byte
	unclean   bool // the filter takes them out
	killsBare bool // they would end the connection without the filter
	until4    bool // RabbitMQ 4 makes something harmless of them
}{
	{name: "none at all"},
	{name: "a type of RabbitMQ's that the library has not", table: entry("x", 'L', make([]byte, 8)...), unclean: true, killsBare: true, until4: true},
	{name: "that type in an array", table: array(1, 'L', 0, 0, 0, 0, 0, 0, 0, 0), unclean: true, killsBare: true, until4: true},
	{name: "that type in a table", table: entry("x", 'F', long(entry("y", 'L', make([]byte, 8)...))...), unclean: true, killsBare: true, until4: true},
	{name: "tables 8 deep", table: nested('F', 8)},
	{name: "tables 9 deep", table: nested('F', 9), unclean: true},
	{name: "tables 33 deep", table: nested('F', 33), unclean: true, killsBare: true},
	{name: "tables 5000 deep", table: nested('F', 5000), unclean: true, killsBare: true},
	{name: "arrays 8 deep", table: nested('A', 8)},
	{name: "arrays 5000 deep", table: nested('A', 5000), unclean: true, killsBare: true},
	{name: "an array of 1023", table: array(1023, 'V')},
	{name: "an array of 1024", table: array(1024, 'V'), unclean: true},
	{name: "an array of 10,000", table: array(10_000, 'V'), unclean: true, killsBare: true},
	{name: "an array of 10,000 strings", table: array(10_000, 'S', 0, 0, 0, 0), unclean: true, killsBare: true},
	{name: "a name of no bytes", table: entry("", 'V')},
	{name: "one name twice", table: slices.Concat(entry("x", 'V'), entry("x", 't', 7))},
	{name: "a name that is not UTF-8", table: entry("\xff\x00", 'V')},
	{name: "the farthest time", table: entry("x", 'T', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
	{name: "t", table: entry("x", 't', 0xff)},
	{name: "b", table: entry("x", 'b', 0xff)},
	{name: "B", table: entry("x", 'B', 0xff)},
	{name: "s", table: entry("x", 's', 0xff, 0xff)},
	{name: "u", table: entry("x", 'u', 0xff, 0xff)},
	{name: "I", table: entry("x", 'I', 0xff, 0xff, 0xff, 0xff)},
	{name: "i", table: entry("x", 'i', 0xff, 0xff, 0xff, 0xff)},
	{name: "f", table: entry("x", 'f', 0x7f, 0x7f, 0xff, 0xff)},
	{name: "l", table: entry("x", 'l', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
	{name: "d", table: entry("x", 'd', 0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
	{name: "D", table: entry("x", 'D', 0xff, 0xff, 0xff, 0xff, 0xff)},
	{name: "S", table: entry("x", 'S', long([]byte("\x00\xff"))...)},
	{name: "x", table: entry("x", 'x', long([]byte("\x00\xff"))...)},
	{name: "A", table: array(0)},
	{name: "F", table: entry("x", 'F', long(nil)...)},
	{name: "V", table: entry("x", 'V')},
}

func TestConnectionSurvives(t *testing.T) {
	t.Run("any_headers", testConnectionSurvivesAnyHeaders)
	t.Run("library_alone_does_not", testConnectionSurvivesLibraryAloneDoesNot)
	t.Run("any_properties", testConnectionSurvivesAnyProperties)
	t.Run("header_larger_than_frame", testConnectionSurvivesHeaderLargerThanFrame)
	t.Run("any_body_size", testConnectionSurvivesAnyBodySize)
	t.Run("body_in_small_frames", testConnectionSurvivesBodyInSmallFrames)
}

func testConnectionSurvivesAnyHeaders(t *testing.T) {
	b := testservers.RabbitMQ(t)
	o := optionsFor(b)
	var filtered recorder
	o.OnFiltered = filtered.record
	conn := mustDial(t, o)
	queue, deliveries := consume(t, conn, 10)
	sender := dialRaw(t, b)
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			unclean := h.unclean && !(h.until4 && isRabbitMQ4(conn))
			list := slices.Concat(long(h.table), short("id"), short("mid"))
			sender.publish(queue, withHeaders|withCorrelationID|withMessageID, list, []byte("body"))
			d := receive(t, deliveries)
			if d.CorrelationId != "id" || d.MessageId != "mid" || string(d.Body) != "body" {
				t.Errorf("delivered: %+v", d)
			}
			var want []Reason
			if unclean {
				want = []Reason{UnreadableHeaders}
			}
			if got := filtered.take(); !slices.Equal(got, want) {
				t.Errorf("filtered: %q, want %q", got, want)
			}
			if there := len(d.Headers) > 0; there != (len(h.table) > 0 && !unclean) {
				t.Errorf("headers: %v", d.Headers)
			}
		})
	}
}

// The filter exists because of this behaviour of the library. If this test fails, a new
// version of the library may no longer need a part of the filter.
func testConnectionSurvivesLibraryAloneDoesNot(t *testing.T) {
	b := testservers.RabbitMQ(t)
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			conn, err := amqp.Dial(b.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			closed := conn.NotifyClose(make(chan *amqp.Error, 1))
			queue, deliveries := consume(t, conn, 10)
			dialRaw(t, b).publish(queue, withHeaders, long(h.table), []byte("body"))
			select {
			case <-deliveries:
			case <-closed:
			case <-time.After(patience):
				t.Fatal("neither a delivery nor an end")
			}
			if want := h.killsBare && !(h.until4 && isRabbitMQ4(conn)); conn.IsClosed() != want {
				t.Errorf("killed: %v, want %v", conn.IsClosed(), want)
			}
		})
	}
}

func isRabbitMQ4(conn *amqp.Connection) bool {
	version, _ := conn.Properties["version"].(string)
	return atLeast(version, 4)
}

// Properties may be unusual in other ways than by their headers.
func testConnectionSurvivesAnyProperties(t *testing.T) {
	b := testservers.RabbitMQ(t)
	o := optionsFor(b)
	var filtered recorder
	o.OnFiltered = filtered.record
	queue, deliveries := consume(t, mustDial(t, o), 10)
	sender := dialRaw(t, b)
	all := slices.Concat(short("ct"), short("ce"), long(nil), []byte{2, 255}, short("id"), short("rt"), short("1000000"), short("mid"),
		bytes.Repeat([]byte{0xff}, 8), short("type"), short(b.User), short("app"), short("cluster"))
	for _, c := range []struct {
		name  string
		flags uint16
		list  []byte
		id    string
	}{
		{"none", 0, nil, ""},
		{"all", 0xfffc, all, "id"},
		{"all, and the two flags that mean nothing", 0xffff, all, "id"},
		{"the flag that announces further flags", withCorrelationID | 1, short("id"), "id"},
		{"strings that are not text", withCorrelationID | withReplyTo, slices.Concat(short("\xff\x00"), short("\x00\xfe")), "\xff\x00"},
		{"the longest strings", withCorrelationID | withReplyTo, bytes.Repeat(append([]byte{255}, bytes.Repeat([]byte{'x'}, 255)...), 2), string(bytes.Repeat([]byte{'x'}, 255))},
	} {
		t.Run(c.name, func(t *testing.T) {
			sender.publish(queue, c.flags, c.list, []byte("body"))
			if d := receive(t, deliveries); d.CorrelationId != c.id || string(d.Body) != "body" {
				t.Errorf("delivered: %+v", d)
			}
		})
	}
	if got := filtered.take(); got != nil {
		t.Errorf("filtered: %q", got)
	}
}

// RabbitMQ splits a body by the frame size that it has agreed with the receiver. It
// cannot split a header, which it may also have made longer.
func testConnectionSurvivesHeaderLargerThanFrame(t *testing.T) {
	b := testservers.RabbitMQ(t)
	o := optionsFor(b)
	var filtered recorder
	o.OnFiltered = filtered.record
	queue, deliveries := consume(t, mustDial(t, o), 10)

	sender := dialRaw(t, b)
	sender.method(1, 60, 20, []byte{0, 0}, short(directQueue), short("r"), []byte{2}, long(nil))
	sender.expect(60, 21)
	list := func(replyTo string) []byte {
		fixed := propertiesAt + 4 + len(entry("x", 'S', long(nil)...)) + len(short(replyTo))
		padding := make([]byte, frameMax-frameOverhead-fixed)
		return append(long(entry("x", 'S', long(padding)...)), short(replyTo)...)
	}

	sender.publish(queue, withHeaders|withReplyTo, list("some queue"), []byte("just fits"))
	if d := receive(t, deliveries); len(d.Headers) != 1 {
		t.Errorf("%d headers", len(d.Headers))
	}
	sender.publish(queue, withHeaders|withReplyTo, list(directQueue), []byte("has grown"))
	d := receive(t, deliveries)
	if string(d.Body) != "has grown" || CheckReplyTo(d.ReplyTo) != nil || d.ReplyTo == directQueue || len(d.Headers) != 0 {
		t.Errorf("delivered: %q, reply_to %q, %d headers", d.Body, d.ReplyTo, len(d.Headers))
	}
	if got := filtered.take(); !slices.Equal(got, []Reason{OversizedHeader}) {
		t.Errorf("filtered: %q", got)
	}

	// Over HTTP, headers of any size can be published.
	err := b.Management.Call(t.Context(), http.MethodPost, "/api/exchanges/"+url.PathEscape(b.VHost)+"/amq.default/publish", map[string]any{
		"routing_key":      queue,
		"properties":       map[string]any{"headers": map[string]any{"x": strings.Repeat("x", 1<<20)}, "message_id": "mid"},
		"payload":          "huge",
		"payload_encoding": "string",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := receive(t, deliveries); string(d.Body) != "huge" || d.MessageId != "mid" || len(d.Headers) != 0 {
		t.Errorf("delivered: %q, message_id %q, %d headers", d.Body, d.MessageId, len(d.Headers))
	}
	if got := filtered.take(); !slices.Equal(got, []Reason{OversizedHeader}) {
		t.Errorf("filtered: %q", got)
	}
}

func testConnectionSurvivesAnyBodySize(t *testing.T) {
	const maxBody = 1 << 20
	b := testservers.RabbitMQ(t)
	o := optionsFor(b)
	o.MaxBody = maxBody
	var filtered recorder
	o.OnFiltered = filtered.record
	conn := mustDial(t, o)
	queue, deliveries := consume(t, conn, 10)
	sender := dialRaw(t, b)
	largest := 100 << 20
	if isRabbitMQ4(conn) {
		largest = 16 << 20 // that it takes by default
	}

	for _, size := range []int{0, 1, frameMax - frameOverhead, maxBody, maxBody + 1, maxBody + 2, 10 << 20, largest} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * 7)
		}
		sender.publish(queue, withCorrelationID, short("id"), slices.Collect(slices.Chunk(body, frameMax-frameOverhead))...)
		sender.publish(queue, withCorrelationID, short("next"), []byte("next"))

		d := receive(t, deliveries)
		if want := body[:min(size, maxBody+1)]; d.CorrelationId != "id" || !bytes.Equal(d.Body, want) {
			t.Errorf("%d of %d bytes were received, want %d", len(d.Body), size, len(want))
		}
		if d := receive(t, deliveries); d.CorrelationId != "next" || string(d.Body) != "next" {
			t.Errorf("after %d bytes, received %q", size, d.Body)
		}
		if got, want := filtered.take(), size > maxBody+1; len(got) > 0 != want {
			t.Errorf("of %d bytes: filtered: %q", size, got)
		}
	}
}

func testConnectionSurvivesBodyInSmallFrames(t *testing.T) {
	b := testservers.RabbitMQ(t)
	queue, deliveries := consume(t, mustDial(t, optionsFor(b)), 10)
	sender := dialRaw(t, b)
	var crumbs [][]byte
	for i := range 20_000 {
		crumbs = append(crumbs, []byte("x")[:i%2])
	}
	sender.publish(queue, 0, nil, crumbs...)
	if d := receive(t, deliveries); len(d.Body) != 10_000 {
		t.Errorf("%d bytes", len(d.Body))
	}
	sender.publish(queue, 0, nil)
	if d := receive(t, deliveries); len(d.Body) != 0 {
		t.Errorf("%d bytes", len(d.Body))
	}
}

// A recorder records what was filtered.
type recorder struct {
	mu      sync.Mutex // guards the following field
	reasons []Reason
}

func (r *recorder) record(f Filtered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reasons = append(r.reasons, f.Reason)
}

// take returns the reasons since the last call.
func (r *recorder) take() []Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	reasons := r.reasons
	r.reasons = nil
	return reasons
}
