package membership

import (
	"strings"
	"testing"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/ownership/moves"
	"github.com/glotpod/ident/cluster/partition"
)

func TestSendQueue(t *testing.T) {
	t.Run("bounded_newest_stay", testSendQueueBoundedNewestStay)
	t.Run("one_probe_per_member", testSendQueueOneProbePerMember)
	t.Run("unconfirmed_bounded", testSendQueueUnconfirmedBounded)
}

func testSendQueueBoundedNewestStay(t *testing.T) {
	o := newSendQueue()
	dropped := 0
	for range 5 * maxBroadcasts {
		if !o.add(outboundMessage{kind: message, body: []byte("x")}) {
			dropped++
		}
	}
	if dropped != 4*maxBroadcasts || len(o.waiting) != maxBroadcasts || o.waiting[0].number != 4*maxBroadcasts+1 {
		t.Errorf("%d dropped, %d wait from %d on", dropped, len(o.waiting), o.waiting[0].number)
	}
	o = newSendQueue()
	for range 20 {
		o.add(outboundMessage{kind: message, body: make([]byte, 1<<20)})
	}
	if len(o.waiting) != maxBroadcastBytes>>20 || o.bytes != maxBroadcastBytes {
		t.Errorf("%d of 1 MiB wait, %d bytes", len(o.waiting), o.bytes)
	}
	for i := range int64(2 * maxProbes) {
		o.add(outboundMessage{kind: probe, key: QueueOf(ownership.Member{Incarnation: ownership.Incarnation{Start: i}})})
		o.add(outboundMessage{kind: reply})
	}
	if o.counts[probe] != maxProbes || o.counts[reply] != maxReplies || o.counts[message] != 16 {
		t.Errorf("%v wait", o.counts)
	}
}

func testSendQueueOneProbePerMember(t *testing.T) {
	o := newSendQueue()
	ask := func() int {
		o.add(outboundMessage{kind: probe, key: "a"})
		return len(o.waiting)
	}
	if first, second := ask(), ask(); first != 1 || second != 1 {
		t.Error("a second probe waits")
	}
	p, _ := o.take()
	if ask() != 0 {
		t.Error("a second probe before the reply to the first")
	}
	o.settle(p)
	if ask() != 1 {
		t.Error("no probe after the reply")
	}
}

func testSendQueueUnconfirmedBounded(t *testing.T) {
	o := newSendQueue()
	for range maxUnconfirmed + 2 {
		o.add(outboundMessage{kind: message})
	}
	var sent []outboundMessage
	for n := range maxUnconfirmed + 1 {
		p, ok := o.take()
		if ok != (n < maxUnconfirmed) {
			t.Fatalf("message %d: %v", n+1, ok)
		}
		if ok {
			sent = append(sent, p)
		}
	}
	o.settle(sent[1]) // the broker confirms in any order
	if next, ok := o.take(); !ok || o.isSettled(1) {
		t.Errorf("after another one is confirmed: %v, the first one is settled: %v", ok, o.isSettled(1))
	} else {
		sent = append(sent, next)
	}
	o.settle(sent[0])
	if !o.isSettled(2) || o.isSettled(3) {
		t.Error("the first two are confirmed, or the third one is")
	}
	for n := uint64(3); len(sent) > 2; n++ {
		if o.isSettled(n) || !o.isSettled(n-1) {
			t.Fatalf("%d are confirmed", n-1)
		}
		o.settle(sent[2])
		sent = sent[1:]
		if next, ok := o.take(); ok {
			sent = append(sent, next)
		}
	}
	if !o.isSettled(o.lastNumber) {
		t.Error("not all are settled")
	}
}

func TestIsName(t *testing.T) {
	for _, name := range []string{"a", "web-1.example_X", strings.Repeat("9", 63)} {
		if !IsName(name) {
			t.Errorf("%q", name)
		}
	}
	for _, name := range []string{"", "a/b", "ä", "a b", "a\n", strings.Repeat("9", 64)} {
		if IsName(name) {
			t.Errorf("%q", name)
		}
	}
	longest := ownership.Member{Name: strings.Repeat("9", 63), Incarnation: ownership.Incarnation{Start: 1<<63 - 1, Session: 1<<63 - 1}}
	if queue := QueueOf(longest); len(queue) > 255 {
		t.Errorf("%s has %d bytes", queue, len(queue))
	}
}

func TestDecodeMessage(t *testing.T) {
	t.Run("largest_fits", testDecodeMessageLargestFits)
	t.Run("impossible_refused", testDecodeMessageImpossibleRefused)
}

