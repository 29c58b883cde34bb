package membership

import (
	"slices"

	"github.com/glotpod/ident/cluster/ownership"
)

// An outboundMessage is a message that is to be published.
type outboundMessage struct {
	number uint64 // rises with each message that is queued
	kind   kind
	member ownership.Member // the probed one; set in probes alone

	exchange, key string
	msgType       string // the property type
	correlation   string
	body          []byte
}

type kind uint8

const (
	message kind = iota // an ownership.Message, to all members or to one
	probe
	reply
)

// How many of each kind may wait to be sent. Probes count until the broker has replied.
const (
	maxBroadcasts     = 1024
	maxBroadcastBytes = 16 << 20
	maxProbes         = 1024
	maxReplies        = 32
)

// A sendQueue holds the messages that are to be sent, and the numbers of those that were
// sent and are not confirmed.
//
// Invariant: sent and waiting are in the order of their numbers.
type sendQueue struct {
	lastNumber uint64 // of the message queued last
	waiting    []outboundMessage
	sent       []uint64                    // numbers of unconfirmed messages
	probes     map[string]ownership.Member // open probes, by queue
	counts     [reply + 1]int              // of waiting
	bytes      int                         // of the ownership messages in waiting
}

func newSendQueue() sendQueue { return sendQueue{probes: make(map[string]ownership.Member)} }

// add queues a message. It reports false if a message, this one or an older one, had to be
// dropped. A probe for a queue that is already being probed is not needed.
func (q *sendQueue) add(p outboundMessage) bool {
	switch p.kind {
	case message:
		q.bytes += len(p.body)
	case probe:
		if _, open := q.probes[p.key]; open {
			return true
		}
		if len(q.probes) >= maxProbes {
			return false
		}
		q.probes[p.key] = p.member
	case reply:
		if q.counts[reply] >= maxReplies {
			return false
		}
	}
	q.lastNumber++
	p.number = q.lastNumber
	q.counts[p.kind]++
	q.waiting = append(q.waiting, p)
	dropped := false
	for q.counts[message] > maxBroadcasts || q.bytes > maxBroadcastBytes {
		oldest := slices.IndexFunc(q.waiting, func(p outboundMessage) bool { return p.kind == message })
		q.uncount(q.waiting[oldest])
		q.waiting = slices.Delete(q.waiting, oldest, oldest+1)
		dropped = true
	}
	return !dropped
}

// uncount removes a message from the counts.
func (q *sendQueue) uncount(p outboundMessage) {
	q.counts[p.kind]--
	if p.kind == message {
		q.bytes -= len(p.body)
	}
}

// take removes and returns the message to be published now, if there is one.
func (q *sendQueue) take() (outboundMessage, bool) {
	if len(q.waiting) == 0 || len(q.sent) >= maxUnconfirmed {
		return outboundMessage{}, false
	}
	p := q.waiting[0]
	q.waiting[0] = outboundMessage{}
	q.waiting = q.waiting[1:]
	q.uncount(p)
	q.sent = append(q.sent, p.number)
	return p, true
}

// settle notes that the outcome of a message that was sent is known.
func (q *sendQueue) settle(p outboundMessage) {
	if p.kind == probe {
		delete(q.probes, p.key)
	}
	if n, ok := slices.BinarySearch(q.sent, p.number); ok {
		q.sent = slices.Delete(q.sent, n, n+1)
	}
}

// isSettled reports whether all messages up to a number are settled or dropped.
func (q *sendQueue) isSettled(number uint64) bool {
	switch {
	case len(q.sent) > 0:
		return q.sent[0] > number
	case len(q.waiting) > 0:
		return q.waiting[0].number > number
	}
	return true
}
