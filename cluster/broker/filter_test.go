package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// anyProperties are flags and the list that goes with them.
var anyProperties = rapid.Custom(func(t *rapid.T) (p struct {
	flags uint16
	list  []byte
}) {
	p.flags = rapid.Uint16().Draw(t, "flags")
	for i, e := range properties {
		if p.flags&(1<<(15-i)) == 0 {
			continue
		}
		switch e {
		case shortString:
			p.list = append(p.list, short(rapid.StringN(0, 5, 255).Draw(t, "string"))...)
		case table:
			p.list = append(p.list, long(anyTable(0).Draw(t, "headers"))...)
		case octet:
			p.list = append(p.list, rapid.Byte().Draw(t, "octet"))
		case timestamp:
			p.list = append(p.list, make([]byte, 8)...)
		}
	}
	p.list = append(p.list, rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "surplus")...)
	return p
})

func TestFilter(t *testing.T) {
	t.Run("readable_passes", testFilterReadablePasses)
	t.Run("long_bodies_cut", testFilterLongBodiesCut)
	t.Run("dropped_frame_is_heartbeat", testFilterDroppedFrameIsHeartbeat)
	t.Run("headers_removed", testFilterHeadersRemoved)
	t.Run("not_amqp", testFilterNotAmqp)
	t.Run("agreed_frame_size", testFilterAgreedFrameSize)
	t.Run("read_error", testFilterReadError)
	t.Run("no_allocations", testFilterNoAllocations)
}

func testFilterReadablePasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		for range rapid.IntRange(1, 20).Draw(t, "frames") {
			channel := rapid.Uint16Range(0, 3).Draw(t, "channel")
			switch rapid.SampledFrom([]byte{frameMethod, frameHeader, frameBody, frameHeartbeat}).Draw(t, "kind") {
			case frameMethod:
				stream = append(stream, frame(frameMethod, channel, anyBytes.Draw(t, "method"))...)
			case frameHeader:
				p := anyProperties.Draw(t, "properties")
				stream = append(stream, frame(frameHeader, channel, contentHeader(rapid.Uint64().Draw(t, "size"), p.flags, p.list))...)
			case frameBody:
				n := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, frameMax-frameOverhead)).Draw(t, "length")
				stream = append(stream, frame(frameBody, channel, bytes.Repeat([]byte{frameEnd}, n))...)
			case frameHeartbeat:
				stream = append(stream, frame(frameHeartbeat, 0, nil)...)
			}
		}
		got, err := filterAll(&pieces{t, stream}, 0, func(f Filtered) { t.Errorf("filtered: %+v", f) })
		if err != nil || !bytes.Equal(got, stream) {
			t.Fatalf("%d bytes of %d, error %v", len(got), len(stream), err)
		}
	})
}

// Messages keep their first bytes if the frames of channels alternate.
func testFilterLongBodiesCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxBody := rapid.IntRange(1, 2000).Draw(t, "maxBody")
		const channels = 3
		var queues [channels][][]byte // of frames, by channel
		var want [channels][][]byte   // of bodies, by channel
		for i := range channels {
			for range rapid.IntRange(0, 4).Draw(t, "messages") {
				body := make([]byte, rapid.IntRange(0, 5000).Draw(t, "body"))
				for j := range body {
					body[j] = byte(i*50 + j)
				}
				want[i] = append(want[i], body[:min(len(body), maxBody+1)])
				channel := uint16(i + 1)
				queues[i] = append(queues[i], deliver(channel), frame(frameHeader, channel, contentHeader(uint64(len(body)), 0, nil)))
				for len(body) > 0 {
					n := rapid.IntRange(0, len(body)).Draw(t, "fragment")
					queues[i] = append(queues[i], frame(frameBody, channel, body[:n]))
					body = body[n:]
				}
			}
		}
		var stream []byte
		for {
			var ready []int
			for i, q := range queues {
				if len(q) > 0 {
					ready = append(ready, i)
				}
			}
			if len(ready) == 0 {
				break
			}
			i := rapid.SampledFrom(ready).Draw(t, "next")
			stream = append(stream, queues[i][0]...)
			queues[i] = queues[i][1:]
		}

		filtered, err := filterAll(&pieces{t, stream}, maxBody, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, bodies := range assemble(t, filtered, channels) {
			if !slices.EqualFunc(bodies, want[i], bytes.Equal) {
				t.Fatalf("channel %d: %d messages, want %d, or their bodies differ", i+1, len(bodies), len(want[i]))
			}
		}
	})
}

