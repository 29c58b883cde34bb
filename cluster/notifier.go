package cluster

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/glotpod/ident/actor"
)

const (
	// unconfirmedLimit is how many notifications are sent ahead of the
	// broker's confirmations. Then commits wait.
	unconfirmedLimit = 1024

	// unconfirmedBytes bounds the same in bytes.
	unconfirmedBytes = 16 << 20

	catchUpPage = 500

	// refusedEvery is how often notifications are tried again that a
	// subscriber's queue has refused.
	refusedEvery = 2 * time.Second

	// A notification that has been stored for longer than overdueAge, and is
	// not on its way, was committed without this process learning of it.
	overdueEvery = 10 * time.Second
	overdueAge   = 20 * time.Second
)

// A notifier sends notifications over a channel of its own, in the order in
// which they are given to it, and has those forgotten that the broker confirms.
//
// The broker refuses one on behalf of a subscriber's queue that takes no more.
// Then it, and all later ones of its user, are left to the outbox, and sent from
// there in order until they are taken; some of the later ones may be on their
// way already, and come again. Nobody else waits for that.
type notifier struct {
	channel *amqp.Channel
	closed  chan *amqp.Error // the channel's end
	store   Store
	log     *zap.Logger

	queue    chan actor.Notification
	bytes    *semaphore.Weighted // of what is in pending
	flushing chan struct{}       // closed when no more will be given

	ctx    context.Context // done when run has ended
	cancel context.CancelFunc

	mu      sync.Mutex      // guards the following fields
	pending map[int64]int64 // of each notification that is on its way, its bytes
	refused map[int64]bool  // users whose notifications are left to the outbox
}

// sent is a notification that the broker has not confirmed yet.
type sent struct {
	actor.Notification
	confirmation *amqp.DeferredConfirmation
}

