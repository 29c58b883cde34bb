package actor

import "context"

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

	// Commit applies w once: it lets w decide on the user as stored, and commits
	// the change, the notice and the outcome under w's identity; or, where a write
	// of that identity was committed before, returns that one's outcome. The user
	// is locked when w decides; or w decides on the user whom it knows, and that is
	// committed only if he is still so. It
	// returns when the commit is durable. If the lease is over, it changes nothing
	// and returns ErrFenced.
	Commit(ctx context.Context, lease Lease, w *Write) (Outcome, error)
}
