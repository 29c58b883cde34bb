package ownership

import (
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// claim asks the epoch table for the partition: for a released row, or for the lease of
// a dead holder.
//
// An instance that is cut off claims nothing. It does so as soon as it hears itself.
//
// Invariant: the epoch to depose comes from a reply of the epoch table, never from what
// this instance has held. So the lease belongs to another member, or to this instance
// and nothing runs under it.
func (ps *partitions) claim(p int, depose partition.Lease) {
	part := &ps.states[p]
	if ps.isCutOff() {
		ps.transition(p, waiting)
		part.holder, part.retryAt = Member{}, ps.now
		return
	}
	ps.transition(p, claiming)
	ps.lastAttempt++
	part.attempt, part.deposed = ps.lastAttempt, depose
	ps.emit(Claim{Partition: p, Attempt: part.attempt, Depose: depose.Epoch, Seen: part.seen, By: ps.self})
}

// onClaimed handles the reply to a claim that succeeded. If the lease is no longer
// needed, it is released.
func (ps *partitions) onClaimed(e Claimed) {
	ps.onDatabaseReply()
	part := &ps.states[e.Partition]
	part.saw(e.Epoch)
	lease := heldLease(e.Partition, e.Epoch, ps.self)
	if !part.isCurrentAttempt(e.Attempt) {
		ps.release(lease)
		return
	}
	part.won(lease, e.Deposed, ps.now)
	if !ps.isOurs(e.Partition) {
		ps.transition(e.Partition, idle)
		ps.release(lease)
		return
	}
	if part.deposed.Holder.Name == ps.self.Name {
		part.deposed = partition.Lease{}
	}
	if part.deposed.Epoch != 0 {
		part.took = part.deposed
		ps.outbox.facts.Taken = append(ps.outbox.facts.Taken, lease)
		ps.sendSoon()
	}
	part.epoch = e.Epoch
	ps.transition(e.Partition, starting)
	ps.emit(Consume{Lease: lease, WriteFrom: part.safeAt})
}

// release has a lease released under which nothing runs here.
func (ps *partitions) release(lease partition.Lease) {
	ps.emit(Release{Lease: lease, NotBefore: ps.states[lease.Partition].safeToRelease(lease, ps.now)})
}

// onClaimRefused handles the reply to a claim that failed because another lease stands.
// The row is what the epoch table says now, so this is the time to check whether the
// holder is alive. If the holder is a newer process with the name of this instance,
// onClaimRefused decides nothing and returns true.
func (ps *partitions) onClaimRefused(e ClaimRefused) (superseded bool) {
	p := e.Row.Partition
	ps.onDatabaseReply()
	ps.states[p].saw(e.Row.Epoch)
	ps.members.noteReturn(&ps.states[p], &e.Row, ps.now)
	if !ps.states[p].isCurrentAttempt(e.Attempt) {
		return false
	}
	switch {
	case !ps.isOurs(p):
		ps.transition(p, idle)
	case e.Row.Released:
		ps.claim(p, partition.Lease{})
	case ps.members.isNewerSelf(e.Row.Holder):
		return true
	case ps.isDead(e.Row.Holder):
		ps.claim(p, e.Row.Lease)
	default:
		ps.askHolder(p, e.Row.Lease)
	}
	return false
}

// askHolder asks the holder of a lease to hand the partition over. If the holder is spared, it
// may not hear that, so the partition is claimed again and again in case that it is released.
func (ps *partitions) askHolder(p int, lease partition.Lease) {
	part := &ps.states[p]
	ps.transition(p, waiting)
	part.epoch, part.holder, part.retryAt = lease.Epoch, lease.Holder, ps.now.Add(ps.cfg.Heartbeat)
	ps.sendSoon()
}

// onClaimFailed handles a claim with an unknown outcome: it is repeated.
func (ps *partitions) onClaimFailed(e ClaimFailed) {
	ps.outage.onFailure(ps.now)
	switch {
	case !ps.states[e.Partition].isCurrentAttempt(e.Attempt):
	case ps.isOurs(e.Partition):
		ps.retryLater(e.Partition)
	default:
		ps.transition(e.Partition, idle)
	}
}

// onDatabaseReply notes that the database is reachable. If it was not for two heartbeats,
// the partitions that wait for another try are claimed at once.
func (ps *partitions) onDatabaseReply() {
	if !ps.outage.onReply(ps.now, outageAfter*ps.cfg.Heartbeat) {
		return
	}
	for p := range ps.states {
		if part := &ps.states[p]; part.phase == waiting && !part.waitsForHolder() {
			part.retryAt = ps.now
			ps.reconcile(p)
		}
	}
}

// retryLater claims the partition again: at once, or after a delay.
func (ps *partitions) retryLater(p int) {
	part := &ps.states[p]
	delay := part.backoff(ps.now, ps.cfg.Heartbeat)
	if delay > 0 {
		delay = ps.jitter(delay)
	}
	ps.transition(p, waiting)
	part.holder, part.retryAt = Member{}, ps.now.Add(delay)
	ps.reconcile(p)
}

// onConsuming notes that the consumer has started.
func (ps *partitions) onConsuming(e Consuming) {
	part := &ps.states[e.Partition]
	if part.phase != starting || part.epoch != e.Epoch {
		return
	}
	part.saw(e.Epoch)
	ps.transition(e.Partition, owned)
	ps.reconcile(e.Partition)
}

// learnLeases handles the leases in a message.
func (ps *partitions) learnLeases(msg *Message) {
	for _, lease := range msg.Granted {
		if ps.contains(lease.Partition) && lease.Holder == ps.self {
			ps.onGranted(lease)
		}
	}
	for _, lease := range msg.Released {
		if ps.contains(lease.Partition) {
			ps.onReleased(lease)
		}
	}
	for _, lease := range msg.Taken {
		if ps.contains(lease.Partition) {
			ps.yieldTo(lease)
		}
	}
}

// onReleased handles the end of another member's lease.
func (ps *partitions) onReleased(lease partition.Lease) {
	if part := &ps.states[lease.Partition]; part.waitsForHolder() && lease.Epoch >= part.epoch {
		ps.claim(lease.Partition, partition.Lease{})
		ps.askForMore()
	}
}

// onGranted handles a lease that its last holder has taken for this instance, on its
// wish. If the lease is no longer needed, it is released as soon as the epoch table
// says that it is ours. A claim that is in flight is refused with a row that names this
// instance; then the next claim deposes that lease.
//
// Invariant: a lease that arrives while the partition waits for its holder, with a
// later epoch than the one that the epoch table gave, is valid. Since then this
// instance has ended none of its leases, and no other member ends one while its holder
// lives.
func (ps *partitions) onGranted(lease partition.Lease) {
	part := &ps.states[lease.Partition]
	switch {
	case part.waitsForHolder() && lease.Epoch > part.epoch:
		part.epoch, part.held, part.deposed = lease.Epoch, lease, partition.Lease{}
		ps.transition(lease.Partition, starting)
		ps.emit(Consume{Lease: lease, WriteFrom: part.safeAt})
		ps.askForMore()
	case part.phase == idle:
		ps.surveyAt = ps.now
	}
}

// askForMore asks for further partitions, if there are more to ask for.
func (ps *partitions) askForMore() {
	if ps.outbox.moreWanted {
		ps.sendSoon()
	}
}

// An outage is a time in which no claim gets a reply from the database.
type outage struct {
	since time.Time // when claims began to fail; zero if the latest got a reply
}

// onFailure notes that a claim got no reply.
func (o *outage) onFailure(now time.Time) {
	if o.since.IsZero() {
		o.since = now
	}
}

// onReply notes that a claim got a reply. It reports whether that ends an outage that
// was not shorter than least.
func (o *outage) onReply(now time.Time, least time.Duration) bool {
	since := o.since
	o.since = time.Time{}
	return !since.IsZero() && now.Sub(since) >= least
}
