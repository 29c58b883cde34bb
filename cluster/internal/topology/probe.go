package topology

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
)

const (
	// probeHeader marks a probe.
	probeHeader = "ident-probe"

	// probes is how many probes are sent at a time. If two of 64 queues have changed
	// places, one in 32 probes finds that out.
	probes = 16

	// probeExpiration is how long a probe waits in a queue that is not consumed.
	probeExpiration = time.Minute

	// firstProbedID is greater than the id of any user.
	firstProbedID = 1 << 62
)

// IsProbe reports whether a request is a probe. A probe is to get a user that does not
// exist, and has no reply. It tells its receiver whether the direct exchange leads where it
// should, and is acknowledged without being carried out. (A version of the service that
// does not know probes carries it out, which has no effect.)
func IsProbe(d *amqp.Delivery) bool {
	return d.ReplyTo == "" && d.Headers[probeHeader] != nil && d.Type == RequestPrefix+"get"
}

// probe sends probes through the direct exchange. Their receivers report those that come to
// the wrong queue. probe returns whether the exchange had no queue for one of them.
func (t *Topology) probe(ctx context.Context) (returned bool, err error) {
	channel, err := t.o.OpenPublishing()
	if err != nil {
		return false, err
	}
	defer channel.Close()
	returns := channel.NotifyReturn(make(chan amqp.Return, probes))
	for range probes {
		id := firstProbedID + rand.Int64N(firstProbedID)
		err := channel.PublishWithContext(ctx, DirectExchange, strconv.FormatInt(id, 10), true, false, probeOf(id))
		if err != nil {
			return false, fmt.Errorf("sending a probe: %w", err)
		}
	}
	// The broker returns messages before it answers a later method.
	if err := awaitChannel(channel); err != nil {
		return false, err
	}
	return len(returns) > 0, nil
}

// NewProbe returns a probe.
func NewProbe() amqp.Publishing { return probeOf(firstProbedID) }

func probeOf(user int64) amqp.Publishing {
	return amqp.Publishing{
		Type:        RequestPrefix + "get",
		Headers:     amqp.Table{probeHeader: true},
		Expiration:  strconv.FormatInt(probeExpiration.Milliseconds(), 10),
		ContentType: "application/msgpack",
		Body:        msgp.AppendInt64(msgp.AppendString(msgp.AppendMapHeader(nil, 1), "user_id"), user),
	}
}
