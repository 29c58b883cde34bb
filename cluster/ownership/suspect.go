package ownership

import "time"

const (
	// heartbeat is the interval between two broadcasts of a member.
	heartbeat = time.Second

	// suspectHeartbeats is how many heartbeats of the broker a silent member is waited
	// for. The broker drops a frozen connection in less.
	suspectHeartbeats = 3
)

// SuspectAfter returns how long a member may be silent before it is suspected dead, for
// members whose connections to the broker have this heartbeat. The broker drops a frozen
// connection within three of its heartbeats. So a member that is suspected has lost its
// channels.
func SuspectAfter(brokerHeartbeat time.Duration) time.Duration {
	return suspectHeartbeats*brokerHeartbeat + heartbeat
}
