package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/internal/rpc"
	"github.com/glotpod/ident/cluster/wait"
)

const (
	// defaultTimeout is the time of a request whose context has no deadline.
	defaultTimeout = 30 * time.Second

	// resendAfter is how long a reply may take until the request is sent again, the first time.
	resendAfter = 5 * time.Second

	// The pauses before a request is tried again because the service has failed.
	firstRetryPause   = 100 * time.Millisecond
	longestRetryPause = 5 * time.Second

	// maxRejections is how often the broker may close the channel of a request.
	maxRejections = 3

	// maxUnderWay is how many bytes the requests under way may have, as weight counts them.
	maxUnderWay = 64 << 20

	// minWeight is the least that a request counts. It limits the number of requests under
	// way to 1,024, and is more than a usual request and its reply have together.
	minWeight = 64 << 10

	// pageWeight is what the reply to a request for many users or changes counts: somewhat
	// more than a page of the service.
	pageWeight = 4 << 20
)

// maxShortString is the largest length of a name or id in the protocol.
const maxShortString = 255

// A Request is a request for any operation, also for one that this package does not know.
type Request struct {
	Operation string // such as "get"
	Args      []byte // the arguments: a map in msgpack
}

// Do sends a request and returns the result, in msgpack. Callers usually use the methods that
// are named after operations instead.
//
// The errors of Do are those of all methods that send requests:
//   - an [*Error], if the service replies with an error, or if the arguments cannot be sent
//     ([ErrBadRequest]): to send the same once more helps only if [Error.Retryable] is true,
//   - [ErrNotSent], [ErrNoService] and [ErrClosed], if the request was not carried out,
//   - [ErrNoReply], [ErrRejected] or [ErrMalformed], if it is unknown whether it was carried out.
//
// If ctx has ended, its error is in the chain. Do has retried what a retry within the time of ctx can
// help.
func (c *Client) Do(ctx context.Context, r Request) (result []byte, err error) {
	begin, attempts := time.Now(), 0
	defer func() { c.o.observe(r.Operation, begin, attempts, err) }()
	m, err := c.message(ctx, &r)
	if err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		m.Deadline = begin.Add(defaultTimeout)
	}
	n := weight(&r)
	if err := c.acquire(ctx, m.Deadline, n); err != nil {
		return nil, err
	}
	defer c.room.Release(n)
	attempts, result, err = c.try(ctx, m)
	return result, err
}

// acquire waits until there is room for a request.
func (c *Client) acquire(ctx context.Context, deadline time.Time, n int64) error {
	if c.room.TryAcquire(n) {
		return nil
	}
	ctx, cancel := withDeadline(ctx, deadline)
	defer cancel()
	if err := c.room.Acquire(ctx, n); err != nil {
		return fmt.Errorf("%w: too many requests are under way: %w", ErrNotSent, err)
	}
	return nil
}

// withDeadline is context.WithDeadline if there is a deadline.
func withDeadline(ctx context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
	if deadline.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline)
}

// try sends a message until there is an outcome.
func (c *Client) try(ctx context.Context, m *rpc.Message) (attempts int, result []byte, err error) {
	pause := wait.Backoff{First: firstRetryPause, Longest: longestRetryPause}
	rejections := 0
	for {
		link, err := c.current(ctx, m.Deadline)
		if err != nil {
			return attempts, nil, unknownAfter(attempts, err)
		}
		attempts++
		body, err := link.Send(ctx, m)
		if lost, ok := errors.AsType[*rpc.LostError](err); ok {
			if isRejection(lost) {
				rejections++
			}
			if rejections == maxRejections {
				return attempts, nil, fmt.Errorf("%w: %w", ErrRejected, lost.Cause)
			}
			continue
		}
		if err != nil {
			return attempts, nil, sendError(attempts, err)
		}
		result, err := parseReply(body)
		refusal, ok := errors.AsType[*Error](err)
		if !ok || !refusal.Retryable || !waitIfTimeRemains(ctx, m.Deadline, max(refusal.RetryAfter, pause.Next())) {
			return attempts, result, err
		}
	}
}

