package silence

import "time"

const (
	// firstSpare and maxSpare bound for how long a member that has returned is spared.
	firstSpare = 2 * time.Second
	maxSpare   = time.Minute

	// returnFor is the time in which one return of a member is forgotten.
	returnFor = maxSpare / 2

	// returnEvery is the time in which several leases that a member takes back are one return.
	returnEvery = 500 * time.Millisecond
)

// Returns are the times at which the epoch table has shown that a member lives although
// this instance does not hear it: the member has taken a lease back that this instance had
// taken from it. Neither of the two hears the other. That is so if the nodes of the broker have
// lost contact. A member that returns is deposed again once, in case that it cannot serve what it
// has taken. From the second return on it is spared, for twice as long after each further one; and
// for longest if this instance could not serve what it had taken, since the member may do so better.
type Returns struct {
	count    int       // those that are not forgotten
	last     time.Time // when the latest one was noted
	until    time.Time // until when the member is spared
	unserved bool      // this instance could not serve a lease that it had taken
}

// Note notes that the member has taken a lease back.
func (r *Returns) Note(now time.Time) {
	since := now.Sub(r.last)
	if since < returnEvery {
		return
	}
	r.count = max(0, r.count-int(since/returnFor)) + 1
	r.last = now
	spare := time.Duration(0)
	switch {
	case r.unserved:
		spare = maxSpare
	case r.count > 1:
		spare = min(firstSpare<<min(r.count-2, 10), maxSpare)
	}
	if until := now.Add(spare); until.After(r.until) {
		r.until = until
	}
	r.unserved = false
}

// NoteUnserved notes that this instance could not serve what it has taken from the member.
func (r *Returns) NoteUnserved() { r.unserved = true }

// IsSpared reports whether no lease may be taken from the member because of its silence.
func (r *Returns) IsSpared(now time.Time) bool { return now.Before(r.until) }
