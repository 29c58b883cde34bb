package ownership

import "time"

// An Event is something that has happened. It is the input of [Core.Step].
type Event interface{ event() }

type (
	// Tick means that time has passed. It is due at [Core.NextTick].
	Tick struct{}

	// Connected begins a session: the instance's exclusive queue is declared under the
	// name of this incarnation, and bound to the membership exchange. Session rises
	// with each session.
	Connected struct{ Session int64 }

	// Disconnected ends the session and all its channels.
	Disconnected struct{}

	// MessageReceived is a message of a member. An instance's own broadcasts come back
	// to it and are ignored.
	MessageReceived struct{ Message Message }

	// MemberGone replies to [Probe]: the broker has no exclusive queue of Member, so
	// that incarnation is over. There is no event if the queue exists or the broker did
	// not reply.
	MemberGone struct{ Member Member }

	// Claimed replies to [Claim]: the epoch table names this instance under Epoch. Deposed
	// says that the row was not released.
	Claimed struct {
		Partition int
		Attempt   uint64
		Epoch     int64
		Deposed   bool
	}

	// ClaimRefused replies to [Claim]: the claim changed nothing, because of Row.
	ClaimRefused struct {
		Attempt uint64
		Row     Row
	}

	// ClaimFailed replies to [Claim]: it is unknown whether the claim changed anything, or the
	// partition has no epoch left.
	ClaimFailed struct {
		Partition int
		Attempt   uint64
	}

	// Consuming replies to [Consume].
	Consuming struct {
		Partition int
		Epoch     int64
	}

	// HandedOver replies to [HandOver]: what was delivered is completed and
	// acknowledged, and the consumer has ended. The epoch table names To under the
	// epoch that follows Epoch. If To is the zero member, Epoch is released, or was
	// over already.
	HandedOver struct {
		Partition int
		Epoch     int64
		To        Member
	}

	// LeaseLost means that a partition can no longer be served under Epoch: a write was
	// refused because of it or has an unknown outcome, the broker cancelled the
	// consumer, or the consumer could not start.
	LeaseLost struct {
		Partition int
		Epoch     int64
	}

	// LeaseReleased replies to [Release]: Epoch is released, or was over already. There
	// is no event if the database did not reply.
	LeaseReleased struct {
		Partition int
		Epoch     int64
	}

	// Surveyed replies to [Survey] with the epoch table, or at least with the rows that
	// name this instance or a partition that the ring assigns to it. They were read
	// after AskedAt.
	Surveyed struct {
		Rows    []Row
		AskedAt time.Time
	}

	// DrainRequested asks the instance to hand over its partitions and to stay out of
	// the ring, also after a new connection.
	DrainRequested struct{}

	// UndrainRequested takes a DrainRequested back.
	UndrainRequested struct{}

	// MoveRequested asks the instance to own a partition, whatever the hash ring says, until
	// that is undone or its process ends. If Undo is set, it takes that back. An instance that
	// is not ready moves nothing to itself.
	MoveRequested struct {
		Partition int
		Undo      bool
	}

	// LeaveRequested asks the instance to hand over its partitions and to end. It
	// cannot be taken back. AtOnce asks it to release them instead, without waiting for
	// members that are to take them: all members leave, because their generation ends.
	LeaveRequested struct{ AtOnce bool }
)

func (Tick) event()             {}
func (Connected) event()        {}
func (Disconnected) event()     {}
func (MessageReceived) event()  {}
func (MemberGone) event()       {}
func (Claimed) event()          {}
func (ClaimRefused) event()     {}
func (ClaimFailed) event()      {}
func (Consuming) event()        {}
func (HandedOver) event()       {}
func (LeaseLost) event()        {}
func (LeaseReleased) event()    {}
func (Surveyed) event()         {}
func (DrainRequested) event()   {}
func (UndrainRequested) event() {}
func (MoveRequested) event()    {}
func (LeaveRequested) event()   {}
