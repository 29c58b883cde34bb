package ownership

import (
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// sendSoon sends the next broadcast as soon as Spacing allows.
func (c *Core) sendSoon() {
	c.sendWithin(0)
}

// sendWithin sends the next broadcast after wait at the latest, or as soon as Spacing
// allows if that is later.
func (c *Core) sendWithin(wait time.Duration) {
	due := laterOf(c.now.Add(wait), c.sentAt.Add(c.cfg.Spacing))
	if due.Before(c.sendAt) {
		c.sendAt = due
	}
}

// broadcast sends a message with the unsent facts to all members.
func (c *Core) broadcast() {
	msg := c.nextMessage()
	msg.Released, msg.Taken, msg.Gone = c.unsentFacts.Released, c.unsentFacts.Taken, c.unsentFacts.Gone
	c.emit(Broadcast{Message: msg})

	c.unsentFacts = Message{}
	c.sentAt = c.now
	c.sendAt = c.now.Add(c.jitter(c.cfg.Heartbeat))
}

// nextMessage returns the next message, with the present state and wishes of this
// instance.
func (c *Core) nextMessage() Message {
	c.seq++
	return Message{From: c.self, Seq: c.seq, State: c.state, Parameters: c.cfg.parameters(), Wants: c.wantedLeases()}
}

// wantedLeases returns the leases that this instance asks their holders to hand over:
// at most Window, and from each holder an equal share, so that a holder that does not
// respond delays no other. The wishes are part of each message, so a lost wish is
// repeated.
func (c *Core) wantedLeases() []HeldLease {
	var leases []HeldLease
	asked := make(map[Member]int)
	for p := range c.partitions {
		if part := &c.partitions[p]; part.waitsForHolder() {
			asked[part.holder] = 0
		}
	}
	share := (c.cfg.Window + len(asked) - 1) / max(1, len(asked))
	c.moreWanted = false
	for p := range c.partitions {
		part := &c.partitions[p]
		switch {
		case !part.waitsForHolder():
		case asked[part.holder] == share, len(leases) == c.cfg.Window:
			c.moreWanted = true
		default:
			asked[part.holder]++
			leases = append(leases, HeldLease{Lease: partition.Lease{Partition: p, Epoch: part.epoch}, Holder: part.holder})
		}
	}
	return leases
}
