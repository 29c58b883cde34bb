package consume

import (
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// maxIdle is how many idle channels a pool keeps: as many as the partitions that an
	// instance takes over at once when it joins a few others. A channel takes some ten
	// kilobytes in RabbitMQ.
	maxIdle = 16

	// openAtOnce is how many channels a new pool opens at the same time.
	openAtOnce = 4
)

// A Pool has the channels on which the partition queues are consumed. It keeps some that
// are idle, so that a partition that moves does not wait until one is opened or closed.
// It is safe for concurrent use.
type Pool struct {
	open     func() (Channel, error)
	prefetch int
	closing  *sync.WaitGroup // of channels that are closed in the background

	mu   sync.Mutex // guards the following field
	idle []idleChannel
}

// NewPool returns a pool with idle channels for up to so many partitions. A channel that
// cannot be opened now is opened when it is needed. closing counts the channels that
// the pool closes in the background.
func NewPool(open func() (Channel, error), prefetch, partitions int, closing *sync.WaitGroup) *Pool {
	p := &Pool{open: open, prefetch: prefetch, closing: closing}
	var opening errgroup.Group
	opening.SetLimit(openAtOnce)
	for range min(maxIdle, partitions) {
		opening.Go(func() error {
			if idle, err := openIdle(open, prefetch); err == nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.idle = append(p.idle, idle)
			}
			return nil
		})
	}
	opening.Wait()
	return p
}

// Prefetch returns the usual prefetch count of the partition queues.
func (p *Pool) Prefetch() int { return p.prefetch }

// GetWith returns a consumer with another prefetch count. It is not started.
func (p *Pool) GetWith(queue string, prefetch int) (*Consumer, error) {
	if prefetch == p.prefetch {
		return p.Get(queue)
	}
	return Open(p.open, queue, prefetch)
}

// Get returns a consumer for a queue. It is not started.
func (p *Pool) Get(queue string) (*Consumer, error) {
	for {
		idle, ok := p.takeIdle()
		if !ok {
			return Open(p.open, queue, p.prefetch)
		}
		if !idle.channel.IsClosed() {
			return newConsumer(idle, queue), nil
		}
	}
}

func (p *Pool) takeIdle() (idle idleChannel, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return idleChannel{}, false
	}
	last := len(p.idle) - 1
	idle = p.idle[last]
	p.idle = p.idle[:last]
	return idle, true
}

// Put returns a consumer to the pool after it was cancelled and its requests are
// complete. If all of them are acknowledged, so that the broker has nothing to deliver
// again, the channel is kept for another queue. Otherwise it is closed. In both cases
// the broker has handled all acknowledgements when Put returns.
func (p *Pool) Put(c *Consumer) {
	if !c.stopSending() {
		return
	}
	// Setting the same prefetch count again changes nothing for the next consumer. But the
	// broker answers it after it has handled all acknowledgements.
	if !c.acks.settled() || c.idle.channel.Qos(p.prefetch, 0, false) != nil {
		c.idle.channel.Close() // on an error the connection is lost
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) < maxIdle {
		c.idle.prefetch = p.prefetch // it may have been lower
		p.idle = append(p.idle, c.idle)
		return
	}
	p.closing.Go(func() { c.idle.channel.Close() }) // likewise
}
