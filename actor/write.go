package actor

import (
	"errors"
	"time"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// A Write is a request that changes a user: create, patch or delete. It also
// stands for one of these that is refused whatever is stored.
type Write struct {
	Operation string    // "create", "patch" or "delete"
	UserID    int64     // of a create: 0 until an id was drawn for it
	RequestID RequestID // zero for a request that has none
	Digest    int64     // of operation and arguments: another request has another one
	Size      int       // of the request's body, in bytes
	FromQueue bool      // came by the partition's queue, which bounds how many there are

	// Cached is the user as the last write or read has found or left him, with
	// access tokens; nil where that is not known. It spares the store to read the
	// user. Another program may have changed the user since: the version tells. Of
	// writes that are committed together, the first one's counts.
	Cached *User

	// TraceParent is the W3C trace context of the request, "" for none, and
	// TraceState what tracers have added to it. Its notification carries them on.
	TraceParent, TraceState string

	Trace Trace // who follows the write; nil: nobody

	enqueuedAt time.Time // since when it has been in a mailbox, where somebody follows it

	user    User            // of a create, without its id
	patch   jsonpatch.Patch // of a patch
	ops     []byte          // of a patch: the operations in msgpack, as the caller gave them
	refusal *Refusal        // set: the request is malformed
}

// Refusal is the refusal of a write that is malformed, or names no user who
// can exist; nil for all others. Such a write belongs to no user.
func (w *Write) Refusal() *Refusal { return w.refusal }

// IsCreate says whether the write makes a new user, so that an id has to be
// drawn for it.
func (w *Write) IsCreate() bool { return w.refusal == nil && w.Operation == "create" }

// NeedsTokens says whether Decide wants to see the user's access tokens.
func (w *Write) NeedsTokens() bool { return w.refusal == nil && w.Operation == "patch" }

// NewUser is the user whom a create makes, if nothing stands against it; nil
// for all other writes. It is known before the transaction, unlike what Decide
// says.
func (w *Write) NewUser() *User {
	if !w.IsCreate() {
		return nil
	}
	u := w.user
	u.ID = w.UserID
	return &u
}

// A Decision is what a write does.
type Decision struct {
	Refusal      *Refusal     // set: nothing changes
	Next         *User        // the user from now on; nil: gone
	Notification Notification // what the world is told
}

// patchLimit bounds what applying the patch may cost: ample, and in proportion to
// the user, who may have been made larger than any request of now.
func (w *Write) patchLimit(current *User) jsonpatch.Limit {
	return jsonpatch.Limit{Work: 4<<20 + 4*(current.Size()+w.Size), Depth: 1000}
}

// Decide says what the write makes of the user as stored now, nil if there is
// none. It changes nothing and has no other inputs.
func (w *Write) Decide(current *User, tokensInNotifications bool) Decision {
	if w.refusal != nil {
		return Decision{Refusal: w.refusal}
	}
	if w.Operation == "create" {
		if current != nil {
			return Decision{Refusal: InternalError("the new user's id is taken")}
		}
		next := w.NewUser()
		return Decision{Next: next, Notification: createNotification(next, tokensInNotifications)}
	}
	if current == nil {
		return Decision{Refusal: NoSuchUser}
	}
	if w.Operation == "delete" {
		return Decision{Notification: deleteNotification(current.ID)}
	}
	next, refusal := w.applyPatch(current)
	if refusal != nil {
		return Decision{Refusal: refusal}
	}
	return Decision{Next: next, Notification: patchNotification(current, next, tokensInNotifications)}
}

func (w *Write) applyPatch(current *User) (*User, *Refusal) {
	tree, err := w.patch.Apply(current.tree(true), w.patchLimit(current))
	var e *jsonpatch.Error
	switch {
	case errors.As(err, &e) && (e.Kind == jsonpatch.Conflict || e.Kind == jsonpatch.TestFailed):
		return nil, refuse(PatchFailed, "%s", err)
	case err != nil:
		return nil, refuse(BadRequest, "%s", err)
	}
	next, err := parseUser(tree)
	if err == nil && next.Email != current.Email {
		err = next.checkEmail()
	}
	if err != nil {
		return nil, refuse(InvalidPatchResult, "%s", asRefusal(err).Message)
	}
	next.ID = current.ID
	return &next, nil
}

// An Outcome is what became of a write.
type Outcome struct {
	Refusal *Refusal // nil: it is done
	UserID  int64    // whom it was done to; of a create that came again, the user whom the first one made

	Applied bool // by this very call, and not by an earlier one

	// After is the user from now on, with access tokens, and of no version if other
	// writes of the same call have changed him after it. Nil is: gone, if it was
	// applied; not known, if not.
	After *User
}

// Reply words the answer to the write.
func (w *Write) Reply(o Outcome) []byte {
	switch {
	case o.Refusal != nil:
		return ErrorReply(o.Refusal)
	case w.Operation == "patch":
		return rawReply(w.ops)
	default:
		return userIDReply(o.UserID)
	}
}

// A Trace is told how a write goes on, by whoever does the work. It must not block.
type Trace interface {
	// Waited says that the write has been in its user's mailbox until it was given to
	// the store.
	Waited(since, until time.Time)

	// Committed says that the store is done with the write. It was given it at
	// since. begun is when it last began a transaction for it, and writes how many
	// writes that transaction has carried; zero, where there was none that has
	// succeeded.
	Committed(since, begun time.Time, writes int, err error)
}
