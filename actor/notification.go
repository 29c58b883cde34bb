package actor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/glotpod/ident/cluster/partition"
)

// A Notification tells subscribers about a committed change.
type Notification struct {
	RoutingKey string
	Body       []byte // JSON
	HasTokens  bool   // Body contains access tokens
}

// A PendingNotification is a notification of a change that the log has and that the broker has
// not confirmed.
type PendingNotification struct {
	UserID      int64
	Sequence    int64           // the number of the change among those of the user
	Lease       partition.Lease // under which the change was committed; only its partition, if it was read from the log
	Position    int64           // of the change in its partition; increases in the order of the commits
	CommittedAt time.Time       // when the transaction of the change began, by the database's clock
	RoutingKey  string
	Body        []byte // JSON
	TraceParent string // of the request, "" for none
	TraceState  string // of the request; not stored, so "" if it was read from the log
}

// notificationIDs is the namespace of the message ids of notifications.
var notificationIDs = uuid.MustParse("6c2d2a3e-3a0b-4e0e-9a53-0f6b8a1f5d21")

// MessageID returns the same id each time that the notification is sent, and another one for
// each change. A database that has lost its last commits may give a position again, but not at
// the same microsecond. The request id would not do: a request may be carried out a second
// time after such a loss, and with another result.
func (n *PendingNotification) MessageID() uuid.UUID {
	var key [20]byte
	binary.BigEndian.PutUint32(key[:], uint32(n.Lease.Partition))
	binary.BigEndian.PutUint64(key[4:], uint64(n.Position))
	binary.BigEndian.PutUint64(key[12:], uint64(n.CommittedAt.UnixMicro()))
	return uuid.NewSHA1(notificationIDs, key[:])
}

// A NotificationKey identifies a notification. Two of different users or partitions never
// have the same key.
type NotificationKey struct {
	Partition int
	UserID    int64
	Position  int64
}

// Key returns the key of a notification.
func (n *PendingNotification) Key() NotificationKey {
	return NotificationKey{n.Lease.Partition, n.UserID, n.Position}
}

// A NotificationProgress says which changes of a partition were notified: all up to Notified,
// except those of the users in HeldBack, from a position on.
type NotificationProgress struct {
	Notified int64
	Last     int64 // higher ones were committed after this was reported, or shortly before; math.MaxInt64: it is not known
	HeldBack map[int64]int64
}

// A TakenOver is a lease with what was notified of its partition under earlier ones.
type TakenOver struct {
	Lease partition.Lease
	NotificationProgress
	HasLater bool // there may be changes above Notified
}

// A NotificationSink receives notifications after their commits, and knows which of them the
// broker has confirmed.
type NotificationSink interface {
	// Send receives a notification, in the order of each user's changes, and before the
	// user's next change is committed. It must not block.
	Send(PendingNotification)

	// Missed says that notifications may have been committed under a lease that were not
	// passed to Send.
	Missed(partition.Lease)

	// Progress returns what was notified of the partition of a lease. If it is not known, or
	// if the partition has another lease, ok is false. The next Progress of the lease has no
	// lower position, neither for a user that stays held back.
	Progress(partition.Lease) (p NotificationProgress, ok bool)

	// Abandon says that a lease has ended.
	Abandon(partition.Lease)
}

// createNotification returns the notification of a new user.
func createNotification(u *User, tokens bool) (change []byte, n Notification) {
	change = encodeJSON(u.tree(false))
	n = Notification{RoutingKey: createKey, Body: change, HasTokens: tokens}
	if tokens {
		n.Body = encodeJSON(u.tree(true))
	}
	return change, n
}

// patchNotification returns the notification of a change from one state of a user to another.
func patchNotification(before, after *User, tokens bool) (change []byte, n Notification) {
	public := diff(before, after, false)
	change = encodeJSON(appendTokensReplaced(public, before, after))
	ops := change
	switch {
	case tokens:
		ops = encodeJSON(diff(before, after, true))
	case bytes.Contains(change, tokenMember):
		ops = encodeJSON(public)
	}
	return change, Notification{RoutingKey: patchKey, Body: patchBody(after.ID, ops), HasTokens: tokens}
}

func deleteNotification(id int64) Notification {
	return Notification{RoutingKey: deleteKey, Body: encodeJSON(map[string]any{"user_id": id})}
}

func patchBody(user int64, ops []byte) []byte {
	b := make([]byte, 0, len(ops)+40)
	b = append(append(b, `{"ops":`...), ops...)
	return append(strconv.AppendInt(append(b, `,"user_id":`...), user, 10), '}')
}

// The routing keys of notifications.
const (
	createKey = "notifications.user.create"
	patchKey  = "notifications.user.patch"
	deleteKey = "notifications.user.delete"
)

// NotificationOf returns the notification, without access tokens, of a change that the log
// has: of an operation on a user, with the [Decision]'s Change.
func NotificationOf(operation string, userID int64, change []byte) (Notification, error) {
	switch operation {
	case "create":
		return Notification{RoutingKey: createKey, Body: change}, nil
	case "patch":
		ops, err := withoutTokens(change)
		if err != nil {
			return Notification{}, fmt.Errorf("reading a change of the log: %w", err)
		}
		return Notification{RoutingKey: patchKey, Body: patchBody(userID, ops)}, nil
	case "delete":
		return deleteNotification(userID), nil
	default:
		return Notification{}, fmt.Errorf("the log has a change by the operation %q", operation)
	}
}

// withoutTokens removes the operations that say only that an access token was replaced.
func withoutTokens(change []byte) ([]byte, error) {
	if !bytes.Contains(change, tokenMember) {
		return change, nil
	}
	var all, public []json.RawMessage
	if err := json.Unmarshal(change, &all); err != nil {
		return nil, err
	}
	for _, raw := range all {
		var op struct {
			Path  string          `json:"path"`
			Value json.RawMessage `json:"value"`
		}
		if err := json.Unmarshal(raw, &op); err != nil {
			return nil, err
		}
		if op.Value != nil || !strings.HasSuffix(op.Path, tokenPath) {
			public = append(public, raw)
		}
	}
	ops := append([]byte{'['}, bytes.Join(rawBytes(public), []byte{','})...)
	return append(ops, ']'), nil
}

func rawBytes(all []json.RawMessage) [][]byte {
	b := make([][]byte, len(all))
	for i := range all {
		b[i] = all[i]
	}
	return b
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
