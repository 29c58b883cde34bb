package ownership

// A Command is something to be done, returned by [Core.Step]. Commands are
// given without waiting for the answers to earlier ones; those about the same
// partition are to be carried out in their order.
type Command interface{ command() }

type (
	// Broadcast publishes a message to the membership exchange.
	Broadcast struct{ Message Message }

	// Send sends a message to one member, after what was broadcast before.
	Send struct {
		To      Member
		Message Message
	}

	// Probe asks the broker whether the member's exclusive queue is there.
	Probe struct{ Member Member }

	// Claim makes By the owner of a partition under the next epoch, if the row
	// is released or its epoch is Depose: one conditional update. A Depose of 0
	// deposes nobody. It is answered by [Claimed], [ClaimRefused] or
	// [ClaimFailed] with the same Attempt.
	Claim struct {
		Partition int
		Attempt   uint64
		Depose    int64
		By        Member
	}

	// Consume makes sure that the epoch table names us under Epoch, and consumes
	// the partition's queue; each write from it carries Epoch. It is answered by
	// [Consuming] or [Lost].
	Consume struct {
		Partition int
		Epoch     int64
	}

	// HandOver cancels the consumer, finishes and acknowledges what had been
	// delivered, and ends the lease: it makes To the owner under the next epoch
	// or, where To is the zero member, releases this one. That is tried again
	// until the database has said that it is done, or that the epoch is over. It
	// is answered by [HandedOver], or by [Lost] if it becomes impossible.
	HandOver struct {
		Partition int
		Epoch     int64
		To        Member
	}

	// Abandon closes the channel at once, so that the broker delivers what was
	// not acknowledged to the next owner. It is not answered.
	Abandon struct {
		Partition int
		Epoch     int64
	}

	// Release marks the partition's row released if it still has Epoch. It is
	// about a row that nothing here works under, and is answered by [Released]
	// if the database is in reach.
	Release struct {
		Partition int
		Epoch     int64
	}

	// Survey reads the epoch table. It is answered by [Surveyed] if the
	// database is in reach.
	Survey struct{}

	// ReportRefusal says that Member does not count here and why. It is to be logged,
	// and is given once for each incarnation.
	ReportRefusal struct {
		Member Member
		Reason string
	}

	// Reconnect asks for a new session. The one there was counts as
	// disconnected.
	Reconnect struct{ Reason string }

	// ReportState says that the instance is in another state. Left is the last
	// command of all; when it comes, what was said before is to be sent out,
	// and the process may end.
	ReportState struct{ State State }

	// Stop says that the process must end, and is the last command of all. Its
	// partitions have been abandoned.
	Stop struct {
		Reason StopReason
		Detail string
	}
)

// A StopReason is why an instance must end.
type StopReason uint8

const (
	// Superseded: a newer process has this instance's name.
	Superseded StopReason = iota + 1
	// ParametersDiffer: the cluster has other parameters.
	ParametersDiffer
)

func (r StopReason) String() string {
	switch r {
	case Superseded:
		return "superseded"
	case ParametersDiffer:
		return "disagrees"
	default:
		return "unknown"
	}
}

func (Broadcast) command()     {}
func (Send) command()          {}
func (Probe) command()         {}
func (Claim) command()         {}
func (Consume) command()       {}
func (HandOver) command()      {}
func (Abandon) command()       {}
func (Release) command()       {}
func (Survey) command()        {}
func (ReportRefusal) command() {}
func (Reconnect) command()     {}
func (ReportState) command()   {}
func (Stop) command()          {}
