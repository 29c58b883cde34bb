package ownership

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
	"github.com/glotpod/ident/cluster/ownership/silence"
	"github.com/glotpod/ident/cluster/partition"
)

// A registry has the other members that this instance knows: which are alive, silent or
// gone, and what each of them last said.
type registry struct {
	cfg          *Config
	self         Member
	byName       map[string]*member // without self; at most MaxMembers
	fullReported bool               // a member was refused because of MaxMembers
	clock        silence.Clock      // of this instance's own heartbeats
	suspicions   Suspicions         // also those of earlier sessions
}

// Suspicions count the members that were suspected because of their silence.
type Suspicions struct {
	Right int64 // the member was gone
	Wrong int64 // the member was heard again
}

// A member is the newest known incarnation of a name.
type member struct {
	Member
	state         State
	seq           int64             // of the latest message
	lastHeard     time.Time         // when the latest message came, or when the member became known
	watch         silence.Watch     // of its heartbeats
	silent        bool              // suspected because of its silence; the member may be alive all the same
	gone          bool              // according to the broker or to the member itself; this is certain
	refused       bool              // has other parameters
	returns       silence.Returns   // lives although silent or gone, according to the epoch table
	heardWhenGone bool              // a message of it, or of an older incarnation, came after it was gone
	weight        int               // in the ring, in tenths; 0: an older program does not say
	moves         moves.List        // to it
	wants         []partition.Lease // leases of ours that it asks for; at most Window
}

// isAlive reports whether the member counts as alive. The leases of a member that is
// not alive may be taken, unless the member is spared.
func (m *member) isAlive() bool { return !m.gone && !m.silent }

// isSpared reports whether the member does not count as alive, and its leases are not taken all
// the same.
func (m *member) isSpared(now time.Time) bool { return !m.isAlive() && m.returns.IsSpared(now) }

// isSpared reports whether a member is known and spared.
func (r *registry) isSpared(other Member, now time.Time) bool {
	m := r.byName[other.Name]
	return m != nil && m.Member == other && m.isSpared(now)
}

// inRing reports whether the member belongs in the ring.
func (m *member) inRing() bool { return m.isAlive() && m.state == Ready && !m.refused }

// wantsLease reports whether the member asks for our lease of a partition. Since the
// member last read the epoch table, we may have claimed the partition again under a
// later epoch.
func (m *member) wantsLease(p int, epoch int64) bool {
	return slices.ContainsFunc(m.wants, func(l partition.Lease) bool { return l.Partition == p && l.Epoch <= epoch })
}

func newRegistry(cfg *Config, self Member) registry {
	return registry{cfg: cfg, self: self, byName: make(map[string]*member)}
}

// find returns the member with a name, or nil.
func (r *registry) find(name string) *member { return r.byName[name] }

// noteReturn notes that a member lives although it is not heard, if it is the holder of the row and has
// taken back what this instance had taken from it.
func (r *registry) noteReturn(part *partitionState, row *Row, now time.Time) {
	if row.Holder != part.took.Holder || row.Epoch <= part.took.Epoch {
		return
	}
	part.took = partition.Lease{}
	if m := r.find(row.Holder.Name); m != nil && m.Member == row.Holder && !m.isAlive() {
		m.returns.Note(now)
	}
}

// names returns the members' names, sorted.
func (r *registry) names() []string {
	return slices.Sorted(maps.Keys(r.byName))
}

// isNewerSelf reports whether the member is a newer process with the name of this
// instance.
func (r *registry) isNewerSelf(other Member) bool {
	return other.Name == r.self.Name && other.Incarnation.Start > r.self.Incarnation.Start
}

// A lookupResult is what a look-up has changed.
type lookupResult uint8

const (
	unchanged  lookupResult = iota // or a member with a new name was added
	superseded                     // a newer incarnation has replaced an older one
	refused                        // there are MaxMembers already; reported once until there are fewer
)

// lookup returns what is known about a member, which it adds if it is new. It returns
// nil for an incarnation that a newer one has superseded, and for a new name if there
// are MaxMembers already.
func (r *registry) lookup(other Member, now time.Time) (*member, lookupResult) {
	result := unchanged
	if m, known := r.byName[other.Name]; known {
		switch other.Incarnation.Compare(m.Incarnation) {
		case -1:
			return nil, unchanged
		case 0:
			return m, unchanged
		}
		r.bury(m)
		result = superseded
	} else if len(r.byName) >= r.cfg.MaxMembers {
		if r.fullReported {
			return nil, unchanged
		}
		r.fullReported = true
		return nil, refused
	}
	m := &member{Member: other, lastHeard: now, watch: silence.Since(r.clock.At(now))}
	r.byName[other.Name] = m
	return m, result
}

// isRevenant reports whether a message comes from a member that is gone, or from an
// older incarnation of it. The member is noted, so that it is told that it is gone.
func (r *registry) isRevenant(from Member) bool {
	m := r.byName[from.Name]
	if m != nil && m.gone && from.Incarnation.Compare(m.Incarnation) <= 0 {
		m.heardWhenGone = true
		return true
	}
	return false
}

