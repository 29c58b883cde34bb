package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"testing"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

var limits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

// Args are the arguments of an operation.
type Args = map[string]any

// Request returns the write that a request asks for.
func Request(t testing.TB, operation, messageID string, a Args) *actor.Write {
	t.Helper()
	body, err := msgp.AppendMapStrIntf(nil, a)
	if err != nil {
		t.Fatal(err)
	}
	r, refusal := actor.Parse(operation, body, actor.RequestIDOf(messageID, "", ""), limits)
	if refusal != nil || r.Write == nil {
		t.Fatalf("%s %v is not a write: %v", operation, a, refusal)
	}
	return r.Write
}

// UserArgs returns the arguments that create the user number n.
func UserArgs(n int) Args {
	return Args{"name": fmt.Sprintf("Ada %d", n), "email": fmt.Sprintf("ada%d@example.org", n),
		"github": Args{"id": n, "access_token": fmt.Sprintf("token-%d", n)}}
}

// Replace returns a JSON Patch that replaces one value.
func Replace(path string, value any) []any {
	return []any{Args{"op": "replace", "path": path, "value": value}}
}

// Commit commits one write.
func Commit(ctx context.Context, s actor.Store, lease partition.Lease, w *actor.Write) (actor.Outcome, error) {
	outcomes, err := s.Commit(ctx, lease, []*actor.Write{w})
	if err != nil {
		return actor.Outcome{}, err
	}
	return outcomes[0], nil
}

// CommitUnder commits a write under a lease. Every other write has the user that the harness has cached, which
// may be out of date.
func (h *Harness) CommitUnder(s *store.Store, lease partition.Lease, w *actor.Write) (actor.Outcome, error) {
	if cached, ok := h.cached.Load(w.UserID); ok && h.commits.Add(1)%2 == 0 {
		w.Cached = cached.(*actor.User)
	}
	o, err := Commit(h.T.Context(), s, lease, w)
	if err == nil && o.After != nil {
		h.cached.Store(o.After.ID, o.After)
	}
	return o, err
}

// DrawUserID returns an id for a create, whatever that is.
func DrawUserID(ctx context.Context, s *store.Store) (int64, error) {
	id, _, err := s.NewUserID(ctx, nil)
	return id, err
}

// Write commits the write of a request under the lease of the harness.
func (h *Harness) Write(operation, messageID string, a Args) actor.Outcome {
	h.T.Helper()
	w := Request(h.T, operation, messageID, a)
	if w.IsCreate() {
		id, err := DrawUserID(h.T.Context(), h.Store)
		if err != nil {
			h.T.Fatal(err)
		}
		w.UserID = id
	}
	o, err := h.CommitUnder(h.Store, h.Lease, w)
	if err != nil {
		h.T.Fatalf("%s: %v", operation, err)
	}
	return o
}

// CreateUser creates the user number n and returns its id.
func (h *Harness) CreateUser(n int) int64 {
	h.T.Helper()
	o := h.Write("create", rand.Text(), UserArgs(n))
	if o.Refusal != nil {
		h.T.Fatal(o.Refusal)
	}
	return o.UserID
}

// User returns the stored user, or nil.
func (h *Harness) User(id int64) *actor.User {
	h.T.Helper()
	u, err := h.Find(h.T.Context(), &actor.Lookup{UserID: &id})
	if err != nil {
		h.T.Fatal(err)
	}
	return u
}

// SameReply reports whether two outcomes have the same reply.
func SameReply(a, b actor.Outcome) bool {
	return a.UserID == b.UserID && reflect.DeepEqual(a.Refusal, b.Refusal)
}

// WantCode ends the test if the outcome is not a refusal with this code.
func WantCode(t testing.TB, o actor.Outcome, code actor.Code) {
	t.Helper()
	if o.Refusal == nil || o.Refusal.Code != code {
		t.Fatalf("outcome %+v, want the refusal %s", o, code)
	}
}

// RenameUser commits a write that renames a user, under a lease. If the write is refused, the
// error is the refusal.
func (h *Harness) RenameUser(s *store.Store, lease partition.Lease, id int64, name string) error {
	w := Request(h.T, "patch", "", Args{"user_id": id, "ops": Replace("/name", name)})
	o, err := h.CommitUnder(s, lease, w)
	if err == nil && o.Refusal != nil {
		err = o.Refusal
	}
	return err
}

// WriteCached commits a write that decides on a cached user.
func (h *Harness) WriteCached(cached *actor.User, operation, messageID string, a Args) actor.Outcome {
	h.T.Helper()
	w := Request(h.T, operation, messageID, a)
	w.Cached = cached
	o, err := Commit(h.T.Context(), h, h.Lease, w)
	if err != nil {
		h.T.Fatal(err)
	}
	return o
}

// StoredNotifications returns the first 100 stored notifications of partition 0.
func (h *Harness) StoredNotifications() []actor.PendingNotification {
	h.T.Helper()
	return StoredNotifications(h.T, h.Store, 0)
}
