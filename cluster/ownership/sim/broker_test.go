package sim

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
)

// A broker is a model of RabbitMQ: connections, each with an exclusive queue that is
// bound to the membership exchange, and the partition queues.
type broker struct {
	w           *world
	up          bool
	pausedUntil time.Time     // until then it passes no message on
	connections []*connection // that it believes in
	queues      [][]*channel  // consumers by partition; the first is served
	split       *split        // nil: its nodes have contact with each other
}

// A split is a time in which two halves of the nodes of the broker have no contact.
type split struct {
	queuesOn int  // the half that the partition queues are on; -1: each half reaches them
	refuse   bool // a consumer on the other half is refused; otherwise it waits
	gone     bool // each half says of the members of the other one that they are gone
}

// A connection is one session of an instance. Its two ends may disagree about whether
// it is open.
type connection struct {
	owner  *instance
	member ownership.Member
	open   bool // as the broker sees it
	used   bool // as the instance sees it

	mutedUntil time.Time // until then only the owner gets what it sends to all
	stuckUntil time.Time // until then what it sends to all is lost
	severed    bool      // nothing passes any more, and neither end knows that yet
	half       int       // of the nodes: 0 or 1
}

func newBroker(w *world) *broker {
	return &broker{w: w, up: true, queues: make([][]*channel, w.setting.partitions)}
}

func (b *broker) connect(i *instance, member ownership.Member) *connection {
	c := &connection{owner: i, member: member, open: true, used: true, half: i.half}
	b.connections = append(b.connections, c)
	return c
}

// drop closes a connection, with its exclusive queue and its channels.
func (b *broker) drop(c *connection) {
	if !c.open {
		return
	}
	c.open = false
	b.connections = slices.DeleteFunc(b.connections, func(other *connection) bool { return other == c })
	for p := range b.queues {
		b.queues[p] = slices.DeleteFunc(b.queues[p], func(ch *channel) bool { return ch.connection == c })
	}
}

// publish sends a message to all members' queues.
func (b *broker) publish(from *connection, msg ownership.Message) {
	b.w.after(b.latency(), func() {
		if !from.open || from.severed || b.w.now.Before(from.stuckUntil) {
			return
		}
		for _, to := range b.connections {
			if to == from || !b.w.now.Before(from.mutedUntil) && b.inContact(from, to) {
				b.send(to, msg)
			}
		}
	})
}

// latency returns how long a message takes to the broker, and until the broker handles it.
func (b *broker) latency() time.Duration {
	return max(0, b.pausedUntil.Sub(b.w.now)) + b.w.latency()
}

// sendTo sends a message to a member's queue.
func (b *broker) sendTo(from *connection, member ownership.Member, msg ownership.Message) {
	b.w.after(b.latency(), func() {
		if !from.open || from.severed {
			return
		}
		for _, to := range b.connections {
			if to.member == member && b.inContact(from, to) {
				b.send(to, msg)
			}
		}
	})
}

// inContact reports whether messages pass from one connection to another.
func (b *broker) inContact(from, to *connection) bool { return b.split == nil || from.half == to.half }

// reaches reports whether a channel reaches the partition queues.
func (b *broker) reaches(ch *channel) bool {
	return b.split == nil || b.split.queuesOn < 0 || b.split.queuesOn == ch.connection.half
}

// divide has the nodes lose contact for the time d.
func (b *broker) divide(s split, d time.Duration) {
	b.split = &s
	b.w.afterFault(d, func() { b.split = nil })
}

func (b *broker) send(to *connection, msg ownership.Message) {
	n := b.w.network
	copies := 1
	if b.w.chance(n.lost) {
		copies--
	}
	if b.w.chance(n.twice) {
		copies++
	}
	for range copies {
		arrive := func() {
			if to.open && !to.severed {
				to.owner.deliver(to, ownership.MessageReceived{Message: msg})
			}
		}
		if b.w.chance(n.late) {
			b.w.afterFault(b.w.between(0, 8*time.Second), arrive)
		} else {
			b.w.after(b.w.latency(), arrive)
		}
	}
}

// probe informs from if the queue of a member is gone.
func (b *broker) probe(from *connection, member ownership.Member) {
	b.w.after(b.latency(), func() {
		here := slices.ContainsFunc(b.connections, func(c *connection) bool {
			return c.member == member && (b.inContact(from, c) || !b.split.gone)
		})
		if !from.open || from.severed || here {
			return
		}
		b.w.after(b.w.latency(), func() { from.owner.deliver(from, ownership.MemberGone{Member: member}) })
	})
}

// consume adds a consumer to its partition queue. It reports false if the queue refuses
// it.
func (b *broker) consume(ch *channel) bool {
	queue := b.queues[ch.partition]
	if b.w.setting.exclusive && len(queue) > 0 || !b.reaches(ch) {
		return false
	}
	b.queues[ch.partition] = append(queue, ch)
	return true
}

func (b *broker) cancel(ch *channel) {
	b.queues[ch.partition] = slices.DeleteFunc(b.queues[ch.partition], func(other *channel) bool { return other == ch })
}

// served returns the consumer that gets the messages of a partition.
func (b *broker) served(p int) *channel {
	for _, ch := range b.queues[p] {
		if b.reaches(ch) {
			return ch
		}
	}
	return nil
}

// pause has the broker pass no message on for the time d, and then all at once.
func (b *broker) pause(d time.Duration) {
	b.pausedUntil = b.w.now.Add(d)
	b.w.afterFault(d, func() {})
}

// restart closes all connections, and accepts new ones after the time down.
func (b *broker) restart(down time.Duration) {
	b.up = false
	for _, c := range slices.Clone(b.connections) {
		b.drop(c)
		b.w.after(b.w.latency(), func() { c.owner.noticeLoss(c) })
	}
	b.w.afterFault(down, func() { b.up = true })
}
