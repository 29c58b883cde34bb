package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A ReplyChecker tells which requests can be replied to over one connection. It belongs to
// that connection and is dropped with it. It is safe for concurrent use.
//
// Publishing to a direct reply-to name is a risk:
//
//   - RabbitMQ up to 4.0 closes the publisher's connection with 541 over a name of unknown
//     form.
//   - RabbitMQ up to 3.10.11 and 3.11.3 closes it also if the name's node is not running. A caller's
//     name is of that kind once the caller's node has failed. Later versions up to 4.0
//     search for a node of another name; the publisher's channel may have to wait for that,
//     and may miss heartbeats meanwhile.
//   - With Erlang up to OTP 25, RabbitMQ closes it also if the name has a process that
//     cannot exist on the broker's own node. If the node is another one, the two nodes lose each other.
//
// So a name of unknown form is refused, and so is a name with a process that the broker
// cannot have. Whether a node is there is probed once per node: over a connection of its own,
// with a name on the same node that no client has.
type ReplyChecker struct {
	version brokerVersion
	probe   func(ctx context.Context, name string) (safe bool, err error)

	probing chan struct{} // holds a token while a probe runs

	mu    sync.Mutex // guards the following field
	nodes map[string]finding
}

// A finding is whether names on a node were safe to publish to.
type finding struct {
	safe bool
	at   time.Time
}

const (
	// freshFor is how long the finding that a node is missing may be used. If the
	// request may have cost another instance its connection, the finding that the node
	// is there may not be used for longer either.
	freshFor = 2 * time.Second

	// maxNodes bounds the number of findings, because a caller may forge any number of
	// nodes.
	maxNodes = 1024
)

// NewReplyChecker returns the ReplyChecker of conn. It opens the connections for probes
// with o.
func NewReplyChecker(conn *amqp.Connection, o Options) *ReplyChecker {
	o.ConnectionName += " (reply_to)"
	return newReplyChecker(versionOf(conn.Properties), func(ctx context.Context, name string) (bool, error) {
		return probeNode(ctx, o, name)
	})
}

func newReplyChecker(version brokerVersion, probe func(ctx context.Context, name string) (safe bool, err error)) *ReplyChecker {
	return &ReplyChecker{
		version: version,
		probe:   probe,
		probing: make(chan struct{}, 1),
		nodes:   make(map[string]finding),
	}
}

// Check returns nil if a message to replyTo, as a routing key of the default exchange,
// leaves the connection open. redelivered is the request's flag: such a request may
// have cost another instance its connection.
//
// An error that wraps [ErrReplyTo] is final: the reply cannot be sent. Any other error
// comes from the broker or from ctx. Check nearly always returns at once. If the
// node is not known yet, it probes that node, which takes some milliseconds, or a
// second if the name is forged. Meanwhile checks of other unknown nodes wait. ctx
// bounds the wait.
func (r *ReplyChecker) Check(ctx context.Context, replyTo string, redelivered bool) error {
	name, err := parseReplyTo(replyTo)
	if err != nil || name == nil {
		return err
	}
	if !r.version.knownForm || name.wide && !r.version.wideIDs {
		return fmt.Errorf("%w: this RabbitMQ does not make such direct reply-to names", ErrReplyTo)
	}
	safe, known := r.cachedFinding(name.node, redelivered)
	if !known {
		if safe, err = r.probeNode(ctx, name, redelivered); err != nil {
			return fmt.Errorf("probing a direct reply-to name: %w", err)
		}
	}
	if !safe {
		return fmt.Errorf("%w: the caller's node is not running", ErrReplyTo)
	}
	return nil
}

// Decided reports whether Check would return at once.
func (r *ReplyChecker) Decided(replyTo string, redelivered bool) bool {
	name, err := parseReplyTo(replyTo)
	if err != nil || name == nil || !r.version.knownForm || name.wide && !r.version.wideIDs {
		return true
	}
	_, known := r.cachedFinding(name.node, redelivered)
	return known
}

// cachedFinding returns the finding about a node, if it may still be used.
func (r *ReplyChecker) cachedFinding(node string, redelivered bool) (safe, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.nodes[node]
	fresh := time.Since(f.at) < freshFor
	return f.safe, ok && (fresh || f.safe && !redelivered)
}

// probeNode probes the node of name. Probes run one after another.
func (r *ReplyChecker) probeNode(ctx context.Context, name *directName, redelivered bool) (safe bool, err error) {
	select {
	case r.probing <- struct{}{}:
		defer func() { <-r.probing }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if safe, known := r.cachedFinding(name.node, redelivered); known {
		return safe, nil
	}
	safe, err = r.probe(ctx, name.probeName())
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
