package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// An instance is a process: a core, and a model of the program that carries out its
// commands.
type instance struct {
	w       *world
	name    string
	core    *ownership.Core
	start   int64
	session int64

	connection *connection // nil: none
	channels   map[int]*channel
	running    bool
	frozen     bool
	drained    bool              // it has been asked to drain, and not to undrain since
	leaving    bool              // it has been asked to leave
	delayed    []func()          // what waits while the process is frozen
	inbox      []ownership.Event // the events of this moment, which are handled together
	tickAt     time.Time
	half       int           // of the nodes of the broker: where it connects
	heardAt    time.Time     // when it last heard itself in this session; zero if it has not
	heardNext  time.Duration // when it was to hear itself again

	claims map[int]burst // by partition
}

// A burst counts the claims since a time.
type burst struct {
	since  time.Time
	claims int
}

// launch starts a process.
func (w *world) launch(name string, change ...func(*ownership.Config)) *instance {
	start := int64(len(w.instances) + 1)
	cfg := w.config(name, start)
	for _, f := range change {
		f(&cfg)
	}
	core, err := ownership.New(cfg)
	if err != nil {
		panic(err)
	}
	i := &instance{
		w: w, name: name, core: core, start: start, running: true,
		channels: make(map[int]*channel), claims: make(map[int]burst),
	}
	i.half = len(w.instances) % 2
	w.instances, w.names[name] = append(w.instances, i), true
	w.after(w.latency(), func() { i.run(i.connect) })
	return i
}

// run calls do in the process: never if the process has ended, and at its wake-up if it
// is frozen.
func (i *instance) run(do func()) {
	switch {
	case !i.running:
	case i.frozen:
		i.delayed = append(i.delayed, do)
	default:
		do()
	}
}

// connect opens a connection. It repeats that until the broker is up.
func (i *instance) connect() {
	if i.connection != nil {
		return
	}
	if !i.w.broker.up {
		i.w.after(i.w.between(50*time.Millisecond, 300*time.Millisecond), func() { i.run(i.connect) })
		return
	}
	i.session++
	member := ownership.Member{Name: i.name, Incarnation: ownership.Incarnation{Start: i.start, Session: i.session}}
	i.connection, i.heardAt = i.w.broker.connect(i, member), time.Time{}
	i.step(ownership.Connected{Session: i.session})
}

// noticeLoss tells the instance that its connection is gone.
func (i *instance) noticeLoss(c *connection) {
	i.run(func() {
		if i.connection != c {
			return
		}
		i.step()
		c.used = false
		i.connection = nil
		i.step(ownership.Disconnected{})
		i.w.after(i.w.between(10*time.Millisecond, 200*time.Millisecond), func() { i.run(i.connect) })
	})
}

// deliver gives the instance an event that belongs to a connection.
func (i *instance) deliver(c *connection, e ownership.Event) {
	i.run(func() {
		if c == i.connection {
			i.enqueue(e)
		}
	})
}

// post gives the instance an event that belongs to no connection.
func (i *instance) post(e ownership.Event) {
	i.run(func() { i.enqueue(e) })
}

// enqueue queues an event. The core handles all events of one moment together.
func (i *instance) enqueue(e ownership.Event) {
	if i.inbox = append(i.inbox, e); len(i.inbox) == 1 {
		i.w.after(0, func() { i.run(func() { i.step() }) })
	}
}

// step gives the events to the core, and carries out its commands.
func (i *instance) step(events ...ownership.Event) {
	events, i.inbox = append(i.inbox, events...), nil
	if !i.running || len(events) == 0 {
		return
	}
	for _, e := range events {
		switch e := e.(type) {
		case ownership.MessageReceived:
			if c := i.connection; c != nil && c.member == e.Message.From {
				i.heardAt, i.heardNext = i.w.now, e.Message.Next
			}
		case ownership.DrainRequested:
			i.drained = true
		case ownership.UndrainRequested:
			i.drained = false
		case ownership.LeaveRequested:
			i.leaving = true
		}
	}
	i.w.count.steps++
	commands := i.core.Step(i.w.now, events...)
	if i.w.trace != nil {
		i.traceStep(commands)
	}
	for _, command := range commands {
		i.execute(command)
	}
	if i.running {
		i.checkBounds(commands)
		i.tick()
	}
}

// tick schedules the next Tick.
func (i *instance) tick() {
	wake := i.core.NextTick()
	if wake.IsZero() || !i.tickAt.IsZero() && !wake.Before(i.tickAt) {
		return
	}
	i.tickAt = wake
	i.w.schedule(wake, func() {
		i.run(func() {
			if wake.Equal(i.tickAt) {
				i.tickAt = time.Time{}
				i.step(ownership.Tick{})
			}
		})
	})
}

