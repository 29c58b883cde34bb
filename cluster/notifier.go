package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/topology"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

const (
	// unconfirmedLimit is how many notifications are sent ahead of the
	// broker's confirmations. Then commits wait.
	unconfirmedLimit = 1024

	// unconfirmedBytes bounds the same in bytes.
	unconfirmedBytes = 16 << 20

	catchUpPage = 500

	// catchUpRefused is how many notifications may be refused until the rest of
	// what an earlier owner has left is held back without being tried.
	catchUpRefused = 100

	// refusedEvery is how often it is looked whether notifications are to be tried
	// again that a subscriber's queue has refused.
	refusedEvery = 2 * time.Second

	// A notification that has been stored for longer than overdueAge, and is
	// not on its way, was committed without this process learning of it.
	overdueEvery = 10 * time.Second
	overdueAge   = 20 * time.Second
)

// A notifier sends notifications over a channel of its own, in the order in
// which they are given to it, and has those forgotten that the broker confirms.
// What an earlier owner of a partition has left in the outbox is sent before the
// partition is served, and what is on its way when a partition is handed over
// arrives before: so each user's order is kept from one owner to the next.
//
// The broker refuses one on behalf of a subscriber's queue that takes no more.
// Then it, and all later ones of its user, are left to the outbox, and sent from
// there in order until they are taken; some of the later ones may be on their
// way already, and come again. Nobody else waits for that. The same is done where no
// key opens a notification, until an instance has the key or the notification is gone.
type notifier struct {
	channel *amqp.Channel
	closed  chan *amqp.Error // the channel's end
	self    ownership.Member
	store   Store
	tracer  trace.Tracer // nil: no tracing
	metrics *metrics
	log     *zap.Logger

	// held returns the partitions whose notifications are this instance's to
	// send, and holds says whether one of them is.
	held  func() []int
	holds func(partition int) bool
	of    func(user int64) (partition int)

	queue     chan sent // without confirmations
	catching  *batchqueue.Queue[catchUp]
	bytes     *semaphore.Weighted // of what is in pending
	finishing chan struct{}       // closed when no more will be given

	ctx    context.Context // done when run has ended
	cancel context.CancelFunc

	mu      sync.Mutex            // guards the following fields
	pending map[int64]int         // how often each notification is on its way
	moving  map[int]int           // how many of each partition are
	still   map[int]chan struct{} // closed when none of the partition is, any more
	refused refusals              // users whose notifications are left to the outbox
}

// sent is a notification that the broker has not confirmed yet.
type sent struct {
	actor.PendingNotification
	committed    time.Time // zero: it was found in the outbox
	confirmation *amqp.DeferredConfirmation
}

func openNotifier(s *session) (*notifier, error) {
	channel, err := s.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	if err := channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	n := &notifier{
		channel:   channel,
		closed:    channel.NotifyClose(make(chan *amqp.Error, 1)),
		self:      s.self,
		store:     s.o.Store,
		tracer:    s.o.Tracer,
		metrics:   s.metrics,
		log:       s.o.Log,
		held:      s.holding,
		holds:     s.holds,
		of:        func(user int64) int { return partition.Of(user, s.o.Partitions) },
		queue:     make(chan sent, unconfirmedLimit),
		catching:  batchqueue.New[catchUp](),
		bytes:     semaphore.NewWeighted(unconfirmedBytes),
		finishing: make(chan struct{}),
		pending:   make(map[int64]int),
		moving:    make(map[int]int),
		still:     make(map[int]chan struct{}),
		refused:   make(refusals),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// send gives a notification to the notifier, which has committed. It blocks
// while too many are unconfirmed; when the notifier has ended, it leaves the
// notification to the outbox.
func (n *notifier) send(x actor.PendingNotification) {
	s := sent{PendingNotification: x, committed: time.Now()}
	if n.begin(n.ctx, x) != nil {
		return
	}
	select {
	case n.queue <- s:
	case <-n.ctx.Done():
	}
}

func (n *notifier) partitionOf(x actor.PendingNotification) int {
	if x.Partition >= 0 {
		return x.Partition
	}
	return n.of(x.UserID)
}

func bytesOf(x actor.PendingNotification) int64 { return min(int64(len(x.Body)), unconfirmedBytes) }

// begin notes that x is on its way, when there is room for it.
func (n *notifier) begin(ctx context.Context, x actor.PendingNotification) error {
	if err := n.bytes.Acquire(ctx, bytesOf(x)); err != nil {
		return err
	}
	n.note(x)
	return nil
}

// note is begin, for what takes no room.
func (n *notifier) note(x actor.PendingNotification) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending[x.ID]++ // it may be on its way twice
	n.moving[n.partitionOf(x)]++
}

// end notes that x, which was begun, has arrived or is left to the outbox.
func (n *notifier) end(x actor.PendingNotification) {
	n.bytes.Release(bytesOf(x))
	n.unnote(x)
}

// unnote is end, for what took no room.
func (n *notifier) unnote(x actor.PendingNotification) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending[x.ID]--; n.pending[x.ID] == 0 {
		delete(n.pending, x.ID)
	}
	p := n.partitionOf(x)
	if n.moving[p]--; n.moving[p] > 0 {
		return
	}
	delete(n.moving, p)
	if still := n.still[p]; still != nil {
		close(still)
		delete(n.still, p)
	}
}

