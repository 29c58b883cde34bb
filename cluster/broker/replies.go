package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ReplyChecker says which requests can be answered over one connection. It belongs to
// that connection and is thrown away with it. It may be used from several
// goroutines.
//
// Whoever publishes to a direct reply-to name takes a risk:
//
//   - RabbitMQ up to 4.0 closes the publisher's connection with 541 over a name of
//     no known form.
//   - Up to 3.10.11 and 3.11.3 it also does so if the name's node is not running.
//     A caller's name is such a one once the caller's node has failed. Later
//     versions up to 4.0 look for a node of another name, for which the
//     publisher's channel may have to wait, and may miss heartbeats meanwhile.
//   - With Erlang up to OTP 25 it also does so over a process that cannot exist
//     on the broker's own node. If the node is another one, the two nodes lose
//     each other.
//
// So a name of no known form is refused, and so is one with a process that the
// broker cannot have. Whether the node is there is tried out, once for each node:
// on a connection of its own, with another name on the same node that nobody has.
type ReplyChecker struct {
	release release
	try     func(ctx context.Context, name string) (safe bool, err error)

	trying chan struct{} // holds a token while somebody tries

	mu    sync.Mutex // guards the following field
	nodes map[string]finding
}

// A finding is whether names on a node were safe to publish to.
type finding struct {
	safe bool
	at   time.Time
}

const (
	// freshFor is how long it is taken for granted that a node is still missing
	// and, for a request that may have cost somebody a connection, that it is
	// still there.
	freshFor = 2 * time.Second

	// maxNodes bounds what is remembered. A caller may forge any number of nodes.
	maxNodes = 1024
)

// NewReplyChecker returns the Replies of conn. Connections to try names on are made
// with o.
func NewReplyChecker(conn *amqp.Connection, o Options) *ReplyChecker {
	o.ConnectionName += " (reply_to)"
	return newReplies(releaseOf(conn.Properties), func(ctx context.Context, name string) (bool, error) {
		return tryName(ctx, o, name)
	})
}

func newReplies(r release, try func(ctx context.Context, name string) (safe bool, err error)) *ReplyChecker {
	return &ReplyChecker{
		release: r,
		try:     try,
		trying:  make(chan struct{}, 1),
		nodes:   make(map[string]finding),
	}
}

// Check reports whether publishing to replyTo, as a routing key of the default
// exchange, leaves the connection alive. redelivered is the request's flag: it
// may be what has cost another instance its connection.
//
// An error that wraps [ErrReplyTo] is final: there is no way to give the answer.
// Any other error is the broker's, or ctx's. Check nearly always returns at once.
// When it meets a node for the first time, it tries that node out, which takes
// some milliseconds, or a second if the name is forged; then those who ask about
// further nodes wait in line. ctx bounds the wait.
func (r *ReplyChecker) Check(ctx context.Context, replyTo string, redelivered bool) error {
	name, err := parseReplyTo(replyTo)
	if err != nil || name == nil {
		return err
	}
	if !r.release.direct || name.wide && !r.release.wide {
		return fmt.Errorf("%w: this RabbitMQ does not make such direct reply-to names", ErrReplyTo)
	}
	safe, known := r.known(name.node, redelivered)
	if !known {
		if safe, err = r.find(ctx, name, redelivered); err != nil {
			return fmt.Errorf("find out whether a direct reply-to name is safe: %w", err)
		}
	}
	if !safe {
		return fmt.Errorf("%w: the caller's node is not there", ErrReplyTo)
	}
	return nil
}

// Decided reports whether Check would return at once.
func (r *ReplyChecker) Decided(replyTo string, redelivered bool) bool {
	name, err := parseReplyTo(replyTo)
	if err != nil || name == nil || !r.release.direct || name.wide && !r.release.wide {
		return true
	}
	_, known := r.known(name.node, redelivered)
	return known
}

// known returns what has been found out about a node.
func (r *ReplyChecker) known(node string, redelivered bool) (safe, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.nodes[node]
	fresh := time.Since(f.at) < freshFor
	return f.safe, ok && (fresh || f.safe && !redelivered)
}

// find tries names on the broker, one after another.
func (r *ReplyChecker) find(ctx context.Context, name *directName, redelivered bool) (safe bool, err error) {
	select {
	case r.trying <- struct{}{}:
		defer func() { <-r.trying }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if safe, known := r.known(name.node, redelivered); known {
		return safe, nil
	}
	safe, err = r.try(ctx, name.sibling())
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.nodes) >= maxNodes {
		clear(r.nodes)
	}
	r.nodes[name.node] = finding{safe, time.Now()}
	return safe, nil
}