// The library must receive something while a long body is dropped, or it closes the
// connection.
func testFilterDroppedFrameIsHeartbeat(t *testing.T) {
	stream := slices.Concat(deliver(1), frame(frameHeader, 1, contentHeader(30, 0, nil)))
	for range 3 {
		stream = append(stream, frame(frameBody, 1, make([]byte, 10))...)
	}
	got, err := filterAll(bytes.NewReader(stream), 14, nil)
	want := slices.Concat(deliver(1), frame(frameHeader, 1, contentHeader(15, 0, nil)),
		frame(frameBody, 1, make([]byte, 10)), frame(frameBody, 1, make([]byte, 5)), frame(frameHeartbeat, 0, nil))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, error %v\nwant %x", got, err, want)
	}
}

func testFilterHeadersRemoved(t *testing.T) {
	longest := string(bytes.Repeat([]byte{'x'}, 255))
	before := slices.Concat(short(longest), short(longest))
	after := slices.Concat([]byte{2, 5}, short("id"))
	const flags = 0xfc00
	for _, c := range []struct {
		name   string
		table  []byte
		reason Reason
	}{
		{"a type that the library has not", entry("x", 'L', make([]byte, 8)...), UnreadableHeaders},
		{"no type that exists", entry("x", 0), UnreadableHeaders},
		{"the end in a name", []byte{7, 'x'}, UnreadableHeaders},
		{"the end after a name", short("x"), UnreadableHeaders},
		{"the end in a number", entry("x", 'l', 1, 2, 3), UnreadableHeaders},
		{"the end in a length", entry("x", 'S', 0, 0), UnreadableHeaders},
		{"the end in a string", entry("x", 'S', 0, 0, 0, 9, 'x'), UnreadableHeaders},
		{"a length beyond everything", entry("x", 'A', 0xff, 0xff, 0xff, 0xff), UnreadableHeaders},
		{"more than a frame holds", entry("x", 'S', long(make([]byte, frameMax))...), OversizedHeader},
		{"more than the buffer holds, many times", entry("x", 'S', long(bytes.Repeat([]byte{frameEnd}, 10*frameMax))...), OversizedHeader},
	} {
		for _, reads := range []struct {
			name string
			as   func(io.Reader) io.Reader
		}{
			{"at once", func(r io.Reader) io.Reader { return r }},
			{"byte by byte", iotest.OneByteReader},
		} {
			t.Run(c.name+", read "+reads.name, func(t *testing.T) {
				list := slices.Concat(before, long(c.table), after)
				stream := slices.Concat(deliver(7), frame(frameHeader, 7, contentHeader(4, flags, list)), frame(frameBody, 7, []byte("body")))
				var filtered []Filtered
				got, err := filterAll(reads.as(bytes.NewReader(stream)), 0, func(f Filtered) { filtered = append(filtered, f) })
				want := slices.Concat(deliver(7), frame(frameHeader, 7, contentHeader(4, flags&^withHeaders, slices.Concat(before, after))), frame(frameBody, 7, []byte("body")))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %.300q, error %v\nwant %.300q", got, err, want)
				}
				if !slices.Equal(filtered, []Filtered{{7, c.reason}}) {
					t.Errorf("filtered: %+v", filtered)
				}
			})
		}
	}
}

func testFilterNotAmqp(t *testing.T) {
	valid := frame(frameMethod, 1, []byte("valid"))
	badEnd := frame(frameBody, 1, []byte("x"))
	badEnd[len(badEnd)-1] = 0
	for _, c := range []struct {
		name string
		bad  []byte
	}{
		{"no end octet", badEnd},
		{"no such type", frame(4, 0, nil)},
		{"TLS", []byte("\x15\x03\x03\x00\x02\x02\x50")},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\n\r\n")},
		{"another version of AMQP", []byte("AMQP\x00\x01\x00\x00")},
		{"a body frame larger than agreed", frame(frameBody, 1, make([]byte, frameMax-frameOverhead+1))},
		{"a method frame larger than agreed", frame(frameMethod, 1, make([]byte, frameMax))},
		{"a header frame larger than agreed without headers", frame(frameHeader, 1, contentHeader(0, 0, make([]byte, frameMax)))},
		{"headers that reach beyond a frame", frame(frameHeader, 1, contentHeader(0, withHeaders, []byte{0, 0, 0, 9, 'x'}))},
		{"headers that reach beyond a large frame", frame(frameHeader, 1, contentHeader(0, withHeaders, append([]byte{0xff, 0, 0, 0}, make([]byte, frameMax)...)))},
		{"properties that end early", frame(frameHeader, 1, contentHeader(0, withCorrelationID, []byte{9, 'x'}))},
		{"no properties at all", frame(frameHeader, 1, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := filterAll(bytes.NewReader(slices.Concat(valid, c.bad, valid)), 0, nil)
			if !errors.Is(err, ErrNotAMQP) {
				t.Errorf("error %v", err)
			}
			if !bytes.HasPrefix(got, valid) {
				t.Errorf("the valid frame before is missing: %q", got)
			}
		})
	}
}

