package ownership

import (
	"fmt"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/partition"
)

// A phase is the state of one partition in this instance.
//
//	     ours by the ring         claimed          consuming
//	idle ────────────────▶ claiming ───────▶ starting ─────────▶ owned
//	▲  ▲                    │    ▲              │                │   │
//	│  │    refused, failed │    │ again        │           lost │   │ its new owner
//	│  │                    ▼    │              │                │   ▼ asks for it
//	│  ╰─────────────────── waiting ◀───────────┴────────────────┴─ handing over
//	│       not ours                   lost                          │
//	╰────────────────────────────────────────────────────────────────╯
//	                            handed over
//
// A waiting partition becomes starting when its holder grants it. It is claimed again when
// its holder has released it or is dead or, if no holder is known or the holder is spared,
// after a delay. An instance that is cut off waits instead of claiming. A partition becomes idle instead of waiting after a failed claim or the loss of its lease,
// if the ring no longer assigns it to this instance. The loss of the connection leads from
// each phase to idle.
type phase uint8

const (
	idle        phase = iota // not ours
	waiting                  // ours by the ring; another member holds the lease, or the claim is repeated later
	claiming                 // the epoch table has been asked
	starting                 // we hold the lease; the consumer is being started
	owned                    // we hold the lease and serve the partition
	handingOver              // we hold the lease; the consumer is being ended
)

var phaseNames = [...]string{"idle", "waiting", "claiming", "starting", PhaseOwned, "handing over"}

func (f phase) String() string { return phaseNames[f] }

// hasLease reports whether a channel may be open and requests may be running.
func (f phase) hasLease() bool { return f >= starting }

// allowedNext has the phases that may follow each phase.
var allowedNext = [...][]phase{
	idle:        {claiming, waiting},
	waiting:     {claiming, starting, idle},
	claiming:    {claiming, starting, waiting, idle},
	starting:    {owned, waiting, idle},
	owned:       {handingOver, waiting, idle},
	handingOver: {idle, waiting},
}

// A partitionState is what this instance knows of one partition.
type partitionState struct {
	phase phase
	since time.Time // when the phase began

	epoch   int64     // with a lease: ours. waiting for a holder: the holder's
	holder  Member    // waiting: the member that is asked for its lease; zero if none is
	retryAt time.Time // waiting for no holder, or for one that is spared: when to claim again
	attempt uint64    // claiming: the attempt that the reply will name

	deposed partition.Lease // claiming, starting: the lease that the claim deposes; zero if none. starting: also if it is an own one
	took    partition.Lease // the lease of another member that this instance has last deposed; zero after a hand-over
	held    partition.Lease // the latest lease of this process
	safeAt  time.Time       // when no holder before held can read from memory any more; may be past

	seen     int64 // the greatest epoch that the epoch table had, to this instance's knowledge
	setbacks int   // failures since the partition was last served for long
}

// enter changes the phase.
func (s *partitionState) enter(p int, to phase, now time.Time) {
	if !slices.Contains(allowedNext[s.phase], to) {
		panic(fmt.Sprintf("ownership: partition %d goes from %v to %v", p, s.phase, to))
	}
	s.phase, s.since = to, now
	if to == idle {
		s.took = partition.Lease{}
	}
}

// waitsForHolder reports whether the partition waits until its holder hands it over.
func (s *partitionState) waitsForHolder() bool {
	return s.phase == waiting && s.holder.Name != ""
}

// isCurrentAttempt reports whether the partition waits for the reply to this attempt.
func (s *partitionState) isCurrentAttempt(attempt uint64) bool {
	return s.phase == claiming && s.attempt == attempt
}

// hasLease reports whether the partition has the lease of this epoch.
func (s *partitionState) hasLease(epoch int64) bool {
	return s.phase.hasLease() && s.epoch == epoch
}

// backoff returns the delay before the next claim after a failure: none if the
// partition was served for long, else one that grows with each failure in a row. It grows
// longer if the consumer could not start: the claim, which succeeds, does not help then.
func (s *partitionState) backoff(now time.Time, heartbeat time.Duration) time.Duration {
	longest := maxBackoff * heartbeat
	switch {
	case s.phase == owned && now.Sub(s.since) >= longest:
		s.setbacks = 0
		return 0
	case s.phase == starting:
		longest = maxStartBackoff * heartbeat
	}
	delay := min(heartbeat/checksPerHeartbeat<<s.setbacks, longest)
	s.setbacks = min(s.setbacks+1, 10)
	return delay
}

// won notes a lease that was claimed. If the claim has deposed another process, that one may
// read users from memory for some time: it may live, whatever the broker says about it. A
// lease of this process that has ended is not read under, so it only passes on the time that
// it had to wait itself; unless that is not known, because the reply to its claim was lost.
//
// Invariant: nothing is committed under the lease, and it is not granted or released, before
// safeAt.
func (s *partitionState) won(lease partition.Lease, deposed bool, now time.Time) {
	if deposed && s.deposed != s.held {
		s.safeAt = now.Add(partition.DeposedReadsFor)
	}
	s.held = lease
}

// safeToRelease returns when a lease may be released that the epoch table has now.
func (s *partitionState) safeToRelease(lease partition.Lease, now time.Time) time.Time {
	if lease == s.held {
		return s.safeAt
	}
	return now.Add(partition.DeposedReadsFor)
}

// saw notes an epoch that the epoch table had.
func (s *partitionState) saw(epoch int64) { s.seen = max(s.seen, epoch) }

// isBehind reports whether a row that was read after askedAt is from before the
// partition's lease: the database has lost commits since.
func (s *partitionState) isBehind(row *Row, askedAt time.Time) bool {
	return s.phase == owned && row.Epoch < s.epoch && !askedAt.Before(s.since)
}

// contradicts reports whether a row of the epoch table, which may be old, cannot be if
// the partition has its lease: the table was changed by hand.
func (s *partitionState) contradicts(row *Row, self Member) bool {
	return (s.phase == starting || s.phase == owned) && row.Epoch == s.epoch && (row.Released || row.Holder != self)
}
