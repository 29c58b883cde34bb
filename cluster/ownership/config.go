package ownership

import (
	"errors"
	"fmt"
	"time"
)

// A Config configures a [Core].
type Config struct {
	Name  string // unique among the running instances
	Start int64  // greater than the Start of each earlier run under this name

	Partitions int    // the same in all instances
	QueueType  string // the same in all instances

	// Heartbeat is the interval between two broadcasts of a member. The periodic
	// checks, which include the probes of neighbours, run four times as often.
	Heartbeat time.Duration

	// SuspectAfter is how long a member counts as alive without a message from it. The
	// function [SuspectAfter] says which value to use.
	SuspectAfter time.Duration

	// Debounce is how long the ring waits for further members after a member has
	// joined, and how long a joining instance listens before it is ready. The ring
	// waits at most four times as long.
	Debounce time.Duration

	// Spacing is the least time between two broadcasts of an instance.
	Spacing time.Duration

	// Window is how many partitions an instance asks for at a time, and the most that
	// it hands over at a time on request. 0 means a sixteenth of Partitions, and at
	// least 4.
	//
	// A hand-over also costs the broker and the database work, which delays requests to
	// other partitions. So usually a quarter of Window is handed over at a time, and
	// after each hand-over the instance rests for twice as long as the hand-over took.
	// When a hand-over has run for a twentieth of Heartbeat, another one may begin
	// beside it. A rest is never longer than that.
	Window int

	// MaxMembers is how many member names are remembered, including those that have
	// been gone for a while.
	MaxMembers int

	// Seed is for the jitter of the timers. It should differ between instances.
	Seed uint64

	// Assign returns the owner of each partition for names that are sorted and
	// distinct. If it is nil, the Core makes a [Table] of its own. The many cores of
	// a simulation share one instead, which is ten times faster.
	Assign func(names []string) []string
}

// DefaultConfig returns the values for a nearby broker. Name, Start, Partitions,
// QueueType, SuspectAfter and Seed remain to be set.
func DefaultConfig() Config {
	return Config{
		Heartbeat:  heartbeat,              // a dead member is found after a quarter of it, by a probe
		Debounce:   300 * time.Millisecond, // longer than the differences between instances that are started together
		Spacing:    5 * time.Millisecond,   // messages to one member do not wait for it
		MaxMembers: 1000,
	}
}

// Further constants. Durations and numbers are relative to those in Config.
const (
	checksPerHeartbeat  = 4
	neighboursPerCheck  = 2  // probes per check of the members that follow in the order of names
	doubtfulPerCheck    = 2  // probes per check of members that may be dead
	heartbeatsPerSurvey = 10 // heartbeats between two surveys of the epoch table
	maxDebounces        = 4  // Debounces that the ring waits at most
	maxBackoff          = 2  // heartbeats between two claims after repeated failures, at most
	maxStartBackoff     = 10 // the same after a consumer has repeatedly not started
	forgetAfter         = 10 // SuspectAfters after the last message of a member until it is forgotten
	minWindow           = 4  // partitions
	windowShare         = 16 // the default Window is this fraction of the partitions
	handoverShare       = 4  // this fraction of Window is usually handed over at a time
	restFactor          = 2  // a rest takes this many times as long as the hand-over
	restShare           = 20 // a rest takes at most this fraction of a heartbeat
)

// validate returns an error that names the wrong field.
func (c Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("ownership: Name is empty")
	case c.Partitions < 1:
		return fmt.Errorf("ownership: Partitions is %d, not at least 1", c.Partitions)
	case c.Heartbeat <= 0 || c.Debounce <= 0 || c.Spacing <= 0:
		return errors.New("ownership: Heartbeat, Debounce and Spacing must be positive")
	case c.SuspectAfter < 2*c.Heartbeat:
		return errors.New("ownership: SuspectAfter is less than two heartbeats")
	case c.Spacing > c.Heartbeat/checksPerHeartbeat:
		return errors.New("ownership: Spacing is more than a quarter of a heartbeat")
	case c.Window < 0 || c.MaxMembers < 1:
		return errors.New("ownership: Window is negative, or MaxMembers is not at least 1")
	}
	return nil
}

// usualHandovers is how many partitions are usually handed over at a time.
func (c Config) usualHandovers() int { return (c.Window + handoverShare - 1) / handoverShare }

// maxRest is the longest rest after a hand-over.
func (c Config) maxRest() time.Duration { return c.Heartbeat / restShare }

func (c Config) parameters() Parameters {
	return Parameters{Partitions: c.Partitions, Table: TableVersion, QueueType: c.QueueType}
}

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
