package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// sweepEvery is how often it is checked whether messages are unconfirmed for too long.
	sweepEvery = 250 * time.Millisecond

	// pingTimeout is how long the broker may take to handle the messages on a channel that
	// is being replaced.
	pingTimeout = 5 * time.Second
)

// Options say how a [Publisher] sends.
type Options struct {
	Open func() (Channel, error) // opens a channel; an error means that the connection is lost

	// Timeout is how long the broker may take to confirm a message; 0: any time.
	Timeout time.Duration
}

// A Publisher sends messages over one channel at a time. It is safe for concurrent use.
type Publisher struct {
	o Options

	// publishing is held while a message is published, and while the channel is replaced.
	// If the broker blocks the connection, that takes until it is unblocked or closed.
	publishing sync.Mutex
	line       *line // guarded by publishing; nil before Run has opened it

	settling sync.WaitGroup // goroutines that wait for an outcome

	mu        sync.Mutex // guards the following fields; publishing may be held, not the other way round
	number    uint64     // of the last message
	unsettled map[uint64]*Message
	patient   time.Time // timeouts do not begin before
	ended     bool
}

// New returns a Publisher that sends nothing before Run is called.
func New(o Options) *Publisher { return &Publisher{o: o, unsettled: make(map[uint64]*Message)} }

// Publish sends a message, after all earlier ones. It blocks only on the socket, and while
// the channel is replaced.
func (p *Publisher) Publish(m *Message) {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if !p.add(m) {
		m.fail(ErrLost, func(f func()) { go f() }) // Run may have returned
		return
	}
	if p.line != nil {
		p.send(m)
	}
}

// fail settles a message that was not accepted, unless it is settled.
func (p *Publisher) fail(m *Message, err error) {
	if p.remove(m) {
		m.fail(err, p.settling.Go)
	}
}

// add gives a message its number. It returns false if Run has ended.
func (p *Publisher) add(m *Message) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.number++
	m.number = p.number
	if m.Mandatory {
		m.Publishing.Headers[numberHeader] = int64(m.number)
	}
	m.sent, m.line = time.Now(), p.line
	p.unsettled[m.number] = m
	return true
}

// send publishes a message on the present channel, if it is still wanted. If that fails, the channel
// is closed, and Run sends the message again. publishing is held.
func (p *Publisher) send(m *Message) {
	if m.Wanted != nil && !m.Wanted() {
		p.fail(m, ErrLost)
		return
	}
	line := p.line
	confirmation, err := line.channel.Publish(m.Exchange, m.Key, m.Mandatory, m.Publishing)
	if err != nil {
		return
	}
	p.settling.Go(func() {
		<-confirmation.Done()
		accepted := confirmation.Acked()
		if !accepted && line.channel.IsClosed() {
			return // Run sends the message again, or has given it up
		}
		if m.Mandatory {
			line.awaitReturns()
		}
		p.settle(m, line, accepted)
	})
}

// settle settles a message after the broker's decision on a line, unless the message was
// sent on another one since: that one decides.
func (p *Publisher) settle(m *Message, l *line, accepted bool) {
	p.mu.Lock()
	sentAgain, returned := m.line != l, m.returned
	p.mu.Unlock()
	switch {
	case sentAgain || !p.remove(m):
	case returned:
		m.Settled(ErrReturned)
	case !accepted:
		m.Settled(ErrRefused)
	default:
		m.Settled(nil)
	}
}

// remove returns whether a message was unsettled. It is so no more.
func (p *Publisher) remove(m *Message) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, was := p.unsettled[m.number]
	delete(p.unsettled, m.number)
	return was
}

// noteReturned notes that the broker has returned a message.
func (p *Publisher) noteReturned(r *amqp.Return) {
	number, _ := r.Headers[numberHeader].(int64)
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.unsettled[uint64(number)]; m != nil {
		m.returned = true
	}
}

// ResetDeadlines begins the time limits of all messages anew. It is called while the
// broker blocks the connection, and so confirms nothing.
func (p *Publisher) ResetDeadlines() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.patient = time.Now()
}

// sincePatient returns the time since the last call of ResetDeadlines.
func (p *Publisher) sincePatient() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.patient)
}

