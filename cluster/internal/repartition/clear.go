package repartition

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// leftEvery is how often it is tried to empty queues that were left for later.
	leftEvery = 5 * time.Second

	// keptFor is how long a queue that was not available is kept after it was emptied. RabbitMQ may have kept
	// messages to it in the channels of their senders. After some refusals it sends them again only when a timer
	// of 10 s ends.
	keptFor = 12 * time.Second
)

// clear moves what still comes to the old queues, and deletes them when they may be deleted. Queues that are
// not available are tried again until they are. Then they are kept for a while: the broker may have kept
// messages to them meanwhile, and puts these into them a moment later.
func (m *mover) clear(ctx context.Context) error {
	unavailable := strings.HasPrefix(m.r.Note, notAvailable) // queues were so in an earlier attempt
	var keptUntil time.Time
	for first := true; ; first = false {
		mayClear, err := m.mayClear(ctx)
		if err != nil {
			return err
		}
		pause := lookEvery
		if first || mayClear {
			last := mayClear && !unavailable && time.Now().After(keptUntil)
			left, err := m.sweep(ctx, last)
			switch {
			case err != nil:
				return err
			case len(left) > 0:
				unavailable, pause = true, leftEvery
				m.setNote(notAvailable+"%s", strings.Join(left, ", "))
			case last:
				return m.o.Records.Finish(ctx, m.record())
			case unavailable:
				unavailable, keptUntil = false, time.Now().Add(keptFor)
				fallthrough
			case mayClear:
				pause = leftEvery
			}
		}
		if err := wait.For(ctx, pause); err != nil {
			return err
		}
	}
}

// notAvailable begins a note with queues. The attempt that finds them available again keeps the old queues
// for a while.
const notAvailable = "not available are "

func (m *mover) mayClear(ctx context.Context) (bool, error) {
	_, r, err := m.o.Records.Look(ctx)
	if err != nil {
		return false, err
	}
	return r != nil && r.Number == m.r.Number && r.MayClear, nil
}

// sweep moves what is in the old queues, and deletes them if last is true. It returns those that are not
// available, with the reasons.
func (m *mover) sweep(ctx context.Context, last bool) (left []string, err error) {
	defer m.close()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	if err := topology.Unbind(m.openChannel, m.r.From); err != nil { // an instance that was frozen may have bound them again
		return nil, err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := m.empty(ctx, fail); err != nil {
		return nil, err
	}
	channel, err := m.broker.conn.OpenDeclaring()
	if err != nil {
		return nil, err
	}
	left = m.left()
	for _, q := range m.queues {
		if q.left == nil && last {
			// RabbitMQ has no such condition for quorum queues.
			n, err := channel.QueueDelete(q.name, false, m.r.From.QueueType == topology.Classic, false)
			if err != nil {
				return nil, fmt.Errorf("deleting the queue %s: %w", q.name, err)
			}
			if n > 0 {
				m.o.Log.Error("messages were deleted with an old queue", zap.String("queue", q.name), zap.Int("messages", n))
			}
		}
	}
	if last {
		m.cleared.Store(int64(m.r.From.Partitions - len(left)))
	}
	return left, nil
}

// left returns the old queues that are left for later, with the reasons.
func (m *mover) left() (left []string) {
	for _, q := range m.queues {
		if q.left != nil {
			left = append(left, fmt.Sprintf("%s (%v)", q.name, q.left))
		}
	}
	return left
}
