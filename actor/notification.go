package actor

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// A Notification tells subscribers about a committed change.
type Notification struct {
	RoutingKey string
	Body       []byte // JSON
	HasTokens  bool   // Body contains access tokens
}

// A PendingNotification is a notification in the outbox: it was committed with its
// change and stays there until the broker has confirmed it.
type PendingNotification struct {
	ID          int64 // increases in the order of each user's changes
	UserID      int64
	Partition   int       // the partition that committed it; -1: not known
	MessageID   uuid.UUID // the same each time it is sent
	RoutingKey  string
	Body        []byte // JSON
	TraceParent string // of the request, "" for none
	TraceState  string // of the request; not stored, so "" if it was read from the outbox
}

// A NotificationKey identifies a notification in the outbox. The id alone does not: a
// database that has lost its latest commits gives ids again.
type NotificationKey struct {
	ID        int64
	MessageID uuid.UUID
}

// Key returns the key of a notification.
func (n *PendingNotification) Key() NotificationKey {
	return NotificationKey{n.ID, n.MessageID}
}

// A StoredNotification is a notification in the outbox without its contents.
type StoredNotification struct {
	Partition int
	ID        int64
	UserID    int64
	Age       time.Duration // since the commit
}

// A NotificationSink receives notifications after their commits.
type NotificationSink interface {
	// Send receives a notification, in the order of each user's changes, and before the
	// user's next change is committed. It must not block.
	Send(PendingNotification)

	// Missed says that notifications of a partition may have been committed that were
	// not passed to Send.
	Missed(partition int)
}

func createNotification(u *User, tokens bool) Notification {
	return newNotification("notifications.user.create", u.tree(tokens), tokens)
}

func patchNotification(before, after *User, tokens bool) Notification {
	body := map[string]any{"user_id": after.ID, "ops": diff(before, after, tokens)}
	return newNotification("notifications.user.patch", body, tokens)
}

func deleteNotification(id int64) Notification {
	return newNotification("notifications.user.delete", map[string]any{"user_id": id}, false)
}

func newNotification(key string, body map[string]any, secret bool) Notification {
	return Notification{RoutingKey: key, Body: encodeJSON(body), HasTokens: secret}
}

// encodeJSON encodes v, which must consist of strings, integers, maps, lists and
// operations. It escapes only what JSON requires: encoding/json also escapes <, >, &,
// U+2028 and U+2029, for use in web pages, and makes them up to six times as long.
func encodeJSON(v any) []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // such values always encode
	}
	return unescapeSeparators(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// unescapeSeparators replaces the escapes of U+2028 and U+2029 in b by the characters.
// It works in place, because a character is shorter than its escape.
func unescapeSeparators(b []byte) []byte {
	i := bytes.Index(b, []byte(`\u202`))
	if i < 0 {
		return b
	}
	i = bytes.IndexByte(b, '\\') // a backslash before i may itself be escaped
	short := b[:i]
	for i < len(b) {
		switch {
		case bytes.HasPrefix(b[i:], []byte(`\u2028`)):
			short, i = append(short, "\u2028"...), i+6
		case bytes.HasPrefix(b[i:], []byte(`\u2029`)):
			short, i = append(short, "\u2029"...), i+6
		case b[i] == '\\':
			short, i = append(short, b[i], b[i+1]), i+2
		default:
			short, i = append(short, b[i]), i+1
		}
	}
	return short
}
