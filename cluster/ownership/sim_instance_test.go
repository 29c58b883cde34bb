package ownership

import (
	"maps"
	"slices"
	"time"
)

// An instance is a process: a core, and a model of the shell that carries out
// its commands.
type instance struct {
	w       *world
	name    string
	core    *Core
	start   int64
	session int64

	connection *connection // nil: none
	channels   map[int]*channel
	running    bool
	frozen     bool
	late       []func() // what waits while frozen
	inbox      []Event  // what is decided about together, at this moment
	tickAt     time.Time

	claimed map[int]burst // by partition
}

// A burst counts the claims since a time.
type burst struct {
	since  time.Time
	claims int
}

// A channel consumes a partition's queue, and writes for it.
type channel struct {
	owner      *instance
	connection *connection
	partition  int
	epoch      int64
	writing    bool
	canceled   bool // takes no more work
	closed     bool // does no more work
	finish     func()
}

// launch starts a process.
func (w *world) launch(name string, change ...func(*Config)) *instance {
	start := int64(len(w.instances) + 1)
	cfg := w.config(name, start)
	for _, f := range change {
		f(&cfg)
	}
	core, err := New(cfg)
	if err != nil {
		panic(err)
	}
	core.assign = w.assign
	i := &instance{
		w: w, name: name, core: core, start: start, running: true,
		channels: make(map[int]*channel), claimed: make(map[int]burst),
	}
	w.instances, w.names[name] = append(w.instances, i), true
	w.after(w.hop(), func() { i.run(i.connect) })
	return i
}

// run does something in the process: never if that has ended, and when it wakes
// up if it is frozen.
func (i *instance) run(do func()) {
	switch {
	case !i.running:
	case i.frozen:
		i.late = append(i.late, do)
	default:
		do()
	}
}

// connect opens a connection, trying until the broker is there.
func (i *instance) connect() {
	if i.connection != nil {
		return
	}
	if !i.w.broker.up {
		i.w.after(i.w.between(50*time.Millisecond, 300*time.Millisecond), func() { i.run(i.connect) })
		return
	}
	i.session++
	member := Member{Name: i.name, Incarnation: Incarnation{Start: i.start, Session: i.session}}
	i.connection = i.w.broker.connect(i, member)
	i.step(Connected{Session: i.session})
}

// notice lets the instance find out that its connection is gone.
func (i *instance) notice(c *connection) {
	i.run(func() {
		if i.connection != c {
			return
		}
		i.step()
		c.used = false
		i.connection = nil
		i.step(Disconnected{})
		i.w.after(i.w.between(10*time.Millisecond, 200*time.Millisecond), func() { i.run(i.connect) })
	})
}

// deliver hands over an event that belongs to a connection.
func (i *instance) deliver(c *connection, e Event) {
	i.run(func() {
		if c == i.connection {
			i.put(e)
		}
	})
}

// answer hands over an event that does not.
func (i *instance) answer(e Event) {
	i.run(func() { i.put(e) })
}

// put has the core decide about an event, together with others of this moment.
func (i *instance) put(e Event) {
	if i.inbox = append(i.inbox, e); len(i.inbox) == 1 {
		i.w.after(0, func() { i.run(func() { i.step() }) })
	}
}

// step has the core decide, and carries out what it says.
func (i *instance) step(events ...Event) {
	events, i.inbox = append(i.inbox, events...), nil
	if !i.running || len(events) == 0 {
		return
	}
	i.w.count.steps++
	commands := i.core.Step(i.w.now, events...)
	if i.w.trace != nil {
		i.traceCommands(commands)
	}
	for _, command := range commands {
		i.execute(command)
	}
	if i.running {
		i.checkBounds(commands)
		i.tick()
	}
}

// tick has the core woken when it wants.
func (i *instance) tick() {
	wake := i.core.NextTick()
	if wake.IsZero() || !i.tickAt.IsZero() && !wake.Before(i.tickAt) {
		return
	}
	i.tickAt = wake
	i.w.at(wake, func() {
		i.run(func() {
			if wake.Equal(i.tickAt) {
				i.tickAt = time.Time{}
				i.step(Tick{})
			}
		})
	})
}

func (i *instance) execute(command Command) {
	w := i.w
	switch c := command.(type) {
	case Broadcast:
		w.count.messages++
		w.broker.publish(i.connection, c.Message)
	case Send:
		w.count.told++
		w.broker.sendTo(i.connection, c.To, c.Message)
	case Probe:
		w.count.probes++
		w.broker.probe(i.connection, c.Member)
	case Claim:
		i.claim(c)
	case Consume:
		i.consume(c)
	case HandOver:
		w.count.handedOver++
		i.handOver(i.channels[c.Partition], c)
	case Abandon:
		w.count.abandoned++
		i.close(c.Partition)
	case Release:
		i.release(c.Partition, c.Epoch, func() { i.answer(LeaseReleased(c)) })
	case Survey:
		w.count.surveys++
		var rows []Row
		read := func(done func()) {
			rows = slices.Clone(w.epochs.rows)
			done()
		}
		w.epochs.submit(read, func(known bool) {
			if known {
				i.answer(Surveyed{Rows: rows})
			}
		})
	case ReportRefusal:
		w.count.refusals++
	case Reconnect:
		gone := i.connection
		w.broker.drop(gone)
		i.notice(gone)
	case ReportState:
		if c.State == Left {
			w.after(10*time.Millisecond, func() { i.exit(0) }) // its last message is out
		}
	case Stop:
		w.count.stops++
		i.exit(0)
	}
}

