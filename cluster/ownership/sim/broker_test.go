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
}

// A connection is one session of an instance. Its two ends may disagree about whether
// it is open.
type connection struct {
	owner  *instance
	member ownership.Member
	open   bool // as the broker sees it
	used   bool // as the instance sees it

	mutedUntil time.Time // until then only the owner gets what it sends to all
	severed    bool      // nothing passes any more, and neither end knows that yet
}

func newBroker(w *world) *broker {
	return &broker{w: w, up: true, queues: make([][]*channel, w.setting.partitions)}
}

func (b *broker) connect(i *instance, member ownership.Member) *connection {
	c := &connection{owner: i, member: member, open: true, used: true}
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
		if !from.open || from.severed {
			return
		}
		for _, to := range b.connections {
			if to == from || !b.w.now.Before(from.mutedUntil) {
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
			if to.member == member {
				b.send(to, msg)
			}
		}
	})
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
		here := slices.ContainsFunc(b.connections, func(c *connection) bool { return c.member == member })
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
	if b.w.setting.exclusive && len(queue) > 0 {
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
	if len(b.queues[p]) == 0 {
		return nil
	}
	return b.queues[p][0]
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
