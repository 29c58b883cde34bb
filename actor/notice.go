package actor

import (
	"encoding/json"

	"github.com/google/uuid"
)

// A Notification is a notification of a change that has been committed.
type Notification struct {
	RoutingKey string
	Body       []byte // JSON
	Secret     bool   // Body holds access tokens
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

// operation is one operation of a JSON Patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitzero"`
}

func created(u *User, tokens bool) Notification {
	return notice("notifications.user.create", u.tree(tokens), tokens)
}

func patched(before, after *User, tokens bool) Notification {
	body := map[string]any{"user_id": after.ID, "ops": diff(before, after, tokens)}
	return notice("notifications.user.patch", body, tokens)
}

func deleted(id int64) Notification {
	return notice("notifications.user.delete", map[string]any{"user_id": id}, false)
}

func notice(key string, body map[string]any, secret bool) Notification {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings, integers, maps and lists of these always marshal
	}
	return Notification{RoutingKey: key, Body: b, Secret: secret}
}

// diff is the JSON Patch that makes after out of before, as those see the two
// who are shown access tokens, or are not.
func diff(before, after *User, tokens bool) []operation {
	ops := []operation{}
	if before.Name != after.Name {
		ops = append(ops, operation{"replace", "/name", after.Name})
	}
	if before.Email != after.Email {
		ops = append(ops, operation{"replace", "/email", after.Email})
	}
	switch b, a := before.PictureURL, after.PictureURL; {
	case b == nil && a != nil:
		ops = append(ops, operation{"add", "/picture_url", *a})
	case b != nil && a == nil:
		ops = append(ops, operation{Op: "remove", Path: "/picture_url"})
	case b != nil && *b != *a:
		ops = append(ops, operation{"replace", "/picture_url", *a})
	}
	ops = diffAccount(ops, "/github", before.GitHub, after.GitHub, tokens)
	return diffAccount(ops, "/facebook", before.Facebook, after.Facebook, tokens)
}

func diffAccount(ops []operation, path string, before, after *Account, tokens bool) []operation {
	switch {
	case before == nil && after == nil:
		return ops
	case before == nil:
		return append(ops, operation{"add", path, after.tree(tokens)})
	case after == nil:
		return append(ops, operation{Op: "remove", Path: path})
	}
	if before.ID != after.ID {
		ops = append(ops, operation{"replace", path + "/id", after.ID})
	}
	if tokens && before.AccessToken != after.AccessToken {
		ops = append(ops, operation{"replace", path + "/access_token", after.AccessToken})
	}
	return ops
}
