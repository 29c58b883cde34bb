package membership

import (
	"errors"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A question is a status request.
type question struct {
	replyTo, correlation string
}

// maxQuestions is how many status requests wait. Who is not answered asks again.
const maxQuestions = 16

var errReplyTo = errors.New("a reply_to that is not one of this package's")

// isReplyTo reports whether it does no harm to answer there.
func isReplyTo(queue string) bool {
	return strings.HasPrefix(queue, replyPrefix) && len(queue) < 255 && isPrintable(queue)
}

// takeRequest takes a request of an operator.
func (m *Membership) takeRequest(d *amqp.Delivery) error {
	var r request
	if err := decode(d.Body, &r); err != nil {
		return err
	}
	if !isReplyTo(d.ReplyTo) || !isText(d.CorrelationId) {
		return errReplyTo
	}
	if d.Type == typeStatus {
		select {
		case m.asked <- question{d.ReplyTo, d.CorrelationId}:
		default:
		}
		return nil
	}
	if r.Instance != m.o.Self.Name {
		return nil
	}
	m.o.OnDrain(d.Type == typeDrain)
	m.reply(question{d.ReplyTo, d.CorrelationId}, typeTaken, encode(envelope{V: wireVersion}))
	return nil
}

// answer answers status requests until the membership is lost.
func (m *Membership) answer() {
	for {
		select {
		case q := <-m.asked:
			body, err := encodeReport(m.o.Report())
			if err != nil {
				m.discarded.make(err)
				continue
			}
			m.reply(q, typeReport, body)
		case <-m.lost:
			return
		}
	}
}

func (m *Membership) reply(q question, name string, body []byte) {
	m.put(parcel{kind: reply, key: q.replyTo, name: name, correlation: q.correlation, body: body})
}
