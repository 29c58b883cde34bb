package ownership

import (
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// align brings a partition in line with the ring and the members as they are
// now. It may be called at any time.
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

// claim asks the epoch table for the partition: for a free one, or for the
// lease of a holder that is over.
//
// Invariant: the epoch to depose comes from an answer of the epoch table, never
// from what was held here before. So it is somebody else's, or one of our own
// under which nothing runs.
func (c *Core) claim(p int, depose HeldLease) {
	part := &c.partitions[p]
	c.transition(p, claiming)
	c.lastAttempt++
	part.attempt, part.deposed = c.lastAttempt, depose.Holder
	c.emit(Claim{Partition: p, Attempt: part.attempt, Depose: depose.Epoch, By: c.self})
}

// isAnswer reports whether the partition waits for the answer to this attempt.
func (c *Core) isCurrentAttempt(p int, attempt uint64) bool {
	return c.partitions[p].phase == claiming && c.partitions[p].attempt == attempt
}

// won is the answer to a claim that succeeded. If it comes too late to be of
// use, what was won is given back.
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

// refused is the answer to a claim that another's lease stands against. It is
// the epoch table's word, so it is the time to find out whether that other is
// alive.
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

// ask asks the holder of a lease to give it up.
func (c *Core) askHolder(p int, lease HeldLease) {
	part := &c.partitions[p]
	c.transition(p, waiting)
	part.epoch, part.holder = lease.Epoch, lease.Holder
	c.sendSoon()
}

// claimFailed is no answer to a claim: it is tried again.
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

// databaseAnswered says that the database is in reach. If it was not for a
// while, what waits for that need not wait any longer.
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

// backOff tries again: at once where the partition was served for long, else
// the later the more often in a row it was called for.
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

// consuming says that the consumer has been started.
func (c *Core) onConsuming(e Consuming) {
	part := &c.partitions[e.Partition]
	if part.phase != starting || part.epoch != e.Epoch {
		return
	}
	c.transition(e.Partition, owned)
	c.reconcile(e.Partition)
}

// learn takes in what a message says of leases.
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

// granted takes a lease that its last holder has won for this instance, which had
// asked for it. If it comes too late to be of use, it is given back, once the epoch table
// says that it is ours. A claim that is under way finds that it is our own, and makes
// another of it.
//
// Invariant: the lease of a partition that is asked for is not over if its epoch is
// beyond the one that the epoch table has said. For this instance has ended none since
// then, and nobody else ends one while its holder lives.
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

// outdated lets go of a partition that is held under a lesser epoch than the
// one of lease.
func (c *Core) yieldTo(lease HeldLease) {
	part := &c.partitions[lease.Partition]
	if part.phase.hasLease() && part.epoch < lease.Epoch {
		c.loseLease(lease.Partition)
	}
}

func (c *Core) isPartition(p int) bool { return 0 <= p && p < len(c.partitions) }

// surveyed compares what is believed with the epoch table, which may have
// changed since it was read: for messages that were lost, and for leases that
// nobody knows of.
func (c *Core) onSurveyed(rows []Row) {
	for _, row := range rows {
		if !c.isPartition(row.Partition) {
			continue
		}
		part := &c.partitions[row.Partition]
		switch {
		case (part.phase == starting || part.phase == owned) && row.Epoch == part.epoch && (row.Released || row.Holder != c.self):
			c.loseLease(row.Partition) // somebody has changed the table
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
