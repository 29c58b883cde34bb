package actor

import (
	"context"
	"errors"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// ErrFenced means that the lease was lost and nothing was written; or that it has to be
// given up, because only the next holder of the partition can know whether the first write
// was committed.
var ErrFenced = errors.New("actor: lease lost")

// A UserPage is a page of users.
type UserPage struct {
	Users       []User
	NextAfterID int64 // the AfterID of the next page; 0: this is the last page

	// After is a position of the log that was read before the users, if the page is the first
	// one. Each change that the page lacks comes after it. Otherwise After is "".
	After string
}

// A ChangePage is a page of changes.
type ChangePage struct {
	Changes []Change
	After   string // the position of the log after the page
	More    bool   // there may be later changes; the page may be empty then
}

// A Change is a change of a user that was committed.
type Change struct {
	UserID      int64
	Sequence    int64 // the number of the change among those of the user
	Operation   string
	CommittedAt time.Time // when the transaction of the change began, by the database's clock

	// Content is what the notification tells, without access tokens, in msgpack: of a create
	// the user, of a patch the operations. It is nil if the change is a delete.
	Content []byte
}

// A CommitStatus says what a [Store] is doing for a user, and for its partition.
type CommitStatus struct {
	Stage     string    // what the user's writes wait for, in words; "": the store has none
	Since     time.Time // when the store got them
	BusySince time.Time // when the partition's transaction began that is under way; zero: there is none
	Behind    int       // users whose writes wait for that transaction
}

// A Store keeps the users durably. All methods are safe for concurrent use.
//
// A method that returns an error has logged it. Nothing is then known about what
// happened in the database. If ctx is done, the request is left to the next owner of the
// partition; otherwise the caller gets [InvocationFailed].
type Store interface {
	// Find returns the user that l describes, nil if there is none.
	Find(ctx context.Context, l *Lookup) (*User, error)

	// List returns a page of users in the order of their ids, without access tokens. It is
	// shorter than wanted if the users are large.
	List(ctx context.Context, page *Page) (UserPage, error)

	// Changes returns changes of the log after a position. Those of each user are in the order
	// of their commits. The refusal is NoPosition or ChangesMissing.
	Changes(ctx context.Context, page *ChangesPage) (ChangePage, *Refusal, error)

	// NewUserID returns an id for the user that a create makes, which no user has had. If
	// the create turns out to be a replay, or to want an email or an account that a user
	// has, no id is drawn for it. Then it is decided, and NewUserID returns its outcome. With
	// nil, an id is drawn in any case.
	NewUserID(ctx context.Context, create *Write) (id int64, decided *Outcome, err error)

	// ReservedUserID returns an id as NewUserID does, without waiting and without looking at
	// the create. It returns 0 if no id is reserved.
	ReservedUserID() int64

	// ReturnUserID reserves an id again that a create got and has not used. It must be
	// certain that the create, or another delivery of it, will not use the id.
	ReturnUserID(id int64)

	// Commit applies the writes of one user in order, each at most once. There is at
	// least one write.
	//
	// Each write decides on the stored user as the writes before it have left it
	// ([Write.Decide]). One transaction commits the new state of the user, and for each
	// write its notification, and its outcome under its request id. If a write of that
	// request id was committed before, Commit returns the outcome of that one.
	//
	// While the writes decide, either the user's rows are locked; or the writes decide
	// on the first write's Cached user, and the transaction fails if the stored user has
	// another version.
	//
	// Commit may apply fewer writes than it was given. It returns their outcomes
	// and has done nothing about the remaining writes. An error is about the first
	// write. Without one, the lease was valid at some time during the call. When Commit
	// returns, the changes are durable. If the lease was lost, it
	// changes nothing and returns ErrFenced. After ErrFenced, nothing more may be committed
	// under the lease to that user. If it refuses a create with UserIDTaken,
	// later calls of NewUserID and ReservedUserID return other ids, which are free after
	// a few refusals at most.
	Commit(ctx context.Context, lease partition.Lease, writes []*Write) ([]Outcome, error)
}