func testFilterAgreedFrameSize(t *testing.T) {
	const small = 4096
	table := entry("x", 'S', long(make([]byte, small))...)
	stream := frame(frameHeader, 1, contentHeader(0, withHeaders, long(table)))
	got, err := io.ReadAll(newFilter(bytes.NewReader(stream), agreed(small), 0, nil))
	if want := frame(frameHeader, 1, contentHeader(0, 0, nil)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, error %v", got, err)
	}
}

func testFilterReadError(t *testing.T) {
	stream := frame(frameMethod, 1, []byte("x"))
	failure := errors.New("reset")
	got, err := filterAll(io.MultiReader(iotest.DataErrReader(bytes.NewReader(stream)), iotest.ErrReader(failure)), 0, nil)
	if !errors.Is(err, failure) || !bytes.Equal(got, stream) {
		t.Errorf("got %q, error %v", got, err)
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte("HTTP/1.1 400 Bad Request"), uint16(0))
	f.Add(slices.Concat(deliver(1), frame(frameHeader, 1, contentHeader(9, withHeaders, long(entry("x", 'V')))), frame(frameBody, 1, []byte("body body"))), uint16(3))
	f.Add(slices.Concat(deliver(1), frame(frameHeader, 1, contentHeader(9, withHeaders, long(nested('A', 9))))), uint16(3))
	f.Fuzz(func(t *testing.T, stream []byte, maxBody uint16) {
		whole, wholeErr := filterAll(bytes.NewReader(stream), int(maxBody), nil)
		single, singleErr := filterAll(iotest.OneByteReader(bytes.NewReader(stream)), int(maxBody), nil)
		if !bytes.Equal(whole, single) || fmt.Sprint(wholeErr) != fmt.Sprint(singleErr) {
			t.Fatalf("read at once: %q, %v\nread byte by byte: %q, %v", whole, wholeErr, single, singleErr)
		}
		if len(whole) > len(stream) {
			t.Fatal("the filter has added bytes")
		}
		again, err := filterAll(bytes.NewReader(whole), int(maxBody), func(f Filtered) { t.Fatalf("filtered again: %+v", f) })
		if err != nil || !bytes.Equal(again, whole) {
			t.Fatalf("filtered again, %q becomes %q, %v", whole, again, err)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	list := slices.Concat(short("application/x-msgpack"),
		long(entry("traceparent", 'S', long([]byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))...)),
		short("0af7651916cd43dd"), short("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxOTM3NTYwNAAAAsYAAAAAawRWUA==.5ijCQxY/EeCM8IgV1xYNdQ=="))
	for _, c := range []struct {
		name string
		body int
	}{
		{"requests of 200 bytes", 200},
		{"bodies of 1 MiB", 1 << 20},
	} {
		message := slices.Concat(deliver(1), frame(frameHeader, 1, contentHeader(uint64(c.body), 0x8000|withHeaders|withCorrelationID|withReplyTo, list)))
		frames := 2
		for body := range slices.Chunk(make([]byte, c.body), frameMax-frameOverhead) {
			message = append(message, frame(frameBody, 1, body)...)
			frames++
		}
		for _, filtered := range []bool{false, true} {
			name := c.name + "/bare"
			if filtered {
				name = c.name + "/filtered"
			}
			b.Run(name, func(b *testing.B) {
				var source io.Reader = &endless{message: bytes.Repeat(message, 1+1<<20/len(message))}
				if filtered {
					source = newFilter(source, agreed(frameMax), 1<<20, nil)
				}
				p := make([]byte, 4096) // as the library reads
				b.SetBytes(int64(len(message)))
				b.ReportAllocs()
				left := 0
				for b.Loop() {
					for left += len(message); left > 0; {
						n, err := source.Read(p[:min(left, len(p))])
						if err != nil {
							b.Fatal(err)
						}
						left -= n
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frames), "ns/frame")
			})
		}
	}
}

func testFilterNoAllocations(t *testing.T) {
	message := slices.Concat(deliver(1),
		frame(frameHeader, 1, contentHeader(4, withHeaders, long(nested('F', maxTableDepth)))), frame(frameBody, 1, []byte("body")),
		deliver(1), frame(frameHeader, 1, contentHeader(4, withHeaders, long(entry("x", 'L', make([]byte, 8)...)))), frame(frameBody, 1, []byte("body")))
	f := newFilter(&endless{message: message}, agreed(frameMax), 10, nil)
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(1000, func() { f.Read(p) }); n != 0 {
		t.Errorf("%v allocations in a read", n)
	}
}
