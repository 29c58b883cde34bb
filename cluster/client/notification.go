package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// notificationPrefix begins the routing key of each notification. The operation follows.
const notificationPrefix = "notifications.user."

// schema is the form of notifications that parseNotification knows.
const schema = 1

// parseNotification returns the change that a notification tells. The error wraps
// [ErrMalformed].
func parseNotification(d *amqp.Delivery) (*Change, error) {
	c := new(Change)
	c.Operation, _ = strings.CutPrefix(d.RoutingKey, notificationPrefix)
	c.Sequence, _ = d.Headers["sequence"].(int64)
	c.TraceParent, _ = d.Headers["traceparent"].(string)
	at, _ := d.Headers["committed_at"].(string)
	c.Time, _ = time.Parse(time.RFC3339Nano, at)
	var err error
	if c.Operation == "create" {
		c.User = new(User)
		err = decodeJSON(d.Body, c.User)
		c.UserID = c.User.ID
	} else {
		var body struct {
			UserID int64 `json:"user_id"`
			Ops    []Op  `json:"ops"`
		}
		err = decodeJSON(d.Body, &body)
		c.UserID, c.Ops = body.UserID, body.Ops
	}
	if number, _ := d.Headers["schema"].(int32); number != schema || err != nil || !c.isWhole() {
		return nil, fmt.Errorf("%w: the notification %.100q", ErrMalformed, d.RoutingKey)
	}
	for i := range c.Ops {
		c.Ops[i].Value = withIntegers(c.Ops[i].Value)
	}
	return c, nil
}

func decodeJSON(text []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // a float64 has too few bits
	return decoder.Decode(v)
}

// withIntegers replaces each json.Number in v with an int64, or a float64.
func withIntegers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			v[key] = withIntegers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = withIntegers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}

// maxSequences is how many users a watcher remembers at least. With half as many users that
// changed longer ago, they take some 10 MiB.
const maxSequences = 100_000

// sequences remembers the sequence of the last change of the users that were changed last.
type sequences struct {
	size        int
	recent, old map[int64]int64 // old has the users from before recent was emptied
}

func newSequences(size int) *sequences { return &sequences{size: size, recent: make(map[int64]int64)} }

func (s *sequences) get(userID int64) int64 { return max(s.recent[userID], s.old[userID]) }

func (s *sequences) set(userID, sequence int64) {
	if len(s.recent) >= s.size {
		s.old, s.recent = s.recent, make(map[int64]int64)
	}
	s.recent[userID] = sequence
}