// update copies the state in a newer message of the member. Its weight and its moves are shared with
// the message.
func (r *registry) update(m *member, msg *Message, now time.Time) {
	if m.silent {
		r.suspicions.Wrong++
	}
	m.seq, m.state, m.lastHeard, m.silent = msg.Seq, msg.State, now, false
	m.weight, m.moves = msg.Weight, msg.Moves
	m.watch.Heard(r.clock.At(now), msg.Next)
	m.returns = silence.Returns{}
	m.wants = m.wants[:0]
	for _, lease := range msg.Wants {
		if lease.Holder == r.self && len(m.wants) < r.cfg.Window {
			m.wants = append(m.wants, lease)
		}
	}
}

// mustYield reports whether this instance, in the given state, is the one to be refused
// if its parameters differ from the member's: the one that came when the other was
// established, else the one that started later.
func (r *registry) mustYield(m *member, state State) bool {
	if m.state.established() != state.established() {
		return m.state.established()
	}
	theirs, ours := m.Incarnation.Start, r.self.Incarnation.Start
	return theirs < ours || theirs == ours && m.Name < r.self.Name
}

// ready returns the members that should be in the ring, sorted by name, if this instance is
// in the given state. While one of them has an older program, which knows of no weights, all
// have the same weight: so all members agree.
func (r *registry) ready(state State) []hashring.Member {
	var ready []hashring.Member
	if state == Ready {
		ready = append(ready, hashring.Member{Name: r.self.Name, Weight: r.cfg.Weight})
	}
	older := false
	for name, m := range r.byName {
		if m.inRing() {
			ready = append(ready, hashring.Member{Name: name, Weight: m.weight})
			older = older || m.weight == 0
		}
	}
	for n := range ready {
		if older {
			ready[n].Weight = hashring.UsualWeight
		}
	}
	slices.SortFunc(ready, func(a, b hashring.Member) int { return strings.Compare(a.Name, b.Name) })
	return ready
}

// announced returns the moves to the members with the given names, where own are those to
// this instance: none while one of them has an older program, which does not follow them.
func (r *registry) announced(names []string, own moves.List) []moves.Announcement {
	var all []moves.Announcement
	for _, name := range names {
		list := own
		if m := r.byName[name]; m != nil && m.weight == 0 {
			return nil
		} else if m != nil {
			list = m.moves
		}
		if len(list) > 0 {
			all = append(all, moves.Announcement{Member: name, Moves: list})
		}
	}
	return all
}

// anyJoining reports whether another member is joining.
func (r *registry) anyJoining() bool {
	for _, m := range r.byName {
		if m.isAlive() && m.state == Joining && !m.refused {
			return true
		}
	}
	return false
}

// bury notes that a member is certainly gone.
func (r *registry) bury(m *member) {
	if m.silent && !m.gone {
		r.suspicions.Right++
	}
	m.gone, m.wants, m.returns = true, nil, silence.Returns{}
}

// heartbeat returns the interval between two broadcasts without news. It is the same for all
// members, as far as they know of each other.
func (r *registry) heartbeat() time.Duration {
	there := time.Duration(0)
	for _, m := range r.byName {
		if !m.gone {
			there++
		}
	}
	return max(r.cfg.Heartbeat, there*r.cfg.Heartbeat/membersPerHeartbeat)
}

// suspectSilent marks the members that have been silent for too long, and returns them. It
// forgets those that have been gone for long. It also returns the members that have
// to be told that they are gone.
func (r *registry) suspectSilent(now time.Time) (suspected []*member, revenants []Member) {
	at := r.clock.At(now)
	for _, name := range r.names() {
		m := r.byName[name]
		if m.isAlive() && m.watch.IsOverdue(at) {
			m.silent, m.wants = true, nil
			suspected = append(suspected, m)
		}
		if m.heardWhenGone {
			m.heardWhenGone = false
			revenants = append(revenants, m.Member)
		}
		if m.watch.For(at) >= forgetAfter*r.cfg.Heartbeat && !m.returns.IsSpared(now) {
			delete(r.byName, name)
			r.fullReported = false
		}
	}
	return suspected, revenants
}

// appendProbed appends the members to be probed: those that follow this one in the order of names (so
// the death of a member is noticed by the members before it, and the work does not grow
// with the cluster), and a few members that may be dead and that no other member may
// probe: silent ones, and those known from the epoch table alone.
func (r *registry) appendProbed(probed []Member, random *rand.Rand) []Member {
	names := r.names()
	after, _ := slices.BinarySearch(names, r.self.Name)
	neighbours := neighboursPerCheck
	var doubtful []Member
	for i := range names {
		m := r.byName[names[(after+i)%len(names)]]
		switch {
		case m.gone:
		case m.silent || m.state == Absent:
			doubtful = append(doubtful, m.Member)
		case neighbours > 0:
			neighbours--
			probed = append(probed, m.Member)
		}
	}
	for range min(doubtfulPerCheck, len(doubtful)) {
		n := random.IntN(len(doubtful))
		probed = append(probed, doubtful[n])
		doubtful = slices.Delete(doubtful, n, n+1)
	}
	return probed
}
