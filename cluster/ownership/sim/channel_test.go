package sim

import (
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A channel consumes a partition queue, and writes for the partition.
type channel struct {
	owner      *instance
	connection *connection
	partition  int
	epoch      int64
	serving    bool // the owner may write
	writing    bool
	wrotes     int  // writes that have begun
	canceled   bool // takes no further requests
	closed     bool // has stopped
	finish     func()

	cached    int // the value that was last read or written, if reading is true
	reading   bool
	readUntil time.Time // the end of the read lease
}

func (i *instance) consume(c ownership.Consume) {
	ch := &channel{owner: i, connection: i.connection, partition: c.Partition, epoch: c.Epoch}
	i.channels[c.Partition] = ch
	var start func()
	start = func() {
		if ch.closed || !ch.connection.open {
			return
		}
		if s := i.w.broker.split; s != nil && !s.refuse && !i.w.broker.reaches(ch) {
			i.w.after(100*time.Millisecond, start)
			return
		}
		if !i.w.broker.consume(ch) {
			i.w.after(i.w.latency(), func() { i.post(ownership.LeaseLost{Partition: c.Partition, Epoch: c.Epoch}) })
			return
		}
		started := i.w.now.Add(i.w.latency())
		if !i.w.setting.impatient {
			started = laterOf(started, c.WriteFrom)
		}
		i.w.schedule(started, func() {
			i.run(func() {
				if !ch.closed {
					ch.serving = true
					i.step(ownership.Consuming{Partition: c.Partition, Epoch: c.Epoch})
					ch.write()
				}
			})
		})
		i.run(ch.read)
	}
	i.w.after(i.w.latency(), start)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// read reads the value of the partition, again and again until the channel is closed: from
// memory while the read lease stands and no write is under way. Otherwise it asks the
// database for the value, and whether the lease stands.
func (ch *channel) read() {
	i, w := ch.owner, ch.owner.w
	if ch.closed {
		return
	}
	if !w.broker.reaches(ch) {
		w.after(w.setting.writeEvery, func() { i.run(ch.read) })
		return
	}
	again := func() { w.after(w.between(0, w.setting.writeEvery), func() { i.run(ch.read) }) }
	if ch.reading && !ch.writing && w.now.Before(ch.readUntil) {
		if value := w.epochs.values[ch.partition]; ch.cached != value {
			w.fail("%v reads value %d of partition %d from memory, and it is %d", ch.connection.member, ch.cached, ch.partition, value)
		}
		w.count.reads++
	}
	asked, value, stands := w.now, 0, false
	idle, wrote := !ch.writing, ch.wrotes
	ask := func(done func()) {
		row := w.epochs.rows[ch.partition]
		value, stands = w.epochs.values[ch.partition], row.Epoch == ch.epoch && row.Holder == ch.connection.member && !row.Released
		done()
	}
	w.epochs.submit(ask, func(known bool) {
		i.run(func() {
			switch {
			case known && stands:
				ch.readUntil = laterOf(ch.readUntil, asked.Add(partition.ReadFor))
				if idle && wrote == ch.wrotes {
					ch.cached, ch.reading = value, true
				}
			case known && ch.serving && !ch.closed && !ch.canceled:
				i.step(ownership.LeaseLost{Partition: ch.partition, Epoch: ch.epoch})
			}
			again()
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
	if !w.broker.reaches(ch) { // no request comes
		w.after(w.setting.writeEvery, func() { i.run(ch.write) })
		return
	}
	ch.writing = true
	accepted := false
	ch.wrotes++
	transaction := func(done func()) {
		w.epochs.write(ch.connection.member, ch.partition, ch.epoch, func(ok bool, value int) {
			accepted, ch.cached = ok, value
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
