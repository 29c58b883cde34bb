package history

import (
	"maps"
	"sync"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/store/internal/changelog"
)

// Seen has the greatest numbers that this process has found in the database. It is safe for
// concurrent use.
type Seen struct {
	mu     sync.Mutex       // guards the following fields
	epochs map[int]int64    // by partition
	last   map[int]position // the last change that this process has committed, by partition
	userID int64
	start  int64
}

// A position is that of a change in the log.
type position struct {
	number int64
	at     time.Time
}

// NewSeen returns a Seen that has seen nothing.
func NewSeen() *Seen {
	return &Seen{epochs: make(map[int]int64), last: make(map[int]position)}
}

// Epochs returns the greatest epochs by partition.
func (s *Seen) Epochs() map[int]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.epochs)
}

// Rows notes the epochs in rows of the epoch table. It reports whether one of them is lower than
// what Epochs had returned before the rows were read.
func (s *Seen) Rows(rows []ownership.Row, before map[int]int64) (behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		partition, epoch := rows[i].Partition, rows[i].Epoch
		s.epochs[partition] = max(s.epochs[partition], epoch)
		behind = behind || epoch < before[partition]
	}
	return behind
}

// Epoch notes the epoch of a lease that was made.
func (s *Seen) Epoch(partition int, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epochs[partition] = max(s.epochs[partition], epoch)
}

// Committed notes changes that were committed.
func (s *Seen) Committed(all []actor.PendingNotification) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range all {
		partition, number := all[i].Lease.Partition, all[i].Position
		if changelog.EpochOf(number) >= s.epochs[partition] && number > s.last[partition].number {
			s.last[partition] = position{number, all[i].CommittedAt}
		}
	}
}

// UserID notes a user id that was drawn.
func (s *Seen) UserID(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.userID = max(s.userID, id)
}

// Start notes the number of a start.
func (s *Seen) Start(number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = max(s.start, number)
}

// numbers are what a Seen has, as the parameters of statements.
type numbers struct {
	partitions    []int // of epochs
	epochs        []int64
	changed       []int // the partitions of positions
	positions     []int64
	at            []time.Time
	userID, start int64
}

func (s *Seen) numbers() (n numbers) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.userID, n.start = s.userID, s.start
	for partition, epoch := range s.epochs {
		n.partitions, n.epochs = append(n.partitions, partition), append(n.epochs, epoch)
	}
	for partition, p := range s.last {
		n.changed, n.positions, n.at = append(n.changed, partition), append(n.positions, p.number), append(n.at, p.at)
	}
	return n
}

// raise follows an examination, which may have raised epochs. What was lost is known then, and is
// not to be found again by the next one.
func (s *Seen) raise(epochs map[int]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for partition, epoch := range epochs {
		s.epochs[partition] = max(s.epochs[partition], epoch)
	}
	clear(s.last)
}