func (i *instance) claim(c Claim) {
	i.w.count.claims++
	i.checkClaims(c.Partition)
	var won bool
	var row Row
	update := func(done func()) {
		i.w.epochs.claim(c, func(ok bool, r Row) {
			won, row = ok, r
			done()
		})
	}
	i.w.epochs.submit(update, func(known bool) {
		switch {
		case !known:
			i.answer(ClaimFailed{Partition: c.Partition, Attempt: c.Attempt})
		case won:
			i.answer(Claimed{Partition: c.Partition, Attempt: c.Attempt, Epoch: row.Epoch})
		default:
			i.w.count.refused++
			i.answer(ClaimRefused{Attempt: c.Attempt, Row: row})
		}
	})
}

// release marks a lease released.
func (i *instance) release(p int, epoch int64, done func()) {
	update := func(done func()) { i.w.epochs.release(p, epoch, done) }
	i.w.epochs.submit(update, func(known bool) {
		if known {
			done()
		}
	})
}

// end releases a lease, or gives the next one to another, and tries until that is
// done.
func (i *instance) end(c HandOver, done func(HandedOver)) {
	ended := HandedOver{Partition: c.Partition, Epoch: c.Epoch}
	update := func(done func()) { i.w.epochs.release(c.Partition, c.Epoch, done) }
	if c.To != (Member{}) {
		update = func(done func()) {
			i.w.epochs.grant(c, func(granted bool) {
				if ended.To = (Member{}); granted {
					ended.To = c.To
				}
				done()
			})
		}
	}
	i.w.epochs.submit(update, func(known bool) {
		if known {
			done(ended)
			return
		}
		i.w.after(100*time.Millisecond, func() { i.run(func() { i.end(c, done) }) })
	})
}

func (i *instance) consume(c Consume) {
	ch := &channel{owner: i, connection: i.connection, partition: c.Partition, epoch: c.Epoch}
	i.channels[c.Partition] = ch
	i.w.after(i.w.hop(), func() {
		if ch.closed || !ch.connection.open {
			return
		}
		if !i.w.broker.consume(ch) {
			i.w.after(i.w.hop(), func() { i.answer(LeaseLost(c)) })
			return
		}
		i.w.after(i.w.hop(), func() {
			i.run(func() {
				if !ch.closed {
					i.step(Consuming(c))
					ch.write()
				}
			})
		})
	})
}

// write writes, and goes on writing until the channel is canceled or closed.
// Each eighth partition has no writers, so that nobody is told by the fence.
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
		i.step(LeaseLost{Partition: ch.partition, Epoch: ch.epoch})
	case ch.finish != nil:
		ch.finish()
	default:
		i.w.after(i.w.between(0, 2*i.w.setting.writeEvery), func() { i.run(ch.write) })
	}
}

// handOver ends a channel: what was delivered is finished first.
func (i *instance) handOver(ch *channel, c HandOver) {
	ch.canceled = true
	i.w.broker.cancel(ch)
	ch.finish = func() {
		i.w.after(i.w.hop(), func() {
			i.run(func() {
				if ch.closed {
					return
				}
				ch.closed = true
				i.end(c, func(ended HandedOver) {
					i.run(func() {
						if i.channels[c.Partition] == ch {
							delete(i.channels, c.Partition)
							i.put(ended)
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
		return // closed by a hand-over that the core has not heard of yet
	}
	ch.closed = true
	delete(i.channels, p)
	i.w.after(i.w.hop(), func() { i.w.broker.cancel(ch) })
}

// exit ends the process. The broker notices after a while.
func (i *instance) exit(noticed time.Duration) {
	i.running = false
	for _, p := range slices.Sorted(maps.Keys(i.channels)) {
		i.channels[p].closed = true
	}
	if c := i.connection; c != nil {
		i.w.after(noticed, func() { i.w.broker.drop(c) })
	}
}

// freeze stops the process from doing anything. The broker drops it when it has
// missed two to three of its heartbeats, unless something answers those.
func (i *instance) freeze(d time.Duration, answered bool) {
	if i.frozen {
		return
	}
	i.frozen = true
	until := i.w.now.Add(d)
	if c := i.connection; c != nil && !answered {
		i.w.after(i.w.between(2*time.Second, 3*time.Second), func() {
			if i.frozen && c.open && i.w.now.Before(until) {
				i.w.broker.drop(c)
				i.notice(c)
			}
		})
	}
	i.w.linger(d, i.wake)
}

// wake does at once, in any order, what should have been done meanwhile.
func (i *instance) wake() {
	i.frozen = false
	late := i.late
	i.late = nil
	i.w.random.Shuffle(len(late), func(a, b int) { late[a], late[b] = late[b], late[a] })
	for _, do := range late {
		i.run(do)
	}
}

// cut breaks the connection. Its two ends notice that at different times.
func (i *instance) cut() {
	c := i.connection
	if c == nil {
		return
	}
	i.w.linger(i.w.between(0, 3*time.Second), func() { i.w.broker.drop(c) })
	i.w.linger(i.w.between(0, 3*time.Second), func() { i.notice(c) })
}

// serving reports whether the instance belongs in the ring.
func (i *instance) serving() bool {
	return i.running && !i.core.drained && !i.core.leaving
}
