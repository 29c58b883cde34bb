package actor

import (
	"encoding/json"

	"github.com/google/uuid"
)

// A Notification is a notification of a change that has been committed.
type Notification struct {
	RoutingKey string
	Body       []byte // JSON
	HasTokens  bool   // Body holds access tokens
}

// A PendingNotification is a notice that was committed with its change, and is kept
// until the broker has it.
type PendingNotification struct {
	ID          int64 // rises in the order of each user's changes
	UserID      int64
	Partition   int       // whose lease it was committed under; -1: not known
	MessageID   uuid.UUID // the same each time that it is sent
	RoutingKey  string
	Body        []byte // JSON
	TraceParent string // of the request, "" if it had none
	TraceState  string // likewise; it is not stored, so what comes from the outbox has none
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
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings, integers, maps and lists of these always marshal
	}
	return Notification{RoutingKey: key, Body: b, HasTokens: secret}
}
