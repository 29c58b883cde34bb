package cluster

import (
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// An expiration says when a request expires.
type expiration struct {
	property string    // of the message, usually a number of milliseconds
	at       time.Time // zero: the request does not expire
}

// expirationOf returns the expiration of a request. The broker does not tell how long the
// request was in the queue, so it expires at the latest possible time. A request with the
// expiration 0 was delivered at once, and does not expire after that.
func expirationOf(d *amqp.Delivery, received time.Time) expiration {
	e := expiration{property: d.Expiration}
	if e.property == "" {
		return e
	}
	if ms, err := strconv.ParseUint(e.property, 10, 32); err == nil && ms > 0 {
		e.at = received.Add(time.Duration(ms) * time.Millisecond)
	}
	return e
}

// isOver reports whether the request has expired since it was received.
func (e expiration) isOver() bool { return !e.at.IsZero() && time.Now().After(e.at) }

// rest returns the property of a copy of the request that is sent now.
func (e expiration) rest() string {
	if e.at.IsZero() {
		return e.property
	}
	return strconv.FormatInt(max(1, time.Until(e.at).Milliseconds()), 10)
}
