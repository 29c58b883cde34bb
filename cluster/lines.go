package cluster

import (
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"
)

// lines has the channels that the partitions' queues are consumed on. Some that are not
// used are kept, so that a partition that moves waits for none to be opened or closed.
type lines struct {
	conn     *amqp.Connection
	prefetch int
	running  *sync.WaitGroup // the session's

	mu    sync.Mutex // guards the following field
	spare []prepared
}

// spareLines is how many unused channels are kept: as many as an instance that joins a
// few others takes over at once. RabbitMQ has some ten kilobytes for each.
const spareLines = 16

// openLines opens channels that are not used yet, for so many partitions. One that
// cannot be had now is tried again when it is needed.
func openLines(conn *amqp.Connection, prefetch, partitions int, running *sync.WaitGroup) *lines {
	x := &lines{conn: conn, prefetch: prefetch, running: running}
	var opening errgroup.Group
	opening.SetLimit(4)
	for range min(spareLines, partitions) {
		opening.Go(func() error {
			if p, err := prepare(conn, prefetch); err == nil {
				x.mu.Lock()
				defer x.mu.Unlock()
				x.spare = append(x.spare, p)
			}
			return nil
		})
	}
	opening.Wait()
	return x
}

// get returns a line to consume a queue.
func (x *lines) get(queue string) (*line, error) {
	for {
		p, ok := x.take()
		if !ok {
			return openLine(x.conn, queue, x.prefetch)
		}
		if !p.channel.IsClosed() {
			return newLine(p, queue), nil
		}
	}
}

func (x *lines) take() (p prepared, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.spare) == 0 {
		return prepared{}, false
	}
	last := len(x.spare) - 1
	p = x.spare[last]
	x.spare = x.spare[:last]
	return p, true
}

// put takes a line back whose consumer is cancelled and whose requests are answered.
// If they are acknowledged as well, the broker has nothing to give to others, and the
// channel can be used again. Otherwise it is closed. Either way the broker has heard of
// all acknowledgements when put returns.
func (x *lines) put(l *line) {
	if !l.end() {
		return
	}
	if !l.acks.none() || l.channel.Qos(x.prefetch, 0, false) != nil { // which changes nothing, and is answered
		l.channel.Close() // an error is the connection's end
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.spare) < spareLines {
		x.spare = append(x.spare, l.prepared)
		return
	}
	x.running.Go(func() { l.channel.Close() }) // likewise; nobody waits for it
}
