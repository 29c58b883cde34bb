package ownership

// An Event is something that has happened, told to [Core.Step].
type Event interface{ event() }

type (
	// Tick says that time has passed. It is due at [Core.Wake].
	Tick struct{}

	// Connected begins a session: the instance's own exclusive queue is
	// declared under the name of this incarnation and bound to the membership
	// exchange. Session rises from one to the next.
	Connected struct{ Session int64 }

	// Disconnected ends the session, and with it all channels.
	Disconnected struct{}

	// MessageReceived is a message of a member. Our own come back to us and are
	// ignored.
	MessageReceived struct{ Message Message }

	// MemberGone answers [Probe]: the broker knows no exclusive queue of Member, so
	// that incarnation is over. It is not sent when the queue is there, nor
	// when the broker did not say.
	MemberGone struct{ Member Member }

	// Claimed answers [Claim]: the epoch table names us under Epoch.
	Claimed struct {
		Partition int
		Attempt   uint64
		Epoch     int64
	}

	// ClaimRefused answers [Claim]: it changed nothing, and Row is why.
	ClaimRefused struct {
		Attempt uint64
		Row     Row
	}

	// ClaimFailed answers [Claim]: whether it changed anything is not known.
	ClaimFailed struct {
		Partition int
		Attempt   uint64
	}

	// Consuming answers [Consume].
	Consuming struct {
		Partition int
		Epoch     int64
	}

	// HandedOver answers [HandOver]: what had been delivered is finished and
	// acknowledged, and nothing is consumed any more. The epoch table names To
	// under the epoch that follows Epoch; where To is the zero member, Epoch is
	// released, or was over already.
	HandedOver struct {
		Partition int
		Epoch     int64
		To        Member
	}

	// LeaseLost says that a partition cannot be served under Epoch any longer: a
	// write was refused because of it or its outcome is unknown, the broker
	// cancelled the consumer, or the consumer could not be started.
	LeaseLost struct {
		Partition int
		Epoch     int64
	}

	// LeaseReleased answers [Release]: Epoch is released, or was over already. It
	// is not sent when the database did not say.
	LeaseReleased struct {
		Partition int
		Epoch     int64
	}

	// Surveyed answers [Survey] with the epoch table, at least those rows that
	// name this instance or a partition that the ring gives to it.
	Surveyed struct{ Rows []Row }

	// DrainRequested asks the instance to give up its partitions and to stay
	// out of the ring, also after a lost connection.
	DrainRequested struct{}

	// UndrainRequested takes that back.
	UndrainRequested struct{}

	// LeaveRequested asks the instance to give up its partitions and to end.
	// It cannot be taken back.
	LeaveRequested struct{}
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
func (LeaveRequested) event()   {}
