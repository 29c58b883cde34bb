package actor

import (
	"errors"
	"time"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// A Write is a request that changes a user: a create, patch or delete. A Write may be
// malformed; then it is refused whatever is stored, and Refusal returns why.
type Write struct {
	Operation string    // "create", "patch" or "delete"
	UserID    int64     // of a create: 0 until the caller has set a new id
	RequestID RequestID // zero if the request has none
	Digest    int64     // hash of the operation and its arguments; distinguishes a replay from another request with the same id
	Size      int       // of the request's body in bytes
	FromQueue bool      // came from the partition queue; no mailbox is full for it

	// FirstReceived is when the request was received, if its RequestID tells it from
	// another request only for a while: if both are received within some minutes. Zero:
	// every request with this id is the same one.
	FirstReceived time.Time

	// Expires is when the write is dropped if no attempt to commit it has begun, or all have failed;
	// zero: never.
	Expires time.Time

	// Cached is the user as the last write or read of this partition saw it, with access
	// tokens; nil if that is not known. With it the store need not read the user.
	// Another program may have changed the user in the meantime; the store compares the
	// version. Of writes that are committed together, only the first one's Cached counts.
	Cached *User

	// AtOnce says that the write does not wait for other writes that may come and share its transaction.
	AtOnce bool

	// Caller is the caller's login at the broker, "" if it is not known.
	Caller string

	// HidesTokens says that the caller must not learn access tokens. Such a write may replace,
	// move and remove them, but a patch cannot see them.
	HidesTokens bool

	// TraceParent and TraceState are the W3C trace context of the request, "" for none.
	// The notification carries the same ones.
	TraceParent, TraceState string

	Trace Trace // gets the times of the write's stages; may be nil

	user    User            // of a create, without id
	patch   jsonpatch.Patch // of a patch
	ops     []byte          // of a patch: its operations in msgpack, as the caller sent them
	refusal *Refusal        // set: the write is malformed
}

// IsExpired reports whether the write is to be dropped.
func (w *Write) IsExpired(now time.Time) bool { return !w.Expires.IsZero() && now.After(w.Expires) }

// Refusal returns why the write is refused whatever is stored: it is malformed, or its
// user id is out of range. Such a write belongs to no user. For all other writes,
// Refusal returns nil.
func (w *Write) Refusal() *Refusal { return w.refusal }

// Refused returns a copy of a create that is refused whatever is stored. Like a malformed write
// it belongs to no user.
func (w *Write) Refused(why *Refusal) *Write {
	refused := *w
	refused.refusal = why
	return &refused
}

// IsCreate reports whether the write makes a new user and therefore needs a new id.
func (w *Write) IsCreate() bool { return w.refusal == nil && w.Operation == "create" }

// NeedsTokens reports whether Decide needs the user's access tokens.
func (w *Write) NeedsTokens() bool { return w.refusal == nil && w.Operation == "patch" }

// NewUser returns the user that a create makes if it is not refused, nil for all other
// writes. It does not depend on what is stored.
func (w *Write) NewUser() *User {
	if !w.IsCreate() {
		return nil
	}
	u := w.user
	u.ID = w.UserID
	return &u
}

// A Decision is the effect of a write.
type Decision struct {
	Refusal *Refusal // not nil: nothing changes
	Next    *User    // the user after the write; nil: deleted

	// Change is the change in JSON, without access tokens. Of a create it is the user. Of a
	// patch it is a JSON Patch from the earlier to the later state of the user, with
	// operations without a value for access tokens that were replaced. Of a delete it is nil.
	Change []byte

	Notification Notification // for the subscribers
}

// patchLimit bounds the cost of applying the patch. The limit is generous and grows with
// the stored user, which may be larger than today's limit of a request.
func (w *Write) patchLimit(current *User) jsonpatch.Limit {
	size := current.Size() + w.Size
	if w.HidesTokens {
		size -= current.tokensSize()
	}
	return jsonpatch.Limit{Work: 4<<20 + 4*size, Depth: 1000}
}

// Decide computes the effect of the write on the stored user; current is nil if the user
// does not exist. Decide is a pure function. tokensInNotifications decides
// whether the notification contains access tokens.
func (w *Write) Decide(current *User, tokensInNotifications bool) Decision {
	if w.refusal != nil {
		return Decision{Refusal: w.refusal}
	}
	if w.Operation == "create" {
		if current != nil {
			return Decision{Refusal: UserIDTaken}
		}
		next := w.NewUser()
		change, n := createNotification(next, tokensInNotifications)
		return Decision{Next: next, Change: change, Notification: n}
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
	change, n := patchNotification(current, next, tokensInNotifications)
	return Decision{Next: next, Change: change, Notification: n}
}

func (w *Write) applyPatch(current *User) (*User, *Refusal) {
	before := current.tree(true)
	if w.HidesTokens {
		hideTokens(before)
	}
	tree, err := w.patch.Apply(before, w.patchLimit(current))
	var e *jsonpatch.Error
	switch {
	case errors.As(err, &e) && (e.Kind == jsonpatch.Conflict || e.Kind == jsonpatch.TestFailed):
		return nil, refuse(PatchFailed, "%s", err)
	case err != nil:
		return nil, refuse(BadRequest, "%s", err)
	}
	if w.HidesTokens {
		if tree = showTokens(tree); jsonpatch.HasHidden(tree) {
			return nil, refuse(PatchFailed, "an access token cannot be put anywhere else than into an account")
		}
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

// An Outcome is the result of a write that was committed or refused.
type Outcome struct {
	Refusal *Refusal // nil: the write was applied
	UserID  int64    // the user it was applied to; of a replayed create, the user that the first one made

	Applied bool // this call applied the write; false for a replay

	// After is the user after the write, with access tokens. It has no version if
	// later writes of the same call changed the user again. Nil means: deleted, if
	// Applied is set; not known, otherwise.
	After *User
}

// Reply encodes the reply to the write.
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

// A Trace records how long the stages of a write took. Its methods must not block.
type Trace interface {
	// Waited records the time that the write spent in its user's mailbox. At until it
	// was given to the store.
	Waited(since, until time.Time)

	// Committed records the time that the write spent in the store, from since to now.
	// begun is when the last transaction for it began, and writes is the number of
	// writes in that transaction. Both are zero if no transaction succeeded.
	Committed(since, begun time.Time, writes int, err error)
}