// waitIfTimeRemains waits for a pause. It returns false, at once, if the time ends before that.
func waitIfTimeRemains(ctx context.Context, deadline time.Time, pause time.Duration) bool {
	ctx, cancel := withDeadline(ctx, deadline)
	defer cancel()
	if at, ok := ctx.Deadline(); ok && time.Until(at) <= pause {
		return false
	}
	return wait.For(ctx, pause) == nil
}

// isRejection reports whether the broker has closed the channel, and not lost the connection.
func isRejection(lost *rpc.LostError) bool {
	return lost.Cause != nil && lost.Cause.Server && lost.Cause.Code != amqp.ConnectionForced
}

// sendError returns the error of a request whose attempt number n has failed finally.
func sendError(n int, err error) error {
	switch {
	case errors.Is(err, rpc.ErrUnroutable):
		return unknownAfter(n-1, ErrNoService)
	case errors.Is(err, ErrNotSent):
		return unknownAfter(n-1, err)
	default:
		return fmt.Errorf("%w: %w", ErrNoReply, err)
	}
}

// unknownAfter returns err if there were no earlier attempts. Otherwise one of them may have
// succeeded, whatever became of the last one.
func unknownAfter(attempts int, err error) error {
	if attempts == 0 {
		return err
	}
	return &unknownError{err}
}

// An unknownError is an [ErrNoReply]. Its chain does not have the errors by which a caller
// would believe that no attempt was carried out.
type unknownError struct{ last error }

func (e *unknownError) Error() string {
	return ErrNoReply.Error() + "; the last attempt: " + e.last.Error()
}

func (e *unknownError) Is(target error) bool {
	switch target {
	case ErrNoReply:
		return true
	case ErrNotSent, ErrNoService, ErrClosed:
		return false
	}
	return errors.Is(e.last, target)
}

func (e *unknownError) As(target any) bool { return errors.As(e.last, target) }

// message returns the message of a request.
func (c *Client) message(ctx context.Context, r *Request) (*rpc.Message, error) {
	id, ok := ctx.Value(messageIDKey{}).(string)
	switch {
	case !ok:
		id = c.newMessageID()
	case id == "":
		return nil, badRequest("the message id is empty")
	}
	m := &rpc.Message{Exchange: rpc.Exchange, Key: rpc.Prefix + r.Operation, ResendAfter: resendAfter, Publishing: amqp.Publishing{
		MessageId: id, ContentType: "application/msgpack", DeliveryMode: deliveryMode(r.Operation), AppId: c.o.Name, UserId: c.o.Login, Body: r.Args,
	}}
	if c.o.Trace != nil {
		if parent, state := c.o.Trace(ctx); parent != "" {
			m.Headers = amqp.Table{"traceparent": parent}
			if state != "" {
				m.Headers["tracestate"] = state
			}
		}
	}
	// The library closes the connection over a string that is too long.
	if len(m.Key) > maxShortString || len(id) > maxShortString {
		return nil, badRequest("an operation or message id of more than %d bytes", maxShortString)
	}
	return m, nil
}

// deliveryMode returns the delivery mode of a request. One that reads is not worth the disk of
// the broker: after a restart of the broker, it is sent again.
func deliveryMode(operation string) uint8 {
	switch operation {
	case "get", "get_many", "list", "changes":
		return amqp.Transient
	}
	return amqp.Persistent
}

// weight returns how many bytes a request and its reply count as.
func weight(r *Request) int64 {
	n := len(r.Args)
	switch r.Operation {
	case "list", "changes", "get_many":
		n += pageWeight
	}
	return int64(min(max(n, minWeight), maxUnderWay))
}

type messageIDKey struct{}

// WithMessageID returns a context for one write, with the message id of that write: 1 to 255
// bytes, which no other write of any client has. For at least 24 hours, a write with the message
// id of an earlier one is not carried out again, but gets the earlier reply, also if that is an error; if
// its arguments differ, the error is [ErrBadRequest]. So a caller that stores the id first can repeat a write
// after [ErrNoReply], or after it was restarted itself. Reads may share an id, and are carried out
// each time. Without this, each request gets a new random id.
func WithMessageID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, messageIDKey{}, id)
}
