package membership

import (
	"errors"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
)

// A statusQuery is a request for a report that waits for its reply.
type statusQuery struct {
	replyTo, correlation string
	kind                 string // typeStatus or typeUser
	userID               int64  // with typeUser
}

// maxStatusQueries is how many requests for reports can wait. Further ones are dropped: a
// requester without a reply sends its request again.
const maxStatusQueries = 16

var errReplyTo = errors.New("reply_to is not a reply queue of this package")

// isReplyQueue reports whether queue can be the reply queue of an operator, so that a
// reply to it does no harm.
func isReplyQueue(queue string) bool {
	return strings.HasPrefix(queue, replyPrefix) && len(queue) < 255 && isPrintable(queue)
}

// handleRequest handles a request of an operator.
func (m *Membership) handleRequest(d *amqp.Delivery) error {
	var r request
	if err := decodeBody(d.Body, &r); err != nil {
		return err
	}
	if !isReplyQueue(d.ReplyTo) || !isText(d.CorrelationId) {
		return errReplyTo
	}
	query := statusQuery{replyTo: d.ReplyTo, correlation: d.CorrelationId, kind: d.Type, userID: r.UserID}
	if d.Type == typeStatus || d.Type == typeUser {
		select {
		case m.queries <- query:
		default:
		}
		return nil
	}
	if r.Instance != m.options.Self.Name {
		return nil
	}
	switch d.Type {
	case typeMove, typeUnmove:
		m.options.OnMove(r.Partition, d.Type == typeUnmove)
	default:
		m.options.OnDrain(d.Type == typeDrain)
	}
	m.sendReply(query, typeAccepted, encodeBody(envelope{V: wireVersion}))
	return nil
}

// runReporter replies to requests for reports until the membership is lost.
func (m *Membership) runReporter() {
	for {
		select {
		case q := <-m.queries:
			if q.kind == typeUser {
				m.sendReply(q, typeUserReport, encodeBody(userReportBody{envelope{V: wireVersion}, m.options.UserReport(q.userID)}))
				continue
			}
			body, err := encodeReport(m.options.Report())
			if err != nil {
				m.unsent.Log(1, zap.Error(err))
				continue
			}
			m.sendReply(q, typeReport, body)
		case <-m.lost:
			return
		}
	}
}

func (m *Membership) sendReply(q statusQuery, name string, body []byte) {
	m.enqueue(outboundMessage{kind: reply, key: q.replyTo, msgType: name, correlation: q.correlation, body: body})
}
