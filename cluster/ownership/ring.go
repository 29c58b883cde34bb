package ownership

import (
	"slices"
	"time"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
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

// TableVersion is the version of [Assign]. Members with different versions do not work
// together. It has to be raised with each change that assigns even one partition
// differently.
const TableVersion = 1

// Assign returns the member that owns each partition. The result depends on the
// arguments alone, and not on order or repetitions in members, so instances that see
// the same members agree. No member has more than the average plus a quarter, rounded
// up. If there are more members than partitions, some members have none. Without
// members, each owner is "".
func Assign(members []string, partitions int) []string {
	if partitions < 1 {
		return nil
	}
	members = slices.Clone(members)
	slices.Sort(members)
	return NewTable(partitions).Assign(slices.Compact(members))
}

// A Table is a hash ring that is updated by the members that join and leave. With
// hundreds of members, an update costs a hundredth of a new ring. It is not safe for
// concurrent use.
type Table struct {
	partitions int
	names      []string // the members of ring
	ring       *consistent.Consistent
}

// NewTable returns a table without members.
func NewTable(partitions int) *Table {
	return &Table{
		partitions: partitions,
		ring: consistent.New(nil, consistent.Config{
			Hasher:            hasher{},
			PartitionCount:    partitions,
			ReplicationFactor: 100,
			Load:              1.25,
		}),
	}
}

// Assign is like the function [Assign] for names that are sorted and distinct.
func (t *Table) Assign(names []string) []string {
	// Names that stay are not removed, so the ring is never empty in between, unless
	// all names change.
	for _, name := range t.names {
		if !containsSorted(names, name) {
			t.ring.Remove(name)
		}
	}
	for _, name := range names {
		if !containsSorted(t.names, name) {
			t.ring.Add(ringMember(name))
		}
	}
	t.names = slices.Clone(names)

	owners := make([]string, t.partitions)
	if len(names) > 0 {
		for p := range owners {
			owners[p] = t.ring.GetPartitionOwner(p).String()
		}
	}
	return owners
}

// containsSorted reports whether the sorted names contain name.
func containsSorted(sorted []string, name string) bool {
	_, found := slices.BinarySearch(sorted, name)
	return found
}

type ringMember string

func (m ringMember) String() string { return string(m) }

type hasher struct{}

func (hasher) Sum64(key []byte) uint64 { return xxhash.Sum64(key) }
