package membership

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrNoInstance means that no instance is there, or none of that name.
var ErrNoInstance = errors.New("no such instance")

// A MissingError names the instances that have not replied in time, although other
// instances believe them to be alive.
type MissingError struct {
	Names []string // in order
}

func (e *MissingError) Error() string {
	return "no reply in time from " + strings.Join(e.Names, ", ")
}

// AskStatus asks all members for their status. It repeats the request until each member
// that any report calls alive has replied, and no further report has come for
// 100 ms. The reports are sorted by name, one per name: the latest of the newest
// incarnation.
//
// If ctx ends earlier, AskStatus returns the reports that have come, and a
// [*MissingError] if reports are missing. If no report has come, the error wraps ctx's.
// If the broker has no member to deliver the request to, the error is [ErrNoInstance].
// AskStatus opens a channel of its own.
func AskStatus(ctx context.Context, conn *amqp.Connection) ([]Report, error) {
	reports := make(map[string]Report)
	err := sendUntilAnswered(ctx, conn, typeStatus, request{}, quietPeriod, func(d *amqp.Delivery) (done bool) {
		if r, err := decodeReport(d.Body); d.Type == typeReport && err == nil {
			if known, ok := reports[r.Name]; !ok || known.Member().Incarnation.Compare(r.Member().Incarnation) <= 0 {
				reports[r.Name] = r
			}
		}
		return len(reports) > 0 && len(missingNames(reports)) == 0
	})
	var all []Report
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		all = append(all, reports[name])
	}
	switch names := missingNames(reports); {
	case err == nil:
		return all, nil
	case len(names) > 0 && ctx.Err() != nil:
		return all, &MissingError{names}
	case len(all) > 0 && ctx.Err() != nil:
		return all, nil
	}
	return all, fmt.Errorf("asking the instances for their status: %w", err)
}

// missingNames returns the names of the members that any report calls alive and that have
// not reported themselves, or only as an older incarnation than that report knows.
func missingNames(reports map[string]Report) []string {
	names := make(map[string]bool)
	for _, r := range reports {
		for _, m := range r.Members {
			own, reported := reports[m.Name]
			if m.Alive && (!reported || own.Member().Incarnation.Compare(m.Member().Incarnation) < 0) {
				names[m.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// RequestDrain asks the named instance to hand over its partitions and to claim none or,
// if drain is false, to take part again. It returns nil when the instance has accepted
// the request. If no instance accepts it before ctx ends, the error is
// [ErrNoInstance], possibly together with ctx's error. RequestDrain opens a channel of
// its own.
func RequestDrain(ctx context.Context, conn *amqp.Connection, name string, drain bool) error {
	kind := typeUndrain
	if drain {
		kind = typeDrain
	}
	return askInstance(ctx, conn, kind, request{Instance: name})
}

// RequestMove asks the named instance to own a partition, whatever the hash ring says, or
// (undo is true) takes that back. It returns nil when the instance has received the request: an instance
// that is not ready, or whose cluster has fewer partitions, does not act on it. Errors are
// those of [RequestDrain].
func RequestMove(ctx context.Context, conn *amqp.Connection, name string, partition int, undo bool) error {
	kind := typeMove
	if undo {
		kind = typeUnmove
	}
	return askInstance(ctx, conn, kind, request{Instance: name, Partition: partition})
}

// askInstance repeats a request to one instance until that accepts it.
func askInstance(ctx context.Context, conn *amqp.Connection, kind string, r request) error {
	err := sendUntilAnswered(ctx, conn, kind, r, 0, func(d *amqp.Delivery) (done bool) {
		return d.Type == typeAccepted
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrNoInstance, err)
	}
	if err != nil {
		return fmt.Errorf("asking the instance %s to %s: %w", r.Instance, kind, err)
	}
	return nil
}

// AskToLook asks all members to look at the record of repartitions. They do so now and then anyway, so it
// does not matter if the message is lost. AskToLook opens a channel of its own.
func AskToLook(ctx context.Context, conn *amqp.Connection) error {
	err := within(ctx, conn, func() error {
		channel, err := conn.Channel()
		if err != nil {
			return err
		}
		defer channel.Close()
		return channel.Publish(Exchange, "", false, false, amqp.Publishing{
			Type: typeLook, ContentType: "application/json", Body: encodeBody(envelope{V: wireVersion}),
		})
	})
	if err != nil {
		return fmt.Errorf("asking the instances to look at the repartition: %w", err)
	}
	return nil
}

// requestInterval is how often a request is repeated: it or the reply may be lost.
const requestInterval = time.Second

// quietPeriod is how long no further report may come before the reports count as
// complete: a member that has just joined may reply first, and knows no other member.
const quietPeriod = 100 * time.Millisecond

// channelCloseTimeout bounds how long the broker may take to close a channel that is no
// longer needed.
const channelCloseTimeout = time.Second

// sendUntilAnswered repeats a request to all members and calls complete with each reply.
// It returns nil when complete has returned true and no further reply has come for the
// time settle. It returns ErrNoInstance if no member's queue is bound to the exchange.
func sendUntilAnswered(ctx context.Context, conn *amqp.Connection, kind string, r request, settle time.Duration, complete func(*amqp.Delivery) bool) error {
	a := requester{queue: replyPrefix + rand.Text(), correlation: rand.Text()}
	if err := within(ctx, conn, func() error { return a.open(conn) }); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), channelCloseTimeout)
		defer cancel()
		within(ctx, conn, a.channel.Close) // on an error, the channel is closed as well
	}()
	r.envelope = envelope{V: wireVersion}
	body := encodeBody(r)
	again := time.NewTicker(requestInterval)
	defer again.Stop()
	var settled <-chan time.Time
	for {
		if err := within(ctx, conn, func() error { return a.publish(kind, body) }); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case d, ok := <-a.replies:
				if !ok {
					return fmt.Errorf("waiting for replies: %w", amqp.ErrClosed)
				}
				if d.CorrelationId != a.correlation {
					continue
				}
				settled = nil
				if complete(&d) {
					settled = time.After(settle)
				}
			case <-settled:
				return nil
			case _, ok := <-a.returned:
				if ok {
					return ErrNoInstance
				}
				a.returned = nil // the channel is closed, so replies ends as well
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// A requester is a channel for requests and their replies.
type requester struct {
	channel     *amqp.Channel
	queue       string
	correlation string
	replies     <-chan amqp.Delivery
	returned    chan amqp.Return
}

func (a *requester) open(conn *amqp.Connection) (err error) {
	if a.channel, err = conn.Channel(); err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	defer func() {
		if err != nil {
			a.channel.Close()
		}
	}()
	if err := Declare(a.channel); err != nil {
		return err
	}
	if err := declareExclusive(a.channel, a.queue); err != nil {
		return err
	}
	a.returned = a.channel.NotifyReturn(make(chan amqp.Return, 1)) // the first return ends the request
	if a.replies, err = a.channel.Consume(a.queue, "", true, true, false, false, nil); err != nil {
		return fmt.Errorf("consuming the queue %s: %w", a.queue, err)
	}
	return nil
}

func (a *requester) publish(kind string, body []byte) error {
	err := a.channel.Publish(Exchange, "", true, false, amqp.Publishing{
		Type:          kind,
		ContentType:   "application/json",
		ReplyTo:       a.queue,
		CorrelationId: a.correlation,
		Body:          body,
	})
	if err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	return nil
}
