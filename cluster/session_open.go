package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/fairqueue"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/internal/readlease"
	"github.com/glotpod/ident/cluster/internal/seal"
	"github.com/glotpod/ident/cluster/internal/sizes"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/throttle"
)

const (
	// connectTimeout is how long connecting to the broker may take.
	connectTimeout = 8 * time.Second

	// closeTimeout is how long a connection waits for the broker when it is closed.
	closeTimeout = time.Second

	// consumingHeartbeat is how often the broker expects something over the consuming
	// connection. RabbitMQ drops a connection after two to three heartbeats without anything,
	// and the protocol has whole seconds.
	consumingHeartbeat = time.Second

	// evictTimeout is how long an instance waits until an older one of its name has
	// ended, or the broker has dropped the older one's connection.
	evictTimeout = time.Minute

	// partitionPrefetchShare is how many times less the prefetch count of a partition
	// queue is than that of the shared queue.
	partitionPrefetchShare = 8

	// droppedReplyEvery is how often dropped replies are logged at most.
	droppedReplyEvery = 10 * time.Second

	// namelessEvery is how often requests without the name of an operation are logged at
	// most.
	namelessEvery = 10 * time.Second

	// malformedEvery is how often messages that no other instance has sent are logged at most.
	malformedEvery = time.Minute
)

// openSession connects, declares the exchanges and queues, and joins the members. ctx
// bounds the opening alone, not the session.
func openSession(ctx context.Context, i *Instance, number int64) (_ *session, err error) {
	o := i.o.in(*i.generation.Load())
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, forwarding, err := dialBoth(dialing, o.Broker)
	if err != nil {
		return nil, err
	}
	s := newSession(i, conn, forwarding, number)
	// If the broker blocks a connection, publishing ignores ctx; closing the connection
	// unblocks it.
	defer context.AfterFunc(ctx, func() { closeAll(time.Now(), conn, forwarding) })()
	defer func() {
		if err != nil {
			s.fail(err)
			s.close()
		}
	}()
	s.failWhenLost(conn.NotifyClose(make(chan *amqp.Error, 1)))
	s.failWhenLost(forwarding.NotifyClose(make(chan *amqp.Error, 1)))
	s.watchBlocked(conn, "consuming", func(blocked bool) {
		s.blocked.consuming.Store(blocked)
		s.coordinator.SetBlocked(s, blocked)
	})
	s.watchBlocked(forwarding, "forwarding", s.blocked.forwarding.Store)
	if err := s.declare(ctx); err != nil {
		return nil, err
	}
	if err := checkGeneration(ctx, i, conn); err != nil {
		return nil, err
	}
	s.notifier = newNotifier(i, s.self, s.o.Store, s.o.Partitions, s.connectNotifier)
	s.forwarder = newForwarder(publish.Over(forwarding), s.runForwards, s.o.queueOf, o.Partitions, seal.Sealer(o.Secret))
	s.relay = newRelay(s, publish.Over(forwarding))
	s.channels = consume.NewPool(consume.Over(conn), max(1, o.Prefetch/partitionPrefetchShare), o.Partitions, &s.running)
	if err := s.join(ctx, i); err != nil {
		return nil, err
	}
	s.running.Go(func() { consumeRelayed(s) })
	return s, nil
}

// dialBoth opens the connections without which there is no session, at the same time. The
// broker keeps what the consumers of a frozen instance have received until it drops the
// consuming connection, so it has to do that soon. The next owner cannot begin with what
// comes later, because a user's later request would be carried out first. The price is
// that an instance that does not run for two seconds loses its session. The instance is as
// patient with the broker as on any connection: a broker that pauses must not lose all. Time in
// which the instance does not run, or does not read, is no silence of the broker.
func dialBoth(ctx context.Context, o broker.Options) (consuming, forwarding *amqp.Connection, err error) {
	forConsuming, forForwarding := o, o
	forConsuming.Heartbeat = min(o.Heartbeat, consumingHeartbeat)
	forConsuming.Patience = o.Heartbeat + o.Heartbeat/2
	forForwarding.ConnectionName += " (forwarding)"
	var dialing errgroup.Group
	dialing.Go(func() (err error) {
		consuming, err = broker.Dial(ctx, forConsuming)
		return err
	})
	dialing.Go(func() (err error) {
		forwarding, err = broker.Dial(ctx, forForwarding)
		return err
	})
	if err = dialing.Wait(); err == nil {
		return consuming, forwarding, nil
	}
	closeAll(time.Now().Add(closeTimeout), consuming, forwarding)
	return nil, nil, err
}

