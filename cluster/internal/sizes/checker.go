package sizes

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/internal/metrics"
	"github.com/glotpod/ident/cluster/internal/publish"
	"github.com/glotpod/ident/cluster/throttle"
)

const (
	// usualMessage is the size in bytes up to which Start finds out whether the broker
	// accepts messages.
	usualMessage = 64 << 10

	// checkTimeout is how long it may take to find out whether the broker accepts a larger
	// notification.
	checkTimeout = 500 * time.Millisecond

	// logEvery is how often messages that are too large are logged at most.
	logEvery = 10 * time.Second
)

// A Checker decides what becomes of messages that the broker does not accept. It is safe
// for concurrent use.
type Checker struct {
	ctx      context.Context
	limit    *Limit
	tooLarge *prometheus.CounterVec // by kind
	log      *throttle.Logger
}

// NewChecker returns a Checker that opens channels by open until ctx is done.
func NewChecker(ctx context.Context, open func() (publish.Channel, error), tooLarge *prometheus.CounterVec, log *zap.Logger) *Checker {
	return &Checker{
		ctx: ctx,
		limit: NewLimit(open, func(limit int) {
			log.Warn("the broker limits the size of messages (max_message_size)", zap.Int("bytes", limit))
		}),
		tooLarge: tooLarge,
		log:      throttle.New(log, zapcore.ErrorLevel, "message not sent: the broker does not accept it", logEvery),
	}
}

// Start finds out about messages of the usual sizes, so that none has to wait for that.
func (c *Checker) Start() { c.limit.Fits(c.ctx, usualMessage) }

// Accepts reports whether it is known that the broker accepts messages of a size in bytes.
func (c *Checker) Accepts(size int) bool { return c.limit.Accepts(size) }

// Reply returns the reply to a request, or an error reply if the broker does not accept
// a message of that size. An error means that this could not be found out. fields say in
// the log which request it is.
func (c *Checker) Reply(body []byte, fields ...zap.Field) ([]byte, error) {
	if c.limit.Accepts(len(body)) {
		return body, nil
	}
	fits, err := c.limit.Fits(c.ctx, len(body))
	if fits || err != nil {
		return body, err
	}
	c.note(metrics.TooLargeReply, len(body), fields...)
	return actor.ErrorReply(actor.ReplyTooLarge), nil
}

// AcceptsNotification reports whether a notification of so many bytes can be sent. If that
// is not known within half a second, it counts as too large.
func (c *Checker) AcceptsNotification(bytes int) bool {
	if c.limit.Accepts(bytes) {
		return true
	}
	ctx, cancel := context.WithTimeout(c.ctx, checkTimeout)
	defer cancel()
	fits, err := c.limit.Fits(ctx, bytes)
	if !fits {
		c.note(metrics.TooLargeWrite, bytes, zap.Error(err))
	}
	return fits
}

// NoteRejected notes that the broker has not accepted a request that was forwarded. fields
// say in the log which request it is.
func (c *Checker) NoteRejected(bytes int, err error, fields ...zap.Field) {
	c.NoteLost(err)
	c.note(metrics.TooLargeForward, bytes, append(fields, zap.Error(err))...)
}

// NoteLost notes why the broker has closed a channel. If that was because of a message that
// was expected to fit, the limit was changed.
func (c *Checker) NoteLost(cause error) {
	if broker.IsCode(cause, amqp.PreconditionFailed) {
		c.limit.Forget()
	}
}

func (c *Checker) note(kind string, bytes int, fields ...zap.Field) {
	c.tooLarge.WithLabelValues(kind).Inc()
	c.log.Log(1, append(fields, zap.String("kind", kind), zap.Int("bytes", bytes))...)
}