func (i *instance) execute(command ownership.Command) {
	w := i.w
	switch c := command.(type) {
	case ownership.Broadcast:
		w.count.broadcasts++
		w.broker.publish(i.connection, c.Message)
	case ownership.Send:
		w.count.sent++
		w.broker.sendTo(i.connection, c.To, c.Message)
	case ownership.Probe:
		w.count.probes++
		w.broker.probe(i.connection, c.Member)
	case ownership.Claim:
		i.claim(c)
	case ownership.Consume:
		i.consume(c)
	case ownership.HandOver:
		w.count.handedOver++
		i.handOver(i.channels[c.Partition], c)
	case ownership.Abandon:
		w.count.abandoned++
		i.close(c.Partition)
	case ownership.Release:
		w.schedule(laterOf(w.now, c.NotBefore), func() {
			i.run(func() {
				i.release(c.Lease, func() { i.post(ownership.LeaseReleased{Partition: c.Partition, Epoch: c.Epoch}) })
			})
		})
	case ownership.Survey:
		w.count.surveys++
		asked := w.now
		var rows []ownership.Row
		read := func(done func()) {
			rows = slices.Clone(w.epochs.rows)
			done()
		}
		w.epochs.submit(read, func(known bool) {
			if known {
				i.post(ownership.Surveyed{Rows: rows, AskedAt: asked})
			}
		})
	case ownership.ReportSuspicion:
		if !c.Wrong {
			w.count.suspected++
		}
	case ownership.ReportRefusal:
		w.count.membersRefused++
	case ownership.Reconnect:
		gone := i.connection
		w.broker.drop(gone)
		i.noticeLoss(gone)
	case ownership.ReportState:
		if c.State == ownership.Left {
			w.after(10*time.Millisecond, func() { i.exit(0) }) // its last message is out
		}
	case ownership.Stop:
		w.count.stops++
		i.exit(0)
	}
}

func (i *instance) claim(c ownership.Claim) {
	i.w.count.claims++
	i.checkClaims(c.Partition)
	var won, deposed bool
	var row ownership.Row
	update := func(done func()) {
		i.w.epochs.claim(c, func(ok, ended bool, r ownership.Row) {
			won, deposed, row = ok, ended, r
			done()
		})
	}
	i.w.epochs.submit(update, func(known bool) {
		switch {
		case !known:
			i.post(ownership.ClaimFailed{Partition: c.Partition, Attempt: c.Attempt})
		case won:
			i.post(ownership.Claimed{Partition: c.Partition, Attempt: c.Attempt, Epoch: row.Epoch, Deposed: deposed})
		default:
			i.w.count.claimsRefused++
			i.post(ownership.ClaimRefused{Attempt: c.Attempt, Row: row})
		}
	})
}

// release marks a lease as released.
func (i *instance) release(l partition.Lease, done func()) {
	update := func(done func()) { i.w.epochs.release(l, done) }
	i.w.epochs.submit(update, func(known bool) {
		if known {
			done()
		}
	})
}

// endLease releases a lease, or grants the next one to a member. It repeats that until
// it has succeeded.
func (i *instance) endLease(c ownership.HandOver, done func(ownership.HandedOver)) {
	ended := ownership.HandedOver{Partition: c.Partition, Epoch: c.Epoch}
	update := func(done func()) { i.w.epochs.release(c.Lease, done) }
	if c.To != (ownership.Member{}) {
		update = func(done func()) {
			i.w.epochs.grant(c, func(granted bool) {
				if ended.To = (ownership.Member{}); granted {
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
		i.w.after(100*time.Millisecond, func() { i.run(func() { i.endLease(c, done) }) })
	})
}

// exit ends the process. The broker notices that after the time noticed.
func (i *instance) exit(noticed time.Duration) {
	i.running = false
	for _, p := range slices.Sorted(maps.Keys(i.channels)) {
		i.channels[p].closed = true
	}
	if c := i.connection; c != nil {
		i.w.after(noticed, func() { i.w.broker.drop(c) })
	}
}

// freeze stops the process for the time d. The broker closes its connection after two
// to three heartbeats, unless answered is true.
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
				i.noticeLoss(c)
			}
		})
	}
	i.w.afterFault(d, i.wake)
}

// wake does what was delayed, in random order.
func (i *instance) wake() {
	i.frozen = false
	late := i.delayed
	i.delayed = nil
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
	i.w.afterFault(i.w.between(0, 3*time.Second), func() { i.w.broker.drop(c) })
	i.w.afterFault(i.w.between(0, 3*time.Second), func() { i.noticeLoss(c) })
}

// sever has the connection pass nothing any more. The broker notices that after two to
// three of its heartbeats, and the instance later.
func (i *instance) sever() {
	c := i.connection
	c.severed = true
	i.w.afterFault(i.w.between(2*time.Second, 3*time.Second), func() { i.w.broker.drop(c) })
	i.w.afterFault(4500*time.Millisecond, func() { i.noticeLoss(c) })
}

// serving reports whether the instance belongs in the ring.
func (i *instance) serving() bool {
	return i.running && !i.drained && !i.leaving
}