// closeAll closes those of the connections that are not nil. It waits for the broker until
// the deadline.
func closeAll(deadline time.Time, all ...*amqp.Connection) {
	var closing sync.WaitGroup
	for _, conn := range all {
		if conn != nil {
			closing.Go(func() { conn.CloseDeadline(deadline) })
		}
	}
	closing.Wait()
}

func newSession(i *Instance, conn, forwarding *amqp.Connection, number int64) *session {
	o := i.o.in(*i.generation.Load())
	s := &session{
		o:           o,
		self:        ownership.Member{Name: o.Name, Incarnation: ownership.Incarnation{Start: o.Start, Session: number}},
		ready:       i.Ready,
		look:        i.look,
		coordinator: i.coordinator.Load(),
		cache:       i.cache,
		conn:        conn,
		forwarding:  forwarding,
		replies:     broker.NewReplyChecker(conn, o.Broker),
		slots:       make(partitionSlots, o.Partitions),
		bodies:      consume.NewBudget(o.InFlight),
		metrics:     i.metrics,

		acks:           consume.NewAckFlusher(),
		droppedReplies: throttle.New(o.Log, zap.WarnLevel, "reply dropped", droppedReplyEvery),
		nameless:       throttle.New(o.Log, zap.WarnLevel, "request without an operation refused", namelessEvery),
		malformed:      throttle.New(o.Log, zap.WarnLevel, "malformed message of another instance", malformedEvery),
	}
	for p := range s.slots {
		s.slots[p] = new(partitionSlot)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.sizes = sizes.NewChecker(s.ctx, publish.Over(conn), s.metrics.TooLarge, o.Log)
	s.prefer = consume.NewPreference(o.Prefetch, time.Now())
	s.turns = fairqueue.New[sender](o.Prefetch, (*request).route)
	s.shared = newSharedKeeper(s)
	s.reads = readlease.NewRenewer(o.Store.EndedLeases, s.slots.servedLeases, func(l partition.Lease) { onLeaseEnded(s, l) })
	return s
}

// watchBlocked notes when the broker blocks and unblocks a connection.
func (s *session) watchBlocked(conn *amqp.Connection, name string, note func(blocked bool)) {
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 1)) // closed with the connection
	s.running.Go(func() {
		for b := range blocked {
			s.o.Log.Warn("RabbitMQ blocks or unblocks publishing",
				zap.String("connection", name), zap.Bool("blocked", b.Active), zap.String("why", b.Reason))
			note(b.Active)
		}
	})
}

// declare declares the exchanges and queues, and makes what repairs them.
func (s *session) declare(ctx context.Context) error {
	if err := topology.CheckChannels(int(s.conn.Config.ChannelMax), s.o.Partitions); err != nil {
		return err
	}
	open, openApart := topology.Over(s.conn, s.o.Broker)
	openPublishing, _ := topology.Over(s.forwarding, s.o.Broker)
	t := topology.New(topology.Options{
		Open: open, OpenPublishing: openPublishing, OpenApart: openApart,
		First: s.o.first, Partitions: s.o.Partitions, QueueType: s.o.QueueType, Log: s.o.Log,
	})
	s.repairer = topology.NewRepairer(t, s.o.Store, topology.RepairerOptions{IsResponsible: s.isResponsible, OnRebound: s.onRebound})
	return t.Declare(ctx)
}

// isResponsible reports whether this instance is the first by name of the members that are
// alive, and the broker accepts messages.
func (s *session) isResponsible() bool {
	status, ok := s.coordinator.Status()
	return ok && !s.blocked.any() && !slices.ContainsFunc(status.Members, func(m ownership.MemberStatus) bool {
		return m.Alive && m.Name < s.o.Name
	})
}

// onRebound notes that this instance has rebound the partition queues.
func (s *session) onRebound() {
	s.metrics.Rebinds.Inc()
	s.o.Log.Warn("partition queues rebound: requests had reached the wrong queues", zap.Int64("misrouted", metrics.Count(s.metrics.Misrouted)))
}

// newNotifier returns a notifier for the partitions of a generation. It opens its own connection with
// connect when it runs.
func newNotifier(i *Instance, self ownership.Member, outbox notify.Outbox, partitions int, connect func(context.Context) (*notify.Connection, error)) *notify.Notifier {
	return notify.New(notify.Options{
		Self:       self,
		Outbox:     outbox,
		Partitions: partitions,
		Connect:    connect,
		Metrics: notify.Metrics{
			Sent: i.metrics.Notified, Refused: i.metrics.Refused, Lag: i.metrics.NotifyLag,
			Overdue: i.metrics.Overdue, Oldest: i.metrics.Oldest,
		},
		Tracer: i.o.Tracer,
		Log:    i.o.Log,
	})
}