// Run opens the channel, sends the messages, gives up messages that are unconfirmed for
// too long, and replaces the channel, until ctx is done or the connection is lost. Then it
// settles all messages and returns when all calls of Settled have returned. It returns nil
// if ctx is done.
func (p *Publisher) Run(ctx context.Context) error {
	defer p.settling.Wait()
	defer p.end()
	if err := p.start(); err != nil {
		return err
	}
	var sweep <-chan time.Time
	if p.o.Timeout > 0 {
		ticker := time.NewTicker(sweepEvery)
		defer ticker.Stop()
		sweep = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case cause := <-p.line.closed: // only Run changes the line
			if err := p.recover(cause); err != nil {
				return err
			}
		case <-sweep:
			if !p.giveUp() {
				continue
			}
			if err := p.replace(); err != nil {
				return err
			}
		}
	}
}

// start opens the channel, and sends the messages that were published before.
func (p *Publisher) start() (err error) {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if p.line, err = openLine(p.o.Open, p.noteReturned); err != nil {
		return err
	}
	for _, m := range p.inOrder(func(*Message) bool { return true }) {
		p.moveTo(p.line, m)
		p.send(m)
	}
	return nil
}

// end settles all messages, and closes the channel.
func (p *Publisher) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if p.line != nil {
		p.line.channel.Close() // an error means that it is closed already
	}
	p.loseAll()
}

// loseAll settles all messages, of which it is not known whether the broker has accepted them.
func (p *Publisher) loseAll() {
	for _, m := range p.inOrder(func(*Message) bool { return true }) {
		p.fail(m, ErrLost)
	}
}

// inOrder returns the selected messages that are not settled, in the order of publishing.
func (p *Publisher) inOrder(selected func(*Message) bool) (all []*Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(p.unsettled)) {
		if m := p.unsettled[number]; selected(m) {
			all = append(all, m)
		}
	}
	return all
}

// giveUp settles the messages that are unconfirmed for too long, and reports whether
// there were any.
func (p *Publisher) giveUp() bool {
	overdue := p.inOrder(func(m *Message) bool {
		return time.Since(m.sent) > p.o.Timeout && time.Since(p.patient) > p.o.Timeout
	})
	for _, m := range overdue {
		p.fail(m, ErrUnconfirmed)
	}
	return len(overdue) > 0
}

// replace opens another channel and closes the old one, if that is open. The broker has then handled
// all messages on the old one. What it has not confirmed is lost: the channel process of the broker
// may have it, and send it to a queue after what comes over the other channel.
func (p *Publisher) replace() error {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	old := p.line
	pinged := make(chan error, 1)
	go func() { pinged <- old.channel.Ping(0) }() // it ends with the connection
	for waiting := true; waiting; {
		select {
		case err := <-pinged:
			if err != nil {
				return nil // Run recovers
			}
			waiting = false
		case <-time.After(pingTimeout):
			if p.sincePatient() > pingTimeout {
				return fmt.Errorf("replacing a channel: %w", ErrUnconfirmed)
			}
		}
	}
	next, err := openLine(p.o.Open, p.noteReturned)
	if err != nil {
		return err
	}
	p.loseAll()
	p.line = next
	p.settling.Go(func() { old.channel.Close() }) // an error means that it is closed already
	return nil
}

// recover opens another channel after the broker has closed the present one. It sends
// the messages again that were not settled, one after another: so the broker closes the
// channel again only because of the one that it rejects.
func (p *Publisher) recover(cause *amqp.Error) error {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if cause == nil {
		return ErrLost // closed by this process
	}
	for rejected := (*Message)(nil); ; {
		<-p.line.drained
		line, err := openLine(p.o.Open, p.noteReturned)
		if err != nil {
			return err // the connection was lost, and so nothing was rejected
		}
		p.line = line
		if rejected != nil {
			p.fail(rejected, &RejectedError{cause})
		}
		if rejected = p.sendAgain(); rejected == nil {
			return nil
		}
		// Others that were sent again may be unconfirmed: they are sent once more.
		if cause = <-line.closed; cause == nil {
			return ErrLost
		}
	}
}

// sendAgain sends the messages that were not settled when their channel was closed, in
// order. It returns the one because of which the broker has closed the present channel,
// nil if that is open.
func (p *Publisher) sendAgain() (rejected *Message) {
	for _, m := range p.inOrder(func(m *Message) bool { return m.line.channel.IsClosed() }) {
		p.moveTo(p.line, m)
		p.send(m)
		if p.line.channel.Ping(0) != nil {
			return m
		}
	}
	return nil
}

// moveTo notes that a message is sent on a line, possibly again.
func (p *Publisher) moveTo(l *line, m *Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.line, m.returned = l, false
}