// The largest message that members send is accepted.
func testDecodeMessageLargestFits(t *testing.T) {
	var all []partition.Lease
	var gone []ownership.Member
	for p := range 1024 {
		holder := ownership.Member{Name: strings.Repeat("n", 63), Incarnation: ownership.Incarnation{Start: 1 << 40, Session: 1 << 20}}
		all = append(all, partition.Lease{Partition: p, Epoch: 1 << 40, Holder: holder})
		gone = append(gone, holder)
	}
	body := encodeMessage(ownership.Message{From: gone[0], State: ownership.Ready, Wants: all, Granted: all, Released: all, Taken: all, Gone: gone})
	if _, err := decodeMessage(body); err != nil {
		t.Errorf("%d bytes: %v", len(body), err)
	}
}

func testDecodeMessageImpossibleRefused(t *testing.T) {
	id := MemberID{Name: "a", Start: 1, Session: 1}
	valid := func() heartbeat {
		return heartbeat{
			envelope: envelope{V: 1}, From: id, State: "ready", Parameters: Parameters{Partitions: 64, QueueType: "quorum"},
			Wants: []lease{{Partition: 1, Epoch: 1, Holder: id}}, Gone: []MemberID{id},
			Weight: 0.5, Moves: []move{{1, 1}, {2, 1}},
		}
	}
	if _, err := decodeMessage(encodeBody(valid())); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*heartbeat){
		"another version":           func(h *heartbeat) { h.V = 2 },
		"no name":                   func(h *heartbeat) { h.From.Name = "" },
		"a name with a slash":       func(h *heartbeat) { h.From.Name = "a/b" },
		"a start below 0":           func(h *heartbeat) { h.From.Start = -1 },
		"a session below 0":         func(h *heartbeat) { h.From.Session = -1 },
		"a state without messages":  func(h *heartbeat) { h.State = "stopped" },
		"no state":                  func(h *heartbeat) { h.State = "" },
		"partitions below 0":        func(h *heartbeat) { h.Parameters.Partitions = -1 },
		"too many partitions":       func(h *heartbeat) { h.Parameters.Partitions = maxPartitions + 1 },
		"a queue type of control":   func(h *heartbeat) { h.Parameters.QueueType = "\x1b[2J" },
		"a next heartbeat below 0":  func(h *heartbeat) { h.NextMS = -1 },
		"a next heartbeat too late": func(h *heartbeat) { h.NextMS = maxNext.Milliseconds() + 1 },
		"a partition below 0":       func(h *heartbeat) { h.Wants[0].Partition = -1 },
		"a partition beyond":        func(h *heartbeat) { h.Wants[0].Partition = maxPartitions },
		"an epoch below 0":          func(h *heartbeat) { h.Wants[0].Epoch = -1 },
		"a holder without a name":   func(h *heartbeat) { h.Wants[0].Holder.Name = "" },
		"an impossible grant":       func(h *heartbeat) { h.Granted = []lease{{Partition: -1, Holder: id}} },
		"an impossible release":     func(h *heartbeat) { h.Released = []lease{{Partition: -1, Holder: id}} },
		"an impossible taking":      func(h *heartbeat) { h.Taken = []lease{{Partition: -1, Holder: id}} },
		"too many leases":           func(h *heartbeat) { h.Wants = make([]lease, maxPartitions+1) },
		"a weight below 0":          func(h *heartbeat) { h.Weight = -1 },
		"a weight without end":      func(h *heartbeat) { h.Weight = maxWeight + 1 },
		"a move of no partition":    func(h *heartbeat) { h.Moves = []move{{-1, 1}} },
		"a move beyond":             func(h *heartbeat) { h.Moves = []move{{maxPartitions, 1}} },
		"a move without a version":  func(h *heartbeat) { h.Moves = []move{{1, 0}} },
		"too many moves":            func(h *heartbeat) { h.Moves = make([]move, moves.Max+1) },
		"too many gone":             func(h *heartbeat) { h.Gone = make([]MemberID, maxPartitions+1) },
		"an impossible one is gone": func(h *heartbeat) { h.Gone[0].Name = "\n" },
		"a body that is too long":   func(h *heartbeat) { h.Parameters.QueueType = strings.Repeat("x", maxBody) },
	} {
		h := valid()
		spoil(&h)
		if msg, err := decodeMessage(encodeBody(h)); err == nil {
			t.Errorf("%s: %+v", what, msg)
		}
	}
}
