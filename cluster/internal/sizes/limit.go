package sizes

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/publish"
)

// measureTimeout is how long the broker may take to accept or refuse one message that
// measures its limit.
const measureTimeout = 2 * time.Second

// A Limit finds out how large the messages are that the broker accepts. It is safe for
// concurrent use.
type Limit struct {
	open func() (publish.Channel, error)
	told func(limit int) // is called with the greatest size that is accepted, when it is known

	accepted  atomic.Int64  // messages of up to this size are accepted
	refused   atomic.Int64  // messages of this size and above are refused; 0: none is known
	measuring chan struct{} // holds a value while one measures

	mu      sync.Mutex // guards the following field
	forgets int        // how often Forget was called
}

// NewLimit returns a Limit that opens channels by open, and that knows nothing yet. told is
// called with the size of the largest message that the broker accepts, if one was refused.
func NewLimit(open func() (publish.Channel, error), told func(limit int)) *Limit {
	return &Limit{open: open, told: told, measuring: make(chan struct{}, 1)}
}

// Accepts reports whether it is known that the broker accepts messages of a size.
func (l *Limit) Accepts(size int) bool { return int64(size) <= l.accepted.Load() }

// known reports whether it is known whether the broker accepts messages of a size.
func (l *Limit) known(size int) bool {
	refused := l.refused.Load()
	return l.Accepts(size) || refused > 0 && int64(size) >= refused
}

// Fits reports whether the broker accepts messages of a size. It asks the broker only
// about sizes beyond those that it was asked about before. An error means that the broker
// did not reply before ctx was done, or within two seconds.
func (l *Limit) Fits(ctx context.Context, size int) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	for !l.known(size) {
		select {
		case l.measuring <- struct{}{}:
		case <-ctx.Done():
			return false, fmt.Errorf("asking whether the broker accepts %d bytes: %w", size, ctx.Err())
		}
		measured := make(chan error, 1)
		go func() { // it ends with the connection
			defer func() { <-l.measuring }()
			if l.known(size) {
				measured <- nil
				return
			}
			measured <- l.measure(size)
		}()
		select {
		case err := <-measured:
			if err != nil {
				return false, fmt.Errorf("asking whether the broker accepts %d bytes: %w", size, err)
			}
		case <-ctx.Done():
			return false, fmt.Errorf("asking whether the broker accepts %d bytes: %w", size, ctx.Err())
		}
	}
	return l.Accepts(size), nil
}

// Forget forgets what is known. It is called when the broker has closed a channel because
// of a message that was expected to fit: the limit was changed.
func (l *Limit) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgets++
	l.accepted.Store(0)
	l.refused.Store(0)
}

// measure finds out whether messages of a size fit. If they do not, it finds the limit.
func (l *Limit) measure(size int) error {
	l.mu.Lock()
	forgets := l.forgets
	l.mu.Unlock()
	accepted, refused := int(l.accepted.Load()), int(l.refused.Load())
	// A power of two, so that growing sizes are measured only a few times.
	next := 1 << bits.Len(uint(size-1))
	if refused > 0 {
		next = min(next, refused-1)
	}
	for {
		ok, err := l.try(next)
		if err != nil {
			return err
		}
		if ok {
			accepted = next
		} else {
			refused = next
		}
		if refused == 0 || refused == accepted+1 {
			break
		}
		next = accepted + (refused-accepted)/2
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgets != forgets {
		return nil // it is measured again
	}
	l.accepted.Store(int64(accepted))
	l.refused.Store(int64(refused))
	if refused > 0 {
		l.told(accepted)
	}
	return nil
}

// try sends a message to no queue, and reports whether the broker has accepted it.
func (l *Limit) try(size int) (accepted bool, err error) {
	channel, err := l.open()
	if err != nil {
		return false, err
	}
	defer channel.Close() // an error means that it is closed already
	if err := channel.Confirm(false); err != nil {
		return false, err
	}
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	if err = channel.Ping(size); err == nil {
		return true, nil
	}
	select {
	case cause := <-closed:
		if cause != nil && cause.Code == amqp.PreconditionFailed {
			return false, nil
		}
		return false, err
	case <-time.After(measureTimeout):
		return false, err
	}
}
