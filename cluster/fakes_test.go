package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/internal/consume"
	"github.com/glotpod/ident/cluster/internal/coordinate"
	"github.com/glotpod/ident/cluster/internal/notify"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
)

// A publication is a message that was published on a fake channel.
type publication struct {
	exchange, key string
	message       amqp.Publishing
}

// A fakeChannel stands for a channel of a broker that does nothing by itself. Tests send
// deliveries and confirmations, and look at what was published and acknowledged.
type fakeChannel struct {
	deliveries chan amqp.Delivery

	mu         sync.Mutex // guards the following fields
	publishErr error
	consumeErr []error // of the next calls of Consume
	cancelErr  error
	consumed   string // the queue that is consumed
	exclusive  bool
	published  []publication
	acked      []uint64 // tags that were acknowledged, each by itself or with all before
	requeued   []uint64
	cancelled  bool
	closed     bool
}

func newFakeChannel() *fakeChannel {
	return &fakeChannel{deliveries: make(chan amqp.Delivery, 100)}
}

func (c *fakeChannel) Qos(int, int, bool) error                             { return nil }
func (c *fakeChannel) NotifyClose(closed chan *amqp.Error) chan *amqp.Error { return closed }

func (c *fakeChannel) Consume(queue, _ string, _, exclusive, _, _ bool, _ amqp.Table) (<-chan amqp.Delivery, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.consumeErr) > 0 {
		err := c.consumeErr[0]
		c.consumeErr = c.consumeErr[1:]
		return nil, err
	}
	c.consumed, c.exclusive = queue, exclusive
	return c.deliveries, nil
}

func (c *fakeChannel) isConsumed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.consumed != ""
}

func (c *fakeChannel) Cancel(string, bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancelErr != nil {
		return c.cancelErr
	}
	if !c.cancelled && !c.closed {
		close(c.deliveries)
	}
	c.cancelled = true
	return nil
}

func (c *fakeChannel) PublishWithContext(_ context.Context, exchange, key string, _, _ bool, m amqp.Publishing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.publishErr != nil {
		return c.publishErr
	}
	c.published = append(c.published, publication{exchange, key, m})
	return nil
}

func (c *fakeChannel) Ack(tag uint64, _ bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = append(c.acked, tag)
	return nil
}

func (c *fakeChannel) Nack(tag uint64, _, _ bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requeued = append(c.requeued, tag)
	return nil
}

func (c *fakeChannel) IsClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *fakeChannel) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && !c.cancelled {
		close(c.deliveries)
	}
	c.closed = true
	return nil
}

// sent returns what was published.
func (c *fakeChannel) sent() []publication {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.published)
}

// acks returns the tags that were acknowledged.
func (c *fakeChannel) acks() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.acked)
}

func (c *fakeChannel) nacks() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requeued)
}

// A fakeForwarding stands for the channels in confirm mode on which requests are forwarded.
// The broker confirms what is published, returns it or closes a channel when the test says
// so.
type fakeForwarding struct {
	mu        sync.Mutex // guards the following fields
	channels  []*fakePublishChannel
	published []publication
	decisions []*fakeDecision
	reject    int // how many of the next channels the broker closes because of what is published
}

func (f *fakeForwarding) open() (publish.Channel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &fakePublishChannel{all: f, rejects: f.reject > 0}
	f.reject--
	f.channels = append(f.channels, c)
	return c, nil
}

// channel returns the channel that was opened as the n-th, from 1 on.
func (f *fakeForwarding) channel(n int) *fakePublishChannel {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.channels[n-1]
}

// opened returns how many channels are open.
func (f *fakeForwarding) opened() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.channels {
		if !c.closed {
			n++
		}
	}
	return n
}

// sent returns what was published, without asks.
func (f *fakeForwarding) sent() []publication {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.published), isAsk)
}

func isAsk(p publication) bool { return p.message.Headers[askHeader] != nil }

// confirm confirms the message that was published as the n-th, from 1 on. Asks do not count, and are
// confirmed too.
func (f *fakeForwarding) confirm(n int, ack bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, p := range f.published {
		if isAsk(p) {
			f.decisions[i].decide(true)
		} else if n--; n == 0 {
			f.decisions[i].decide(ack)
		}
	}
}

