package actor

import (
	"context"
	"errors"

	"github.com/glotpod/ident/cluster/partition"
)

// ErrFenced says that nothing was written, since the lease is over.
var ErrFenced = errors.New("actor: the lease is over")

// A Store keeps the users. All methods may be called by many goroutines.
//
// An error means that nothing is known to have happened and the caller should
// be told so ([InvocationFailed]), or, where ctx is done, that the request is
// left for whoever takes it next. It has been logged.
type Store interface {
	// Find returns the user whom l describes, nil if there is none.
	Find(ctx context.Context, l *Lookup) (*User, error)

	// List returns a page of users by id, without access tokens, and what the
	// next page comes after, 0 if there is none.
	List(ctx context.Context, page *Page) (users []User, nextAfterID int64, err error)

	// NewUserID draws an id that no user had or will have.
	NewUserID(ctx context.Context) (int64, error)

	// ReservedUserID is NewUserID, but does not wait: it returns 0 where that has to.
	ReservedUserID() int64

	// Commit applies writes to one user, in order, each of them once: it lets each
	// decide on the user as stored and as the writes before it have left him, and
	// commits, in one transaction, the changes, and the notice and the outcome of
	// each under its identity; or, where a write of that identity was committed
	// before, returns that one's outcome. The user is locked when they decide; or they
	// decide on the user whom the first one knows, and that is committed only if he is
	// still so.
	//
	// There is one write at least. As many as can be committed together are: Commit
	// returns their outcomes, and has done nothing about the others. An error is about
	// the first one. Commit returns when all is durable. If the lease is over, it
	// changes nothing and returns ErrFenced.
	Commit(ctx context.Context, lease partition.Lease, writes []*Write) ([]Outcome, error)
}
