package actor

import "errors"

// ErrFenced says that nothing was written, since the lease is over.
var ErrFenced = errors.New("actor: the lease is over")
