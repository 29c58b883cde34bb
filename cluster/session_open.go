package cluster

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
)

// partitionPrefetchShare is how many times less the prefetch count of a partition queue
// is than that of the shared queue.
const partitionPrefetchShare = 8

// openSession connects, declares what the cluster works with, and takes part in
// the membership. ctx bounds the opening alone.
func openSession(ctx context.Context, i *Instance, number int64) (_ *session, err error) {
	o := i.o
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := broker.Dial(dialing, o.Broker)
	if err != nil {
		return nil, err
	}
	s := &session{
		o:           o,
		self:        ownership.Member{Name: o.Name, Incarnation: ownership.Incarnation{Start: o.Start, Session: number}},
		coordinator: i.coordinator,
		cache:       i.cache,
		conn:        conn,
		replies:     broker.NewReplyChecker(conn, o.Broker),
		slots:       make([]*slot, o.Partitions),
		bodies:      semaphore.NewWeighted(o.InFlight),
		metrics:     i.metrics,

		unacknowledged: batchqueue.New[*consume.Consumer](),
	}
	for p := range s.slots {
		s.slots[p] = new(slot)
	}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	// A broker that takes nothing in blocks who sends, whatever ctx says.
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
	defer func() {
		if err != nil {
			s.fail(err)
			s.close()
		}
	}()
	s.watch(conn.NotifyClose(make(chan *amqp.Error, 1)))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 1)) // ends with the connection
	s.running.Go(func() {
		for b := range blocked {
			o.Log.Warn("RabbitMQ takes nothing in", zap.Bool("blocked", b.Active), zap.String("why", b.Reason))
			s.blocked.Store(b.Active)
			s.coordinator.block(s, b.Active)
		}
	})

	open, openApart := topology.Over(conn, o.Broker)
	declared := topology.New(topology.Options{
		Open: open, OpenApart: openApart, Partitions: o.Partitions, QueueType: o.QueueType, Log: o.Log,
	})
	if err := declared.Declare(ctx); err != nil {
		return nil, err
	}
	s.repairer = topology.NewRepairer(declared, o.Store, s.rebound)
	if err := s.openNotifier(); err != nil {
		return nil, err
	}
	if s.hops, err = openHops(conn, o.Partitions, secret(o.Secret)); err != nil {
		return nil, err
	}
	s.watch(s.hops.closing)
	s.channels = consume.NewPool(consume.Over(conn), max(1, o.Prefetch/partitionPrefetchShare), o.Partitions, &s.running)
	if err := s.join(ctx, i); err != nil {
		return nil, err
	}
	return s, nil
}

// openNotifier opens the channel for notifications.
func (s *session) openNotifier() error {
	channel, err := s.conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel: %w", err)
	}
	confirming, err := notify.Over(channel)
	if err != nil {
		return err
	}
	s.notifier = notify.New(confirming, notify.Options{
		Self:       s.self,
		Outbox:     s.o.Store,
		Partitions: s.o.Partitions,
		Owns:       s.holds,
		Metrics: notify.Metrics{
			Sent: s.metrics.notified, Refused: s.metrics.refused, Lag: s.metrics.notifyLag, Overdue: s.metrics.overdue,
		},
		Tracer: s.o.Tracer,
		Log:    s.o.Log,
	})
	s.watch(channel.NotifyClose(make(chan *amqp.Error, 1)))
	return nil
}

// rebound notes that this instance has rebound the partition queues.
func (s *session) rebound() {
	s.metrics.rebinds.Inc()
	s.o.Log.Warn("partition queues rebound: requests had reached the wrong queues", zap.Int64("misrouted", count(s.metrics.misrouted)))
}

// evictTimeout is how long an instance waits for an older one of its name to
// end, or for the broker to find that one dead.
const evictTimeout = time.Minute

// join becomes a member, after the broker has dropped the connections of
// whatever ran under this name before: what such a one still answers must not
// be older than what is written from here on.
func (s *session) join(ctx context.Context, i *Instance) error {
	rows, err := s.o.Store.Survey(ctx)
	if err != nil {
		return err
	}
	var before []ownership.Member
	seen := make(map[ownership.Member]bool)
	for _, row := range rows {
		who := row.Holder
		if who.Name == s.self.Name && who.Incarnation.Compare(s.self.Incarnation) < 0 && !row.Released && !seen[who] {
			seen[who] = true
			before = append(before, who)
		}
	}
	if len(before) > 0 {
		evicting, cancel := context.WithTimeout(ctx, evictTimeout)
		defer cancel()
		if err := membership.StopPredecessors(evicting, s.conn, s.self, before, ownership.DefaultConfig().Heartbeat/4); err != nil {
			return fmt.Errorf("waiting for the instance that had this one's name before: %w", err)
		}
	}
	s.members, err = membership.Join(ctx, s.conn, membership.Options{
		Self:   s.self,
		Report: func() membership.Report { return s.report(i) },
		OnEvent: func(e ownership.Event) {
			if r, ok := e.(ownership.MessageReceived); ok && r.Message.From == s.self {
				s.heard.Store(time.Now().UnixNano())
			}
			s.coordinator.tell(e)
		},
		OnDrain: func(yes bool) {
			if yes {
				s.coordinator.tell(ownership.DrainRequested{})
			} else {
				s.coordinator.tell(ownership.UndrainRequested{})
			}
		},
		Log: s.o.Log,
	})
	if err != nil {
		return fmt.Errorf("joining the members: %w", err)
	}
	s.metrics.sessions.Inc()
	s.running.Go(func() {
		select {
		case <-s.members.Done():
			s.fail(fmt.Errorf("membership was lost: %w", s.members.Err()))
		case <-s.ctx.Done():
		}
	})
	return nil
}
