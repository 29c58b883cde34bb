package sim

import (
	"github.com/glotpod/ident/cluster/ownership"
)

// A channel consumes a partition queue, and writes for the partition.
type channel struct {
	owner      *instance
	connection *connection
	partition  int
	epoch      int64
	writing    bool
	canceled   bool // takes no further requests
	closed     bool // has stopped
	finish     func()
}

func (i *instance) consume(c ownership.Consume) {
	ch := &channel{owner: i, connection: i.connection, partition: c.Partition, epoch: c.Epoch}
	i.channels[c.Partition] = ch
	i.w.after(i.w.latency(), func() {
		if ch.closed || !ch.connection.open {
			return
		}
		if !i.w.broker.consume(ch) {
			i.w.after(i.w.latency(), func() { i.post(ownership.LeaseLost{Partition: c.Partition, Epoch: c.Epoch}) })
			return
		}
		i.w.after(i.w.latency(), func() {
			i.run(func() {
				if !ch.closed {
					i.step(ownership.Consuming{Partition: c.Partition, Epoch: c.Epoch})
					ch.write()
				}
			})
		})
	})
}

// write writes, again and again until the channel is canceled or closed. Every eighth
// partition has no writes, so that its owner learns nothing from the fence.
func (ch *channel) write() {
	if ch.closed || ch.canceled || ch.writing || ch.partition%8 == 7 {
		return
	}
	i, w := ch.owner, ch.owner.w
	ch.writing = true
	accepted := false
	transaction := func(done func()) {
		w.epochs.write(ch.connection.member, ch.partition, ch.epoch, func(ok bool) {
			accepted = ok
			done()
		})
	}
	w.epochs.submit(transaction, func(known bool) {
		i.run(func() { ch.wrote(known && accepted) })
	})
}

func (ch *channel) wrote(ok bool) {
	i := ch.owner
	ch.writing = false
	switch {
	case ch.closed:
	case !ok:
		i.step(ownership.LeaseLost{Partition: ch.partition, Epoch: ch.epoch})
	case ch.finish != nil:
		ch.finish()
	default:
		i.w.after(i.w.between(0, 2*i.w.setting.writeEvery), func() { i.run(ch.write) })
	}
}

// handOver ends a channel. Requests that were delivered are completed first.
func (i *instance) handOver(ch *channel, c ownership.HandOver) {
	ch.canceled = true
	i.w.broker.cancel(ch)
	ch.finish = func() {
		i.w.after(i.w.latency(), func() {
			i.run(func() {
				if ch.closed {
					return
				}
				ch.closed = true
				i.endLease(c, func(ended ownership.HandedOver) {
					i.run(func() {
						if i.channels[c.Partition] == ch {
							delete(i.channels, c.Partition)
							i.enqueue(ended)
						}
					})
				})
			})
		})
	}
	if !ch.writing {
		ch.finish()
	}
}

// close closes the channel of a partition at once.
func (i *instance) close(p int) {
	ch := i.channels[p]
	if ch == nil {
		return // closed by a hand-over that the core does not know of yet
	}
	ch.closed = true
	delete(i.channels, p)
	i.w.after(i.w.latency(), func() { i.w.broker.cancel(ch) })
}
