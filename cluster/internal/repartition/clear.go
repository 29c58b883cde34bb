package repartition

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/wait"
)

// leftEvery is how often it is tried to empty queues that were left for later.
const leftEvery = 5 * time.Second

// clear moves what still comes to the old queues, and deletes them when they may be deleted. Queues that are
// not available are tried again until they are. Then they are kept for a while: the broker may have kept
// messages to them meanwhile, and puts these into them a moment later.
func (m *mover) clear(ctx context.Context) error {
	keep := m.r.Note != "" // queues were not available in an earlier attempt
	if keep {
		m.setNote("%s", m.r.Note)
	}
	for first := true; ; first = false {
		mayClear, err := m.mayClear(ctx)
		if err != nil {
			return err
		}
		pause := lookEvery
		if first || mayClear {
			last := mayClear && !keep
			left, err := m.sweep(ctx, last)
			switch keep = len(left) > 0; {
			case err != nil:
				return err
			case keep:
				m.setNote(notAvailable, strings.Join(left, ", "))
				pause = leftEvery
			case last:
				return m.o.Records.Finish(ctx, m.record())
			case mayClear:
				pause = leftEvery
			}
		}
		if err := wait.For(ctx, pause); err != nil {
			return err
		}
	}
}

// notAvailable is a note. While there is one, no queue is deleted.
const notAvailable = "not available are %s"

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
	if err := topology.Unbind(m.openChannel, m.r.From, 0); err != nil { // an instance that was frozen may have bound them again
		return nil, err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := m.empty(ctx, fail); err != nil {
		return nil, err
	}
	channel, err := m.conn.OpenDeclaring()
	if err != nil {
		return nil, err
	}
	left = m.left()
	for _, q := range m.queues {
		if q.left == nil && last {
			if _, err := channel.QueueDelete(q.name, false, false, false); err != nil {
				return nil, fmt.Errorf("deleting the queue %s: %w", q.name, err)
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
