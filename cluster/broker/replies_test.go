package broker

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/deploy/testservers"
)

// A caller consumes direct replies.
type caller struct {
	replyTo string // as its requests arrive
	replies <-chan amqp.Delivery
}

func newCaller(t testing.TB, conn *amqp.Connection) caller {
	t.Helper()
	ch := mustChannel(t, conn)
	replies, err := ch.Consume(directQueue, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	queue, requests := consume(t, conn, 1)
	if err := ch.Publish("", queue, false, false, amqp.Publishing{ReplyTo: directQueue}); err != nil {
		t.Fatal(err)
	}
	return caller{replyTo: receive(t, requests).ReplyTo, replies: replies}
}

func TestReplyChecker(t *testing.T) {
	t.Run("direct_reply_arrives", testReplyCheckerDirectReplyArrives)
	t.Run("connection_survives", testReplyCheckerConnectionSurvives)
	t.Run("without_it_connection_is_lost", testReplyCheckerWithoutItConnectionIsLost)
	t.Run("slow_name_is_unsafe", testReplyCheckerSlowNameIsUnsafe)
	t.Run("one_probe_per_node", testReplyCheckerOneProbePerNode)
	t.Run("no_probe_for_queues", testReplyCheckerNoProbeForQueues)
	t.Run("probe_is_shared", testReplyCheckerProbeIsShared)
	t.Run("failed_probe_is_no_finding", testReplyCheckerFailedProbeIsNoFinding)
	t.Run("findings_are_bounded", testReplyCheckerFindingsAreBounded)
	t.Run("names_of_other_versions_refused", testReplyCheckerNamesOfOtherVersionsRefused)
}

func testReplyCheckerDirectReplyArrives(t *testing.T) {
	b := testservers.RabbitMQ(t)
	conn := mustDial(t, optionsFor(b))
	replies := NewReplyChecker(conn, optionsFor(b))
	ch := mustChannel(t, conn)
	calling := mustDial(t, optionsFor(b))
	for range 20 {
		c := newCaller(t, calling)
		for _, redelivered := range []bool{false, true} {
			if err := replies.Check(testContext(t), c.replyTo, redelivered); err != nil {
				t.Fatalf("%q: %v", c.replyTo, err)
			}
			if err := ch.Publish("", c.replyTo, false, false, amqp.Publishing{Body: []byte("reply")}); err != nil {
				t.Fatal(err)
			}
			select {
			case d := <-c.replies:
				if string(d.Body) != "reply" {
					t.Errorf("received %q, want the reply", d.Body)
				}
			case <-time.After(patience):
				t.Fatal("no reply was received")
			}
		}
	}
}

// No name that passes the check closes the connection. The test tries thousands of
// changed names.
func testReplyCheckerConnectionSurvives(t *testing.T) {
	b := testservers.RabbitMQ(t)
	conn := mustDial(t, optionsFor(b))
	replies := NewReplyChecker(conn, optionsFor(b))
	ch := mustChannel(t, conn)
	real := newCaller(t, mustDial(t, optionsFor(b))).replyTo

	const enough = 4000
	random := rand.New(rand.NewPCG(1, 2))
	var passed []string
	refused := 0
	flush := func() {
		t.Helper()
		if err := ch.Qos(1, 0, false); err != nil {
			t.Fatalf("the connection was lost over one of %q: %v", passed, err)
		}
		passed = nil
	}
	total := 0
	for deadline := time.Now().Add(patience); total < enough && time.Now().Before(deadline); total++ {
		replyTo := forge(random, real)
		if err := replies.Check(testContext(t), replyTo, false); errors.Is(err, ErrReplyTo) {
			refused++
			continue
		} else if err != nil {
			t.Fatalf("%q: %v", replyTo, err)
		}
		if err := ch.Publish("", replyTo, false, false, amqp.Publishing{}); err != nil {
			t.Fatal(err)
		}
		if passed = append(passed, replyTo); len(passed) == 20 {
			flush()
		}
	}
	flush()
	t.Logf("of %d, %d were refused", total, refused)
	if refused == 0 || refused == total {
		t.Error("the forgeries are not valid names")
	}
}

// forge changes a direct reply-to name.
func forge(random *rand.Rand, real string) string {
	first, key, _ := strings.Cut(strings.TrimPrefix(real, directQueue+"."), ".")
	raw, err := base64.StdEncoding.DecodeString(first)
	if err != nil {
		panic(err)
	}
	idAt := len(raw) - 12
	anyByte := func() byte { return byte(random.Uint32()) }
	special := []uint32{0, 1, 1 << 13, 1<<15 - 1, 1 << 15, 1 << 20, 1 << 28, 1<<31 - 1, 1<<32 - 1, random.Uint32(), random.Uint32N(1 << 15)}
	number := func() uint32 { return special[random.IntN(len(special))] }
	for range 1 + random.IntN(2) {
		switch at := random.IntN(len(raw)); random.IntN(9) {
		case 0:
			raw[at] ^= 1 << random.IntN(8)
		case 1:
			raw[at] = anyByte()
		case 2:
			raw = slices.Delete(raw, at, min(at+1+random.IntN(4), len(raw)))
		case 3:
			raw = slices.Insert(raw, at, anyByte())
		case 4, 5, 6:
			if idAt+12 == len(raw) {
				binary.BigEndian.PutUint32(raw[idAt+4*random.IntN(3):], number())
			}
		case 7:
			key = base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%016d", random.Uint32())))
		case 8:
			node := []string{"reply@1", "rabbit@localhost", "ident@localhost", "x@192.0.2.1", "reply@", ""}[random.IntN(6)]
			raw = process(node, number(), number(), number())
			raw[1], raw[2] = []byte{88, 103}[random.IntN(2)], []byte{118, 100, 119}[random.IntN(3)]
		}
		if len(raw) < 13 {
			break
		}
	}
	text := directQueue + "." + base64.StdEncoding.EncodeToString(raw) + "." + key
	if random.IntN(3) == 0 {
		at := random.IntN(len(text))
		text = text[:at] + string([]byte{anyByte()}) + text[at+random.IntN(2):]
	}
	return text
}

// The checks exist because of this behaviour of RabbitMQ up to 4.0. Later versions drop the
// message.
func testReplyCheckerWithoutItConnectionIsLost(t *testing.T) {
	b := testservers.RabbitMQ(t)
	o := optionsFor(b)
	version, _ := mustDial(t, o).Properties["version"].(string)
	want := atLeast(version, 4, 1)
	if safe, err := probeNode(testContext(t), o, directQueue+".garbage.garbage"); safe != want || err != nil {
		t.Errorf("RabbitMQ %s: safe: %v, error %v", version, safe, err)
	}
	if safe, err := probeNode(testContext(t), o, "no.such.queue"); !safe || err != nil {
		t.Errorf("safe: %v, error %v", safe, err)
	}
	o.Password = "wrong"
	if _, err := probeNode(testContext(t), o, "no.such.queue"); !Refused(err) {
		t.Errorf("error %v", err)
	}
}

func testReplyCheckerSlowNameIsUnsafe(t *testing.T) {
	afterPublish := func(reply []byte) Options {
		return optionsAt(t, listen(t, func(conn net.Conn) {
			playBroker(conn, slices.Concat(logIn, []turn{{1, method(1, 20, 11, long(nil))}, {1, reply}})) // channel.open-ok
			io.Copy(io.Discard, conn)
		}))
	}
	if safe, err := probeNode(testContext(t), afterPublish(nil), "x"); safe || err != nil {
		t.Errorf("silence: safe: %v, error %v", safe, err)
	}
	alarm := method(0, 10, 60, short("low on memory")) // connection.blocked
	if safe, err := probeNode(testContext(t), afterPublish(alarm), "x"); safe || !errors.Is(err, errBlocked) {
		t.Errorf("an alarm: safe: %v, error %v", safe, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if safe, err := probeNode(ctx, afterPublish(nil), "x"); safe || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of patience: safe: %v, error %v", safe, err)
	}
}

// A brokerOf has these nodes, and closes the connection over any other.
type brokerOf struct {
	mu    sync.Mutex // guards the following fields
	nodes []string
	tried []string
	err   error
	wait  time.Duration
}

func (b *brokerOf) try(ctx context.Context, name string) (bool, error) {
	time.Sleep(b.wait)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return false, b.err
	}
	n, err := parseReplyTo(name)
	if err != nil {
		return false, err
	}
	b.tried = append(b.tried, n.node)
	return slices.Contains(b.nodes, n.node), nil
}

func (b *brokerOf) expectTries(t *testing.T, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.tried, want) {
		t.Errorf("tried %q, want %q", b.tried, want)
	}
	b.tried = nil
}