func openNotifier(conn *amqp.Connection, store Store, log *zap.Logger) (*notifier, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("opening a channel: %w", err)
	}
	if err := channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("asking for confirmations: %w", err)
	}
	n := &notifier{
		channel:  channel,
		closed:   channel.NotifyClose(make(chan *amqp.Error, 1)),
		store:    store,
		log:      log,
		queue:    make(chan actor.Notification, unconfirmedLimit),
		bytes:    semaphore.NewWeighted(unconfirmedBytes),
		flushing: make(chan struct{}),
		pending:  make(map[int64]int64),
		refused:  make(map[int64]bool),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// catchUp sends what former sessions left in the outbox. It is to be called
// before run, and while nothing is committed.
func (n *notifier) catchUp(ctx context.Context) error {
	if err := n.store.Settle(ctx); err != nil {
		return err
	}
	var last int64
	for {
		page, err := n.store.Undelivered(ctx, last, 0, catchUpPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		var all []sent
		for _, x := range page {
			last = x.ID
			s, err := n.publish(x)
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		for _, s := range all {
			if err := n.confirm(ctx, s); err != nil {
				return err
			}
		}
	}
}

// send gives a notification to the notifier, which has committed. It blocks
// while too many are unconfirmed; when the notifier has ended, it leaves the
// notification to the outbox.
func (n *notifier) send(x actor.Notification) {
	if n.begin(n.ctx, x) != nil {
		return
	}
	select {
	case n.queue <- x:
	case <-n.ctx.Done():
	}
}

// begin notes that x is on its way, when there is room for it.
func (n *notifier) begin(ctx context.Context, x actor.Notification) error {
	size := min(int64(len(x.Body)), unconfirmedBytes)
	if err := n.bytes.Acquire(ctx, size); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending[x.ID] += size // it may be on its way twice
	return nil
}

// end notes that x has arrived.
func (n *notifier) end(x actor.Notification) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes.Release(n.pending[x.ID])
	delete(n.pending, x.ID)
}

func (n *notifier) isPending(id int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, pending := n.pending[id]
	return pending
}

// run sends what it is given until ctx is done, the channel is lost, or all is
// sent and confirmed after flush.
func (n *notifier) run(ctx context.Context) {
	unconfirmed := make(chan sent, unconfirmedLimit)
	var confirming sync.WaitGroup
	defer n.cancel()
	defer confirming.Wait()
	defer close(unconfirmed)
	confirming.Go(func() { n.confirmAll(ctx, unconfirmed) })

	refused, overdue := time.NewTicker(refusedEvery), time.NewTicker(overdueEvery)
	defer refused.Stop()
	defer overdue.Stop()
	publish := func(x actor.Notification) bool {
		if n.isRefused(x.UserID) {
			n.end(x)
			return true
		}
		s, err := n.publish(x)
		if err != nil {
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
		case x := <-n.queue:
			if !publish(x) {
				return
			}
		case <-refused.C:
			if n.retryRefused(ctx) != nil {
				return
			}
		case <-overdue.C:
			if _, err := n.sweep(ctx, overdueAge, func(int64) bool { return true }); err != nil {
				return
			}
		case <-n.flushing:
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

// flush waits until all that was sent is confirmed, or ctx is done. Nothing may
// be sent any more.
func (n *notifier) flush(ctx context.Context) {
	close(n.flushing)
	select {
	case <-n.ctx.Done():
	case <-ctx.Done():
	}
}

func (n *notifier) publish(x actor.Notification) (sent, error) {
	if x.Body == nil { // it cannot be read, which has been logged
		return sent{Notification: x}, nil
	}
	confirmation, err := n.channel.PublishWithDeferredConfirm(requestExchange, x.RoutingKey, false, false, amqp.Publishing{
		MessageId:    x.MessageID.String(),
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		Timestamp:    time.Now(),
		AppId:        "glotpod.ident",
		Headers:      traceHeaders(x.TraceParent),
		Body:         x.Body,
	})
	if err != nil {
		return sent{}, fmt.Errorf("sending a notification: %w", err)
	}
	return sent{x, confirmation}, nil
}

func (n *notifier) confirmAll(ctx context.Context, unconfirmed <-chan sent) {
	for s := range unconfirmed {
		if n.confirm(ctx, s) != nil {
			return // it stays in the outbox, as do the others
		}
	}
}

// confirm waits for the broker's word on a notification.
func (n *notifier) confirm(ctx context.Context, s sent) error {
	defer n.end(s.Notification)
	if s.confirmation == nil {
		return nil
	}
	taken, err := n.await(ctx, s)
	if err != nil {
		return err
	}
	if taken && !n.isRefused(s.UserID) {
		n.store.Delivered(s.ID)
	}
	return nil
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
	case !taken && !n.isRefused(s.UserID):
		n.setRefused(s.UserID, true)
		n.log.Warn("a subscriber's queue refuses notifications; this user's are held back",
			zap.Int64("id", s.ID), zap.Int64("user_id", s.UserID))
	}
	return taken, nil
}

func (n *notifier) setRefused(user int64, refused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if refused {
		n.refused[user] = true
	} else {
		delete(n.refused, user)
	}
}

func (n *notifier) isRefused(user int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused[user]
}

// retryRefused sends what is held back. A user of whom nothing is, any more, is
// refused no longer.
func (n *notifier) retryRefused(ctx context.Context) error {
	n.mu.Lock()
	refused := maps.Clone(n.refused)
	n.mu.Unlock()
	if len(refused) == 0 {
		return nil
	}
	seen, err := n.sweep(ctx, 0, func(user int64) bool { return refused[user] })
	if err != nil || seen == nil {
		return err
	}
	for user := range refused {
		if !seen[user] {
			n.setRefused(user, false)
		}
	}
	return nil
}

// sweep sends notifications from the outbox that are of certain users, of a
// certain age, and not on their way, one at a time, such that none of a user
// overtakes another. It returns the users of whom there were any, nil where it
// could not read all of the outbox. An error is about the channel.
func (n *notifier) sweep(ctx context.Context, age time.Duration, of func(user int64) bool) (seen map[int64]bool, err error) {
	seen = make(map[int64]bool)
	again := make(map[int64]bool) // who was refused again
	var last int64
	for {
		page, err := n.stored(ctx, last, age)
		if err != nil {
			return nil, nil // the database is out of reach: later
		}
		if len(page) == 0 {
			return seen, nil
		}
		for _, x := range page {
			last = x.ID
			if x.Body == nil || !of(x.UserID) {
				continue
			}
			seen[x.UserID] = true
			if again[x.UserID] || n.isPending(x.ID) {
				continue
			}
			s, err := n.publish(x)
			if err != nil {
				return nil, err
			}
			taken, err := n.await(ctx, s)
			if err != nil {
				return nil, err
			}
			if taken {
				n.store.Delivered(x.ID)
			} else {
				again[x.UserID] = true
			}
		}
	}
}

func (n *notifier) stored(ctx context.Context, last int64, age time.Duration) ([]actor.Notification, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return n.store.Undelivered(ctx, last, age, catchUpPage)
}
