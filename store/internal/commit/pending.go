package commit

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/commitstate"
)

// A pending write is one or more writes to one user that wait to be committed, in their
// order. One transaction commits as many of them as can share it. The caller submits the
// others again.
type pending struct {
	writes     []*actor.Write    // at least one
	requestIDs []actor.RequestID // of the writes; random ones for those that have none
	lease      partition.Lease
	ctx        context.Context // the caller's
	result     chan commitResult

	progress commitstate.Progress
	backoff  wait.Backoff // between postponed attempts
	stage    stageValue
	alone    bool // from now on, it shares no transaction with others

	turn *turn // nil: the pending write is not in an attempt, or writes to no partition

	// The attempt that is under way, or the latest one.
	inAttempt     int                // how many of writes it has, from the first one on
	attemptResult commitstate.Result // what it did for this pending write
	outcomes      []actor.Outcome    // if decided
	err           error              // if decided: why the first write failed

	// For the Trace of each write.
	submitted time.Time // zero if no write has a Trace
	attempted time.Time // when the latest attempt began
	shared    int       // how many writes were in the transaction that was committed
}

type commitResult struct {
	outcomes []actor.Outcome // of the first writes, at least one
	err      error           // of the first write, if there are no outcomes
}

func newPending(ctx context.Context, lease partition.Lease, writes []*actor.Write, patience time.Duration) *pending {
	p := &pending{
		writes:     writes,
		requestIDs: make([]actor.RequestID, len(writes)),
		lease:      lease,
		ctx:        ctx,
		result:     make(chan commitResult, 1),
		progress:   commitstate.Progress{MaxInAttempt: len(writes), Patience: patience},
		backoff:    wait.Backoff{First: firstPostponement, Longest: longestPostponement},
	}
	if !canDecideOnCached(p.first()) {
		p.progress.State = commitstate.MustRead
	}
	for i, w := range writes {
		if p.requestIDs[i] = w.RequestID; !hasRequestID(w) {
			rand.Read(p.requestIDs[i][:]) // never fails
		}
		if w.Trace != nil && p.submitted.IsZero() {
			p.submitted = time.Now()
		}
	}
	return p
}

func hasRequestID(w *actor.Write) bool { return w.RequestID != (actor.RequestID{}) }

// canDecideOnCached reports whether a write can decide without reading its user.
func canDecideOnCached(w *actor.Write) bool {
	return w.Refusal() != nil || w.IsCreate() || w.Cached != nil && w.Cached.Version != actor.Version{}
}

// first is the write that every attempt decides.
func (p *pending) first() *actor.Write { return p.writes[0] }

func (p *pending) isCached() bool { return p.progress.State == commitstate.Cached }

// isOutcomeUnknown reports whether an earlier attempt may have been committed.
func (p *pending) isOutcomeUnknown() bool { return p.progress.State == commitstate.OutcomeUnknown }

// weight is the weight of the writes in a group. A small write weighs as much as one of
// the size at which maxGroup and maxGroupBytes allow the same number of writes.
func (p *pending) weight() (n int) {
	for _, w := range p.writes {
		n += max(w.Size, maxGroupBytes/maxGroup)
	}
	return n
}

func (p *pending) atOnce() bool {
	return slices.ContainsFunc(p.writes, func(w *actor.Write) bool { return w.AtOnce })
}

// beginAttempt resets the result of the attempt before.
func (p *pending) beginAttempt(now time.Time) {
	p.attempted = now
	p.leaveOut(commitstate.LeftOut)
}

// leaveOut takes the pending write out of the attempt that is under way.
func (p *pending) leaveOut(why commitstate.Result) {
	p.attemptResult, p.inAttempt, p.outcomes, p.err = why, 0, nil, nil
}

// setDecided sets the result of the attempt. It counts if the attempt is committed.
func (p *pending) setDecided(outcomes []actor.Outcome, err error) {
	p.attemptResult, p.outcomes, p.err = commitstate.Decided, outcomes, err
}

// complete sends the result to the caller: the outcomes of the first writes, or the error
// of the first one.
func (p *pending) complete(outcomes []actor.Outcome, err error) {
	for _, w := range p.writes[:max(1, len(outcomes))] {
		if w.Trace != nil {
			w.Trace.Committed(p.submitted, p.attempted, p.shared, err)
		}
	}
	p.result <- commitResult{outcomes, err}
}
