package notify

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// The pauses between attempts to connect.
	firstConnectPause   = 250 * time.Millisecond
	longestConnectPause = 5 * time.Second

	// stuckAfter is how long sending one notification may take until another connection
	// is used: the broker reads nothing from this one.
	stuckAfter = 10 * time.Second

	// probeTimeout is how long the broker may take to decide on a probe until another
	// connection is used, and another probe is sent.
	probeTimeout = 2 * time.Minute

	// watchEvery is how often a connection is checked.
	watchEvery = time.Second
)

// A Publisher is what a Notifier uses of a [publish.Publisher].
type Publisher interface {
	Publish(*publish.Message)
	ResetDeadlines()
	Run(context.Context) error
}

// A Connection is one over which notifications are sent.
type Connection struct {
	// Publisher sends all notifications but probes. Its outcome for what the broker does
	// not confirm in time is [publish.ErrUnconfirmed].
	Publisher Publisher

	// NewProber returns a publisher over another channel of the connection. It has no time
	// limit: if the leader of a quorum queue does not reply, RabbitMQ handles nothing on a
	// channel for a minute whose first message goes to that queue.
	NewProber func() Publisher

	Blocked func() bool // reports whether the broker blocks the connection
	Close   func()
}

// A link is a connection in use.
type link struct {
	*Connection
	probers map[string]Publisher // by routing key; used by one goroutine
	sending wait.Moment          // since when a notification is being sent
	running sync.WaitGroup
}

// runConnections connects, publishes what is in the queue, and connects again when the
// connection is lost, until ctx is done.
func (n *Notifier) runConnections(ctx context.Context) {
	backoff := wait.Backoff{First: firstConnectPause, Longest: longestConnectPause}
	for ctx.Err() == nil {
		connection, err := n.o.Connect(ctx)
		if err == nil {
			backoff.Reset()
			err = n.publishOver(ctx, &link{Connection: connection, probers: make(map[string]Publisher)})
		}
		if ctx.Err() != nil {
			return
		}
		n.o.Log.Warn("no connection for notifications; they stay in the log", zap.Error(err))
		backoff.Wait(ctx)
	}
}

// publishOver publishes what is in the queue until the connection is lost, or ctx is done.
func (n *Notifier) publishOver(ctx context.Context, c *link) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.setConnected(true)
	lost := make(chan struct{})
	c.running.Go(func() {
		defer close(lost)
		err = c.Publisher.Run(ctx)
		n.setConnected(false)
		cancel()
	})
	c.running.Go(func() { n.watch(ctx, c) })
	// Closing the connection ends a call of Publish.
	defer context.AfterFunc(ctx, c.Close)()
	for {
		select {
		case out := <-n.queue:
			c.sending.Set(time.Now())
			c.publish(ctx, n.o.Tracer, out, n.wants, n.settle)
			c.sending.Clear()
		case <-lost:
			n.setConnected(false)
			n.drop()
			c.Close()
			c.running.Wait()
			return err
		}
	}
}

// wants reports whether a notification may be sent now: the lease still stands under which it was to
// be sent, and the broker has decided on all earlier ones of the user that were sent, or may still
// decide.
func (n *Notifier) wants(out *outbound) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.state.lanes[out.lease.Partition]
	return l.open && l.lease == out.lease && !out.overtakes
}

// prober returns the publisher of the probes with a routing key.
func (c *link) prober(ctx context.Context, key string) Publisher {
	p := c.probers[key]
	if p == nil {
		p = c.NewProber()
		c.probers[key] = p
		c.running.Go(func() { p.Run(ctx) }) // its error is that of the connection
	}
	return p
}

// watch closes the connection if the broker does not read from it, or does not decide on
// a probe.
func (n *Notifier) watch(ctx context.Context, c *link) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		age, sending := c.sending.Age()
		switch {
		case c.Blocked():
			c.Publisher.ResetDeadlines()
			n.resetProbes()
			c.sending.Renew()
		case sending && age > stuckAfter, n.isProbeOverdue():
			c.Close()
			return
		}
	}
}

// setConnected says whether anything can be sent. Otherwise new notifications are left to
// the outbox.
func (n *Notifier) setConnected(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state.connected = yes
	n.ready.Notify()
}

// resetProbes begins the time limits of all probes anew.
func (n *Notifier) resetProbes() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, g := range n.state.gates {
		g.probed = time.Now()
	}
}

// isProbeOverdue reports whether the broker has not decided on a probe in time.
func (n *Notifier) isProbeOverdue() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, g := range n.state.gates {
		if g.isClosed() && g.pending > 0 && time.Since(g.probed) > probeTimeout {
			return true
		}
	}
	return false
}

// drop empties the queue when there is no connection.
func (n *Notifier) drop() {
	for {
		select {
		case out := <-n.queue:
			n.settle(out, publish.ErrLost)
		default:
			return
		}
	}
}