func on(node string) string { return directReplyTo(process(node, 7, 7, 7)) }

// today is a release with only known names.
var today = brokerVersion{knownForm: true, wideIDs: true}

func testReplyCheckerOneProbePerNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &brokerOf{nodes: []string{"reply@1", "reply@2"}}
		r := newReplyChecker(today, b.try)
		check := func(node string, redelivered, want bool) {
			t.Helper()
			err := r.Check(t.Context(), on(node), redelivered)
			if err != nil && !errors.Is(err, ErrReplyTo) || (err == nil) != want {
				t.Errorf("%s: error %v", node, err)
			}
		}
		check("reply@1", false, true)
		check("reply@2", false, true)
		b.expectTries(t, "reply@1", "reply@2")
		time.Sleep(time.Hour)
		check("reply@1", false, true)
		b.expectTries(t)
		check("reply@1", true, true)
		check("reply@1", true, true)
		b.expectTries(t, "reply@1")

		b.nodes = []string{"reply@2"} // reply@1 fails
		time.Sleep(freshFor)
		check("reply@1", true, false)
		check("reply@1", false, false)
		check("reply@1", true, false)
		b.expectTries(t, "reply@1")

		b.nodes = []string{"reply@1", "reply@2"} // and comes back
		time.Sleep(freshFor)
		check("reply@1", false, true)
		b.expectTries(t, "reply@1")
	})
}

