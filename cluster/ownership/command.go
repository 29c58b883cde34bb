package ownership

import (
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// A Command is a task for the program that runs the core. [Core.Step] returns commands.
// They do not wait for the replies to earlier commands. Commands about the same
// partition have to be carried out in order.
type Command interface{ command() }

type (
	// Broadcast publishes a message to the membership exchange.
	Broadcast struct{ Message Message }

	// Send sends a message to one member, after all earlier broadcasts.
	Send struct {
		To      Member
		Message Message
	}

	// Probe asks the broker whether the member's exclusive queue exists.
	Probe struct{ Member Member }

	// Claim makes By the owner of the partition under the next epoch after that of the
	// row and after Seen, if the row is released or its epoch is Depose: one conditional
	// update. With a Depose of 0 no holder is deposed. Seen is the greatest epoch of the
	// partition that this instance has found in the table. The table may have a lesser one,
	// if the database has lost commits. The reply is [Claimed], [ClaimRefused] or
	// [ClaimFailed], with the same Attempt.
	Claim struct {
		Partition int
		Attempt   uint64
		Depose    int64
		Seen      int64
		By        Member
	}

	// Consume checks that the epoch table has the lease, and starts to consume the
	// partition's queue. Each write of that consumer carries the lease. None is committed
	// before WriteFrom: until then a deposed holder may read users from memory. The reply
	// is [Consuming], not before WriteFrom, or [LeaseLost].
	Consume struct {
		partition.Lease
		WriteFrom time.Time // zero: at once
	}

	// HandOver cancels the consumer, completes and acknowledges what was delivered, and
	// then ends the lease: To becomes the owner under the next epoch or, if To is the
	// zero member, the lease is released. The runner repeats that until the database
	// has confirmed it, or has said that the epoch is over. The reply is [HandedOver],
	// or [LeaseLost] if the hand-over is impossible.
	HandOver struct {
		partition.Lease
		To Member
	}

	// Abandon closes the consumer's channel at once, so that the broker delivers
	// unacknowledged requests to the next owner. There is no reply.
	Abandon struct {
		Partition int
		Epoch     int64
	}

	// Release marks the partition's row as released if its epoch is still that of the
	// lease and it names this run of the instance, in any session. It is for rows under
	// which nothing runs here. It waits for NotBefore, since the next holder does not: a
	// holder that the lease has deposed may read users from memory until then. The reply is
	// [LeaseReleased], if the database responds.
	Release struct {
		partition.Lease
		NotBefore time.Time // zero: at once
	}

	// Survey reads the epoch table. The reply is [Surveyed], if the database responds.
	Survey struct{}

	// ReportRefusal means that Member does not count here, for the given reason. It is
	// for the log. It is given once per incarnation.
	ReportRefusal struct {
		Member Member
		Reason string
	}

	// ReportSuspicion means that Member has been silent for too long, for Silent, and counts
	// as dead from now on; or, if Wrong is true, that it did so and was heard again. It is
	// for the log.
	ReportSuspicion struct {
		Member Member
		Silent time.Duration
		Wrong  bool
	}

	// ReportTableBehind means that the epoch table has earlier epochs than those of these
	// leases of this instance: the database has lost commits. The instance has given all
	// its leases up. It is for the log.
	ReportTableBehind struct{ Leases []partition.Lease }

	// Reconnect asks for a new session. The present one counts as disconnected.
	Reconnect struct{ Reason string }

	// ReportState means that the instance has entered State. If that is Left, there are
	// no further commands; the process may end when all earlier messages are sent.
	ReportState struct{ State State }

	// Stop means that the process has to end. All its partitions are abandoned, and
	// there are no further commands.
	Stop struct {
		Reason StopReason
		Detail string
	}
)

// A StopReason is the reason for which an instance has to end.
type StopReason uint8

const (
	// Superseded: a newer process has the name of this instance.
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

func (Broadcast) command()         {}
func (Send) command()              {}
func (Probe) command()             {}
func (Claim) command()             {}
func (Consume) command()           {}
func (HandOver) command()          {}
func (Abandon) command()           {}
func (Release) command()           {}
func (Survey) command()            {}
func (ReportRefusal) command()     {}
func (ReportSuspicion) command()   {}
func (ReportTableBehind) command() {}
func (Reconnect) command()         {}
func (ReportState) command()       {}
func (Stop) command()              {}
