package ownership

import (
	"errors"
	"fmt"
	"time"

	"github.com/glotpod/ident/cluster/ownership/hashring"
)

// A Config configures a [Core].
type Config struct {
	Name  string // unique among the running instances
	Start int64  // greater than the Start of each earlier run under this name

	First      int    // the number of the generation's first partition; here, partitions are numbered from 0 on
	Partitions int    // the same in all instances
	QueueType  string // the same in all instances

	// Heartbeat is the least interval between two broadcasts of a member without news. With
	// more than fifty members the interval grows with their number, so that the work of
	// the broker does not grow with the square of it. The periodic checks, which
	// include the probes of neighbours, run twice per Heartbeat.
	Heartbeat time.Duration

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
	// When a hand-over has run for a tenth of Heartbeat, another one may begin
	// beside it. A rest is never longer than that.
	Window int

	// MaxMembers is how many member names are remembered, including those that have
	// been gone for a while.
	MaxMembers int

	// Weight is how large the instance's share of the partitions is beside those of
	// others, in tenths. 0 means 10, the usual weight.
	Weight int

	// Seed is for the jitter of the timers. It should differ between instances.
	Seed uint64

	// Assign returns the owner of each partition for members whose names are sorted and
	// distinct. If it is nil, the Core makes a [hashring.Table] of its own. The many cores of
	// a simulation share one instead, which is ten times faster.
	Assign func(members []hashring.Member) []string
}

// DefaultConfig returns the values for a nearby broker. Name, Start, Partitions,
// QueueType and Seed remain to be set.
func DefaultConfig() Config {
	return Config{
		Heartbeat:  heartbeat,              // a dead member is found after half of it, by a probe
		Debounce:   300 * time.Millisecond, // longer than the differences between instances that are started together
		Spacing:    5 * time.Millisecond,   // messages to one member do not wait for it
		MaxMembers: 1000,
	}
}

// Further constants. Durations and numbers are relative to those in Config.
const (
	checksPerHeartbeat  = 2
	neighboursPerCheck  = 2   // probes per check of the members that follow in the order of names
	doubtfulPerCheck    = 2   // probes per check of members that may be dead
	heartbeatsPerSurvey = 20  // heartbeats between two surveys of the epoch table
	maxDebounces        = 4   // Debounces that the ring waits at most
	maxBackoff          = 4   // heartbeats between two claims after repeated failures, at most
	startFor            = 8   // heartbeats in which a consumer has to start if another member was deposed for it
	maxStartBackoff     = 20  // the same after a consumer has repeatedly not started
	forgetAfter         = 200 // heartbeats after the last message of a member until it is forgotten
	wishAfter           = 20  // heartbeats after the last wish until a leaving instance waits for no further one
	membersPerHeartbeat = 50  // members that send a heartbeat within the time of Heartbeat, at most
	outageAfter         = 2   // heartbeats without a reply of the database that are an outage
	absentAfter         = 2   // heartbeats between two events that show that this process was frozen or starved
	minWindow           = 4   // partitions
	windowShare         = 16  // the default Window is this fraction of the partitions
	handoverShare       = 4   // this fraction of Window is usually handed over at a time
	restFactor          = 2   // a rest takes this many times as long as the hand-over
	restShare           = 10  // a rest takes at most this fraction of a heartbeat
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
	case c.Spacing > c.Heartbeat/checksPerHeartbeat:
		return errors.New("ownership: Spacing is more than half of a heartbeat")
	case c.Weight < 0:
		return errors.New("ownership: Weight is negative")
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
	return Parameters{First: c.First, Partitions: c.Partitions, Table: TableVersion, QueueType: c.QueueType}
}

// heartbeat is the least interval between two broadcasts of a member.
const heartbeat = 500 * time.Millisecond
