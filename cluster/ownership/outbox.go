package ownership

import (
	"slices"
	"time"
)

// An outbox collects what the next messages have to say, and decides when the next
// broadcast is due.
type outbox struct {
	cfg    *Config
	facts  Message     // facts for the next broadcast
	grants []HeldLease // leases granted in this Step, for messages to their new holders
	seq    int64       // of the latest message
	sentAt time.Time   // the time of the latest broadcast
	sendAt time.Time   // when the next broadcast is due

	moreWanted bool // there are more wishes than the latest message could hold
}

// sendWithin sends the next broadcast after wait at the latest, or as soon as Spacing
// allows if that is later.
func (o *outbox) sendWithin(now time.Time, wait time.Duration) {
	due := laterOf(now.Add(wait), o.sentAt.Add(o.cfg.Spacing))
	if due.Before(o.sendAt) {
		o.sendAt = due
	}
}

// isDue reports whether a broadcast has to be sent now.
func (o *outbox) isDue(now time.Time) bool { return !now.Before(o.sendAt) }

// nextSeq returns the number of the next message.
func (o *outbox) nextSeq() int64 {
	o.seq++
	return o.seq
}

// takeFacts moves the unsent facts into a broadcast of now. The one after it is due at
// next.
func (o *outbox) takeFacts(msg *Message, now, next time.Time) {
	msg.Released, msg.Taken, msg.Gone = o.facts.Released, o.facts.Taken, o.facts.Gone
	o.facts = Message{}
	o.sentAt, o.sendAt = now, next
}

// nextGrantee returns the member to which grants have to be sent next.
func (o *outbox) nextGrantee() (to Member, ok bool) {
	if len(o.grants) == 0 {
		return Member{}, false
	}
	return o.grants[0].Holder, true
}

// takeGrants moves the unsent grants to a member into a message to it. The message also
// says that the old leases are released, for programs that do not know of grants: they
// claim the partition and find that it is theirs.
func (o *outbox) takeGrants(msg *Message, to Member) {
	o.grants = slices.DeleteFunc(o.grants, func(l HeldLease) bool {
		if l.Holder == to {
			msg.Granted = append(msg.Granted, l)
			msg.Released = append(msg.Released, heldLease(l.Partition, l.Epoch-1, msg.From))
		}
		return l.Holder == to
	})
}
