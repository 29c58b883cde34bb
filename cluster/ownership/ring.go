package ownership

import (
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
)

// A ring has the members that partitions are assigned to, and decides when it follows a
// change of the members.
//
// Invariant: unless the instance is joining, hashed is what Assign returns for members.
type ring struct {
	cfg     *Config
	members []hashring.Member // the ready members, sorted by name
	names   []string          // of members
	hashed  []string          // by partition; "" if there is no owner
	owners  []string          // hashed with the moves

	next         []hashring.Member // what members will be; set while applyAt is
	differsSince time.Time         // since when members is not what it should be
	applyAt      time.Time         // when members changes; zero if it is what it should be
}

func newRing(cfg *Config) ring {
	r := ring{cfg: cfg, hashed: make([]string, cfg.Partitions)}
	r.owners = r.hashed
	return r
}

// schedule compares the ring with the members that should be in it, and sets the time
// at which it changes. A member that is no longer ready is removed at once. A new
// member, or another weight, waits for further ones, except if there is no ring yet and no other
// member is joining.
func (r *ring) schedule(now time.Time, state State, members *registry) {
	ready := members.ready(state)
	switch {
	case slices.Equal(ready, r.members):
		r.unschedule()
	case state == Joining:
		r.setMembers(ready) // no partition depends on it yet
	case slices.ContainsFunc(r.names, func(name string) bool { return !containsSorted(namesOf(ready), name) }),
		len(r.names) == 0 && !members.anyJoining():
		r.applyAt = now
	case !slices.Equal(ready, r.next):
		if r.differsSince.IsZero() {
			r.differsSince = now
		}
		r.next = ready
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

// apply changes the ring to the given members, which are sorted by name.
func (r *ring) apply(members []hashring.Member) {
	r.setMembers(members)
	r.hashed = r.cfg.Assign(members)
	r.owners = r.hashed
	r.unschedule()
}

func (r *ring) setMembers(members []hashring.Member) {
	r.members, r.names = members, namesOf(members)
}

// applyMoves has the partitions owned by the members to which they are moved.
func (r *ring) applyMoves(all []moves.Announcement) {
	if r.owners = r.hashed; len(all) > 0 {
		r.owners = slices.Clone(r.hashed)
		moves.Apply(r.owners, all)
	}
}

func namesOf(members []hashring.Member) []string {
	names := make([]string, len(members))
	for n, m := range members {
		names[n] = m.Name
	}
	return names
}

// TableVersion is the version of the assignment. Members with different versions do not work
// together.
const TableVersion = hashring.Version

// containsSorted reports whether the sorted names contain name.
func containsSorted(sorted []string, name string) bool {
	_, found := slices.BinarySearch(sorted, name)
	return found
}
