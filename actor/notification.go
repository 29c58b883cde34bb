package actor

import "github.com/google/uuid"

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
