package actor

import "time"

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
