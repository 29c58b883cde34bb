package partition

import (
	"sync/atomic"
	"time"
)

const (
	// ReadFor is how long the users of a partition may be read from memory, counted from when
	// the database was asked whether the lease stands.
	ReadFor = 300 * time.Millisecond

	// DeposedReadsFor is how long a holder that was deposed may read users from memory: from
	// the commit of the claim, by the clock of the new holder. It is longer than ReadFor
	// because one clock may be slower than the other.
	DeposedReadsFor = ReadFor + ReadFor/4

	// renewWithin is how little time may be left until a read has the lease renewed. The
	// database replies in less, so that no read finds the lease expired while reads come.
	renewWithin = ReadFor / 3
)

// A ReadLease says whether the users of one partition may be read from memory, as far as other
// holders are concerned. It stands for some time after the database has said that the lease of
// the partition stands, and is extended only by another such reply. The new holder of a
// partition commits nothing while the read lease of a holder that it has deposed may stand. So
// that memory has the latest commit rests on the database and on two clocks: neither on the
// broker, nor on messages, nor on what a deposed holder learns.
//
// A read is right if what it returns was current at some time after the request was received.
// The lease is looked at after that. If it stands then, no other holder has committed anything
// before, and memory has all commits of this one. If the process is stopped between that look
// and the reply, the reply is late, and still right.
//
// The clock is Go's monotonic one (CLOCK_MONOTONIC on Linux). It goes on while a process is
// stopped (SIGSTOP, or no CPU time). It does not while the machine is suspended or its virtual
// machine is paused. After such a pause, values from before it may be read for the rest of the
// read lease.
//
// A ReadLease is safe for concurrent use. A nil *ReadLease never stands.
type ReadLease struct {
	renew func()
	made  time.Time
	until atomic.Int64 // in nanoseconds since made
}

// NewReadLease returns a read lease that does not stand before it is extended. A read that finds
// little time left, or none, calls renew, which must not block.
func NewReadLease(renew func()) *ReadLease { return &ReadLease{renew: renew, made: time.Now()} }

// Stands reports whether memory may be read now.
func (l *ReadLease) Stands() bool {
	if l == nil {
		return false
	}
	left := time.Duration(l.until.Load()) - time.Since(l.made)
	if left < renewWithin {
		l.renew()
	}
	return left > 0
}

// Extend notes that the database was asked at the time asked, or later, and has replied that
// the lease stands.
func (l *ReadLease) Extend(asked time.Time) {
	if l == nil {
		return
	}
	until := int64(asked.Add(ReadFor).Sub(l.made))
	for old := l.until.Load(); until > old && !l.until.CompareAndSwap(old, until); {
		old = l.until.Load()
	}
}
