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

// An Outbox has the notifications of committed changes. It asks each second for the progress
// of each lease that was taken over, and stores it.
type Outbox interface {
	// TakeOver returns those of the leases that by holds, with what was notified.
	TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease) ([]actor.TakenOver, error)

	// ReadNotifications returns the first notifications of a partition with positions above
	// after that may not be confirmed, as far as is stored, by position: up to limit, fewer if
	// they are large. more says whether there are others. A page is of one moment: it leaves
	// out nothing that was committed before one that it has, and that may not be confirmed. A
	// notification that cannot be decrypted has no body.
	ReadNotifications(ctx context.Context, partition int, after int64, limit int) (page []actor.PendingNotification, more bool, err error)
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
	if !l.open || l.lease != x.Lease || x.Position <= l.last {
		return // the log has it, and a pass finds it or has found it
	}
	l.last = x.Position
	switch {
	case l.held[x.UserID] != nil:
		l.held[x.UserID].clean = false
	case l.behind:
		l.leave(x)
	case n.state.gate(x.RoutingKey).isClosed() && n.state.heldBack >= maxHeldBack:
		n.state.fallBehind(l, x.Position)
	case n.state.gate(x.RoutingKey).holdsBack():
		n.state.hold(l, &x, x.RoutingKey)
	case !n.state.tryPublish(l, &outbound{notification: x, committed: time.Now()}):
		n.state.fallBehind(l, x.Position)
	}
}

// Missed says that notifications may have been committed under a lease that were not passed
// to Send. They come after all that were.
func (n *Notifier) Missed(lease partition.Lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := &n.state.lanes[lease.Partition]; l.open && l.lease == lease {
		n.state.fallBehind(l, l.last+1)
	}
}

// Progress returns what was notified of the partition of a lease. If the notifier does not
// know, ok is false.
func (n *Notifier) Progress(lease partition.Lease) (p actor.NotificationProgress, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.state.lanes[lease.Partition]
	if l.lease != lease {
		return p, false
	}
	return l.progress(), true
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
	b.Pending = n.state.window.all.count
	for p := range n.state.lanes {
		l := &n.state.lanes[p]
		if l.open {
			b.HeldBack += len(l.held)
		}
		if l.behind {
			b.Behind++
		}
	}
	return b
}

// A UserBacklog is which notifications of a user are not confirmed.
type UserBacklog struct {
	Pending  int       // notifications that were sent, and that the broker has not confirmed
	Oldest   time.Time // when the first of them was committed; zero: it was read from the log
	HeldBack bool      // there are others, which wait
	Since    time.Time // when the first of these was committed; zero: not known
	Key      string    // the routing key whose subscribers' queues they wait for; "": they are sent again in a while
	Behind   bool      // notifications of the partition are sent from the log, perhaps some of the user
}

// UserBacklog returns which notifications of a user are not confirmed.
func (n *Notifier) UserBacklog(partition int, userID int64) (b UserBacklog) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.state.lanes[partition]
	if all := l.users[userID]; len(all) > 0 {
		b.Pending, b.Oldest = len(all), all[0].committed
	}
	if h := l.held[userID]; h != nil {
		b.HeldBack, b.Since, b.Key = true, h.committed, h.key
	}
	b.Behind = l.behind
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
