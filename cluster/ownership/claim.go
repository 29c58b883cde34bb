package ownership

import (
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// reconcile adapts a partition to the present ring and members. It may be called at any
// time.
func (c *Core) reconcile(p int) {
	part := &c.partitions[p]
	switch {
	case part.phase == idle && c.isOurs(p):
		c.claim(p, HeldLease{})
	case part.phase == waiting && !c.isOurs(p):
		c.transition(p, idle)
	case part.waitsForHolder():
		if c.isDead(part.holder) {
			c.claim(p, HeldLease{Lease: partition.Lease{Partition: p, Epoch: part.epoch}, Holder: part.holder})
		}
	case part.phase == waiting && !c.now.Before(part.retryAt):
		c.claim(p, HeldLease{})
	case part.phase == owned && !c.isOurs(p):
		c.maybeHandOver(p)
	}
}

// claim asks the epoch table for the partition: for a released row, or for the lease of
// a dead holder.
//
// Invariant: the epoch to depose comes from a reply of the epoch table, never from what
// this instance has held. So the lease belongs to another member, or to this instance
// and nothing runs under it.
func (c *Core) claim(p int, depose HeldLease) {
	part := &c.partitions[p]
	c.transition(p, claiming)
	c.lastAttempt++
	part.attempt, part.deposed = c.lastAttempt, depose.Holder
	c.emit(Claim{Partition: p, Attempt: part.attempt, Depose: depose.Epoch, By: c.self})
}

// isCurrentAttempt reports whether the partition waits for the reply to this attempt.
func (c *Core) isCurrentAttempt(p int, attempt uint64) bool {
	return c.partitions[p].phase == claiming && c.partitions[p].attempt == attempt
}

// onClaimed handles the reply to a claim that succeeded. If the lease is no longer
// needed, it is released.
func (c *Core) onClaimed(e Claimed) {
	c.onDatabaseAnswer()
	if !c.isCurrentAttempt(e.Partition, e.Attempt) {
		c.emit(Release{Partition: e.Partition, Epoch: e.Epoch})
		return
	}
	if !c.isOurs(e.Partition) {
		c.transition(e.Partition, idle)
		c.emit(Release{Partition: e.Partition, Epoch: e.Epoch})
		return
	}
	part := &c.partitions[e.Partition]
	if part.deposed.Name != "" && part.deposed.Name != c.self.Name {
		c.unsentFacts.Taken = append(c.unsentFacts.Taken, HeldLease{Lease: partition.Lease{Partition: e.Partition, Epoch: e.Epoch}, Holder: c.self})
		c.sendSoon()
	}
	part.epoch = e.Epoch
	c.transition(e.Partition, starting)
	c.emit(Consume{Partition: e.Partition, Epoch: e.Epoch})
}

// onClaimRefused handles the reply to a claim that failed because another lease stands.
// The row is what the epoch table says now, so this is the time to check whether the
// holder is alive.
func (c *Core) onClaimRefused(e ClaimRefused) {
	p := e.Row.Partition
	c.onDatabaseAnswer()
	if !c.isCurrentAttempt(p, e.Attempt) {
		return
	}
	switch {
	case !c.isOurs(p):
		c.transition(p, idle)
	case e.Row.Released:
		c.claim(p, HeldLease{})
	case c.isNewerSelf(e.Row.Holder):
		c.stop(Superseded, "the epoch table names "+e.Row.Holder.String())
	case c.isDead(e.Row.Holder):
		c.claim(p, e.Row.HeldLease)
	default:
		c.askHolder(p, e.Row.HeldLease)
	}
}

// askHolder asks the holder of a lease to hand the partition over.
func (c *Core) askHolder(p int, lease HeldLease) {
	part := &c.partitions[p]
	c.transition(p, waiting)
	part.epoch, part.holder = lease.Epoch, lease.Holder
	c.sendSoon()
}

// onClaimFailed handles a claim whose outcome is unknown: it is repeated.
func (c *Core) onClaimFailed(e ClaimFailed) {
	if c.claimsFailSince.IsZero() {
		c.claimsFailSince = c.now
	}
	switch {
	case !c.isCurrentAttempt(e.Partition, e.Attempt):
	case c.isOurs(e.Partition):
		c.retryLater(e.Partition)
	default:
		c.transition(e.Partition, idle)
	}
}

// onDatabaseAnswer notes that the database is reachable. If it was not for a heartbeat,
// the partitions that wait for another try are claimed at once.
func (c *Core) onDatabaseAnswer() {
	since := c.claimsFailSince
	c.claimsFailSince = time.Time{}
	if since.IsZero() || c.now.Sub(since) < c.cfg.Heartbeat {
		return
	}
	for p := range c.partitions {
		if part := &c.partitions[p]; part.phase == waiting && !part.waitsForHolder() {
			part.retryAt = c.now
			c.reconcile(p)
		}
	}
}

// retryLater claims the partition again: at once if it was served for long, else after
// a delay that grows with each failure in a row.
func (c *Core) retryLater(p int) {
	part := &c.partitions[p]
	longest := maxBackoff * c.cfg.Heartbeat
	var delay time.Duration
	if part.phase == owned && c.now.Sub(part.since) >= longest {
		part.setbacks = 0
	} else {
		delay = c.jitter(min(c.cfg.Heartbeat/checksPerHeartbeat<<part.setbacks, longest))
		part.setbacks = min(part.setbacks+1, 10)
	}
	c.transition(p, waiting)
	part.holder, part.retryAt = Member{}, c.now.Add(delay)
	c.reconcile(p)
}

// onConsuming notes that the consumer has started.
func (c *Core) onConsuming(e Consuming) {
	part := &c.partitions[e.Partition]
	if part.phase != starting || part.epoch != e.Epoch {
		return
	}
	c.transition(e.Partition, owned)
	c.reconcile(e.Partition)
}

// learnLeases handles the leases in a message.
func (c *Core) learnLeases(msg *Message) {
	for _, lease := range msg.Granted {
		if c.isPartition(lease.Partition) && lease.Holder == c.self {
			c.onGranted(lease)
		}
	}
	for _, lease := range msg.Released {
		if !c.isPartition(lease.Partition) {
			continue
		}
		if part := &c.partitions[lease.Partition]; part.waitsForHolder() && lease.Epoch >= part.epoch {
			c.claim(lease.Partition, HeldLease{})
			if c.moreWanted {
				c.sendSoon()
			}
		}
	}
	for _, lease := range msg.Taken {
		if c.isPartition(lease.Partition) {
			c.yieldTo(lease)
		}
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
func (c *Core) onGranted(lease HeldLease) {
	part := &c.partitions[lease.Partition]
	switch {
	case part.waitsForHolder() && lease.Epoch > part.epoch:
		part.epoch = lease.Epoch
		c.transition(lease.Partition, starting)
		c.emit(Consume{Partition: lease.Partition, Epoch: lease.Epoch})
		if c.moreWanted {
			c.sendSoon()
		}
	case part.phase == idle:
		c.surveyAt = c.now
	}
}

// yieldTo gives a partition up if its lease has an earlier epoch than the given one.
func (c *Core) yieldTo(lease HeldLease) {
	part := &c.partitions[lease.Partition]
	if part.phase.hasLease() && part.epoch < lease.Epoch {
		c.loseLease(lease.Partition)
	}
}

func (c *Core) isPartition(p int) bool { return 0 <= p && p < len(c.partitions) }

// onSurveyed compares the partitions with rows of the epoch table, which may have
// changed since they were read. This finds lost messages, and leases that no member
// knows of.
func (c *Core) onSurveyed(rows []Row) {
	for _, row := range rows {
		if !c.isPartition(row.Partition) {
			continue
		}
		part := &c.partitions[row.Partition]
		switch {
		case (part.phase == starting || part.phase == owned) && row.Epoch == part.epoch && (row.Released || row.Holder != c.self):
			c.loseLease(row.Partition) // the table was changed by hand
		case part.phase.hasLease():
			c.yieldTo(row.HeldLease)
		case part.waitsForHolder() && row.Epoch >= part.epoch:
			if row.Released || row.Epoch != part.epoch {
				c.claim(row.Partition, HeldLease{})
			}
		case part.phase == idle && row.Holder == c.self && !row.Released:
			c.emit(Release{Partition: row.Partition, Epoch: row.Epoch})
		}
	}
}