func testReplyCheckerNoProbeForQueues(t *testing.T) {
	b := &brokerOf{}
	r := newReplyChecker(today, b.try)
	if err := r.Check(t.Context(), "replies", true); err != nil {
		t.Error(err)
	}
	if err := r.Check(t.Context(), directQueue+".garbage", true); !errors.Is(err, ErrReplyTo) {
		t.Error(err)
	}
	b.expectTries(t)
}

func testReplyCheckerProbeIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &brokerOf{nodes: []string{"reply@1"}, wait: time.Second}
		r := newReplyChecker(today, b.try)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := r.Check(t.Context(), on("reply@1"), true); err != nil {
					t.Error(err)
				}
			})
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		all.Go(func() {
			time.Sleep(time.Nanosecond) // others are first
			if err := r.Check(impatient, on("reply@1"), false); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
		})
		all.Wait()
		b.expectTries(t, "reply@1")
	})
}

func testReplyCheckerFailedProbeIsNoFinding(t *testing.T) {
	failure := errors.New("the broker has gone")
	b := &brokerOf{nodes: []string{"reply@1"}, err: failure}
	r := newReplyChecker(today, b.try)
	if err := r.Check(t.Context(), on("reply@1"), false); !errors.Is(err, failure) || errors.Is(err, ErrReplyTo) {
		t.Errorf("error %v", err)
	}
	b.err = nil
	if err := r.Check(t.Context(), on("reply@1"), false); err != nil {
		t.Error(err)
	}
}

func testReplyCheckerFindingsAreBounded(t *testing.T) {
	b := &brokerOf{nodes: []string{"reply@0"}}
	r := newReplyChecker(today, b.try)
	for i := range 3 * maxNodes {
		r.Check(t.Context(), on(fmt.Sprintf("reply@%d", i)), false)
		if len(r.nodes) > maxNodes {
			t.Fatalf("%d nodes are remembered", len(r.nodes))
		}
	}
}

func testReplyCheckerNamesOfOtherVersionsRefused(t *testing.T) {
	narrow := directReplyTo(process("reply@1", 1<<15-1, 1<<13-1, 1))
	wide := directReplyTo(process("reply@1", 1<<15, 0, 1))
	wideSerial := directReplyTo(process("reply@1", 1, 1<<13, 1))
	for _, c := range []struct {
		version, platform string
		takes             []string
	}{
		{"3.8.9", "Erlang/OTP 23.2.6", nil},
		{"3.8.13", "Erlang/OTP 23.2.6", []string{narrow}},
		{"3.10.8", "Erlang/OTP 25.2.3", []string{narrow}},
		{"3.13.7", "Erlang/OTP 26.2", []string{narrow, wide, wideSerial}},
		{"4.0.5", "Erlang/OTP 27.3.4.1", []string{narrow, wide, wideSerial}},
		{"4.2.0-rc.1", "Erlang/OTP 28", []string{narrow, wide, wideSerial}},
		{"5", "Erlang/OTP", []string{narrow}},
		{"4.0.5", "", []string{narrow}},
		{"", "", nil},
		{"?", "Erlang/OTP 27", nil},
	} {
		b := &brokerOf{nodes: []string{"reply@1"}}
		r := newReplyChecker(versionOf(amqp.Table{"version": c.version, "platform": c.platform}), b.try)
		for _, name := range []string{narrow, wide, wideSerial} {
			err := r.Check(t.Context(), name, false)
			if took := err == nil; took != slices.Contains(c.takes, name) || !took && !errors.Is(err, ErrReplyTo) {
				t.Errorf("%s, %s: %q: error %v", c.version, c.platform, name, err)
			}
		}
	}
	if got := versionOf(amqp.Table{}); got != (brokerVersion{}) {
		t.Errorf("a broker without properties: %+v", got)
	}
}