// connectNotifier opens a connection for notifications.
func (s *session) connectNotifier(ctx context.Context) (*notify.Connection, error) {
	s.blocked.notifications.Store(false) // that was the earlier connection
	conn, err := dialFor(ctx, s.o.Broker, "notifications")
	if err != nil {
		return nil, err
	}
	s.watchBlocked(conn, "notifications", s.blocked.notifications.Store)
	return notifierConnection(conn, s.blocked.notifications.Load), nil
}

// dialFor opens a connection whose name says what it is for.
func dialFor(ctx context.Context, o broker.Options, purpose string) (*amqp.Connection, error) {
	o.ConnectionName += " (" + purpose + ")"
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return broker.Dial(dialing, o)
}

func notifierConnection(conn *amqp.Connection, blocked func() bool) *notify.Connection {
	return &notify.Connection{
		Publisher: publish.New(publish.Options{Open: publish.Over(conn), Timeout: confirmTimeout}),
		NewProber: func() notify.Publisher { return publish.New(publish.Options{Open: publish.Over(conn)}) },
		Blocked:   blocked,
		Close:     func() { closeAll(time.Now().Add(closeTimeout), conn) },
	}
}

// runForwards runs a publisher of forwarded requests.
func (s *session) runForwards(p *publish.Publisher) (stop context.CancelFunc) {
	ctx, stop := context.WithCancel(s.ctx)
	s.running.Go(func() {
		if err := p.Run(ctx); err != nil {
			s.fail(fmt.Errorf("forwarding requests: %w", err))
		}
	})
	return stop
}

// join joins the members, after the broker has dropped the connections of earlier
// sessions under this name: such a session must not send replies that are older than
// what is written from here on.
func (s *session) join(ctx context.Context, i *Instance) error {
	rows, err := s.o.Store.Survey(ctx)
	if err != nil {
		return err
	}
	if earlier := earlierSessions(rows, s.self); len(earlier) > 0 {
		evicting, cancel := context.WithTimeout(ctx, evictTimeout)
		defer cancel()
		if err := membership.StopPredecessors(evicting, s.conn, s.self, earlier, ownership.DefaultConfig().Heartbeat/2); err != nil {
			return fmt.Errorf("waiting for the instance that had this one's name before: %w", err)
		}
	}
	s.members, err = membership.Join(ctx, s.conn, membership.Options{
		Self:       s.self,
		Report:     func() membership.Report { return i.report(s) },
		UserReport: func(userID int64) membership.UserReport { return i.userReport(s, userID) },
		OnEvent:    s.onMemberEvent,
		OnLook:     i.look,
		OnDrain: func(yes bool) {
			i.drained.Store(yes)
			if yes {
				s.coordinator.Post(ownership.DrainRequested{})
			} else {
				s.coordinator.Post(ownership.UndrainRequested{})
			}
		},
		OnMove: func(partition int, undo bool) {
			s.coordinator.Post(ownership.MoveRequested{Partition: partition, Undo: undo})
		},
		Log: s.o.Log,
	})
	if errors.Is(err, membership.ErrQueueLimit) {
		return topology.QueueLimitError(s.o.Partitions, err)
	} else if err != nil {
		return fmt.Errorf("joining the members: %w", err)
	}
	s.metrics.Sessions.Inc()
	s.running.Go(func() {
		select {
		case <-s.members.Done():
			s.fail(fmt.Errorf("membership was lost: %w", s.members.Err()))
		case <-s.ctx.Done():
		}
	})
	return nil
}

// earlierSessions returns the holders in the epoch table that are earlier sessions of
// self's name and may still run.
func earlierSessions(rows []ownership.Row, self ownership.Member) (earlier []ownership.Member) {
	seen := make(map[ownership.Member]bool)
	for _, row := range rows {
		holder := row.Holder
		if holder.Name == self.Name && holder.Incarnation.Compare(self.Incarnation) < 0 && !row.Released && !seen[holder] {
			seen[holder] = true
			earlier = append(earlier, holder)
		}
	}
	return earlier
}

// onMemberEvent passes an event on to the ownership core, and notes when a heartbeat of
// this instance has come back.
func (s *session) onMemberEvent(e ownership.Event) {
	if r, ok := e.(ownership.MessageReceived); ok {
		if r.Message.From == s.self {
			s.heartbeat.note()
		} else if r.Message.Parameters.First > s.o.first {
			s.look() // a member works in a later generation
		}
	}
	s.coordinator.Post(e)
}
