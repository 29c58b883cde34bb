package ownership

import (
	"slices"
	"time"
)

// A ring has the members that partitions are assigned to, and decides when it follows a
// change of the members.
//
// Invariant: unless the instance is joining, owners is what Assign returns for names.
type ring struct {
	cfg    *Config
	names  []string // the names of the ready members, sorted
	owners []string // by partition; "" if there is no owner

	next         []string  // what names will be; set while applyAt is
	differsSince time.Time // since when names is not what it should be
	applyAt      time.Time // when names changes; zero if it is what it should be
}

func newRing(cfg *Config) ring {
	return ring{cfg: cfg, owners: make([]string, cfg.Partitions)}
}

// schedule compares the ring with the members that should be in it, and sets the time
// at which it changes. A member that is no longer ready is removed at once. A new
// member waits for further new members, except if there is no ring yet and no other
// member is joining.
func (r *ring) schedule(now time.Time, state State, members *registry) {
	names := members.readyNames(state)
	switch {
	case slices.Equal(names, r.names):
		r.unschedule()
	case state == Joining:
		r.names = names // no partition depends on it yet
	case slices.ContainsFunc(r.names, func(name string) bool { return !containsSorted(names, name) }),
		len(r.names) == 0 && !members.anyJoining():
		r.applyAt = now
	case !slices.Equal(names, r.next):
		if r.differsSince.IsZero() {
			r.differsSince = now
		}
		r.next = names
		r.applyAt = now.Add(r.cfg.Debounce)
		if latest := r.differsSince.Add(maxDebounces * r.cfg.Debounce); latest.Before(r.applyAt) {
			r.applyAt = latest
		}
	}
}

func (r *ring) unschedule() {
	r.next, r.differsSince, r.applyAt = nil, time.Time{}, time.Time{}
}

// isDue reports whether the ring has to change now.
func (r *ring) isDue(now time.Time) bool {
	return !r.applyAt.IsZero() && !now.Before(r.applyAt)
}

// apply changes the ring to the given names, which are sorted.
func (r *ring) apply(names []string) {
	r.names = names
	r.owners = r.cfg.Assign(names)
	r.unschedule()
}
