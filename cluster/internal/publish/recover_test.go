package publish_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/publish"
)

// A fakeConnection stands for a connection. Its channels do nothing by themselves.
type fakeConnection struct {
	channels []*fakeChannel // those that were opened and those that are yet to be opened
	opened   int
}

func (c *fakeConnection) open() (publish.Channel, error) {
	if c.opened == len(c.channels) {
		return nil, amqp.ErrClosed
	}
	c.opened++
	return c.channels[c.opened-1], nil
}

// A fakeChannel stands for a channel of a fakeConnection.
type fakeChannel struct {
	lostBy        *amqp.Error   // closes the channel when messages were sent again
	pinging       chan struct{} // received from when Ping begins, and when it ends; nil: it is not
	closed        bool
	returns       chan amqp.Return
	closing       chan *amqp.Error
	confirmations []*fakeConfirmation
	headers       amqp.Table // of the last message
}

func (c *fakeChannel) Confirm(bool) error { return nil }

func (c *fakeChannel) Publish(_, _ string, _ bool, m amqp.Publishing) (publish.Confirmation, error) {
	confirmation := &fakeConfirmation{done: make(chan struct{}), acked: make(chan bool, 1)}
	c.confirmations = append(c.confirmations, confirmation)
	c.headers = m.Headers
	return confirmation, nil
}

func (c *fakeChannel) NotifyReturn(returns chan amqp.Return) chan amqp.Return {
	c.returns = returns
	return returns
}

func (c *fakeChannel) NotifyClose(closing chan *amqp.Error) chan *amqp.Error {
	c.closing = closing
	return closing
}

func (c *fakeChannel) Ping(int) error {
	if c.pinging != nil {
		<-c.pinging
		<-c.pinging
	}
	if c.lostBy != nil {
		c.closeFor(c.lostBy)
		return amqp.ErrClosed
	}
	return nil
}

func (c *fakeChannel) IsClosed() bool { return c.closed }

func (c *fakeChannel) Close() error {
	c.closeFor(nil)
	return nil
}

func (c *fakeChannel) closeFor(cause *amqp.Error) {
	if c.closed {
		return
	}
	c.closed = true
	if cause != nil {
		c.closing <- cause
	}
	close(c.closing)
	close(c.returns)
	for _, confirmation := range c.confirmations {
		confirmation.decide(false)
	}
}

// A fakeConfirmation is a [publish.Confirmation]. The publisher waits for acked after done.
type fakeConfirmation struct {
	done  chan struct{}
	acked chan bool
}

func (c *fakeConfirmation) Done() <-chan struct{} { return c.done }
func (c *fakeConfirmation) Acked() bool           { return <-c.acked }

// decide decides on a message, unless that was done before.
func (c *fakeConfirmation) decide(ack bool) {
	select {
	case <-c.done:
	default:
		c.acked <- ack
		close(c.done)
	}
}

// TestRecover has the broker close a channel.
func TestRecover(t *testing.T) {
	recovering := func(name string, second *fakeChannel, test func(t *testing.T, first *fakeChannel, outcome <-chan error)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := new(fakeChannel)
				connection := &fakeConnection{channels: []*fakeChannel{first, second}}
				p := publish.New(publish.Options{Open: connection.open})
				outcome := make(chan error, 2)
				p.Publish(&publish.Message{
					Mandatory:  true,
					Publishing: amqp.Publishing{Headers: amqp.Table{}},
					Settled:    func(err error) { outcome <- err },
				})
				go p.Run(t.Context())
				synctest.Wait()
				test(t, first, outcome)
			})
		})
	}

	recovering("a_lost_connection_rejects_nothing", &fakeChannel{lostBy: &amqp.Error{Code: amqp.ConnectionForced}}, func(t *testing.T, first *fakeChannel, outcome <-chan error) {
		first.closeFor(&amqp.Error{Code: amqp.PreconditionFailed})
		if err := <-outcome; !errors.Is(err, publish.ErrLost) {
			t.Errorf("the outcome is %v", err)
		}
	})

	second := new(fakeChannel)
	recovering("a_message_that_was_returned_is_not_accepted", second, func(t *testing.T, first *fakeChannel, outcome <-chan error) {
		first.returns <- amqp.Return{Headers: first.headers}
		close(first.confirmations[0].done)
		synctest.Wait()
		first.closeFor(&amqp.Error{Code: amqp.PreconditionFailed}) // because of another message
		synctest.Wait()
		first.confirmations[0].acked <- true // the broker has said so before
		synctest.Wait()
		second.returns <- amqp.Return{Headers: second.headers}
		second.confirmations[0].decide(true)
		if err := <-outcome; !errors.Is(err, publish.ErrReturned) {
			t.Errorf("the outcome is %v", err)
		}
		synctest.Wait()
		if len(outcome) > 0 {
			t.Error("there is another outcome")
		}
	})
}

// TestReplace: when a message is given up, the others on its channel are lost before one is sent
// over the next channel. The broker may have them, and send them to a queue later.
func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := new(fakeChannel), new(fakeChannel)
		connection := &fakeConnection{channels: []*fakeChannel{first, second}}
		const timeout = 5 * time.Second
		p := publish.New(publish.Options{Open: connection.open, Timeout: timeout})
		go p.Run(t.Context())
		send := func() <-chan error {
			outcome := make(chan error, 1)
			p.Publish(&publish.Message{Settled: func(err error) { outcome <- err }})
			return outcome
		}
		synctest.Wait()
		overdue := send()
		time.Sleep(timeout - time.Second)
		younger := send()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for what, x := range map[string]struct {
			outcome <-chan error
			want    error
		}{"the first": {overdue, publish.ErrUnconfirmed}, "the second": {younger, publish.ErrLost}} {
			select {
			case err := <-x.outcome:
				if !errors.Is(err, x.want) {
					t.Errorf("%s: %v, want %v", what, err, x.want)
				}
			default:
				t.Errorf("%s is not settled", what)
			}
		}
		if !first.closed {
			t.Error("the first channel is open")
		}
		last := send()
		if len(first.confirmations) != 2 || len(second.confirmations) != 1 {
			t.Fatalf("%d messages over the first channel, %d over the second", len(first.confirmations), len(second.confirmations))
		}
		second.confirmations[0].decide(true)
		if err := <-last; err != nil {
			t.Error(err)
		}
	})
}

// TestWanted: a message that waits while the channel is replaced is asked for when what was lost with
// the old channel is settled.
func TestWanted(t *testing.T) {
	first, second := &fakeChannel{pinging: make(chan struct{})}, new(fakeChannel)
	connection := &fakeConnection{channels: []*fakeChannel{first, second}}
	p := publish.New(publish.Options{Open: connection.open, Timeout: time.Millisecond})
	go p.Run(t.Context())
	events := make(chan string, 10)
	send := func(name string, wanted bool) {
		p.Publish(&publish.Message{
			Wanted: func() bool {
				events <- name + " is asked for"
				return wanted
			},
			Settled: func(err error) { events <- name + ": " + err.Error() },
		})
	}
	send("overdue", true)
	first.pinging <- struct{}{} // the channel is being replaced
	go send("late", false)
	first.pinging <- struct{}{}
	for _, want := range []string{"overdue is asked for", "overdue: " + publish.ErrUnconfirmed.Error(),
		"late is asked for", "late: " + publish.ErrLost.Error()} {
		if got := <-events; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	if len(second.confirmations) > 0 {
		t.Error("the late message was sent")
	}
}
