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

// ErrNoInstance says that there is no instance, or none that has the name.
var ErrNoInstance = errors.New("no such instance")

// A MissingError says which instances have not answered in time. Others know
// of them, and believe them to be alive.
type MissingError struct {
	Names []string // in order
}

func (e *MissingError) Error() string {
	return "no answer in time from " + strings.Join(e.Names, ", ")
}

// AskStatus asks all members for their status, again and again until each that
// any of them believes to be alive has answered, and for a moment nobody else
// has. The reports are in the order of
// names, with one for each: the latest of the newest incarnation.
//
// When ctx ends before, it returns the reports that came so far, and a
// [*MissingError]; or, if none came, an error that wraps ctx's. If the broker
// says that nobody is there, that is [ErrNoInstance]. It uses a channel of its
// own.
func AskStatus(ctx context.Context, conn *amqp.Connection) ([]Report, error) {
	reports := make(map[string]Report)
	err := ask(ctx, conn, typeStatus, request{}, settleFor, func(d *amqp.Delivery) (done bool) {
		if r, err := decodeReport(d.Body); d.Type == typeReport && err == nil {
			if known, ok := reports[r.Name]; !ok || known.Member().Incarnation.Compare(r.Member().Incarnation) <= 0 {
				reports[r.Name] = r
			}
		}
		return len(reports) > 0 && len(missing(reports)) == 0
	})
	var all []Report
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		all = append(all, reports[name])
	}
	switch names := missing(reports); {
	case err == nil:
		return all, nil
	case len(names) > 0 && ctx.Err() != nil:
		return all, &MissingError{names}
	case len(all) > 0 && ctx.Err() != nil:
		return all, nil
	}
	return all, fmt.Errorf("asking the instances for their status: %w", err)
}

// missing returns the names of those who are alive, by any report, and have not
// reported, or not in the incarnation that the report knows of.
func missing(reports map[string]Report) []string {
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

// RequestDrain asks the instance of a name to give up its partitions and to take
// none, or, with yes being false, to take part again. It returns nil when the
// instance has taken the request, and [ErrNoInstance], which may be wrapped with
// ctx's error, if none has until ctx ends. It uses a channel of its own.
func RequestDrain(ctx context.Context, conn *amqp.Connection, name string, yes bool) error {
	kind := typeUndrain
	if yes {
		kind = typeDrain
	}
	err := ask(ctx, conn, kind, request{Instance: name}, 0, func(d *amqp.Delivery) (done bool) {
		return d.Type == typeTaken
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrNoInstance, err)
	}
	if err != nil {
		return fmt.Errorf("asking the instance %s to %s: %w", name, kind, err)
	}
	return nil
}

// askEvery is how often a request is sent: it or the answer may be lost.
const askEvery = time.Second

// settleFor is for how long nothing more may come before all are believed to have
// reported: who has just joined may be the first to answer, and knows nobody.
const settleFor = 100 * time.Millisecond

// leaveWithin bounds how long the broker may take to close a channel that is of
// no use any more.
const leaveWithin = time.Second

// ask sends a request to all members, again and again, and gives answered each
// answer. It returns nil when answered has returned true and for the time of
// settle no more have come, and ErrNoInstance if the broker has nobody to send
// to.
func ask(ctx context.Context, conn *amqp.Connection, kind string, r request, settle time.Duration, answered func(*amqp.Delivery) bool) error {
	a := asker{queue: replyPrefix + rand.Text(), correlation: rand.Text()}
	if err := within(ctx, conn, func() error { return a.open(conn) }); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
		defer cancel()
		within(ctx, conn, a.channel.Close) // an error is the channel's end
	}()
	r.envelope = envelope{V: wireVersion}
	body := encode(r)
	again := time.NewTicker(askEvery)
	defer again.Stop()
	var settled <-chan time.Time
	for {
		if err := within(ctx, conn, func() error { return a.publish(kind, body) }); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case d, ok := <-a.answers:
				if !ok {
					return fmt.Errorf("waiting for answers: %w", amqp.ErrClosed)
				}
				if d.CorrelationId != a.correlation {
					continue
				}
				settled = nil
				if answered(&d) {
					settled = time.After(settle)
				}
			case <-settled:
				return nil
			case _, ok := <-a.returned:
				if ok {
					return ErrNoInstance
				}
				a.returned = nil // the answers end as well
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// An asker is a channel that requests go out by and answers come by.
type asker struct {
	channel     *amqp.Channel
	queue       string
	correlation string
	answers     <-chan amqp.Delivery
	returned    chan amqp.Return
}

func (a *asker) open(conn *amqp.Connection) (err error) {
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
	if err := declareOwn(a.channel, a.queue); err != nil {
		return err
	}
	a.returned = a.channel.NotifyReturn(make(chan amqp.Return, 1)) // the first one ends it
	if a.answers, err = a.channel.Consume(a.queue, "", true, true, false, false, nil); err != nil {
		return fmt.Errorf("consuming the queue %s: %w", a.queue, err)
	}
	return nil
}

func (a *asker) publish(kind string, body []byte) error {
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
