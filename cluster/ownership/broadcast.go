package ownership

import (
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// hurry sends the next message as soon as Spacing allows.
func (c *Core) sendSoon() {
	c.sendWithin(0)
}

// sendBy sends the next message after wait at the latest, though not sooner
// than Spacing allows.
func (c *Core) sendWithin(wait time.Duration) {
	due := laterOf(c.now.Add(wait), c.sentAt.Add(c.cfg.Spacing))
	if due.Before(c.sendAt) {
		c.sendAt = due
	}
}

// broadcast tells the others how things are here, and what is new.
func (c *Core) broadcast() {
	msg := c.nextMessage()
	msg.Released, msg.Taken, msg.Gone = c.unsentFacts.Released, c.unsentFacts.Taken, c.unsentFacts.Gone
	c.emit(Broadcast{Message: msg})

	c.unsentFacts = Message{}
	c.sentAt = c.now
	c.sendAt = c.now.Add(c.jitter(c.cfg.Heartbeat))
}

// message returns the next message, which says how things are here.
func (c *Core) nextMessage() Message {
	c.seq++
	return Message{From: c.self, Seq: c.seq, State: c.state, Parameters: c.cfg.parameters(), Wants: c.wantedLeases()}
}

// wants returns the leases that others are asked to give up, at most Window, and of
// each holder its share: one that does not answer holds up no other. It is part of
// each message, so a wish that was lost is heard next time.
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
