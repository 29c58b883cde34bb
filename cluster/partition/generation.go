package partition

import (
	"errors"
	"fmt"
	"time"
)

// A Generation is the partitions that user ids are divided into until a repartition begins
// another one. Its partitions have the numbers from First on: no number is used in two generations,
// so the names of queues, leases and positions of the log keep their meaning.
type Generation struct {
	First      int    // the number of its first partition
	Partitions int    // how many it has
	QueueType  string // of the partition queues
}

// End returns the number after the last partition.
func (g Generation) End() int { return g.First + g.Partitions }

func (g Generation) String() string {
	return fmt.Sprintf("%d partitions, %s queues", g.Partitions, g.QueueType)
}

// A Phase says how far a repartition is.
type Phase string

const (
	// Stopping: the instances stop serving the old generation. It can still be given up.
	Stopping Phase = "stopping"
	// Moving: nothing can be written in the old generation any more. The requests in its queues are
	// moved to the new queues.
	Moving Phase = "moving"
	// Clearing: the new generation is served. The old queues are emptied once more and deleted.
	Clearing Phase = "clearing"
	// Done: the repartition is complete.
	Done Phase = "done"
	// GivenUp: the old generation goes on.
	GivenUp Phase = "given up"
)

// A Repartition is the change from one generation to another.
type Repartition struct {
	Number   int // repartitions are numbered from 1 on
	Phase    Phase
	From, To Generation
	Attempt  int64         // rises with each instance that carries the repartition on
	Mover    string        // the instance that carries it on
	Moved    int64         // requests that were moved to the new queues
	Cleared  int           // old queues that were deleted
	Note     string        // what is in the way, or why it was given up
	Age      time.Duration // since it was begun
	MayClear bool          // the old queues may be deleted
}

// IsSwitching reports whether no generation is served: the old one ends, and the new one has not
// begun.
func (r *Repartition) IsSwitching() bool {
	return r != nil && (r.Phase == Stopping || r.Phase == Moving)
}

// IsUnderWay reports whether the repartition is neither done nor given up.
func (r *Repartition) IsUnderWay() bool { return r.IsSwitching() || r != nil && r.Phase == Clearing }

// An Attempt is what an instance has done to carry a repartition on.
type Attempt struct {
	Number  int   // of the repartition
	Attempt int64 // rises with each
	Moved   int64 // requests that were moved and are not recorded yet
	Cleared int   // old queues that were deleted
	Note    string
}

var (
	// ErrSuperseded means that a repartition is in another phase, or that another instance carries it
	// on.
	ErrSuperseded = errors.New("another instance carries the repartition on, or it has ended")

	// ErrLeases means that an instance does not hold all leases of the generation that is to end.
	ErrLeases = errors.New("a lease of the old generation was lost")
)

// A NotNotifiedError means that changes of the generation that is to end were not notified.
type NotNotifiedError struct {
	Partitions int // with such changes
	Users      int // whose notifications are held back
}

func (e *NotNotifiedError) Error() string {
	return fmt.Sprintf("changes of %d partitions are not notified yet; the notifications of %d users are held back, because a subscriber's queue refuses them or no key decrypts them",
		e.Partitions, e.Users)
}
