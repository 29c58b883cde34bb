package ownership

import (
	"errors"
	"fmt"
	"time"
)

// A Config is what a [Core] is made with.
type Config struct {
	Name  string // unique among the instances that run
	Start int64  // greater than that of each earlier run under this name

	Partitions int    // the same in all instances
	QueueType  string // the same in all instances

	// Heartbeat is how often a member says that it is there. It looks around,
	// and probes its neighbours, four times as often.
	Heartbeat time.Duration

	// SuspectAfter is for how long a member is believed to be alive without
	// being heard. It should be longer than the broker takes to drop a frozen
	// connection: then a member has lost its channels before it loses its
	// partitions.
	SuspectAfter time.Duration

	// Debounce is for how long the ring waits for more members when one has
	// come, and how long an instance listens before it counts itself ready.
	// After four times this it waits no more.
	Debounce time.Duration

	// Spacing is the least time between two messages of an instance.
	Spacing time.Duration

	// Window is how many partitions an instance asks for at a time, and the most that
	// it hands over at a time on request. 0 stands for a sixteenth of Partitions, but 4
	// at least.
	//
	// A hand-over is work for the broker and the database too, and requests to other
	// partitions are to have their share of that. So usually a quarter of Window is
	// handed over at a time, and after each hand-over the instance rests for twice as
	// long as it took. But what takes longer than a twentieth of Heartbeat no longer
	// counts for the quarter, and a rest is never longer than that.
	Window int

	// MaxMembers is how many names are kept in mind, those that are gone for a
	// while included.
	MaxMembers int

	// Seed makes the instances' timers differ.
	Seed uint64

	// Assign returns the owner of each partition for names that are sorted and
	// distinct. If it is nil, the Core makes a [Table] of its own. The many cores of
	// a simulation share one instead, which is ten times faster.
	Assign func(names []string) []string
}

// DefaultConfig returns what suits a broker nearby with an AMQP heartbeat of
// 1 s. Name, Start, Partitions, QueueType and Seed remain to be set.
func DefaultConfig() Config {
	return Config{
		Heartbeat:    time.Second,            // death is found in a quarter of it, by probing
		SuspectAfter: 3 * time.Second,        // the broker drops a frozen connection after 2 to 3 s
		Debounce:     300 * time.Millisecond, // instances that are started together differ by less
		Spacing:      5 * time.Millisecond,   // what one alone waits for does not wait for that
		MaxMembers:   1000,
	}
}

// The following follow from the Config.
const (
	checksPerHeartbeat  = 4
	neighboursPerCheck  = 2  // in each look: who follows in the order of names
	doubtfulPerCheck    = 2  // in each look: whose fate is not known
	heartbeatsPerSurvey = 10 // of the epoch table
	maxDebounces        = 4
	maxBackoff          = 2  // heartbeats between two claims after repeated failures
	forgetAfter         = 10 // SuspectAfters since a member was last heard
	minWindow           = 4
	windowShare         = 16 // of the partitions
	handoverShare       = 4  // of the window
	restFactor          = 2  // of what a hand-over took
	restShare           = 20 // of a heartbeat, at most
)

// check says what is wrong with c.
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

// atATime is how many partitions are usually handed over at a time.
func (c Config) usualHandovers() int { return (c.Window + handoverShare - 1) / handoverShare }

// longestRest is the longest rest between two hand-overs.
func (c Config) maxRest() time.Duration { return c.Heartbeat / restShare }

func (c Config) parameters() Parameters {
	return Parameters{Partitions: c.Partitions, Table: TableVersion, QueueType: c.QueueType}
}
