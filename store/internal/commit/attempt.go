package commit

import (
	"slices"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/userrows"
)

// An attempt tries once to commit a group of pending writes in one transaction. Each
// user has at most one pending write in it, and each request id at most one write.
type attempt struct {
	decider  *decider
	begun    time.Time
	group    []*pending                          // those that take part
	leases   map[int]partition.Lease             // of the group's partitions that are not released
	rows     map[int64]int                       // how many rows each user had before the rows were locked
	stored   map[int64]*userrows.Stored          // the rows that this transaction has locked
	recorded map[actor.RequestID]recordedOutcome // of the group's requests
	owners   userrows.KeyOwners                  // of emails and service ids
	size     int                                 // about how many bytes are written for the decisions so far
	tables   changelog.Tables
	plan     plan
}

// A recordedOutcome is what the log says about a request.
type recordedOutcome struct {
	digest  int64
	outcome actor.Outcome
	age     time.Duration
}

// idReusedAfter is the age from which a record is of another request than one with the same
// request id that has a FirstReceived. It counts until the latter was first received.
const idReusedAfter = 10 * time.Minute

// record returns the recorded outcome of the i-th write of p, if it was decided before.
func (a *attempt) record(p *pending, i int) (row recordedOutcome, decided bool) {
	row, recorded := a.recorded[p.requestIDs[i]]
	return row, recorded && !a.isOfAnother(row, p.writes[i])
}

// isOfAnother reports whether a record with the request id of a write is of another request.
func (a *attempt) isOfAnother(row recordedOutcome, w *actor.Write) bool {
	return !w.FirstReceived.IsZero() && row.age > idReusedAfter+max(0, a.begun.Sub(w.FirstReceived))
}

// newAttempt returns an attempt with the pending writes of the group that can share a
// transaction. The other pending writes get the result others.
func (c *Committer) newAttempt(group []*pending, others commitstate.Result, tables changelog.Tables) *attempt {
	a := &attempt{decider: &c.decider, begun: time.Now(), group: chooseDistinct(group, others), tables: tables}
	a.plan = plan{planner: &c.planner}
	for _, p := range group {
		if p.turn != nil {
			p.turn.planned = p.turn.next
		}
	}
	return a
}

// chooseDistinct returns the pending writes of the group that can share a transaction, in
// a new slice, and sets how many of their writes are in the attempt. The other pending
// writes get the result others.
func chooseDistinct(group []*pending, others commitstate.Result) (chosen []*pending) {
	if len(group) == 1 && len(group[0].writes) == 1 {
		group[0].inAttempt = 1
		return slices.Clone(group)
	}
	users := make(map[int64]bool, len(group))
	requests := make(map[actor.RequestID]bool, len(group))
	for _, p := range group {
		user := p.first().UserID
		if user == 0 || !users[user] { // a refused write may belong to no user
			for _, id := range p.requestIDs[:p.progress.MaxInAttempt] {
				if requests[id] {
					break
				}
				requests[id] = true
				p.inAttempt++
			}
		}
		if p.inAttempt == 0 {
			p.leaveOut(others)
			continue
		}
		users[user] = true
		chosen = append(chosen, p)
	}
	return chosen
}

const (
	// decideGroupFor bounds how long the writes of a group may take to decide, while
	// other groups wait and rows may be locked. The last of these writes may exceed it.
	decideGroupFor = 500 * time.Millisecond

	// decideUserFor bounds how long the writes to one user may take to decide. The
	// writes to other users in the same transaction wait meanwhile.
	decideUserFor = 20 * time.Millisecond
)

// isFull reports whether no further decision fits. An attempt has at least one decision.
func (a *attempt) isFull(deadline time.Time) bool {
	return a.size > maxGroupBytes || time.Now().After(deadline)
}

// leaveOutRest takes the pending writes from the i-th one on out of the attempt.
func (a *attempt) leaveOutRest(i int) {
	for _, p := range a.group[i:] {
		p.leaveOut(commitstate.LeftOut)
	}
}

// announce follows the commit of an attempt. It sets the versions of the written users and
// sends the notifications. It returns how many writes have an outcome.
func (c *Committer) announce(group []*pending, pl *plan) (committed int) {
	pl.setVersions()
	usePlanned(group)
	c.seen.Committed(pl.toSend)
	c.outbox.Send(pl.toSend)
	for _, p := range group {
		committed += len(p.outcomes)
	}
	for _, p := range group {
		p.shared = committed
	}
	return committed
}

// reportMissed follows the read of the last positions. If an attempt of unknown outcome was
// committed after all, its changes are still to be notified.
func (c *Committer) reportMissed(a *attempt) {
	for _, p := range a.group {
		if p.turn == nil || !p.turn.nextUnknown {
			continue
		}
		p.turn.nextUnknown = false
		if p.turn.planned > p.turn.next {
			p.turn.next = p.turn.planned
			if a.leaseValid(p.lease) {
				c.outbox.Missed(p.lease)
			}
		}
	}
}