// A fakeDecision is a [publish.Confirmation].
type fakeDecision struct {
	done  chan struct{}
	acked bool
}

func (d *fakeDecision) Done() <-chan struct{} { return d.done }
func (d *fakeDecision) Acked() bool           { return d.acked }

// decide decides on a message, unless that was done before.
func (d *fakeDecision) decide(ack bool) {
	select {
	case <-d.done:
	default:
		d.acked = ack
		close(d.done)
	}
}

// A fakePublishChannel is one channel of a fakeForwarding, which guards its fields.
type fakePublishChannel struct {
	all       *fakeForwarding
	rejects   bool
	returns   chan amqp.Return
	closing   chan *amqp.Error
	decisions []*fakeDecision
	closed    bool
}

func (c *fakePublishChannel) Confirm(bool) error { return nil }

func (c *fakePublishChannel) Publish(exchange, key string, _ bool, m amqp.Publishing) (publish.Confirmation, error) {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	if c.closed {
		return nil, amqp.ErrClosed
	}
	d := &fakeDecision{done: make(chan struct{})}
	c.decisions = append(c.decisions, d)
	c.all.decisions = append(c.all.decisions, d)
	c.all.published = append(c.all.published, publication{exchange, key, m})
	return d, nil
}

func (c *fakePublishChannel) NotifyReturn(returns chan amqp.Return) chan amqp.Return {
	c.returns = returns
	return returns
}

func (c *fakePublishChannel) NotifyClose(closing chan *amqp.Error) chan *amqp.Error {
	c.closing = closing
	return closing
}

func (c *fakePublishChannel) Ping(int) error {
	if c.rejects {
		c.closeFor(&amqp.Error{Code: amqp.PreconditionFailed})
	}
	if c.IsClosed() {
		return amqp.ErrClosed
	}
	return nil
}

func (c *fakePublishChannel) IsClosed() bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return c.closed
}

func (c *fakePublishChannel) Close() error {
	c.closeFor(nil)
	return nil
}

// closeFor closes the channel as the broker does.
func (c *fakePublishChannel) closeFor(cause *amqp.Error) {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if cause != nil {
		c.closing <- cause
	}
	close(c.closing)
	if c.returns != nil {
		close(c.returns)
	}
	for _, d := range c.decisions {
		d.decide(false)
	}
}

// A fakeStore stands for a database. The fields are set before it is used.
type fakeStore struct {
	find     func(*actor.Lookup) (*actor.User, error)
	list     func(*actor.Page) (actor.UserPage, error)
	changes  func(*actor.ChangesPage) (actor.ChangePage, *actor.Refusal, error)
	commit   func(partition.Lease, []*actor.Write) ([]actor.Outcome, error)
	takeOver func([]partition.Lease) ([]actor.TakenOver, error)
	ended    func([]partition.Lease) []partition.Lease
	ping     func() error
	problems []string

	mu       sync.Mutex // guards the following fields
	reserved []int64    // ids of new users
	nextID   int64      // what NewUserID returns, unless decided is set
	decided  *actor.Outcome
	returned []int64
	aborted  bool
}

func (s *fakeStore) Find(_ context.Context, l *actor.Lookup) (*actor.User, error) {
	if s.find == nil {
		return nil, nil
	}
	return s.find(l)
}

func (s *fakeStore) List(_ context.Context, p *actor.Page) (actor.UserPage, error) {
	if s.list == nil {
		return actor.UserPage{}, nil
	}
	return s.list(p)
}

func (s *fakeStore) Changes(_ context.Context, p *actor.ChangesPage) (actor.ChangePage, *actor.Refusal, error) {
	return s.changes(p)
}

func (s *fakeStore) NewUserID(context.Context, *actor.Write) (int64, *actor.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nextID == 0 && s.decided == nil {
		return 0, nil, errDown
	}
	return s.nextID, s.decided, nil
}

func (s *fakeStore) ReturnUserID(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.returned = append(s.returned, id)
}

func (s *fakeStore) ReservedUserID() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reserved) == 0 {
		return 0
	}
	id := s.reserved[0]
	s.reserved = s.reserved[1:]
	return id
}