// flush waits until nothing of a partition is on its way.
func (n *notifier) flush(ctx context.Context, number int) error {
	n.mu.Lock()
	if n.moving[number] == 0 {
		n.mu.Unlock()
		return nil
	}
	still := n.still[number]
	if still == nil {
		still = make(chan struct{})
		n.still[number] = still
	}
	n.mu.Unlock()
	select {
	case <-still:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return amqp.ErrClosed
	}
}

func (n *notifier) isPending(id int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pending[id] > 0
}

// backlog says how many notifications are on their way, and of how many users
// they are held back.
func (n *notifier) backlog() (pending, heldBack int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.pending), len(n.refused)
}

// run sends what it is given until ctx is done, the channel is lost, or all is
// sent and confirmed after finish.
func (n *notifier) run(ctx context.Context) {
	unconfirmed := make(chan sent, unconfirmedLimit)
	var confirming, catching sync.WaitGroup
	defer catching.Wait() // and sweeping
	defer n.cancel()
	defer confirming.Wait()
	defer close(unconfirmed)
	confirming.Go(func() { n.confirmAll(ctx, unconfirmed) })
	catching.Go(func() { n.catchUpAll(n.ctx) })
	catching.Go(func() { n.sweepAll(n.ctx) })

	publish := func(s sent) bool {
		if n.skips(s.UserID) {
			n.end(s.PendingNotification)
			return true
		}
		if n.publish(&s) != nil {
			return false // the channel is closed, and the session learns of it
		}
		select {
		case unconfirmed <- s:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case s := <-n.queue:
			if !publish(s) {
				return
			}
		case <-n.finishing:
			for len(n.queue) > 0 {
				if !publish(<-n.queue) {
					return
				}
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// finish waits until all that was sent is confirmed, or ctx is done. Nothing may
// be sent any more.
func (n *notifier) finish(ctx context.Context) {
	close(n.finishing)
	select {
	case <-n.ctx.Done():
	case <-ctx.Done():
	}
}

func (n *notifier) publish(s *sent) (err error) {
	x := &s.PendingNotification
	sending, headers := notify(n.tracer, x)
	s.confirmation, err = n.channel.PublishWithDeferredConfirm(topology.RequestExchange, x.RoutingKey, false, false, amqp.Publishing{
		MessageId:    x.MessageID.String(),
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		Timestamp:    time.Now(),
		AppId:        "glotpod.ident",
		Headers:      headers,
		Body:         x.Body,
	})
	sending.end(err == nil)
	if err != nil {
		return fmt.Errorf("sending a notification: %w", err)
	}
	return nil
}

func (n *notifier) confirmAll(ctx context.Context, unconfirmed <-chan sent) {
	for s := range unconfirmed {
		_, err := n.confirm(ctx, s)
		n.bytes.Release(bytesOf(s.PendingNotification))
		if err != nil {
			return // it stays in the outbox, as do the others
		}
	}
}

// confirm waits for the broker's word on a notification that was noted.
func (n *notifier) confirm(ctx context.Context, s sent) (taken bool, err error) {
	defer n.unnote(s.PendingNotification)
	if taken, err = n.await(ctx, s); err != nil {
		return false, err
	}
	if taken && !n.isRefused(s.UserID) {
		n.store.ConfirmNotifications(s.ID)
	}
	return taken, nil
}

// await waits for the broker's word. Where that is no, the user is refused from
// now on.
func (n *notifier) await(ctx context.Context, s sent) (taken bool, err error) {
	taken, err = s.confirmation.WaitContext(ctx)
	switch {
	case err != nil:
		return false, err
	case !taken && n.channel.IsClosed():
		return false, amqp.ErrClosed
	case taken:
		n.metrics.notified.Inc()
		if !s.committed.IsZero() {
			n.metrics.notifyLag.Observe(time.Since(s.committed).Seconds())
		}
		return true, nil
	}
	n.metrics.refused.Inc()
	if !n.isRefused(s.UserID) && n.setRefused(s.UserID) {
		n.log.Warn("a subscriber's queue refuses notifications; those of the users concerned are held back",
			zap.Int64("id", s.ID), zap.Int64("user_id", s.UserID))
	}
	return taken, nil
}
