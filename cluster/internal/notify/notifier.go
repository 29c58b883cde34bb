package notify

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/internal/batchqueue"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// maxPending is how many notifications may be pending. Others are left to the log.
	maxPending = 1024

	// maxPendingBytes is the same in bytes of their bodies.
	maxPendingBytes = 16 << 20

	// releaseTimeout is how long the release of a partition waits for its pending
	// notifications. The next owner sends those again that are not confirmed then.
	releaseTimeout = time.Second
)

// Metrics are what a Notifier counts and measures.
type Metrics struct {
	Sent    prometheus.Counter   // notifications that the broker has accepted
	Refused prometheus.Counter   // notifications that the broker has refused or not confirmed
	Lag     prometheus.Histogram // seconds from a commit to the broker's confirmation
	Overdue prometheus.Gauge     // notifications that were not confirmed for longer than they should
	Oldest  prometheus.Gauge     // seconds since the commit of the oldest notification that is not confirmed
}

// An Outbox has the notifications of committed changes, and knows which are confirmed.
type Outbox interface {
	// TakeOver returns those of the leases that by holds, and those of their partitions
	// that have changes which may not have been notified.
	TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease) (held []partition.Lease, backlog []int, err error)

	// ReadNotifications returns the first unconfirmed notifications of a partition with
	// positions above after, by position: up to limit, fewer if they are large. more says
	// whether there are others. A notification that cannot be decrypted has no body.
	ReadNotifications(ctx context.Context, partition int, after int64, limit int) (page []actor.PendingNotification, more bool, err error)

	// SurveyNotifications returns the first unconfirmed notification of each user in the
	// partitions, for up to limit users of each partition.
	SurveyNotifications(partitions []int, limit int) []actor.StoredNotification

	// ConfirmNotifications says that the broker has taken notifications.
	ConfirmNotifications(keys ...actor.NotificationKey)
}

// Options say what a Notifier sends and how.
type Options struct {
	Self       ownership.Member
	Outbox     Outbox
	Partitions int

	// Connect opens a connection for notifications. Run closes it.
	Connect func(context.Context) (*Connection, error)

	Metrics Metrics
	Tracer  trace.Tracer // nil: no tracing
	Log     *zap.Logger
}

// A Notifier sends notifications over a connection of its own. Its methods are safe for
// concurrent use.
type Notifier struct {
	o         Options
	takeOvers *batchqueue.Queue[takeOver]
	queue     chan *outbound // to be published
	ready     wait.Signal    // notified when lanes may go on

	mu    sync.Mutex // guards the following field
	state state

	ctx    context.Context // done when Run has ended
	cancel context.CancelFunc
}

// New returns a Notifier that sends nothing before Run is called.
func New(o Options) *Notifier {
	n := &Notifier{
		o:         o,
		takeOvers: batchqueue.New[takeOver](),
		queue:     make(chan *outbound, maxPending+1),
		ready:     wait.NewSignal(),
	}
	n.state = newState(o, n.queue, n.ready)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Send sends the notification of a change that was committed, or leaves it to the log.
// It does not block. It must be called in the order of each user's changes, and for one
// change before the next one of the user is committed.
func (n *Notifier) Send(x actor.PendingNotification) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.state.lanes[x.Lease.Partition]
	switch {
	case !l.open:
	case l.held[x.UserID] != nil:
		l.held[x.UserID].clean = false
		n.state.leave(l, x)
	case l.behind:
		n.state.leave(l, x)
	case n.state.gate(x.RoutingKey).isClosed() && n.state.heldBack >= maxHeldBack:
		n.state.fallBehind(l, x.Position)
	case n.state.gate(x.RoutingKey).holdsBack():
		n.state.hold(l, x.UserID, x.Position, x.RoutingKey)
	case !n.state.tryPublish(l, &outbound{notification: x, committed: time.Now()}):
		n.state.fallBehind(l, x.Position)
	}
}

// Missed says that notifications of a partition may have been committed that were not
// passed to Send.
func (n *Notifier) Missed(partition int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := &n.state.lanes[partition]; l.open {
		n.state.fallBehind(l, 0)
	}
}

// A Backlog is what a Notifier has not sent.
type Backlog struct {
	Pending  int // notifications
	HeldBack int // users with notifications that are held back
	Behind   int // partitions whose notifications are sent from the log
}

// Backlog returns what is not sent.
func (n *Notifier) Backlog() (b Backlog) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b.Pending, b.HeldBack = n.state.window.all.count, n.state.heldBack
	for p := range n.state.lanes {
		if n.state.lanes[p].behind {
			b.Behind++
		}
	}
	return b
}

// Run sends notifications until ctx is done.
func (n *Notifier) Run(ctx context.Context) {
	var background sync.WaitGroup
	defer background.Wait()
	defer n.cancel()
	background.Go(func() { n.runTakeOvers(n.ctx) })
	background.Go(func() { n.runPasses(n.ctx) })
	background.Go(func() { n.runSurveys(n.ctx) })
	n.runConnections(ctx)
}