func (s *fakeStore) Commit(_ context.Context, lease partition.Lease, writes []*actor.Write) ([]actor.Outcome, error) {
	if s.commit != nil {
		return s.commit(lease, writes)
	}
	outcomes := make([]actor.Outcome, len(writes))
	for i, w := range writes {
		outcomes[i] = actor.Outcome{Refusal: w.Refusal(), UserID: w.UserID, Applied: true}
	}
	return outcomes, nil
}

func (s *fakeStore) Claim(context.Context, []ownership.Claim) ([]ownership.Event, error) {
	return nil, nil
}

func (s *fakeStore) Release(context.Context, []partition.Lease) error { return nil }

func (s *fakeStore) HandOver(context.Context, []ownership.HandOver) ([]ownership.HandedOver, error) {
	return nil, nil
}

func (s *fakeStore) Survey(context.Context) ([]ownership.Row, error) { return nil, nil }

func (s *fakeStore) TakeOver(_ context.Context, _ ownership.Member, leases []partition.Lease) (all []actor.TakenOver, err error) {
	if s.takeOver != nil {
		return s.takeOver(leases)
	}
	for _, l := range leases {
		all = append(all, actor.TakenOver{Lease: l})
	}
	return all, nil
}

func (s *fakeStore) EndedLeases(_ context.Context, leases []partition.Lease) ([]partition.Lease, error) {
	if s.ended != nil {
		return s.ended(leases), nil
	}
	return nil, nil
}

func (s *fakeStore) ReadNotifications(context.Context, int, int64, int) ([]actor.PendingNotification, bool, error) {
	return nil, false, nil
}

func (s *fakeStore) SetNotificationSink(actor.NotificationSink) {}
func (s *fakeStore) SetNotificationCheck(func(int) bool)        {}

func (s *fakeStore) TryRebind(context.Context, time.Duration, func(context.Context) error) (bool, error) {
	return false, nil
}

func (s *fakeStore) OnHistoryChange(func()) {}
func (s *fakeStore) Problems() []string     { return s.problems }

func (s *fakeStore) Ping(context.Context) error {
	if s.ping != nil {
		return s.ping()
	}
	return nil
}

func (s *fakeStore) WatchForeignWrites(ctx context.Context, _ func(bool)) { <-ctx.Done() }
func (s *fakeStore) RoundTrips() int64                                    { return 0 }

func (s *fakeStore) Abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
}

var errDown = errors.New("down")

// A fakeNotifyPublisher accepts what is published when the test says so.
type fakeNotifyPublisher struct {
	mu        sync.Mutex // guards the following field
	published []*publish.Message
}

func (p *fakeNotifyPublisher) connect(context.Context) (*notify.Connection, error) {
	return &notify.Connection{
		Publisher: p,
		NewProber: func() notify.Publisher { return p },
		Blocked:   func() bool { return false },
		Close:     func() {},
	}, nil
}

func (p *fakeNotifyPublisher) Publish(m *publish.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = append(p.published, m)
}

// accept accepts the n-th notification, from 0 on.
func (p *fakeNotifyPublisher) accept(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	go p.published[n].Settled(nil)
}

func (p *fakeNotifyPublisher) ResetDeadlines() {}

func (p *fakeNotifyPublisher) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// A fakeCoordinator records what a session tells it.
type fakeCoordinator struct {
	events *batchqueue.Queue[ownership.Event]
	ends   *batchqueue.Queue[leaseEnd]
}

// A leaseEnd is a call of EndLease.
type leaseEnd struct {
	handOver ownership.HandOver
	done     func()
}

func (c *fakeCoordinator) Post(events ...ownership.Event) { c.events.Put(events...) }

func (c *fakeCoordinator) EndLease(h ownership.HandOver, done func()) { c.ends.Put(leaseEnd{h, done}) }

func (c *fakeCoordinator) Attach(coordinate.Executor, int64)    {}
func (c *fakeCoordinator) Detach(coordinate.Executor)           {}
func (c *fakeCoordinator) SetBlocked(coordinate.Executor, bool) {}
func (c *fakeCoordinator) SinceClaim(int) time.Duration         { return 0 }
func (c *fakeCoordinator) Status() (ownership.Status, bool)     { return ownership.Status{}, false }
func (c *fakeCoordinator) Left() <-chan struct{}                { return nil }

var (
	_ Store           = (*fakeStore)(nil)
	_ consume.Channel = (*fakeChannel)(nil)
	_ publish.Channel = (*fakePublishChannel)(nil)
)
