// Package commitstate decides what happens to a pending write after each attempt to
// commit it. It is a pure state machine: no I/O, no goroutine, no clock. The store makes
// the attempts, turns their results into events, and carries out the actions.
//
//	┌────────┐ attempt without  ┌──────────┐ outcome lost ┌────────────────┐
//	│ Cached ├─────────────────▶│ MustRead ├─────────────▶│ OutcomeUnknown │
//	└───┬────┘ a decision       └────┬─────┘              └───────┬────────┘
//	    │                            │                            │
//	    └────────────────────────────┼────────────────────────────┘
//	                                 ▼ decided, abandoned, or given up
//	                           ┌───────────┐
//	                           │ Completed │
//	                           └───────────┘
//
// A lost outcome leads from Cached to OutcomeUnknown too. A state is never left for an
// earlier one.
//
// # What it promises
//
//   - Each event has exactly one transition, in each state.
//   - A pending write is given up only with its lease while an earlier attempt may still be
//     committed.
//   - A pending write for which there is no connection is as it was before, and is given up
//     after a while, unless its outcome is unknown.
//   - If an attempt fails and it is not known which pending write is the cause, each one
//     leaves the group, so that it delays no other one. If several writes to the user were in
//     the attempt, the next one has half as many, so that the write which fails is found
//     in a few attempts.
//
// # Design decisions and what they cost
//
// The state of each pending write is its own, although an attempt is made for a group: a
// write that fails costs the others of its group one attempt more, and then nothing.
// The price is that after a failure each user's writes have a transaction of their own.
//
// A pending write that other transactions block is postponed and not waited for. It
// holds no connection and no lock meanwhile. The price is that writes to other users may
// overtake it, which is allowed.
//
// A pending write that fails after an attempt of unknown outcome gives its lease up. The
// next claim of the partition waits until that attempt has ended in the server, and the
// request is carried out again under the next lease, which knows the outcome. The price is
// that the partition pauses. The alternative, to wait until the server has surely ended the
// attempt, needs a bound that the server does not keep (a commit may wait for a standby
// for ever), and later writes to the user would be notified before that one.
package commitstate

import "time"

// A State says what the next attempt may rely on.
type State int

const (
	// Cached: the writes decide on the cached user.
	Cached State = iota

	// MustRead: no user is cached, or an attempt that relied on the cached user did
	// not decide. The user has to be read and locked.
	MustRead

	// OutcomeUnknown: an attempt ended without telling whether it was committed. The
	// user has to be read. All request ids have to be looked up, random ones included:
	// they tell whether that attempt was committed.
	OutcomeUnknown

	// Completed: the caller has its result.
	Completed
)

// A Result is what an attempt did for one pending write.
type Result int

const (
	// Decided: the attempt was committed. The first of the pending write's writes has
	// an outcome or an error; perhaps others of them have an outcome too.
	Decided Result = iota

	// LeftOut: the attempt was committed without this pending write, because the
	// attempt was already large enough, or had taken too long.
	LeftOut

	// Overtaken: the attempt was committed without this pending write, which wants the
	// same user, request id, email or service id as another one of the attempt. What
	// is cached may be out of date.
	Overtaken

	// PreconditionMissed: the attempt wrote nothing, because something was not as the
	// decisions on cached users assumed.
	PreconditionMissed

	// Blocked: the attempt was committed without this pending write, because another
	// transaction has locked or changed the user's rows.
	Blocked

	// Failed: the attempt was not committed, and the same attempt would fail again.
	Failed

	// Contended: the attempt was not committed, because another transaction was in the
	// way.
	Contended

	// OutcomeLost: the database was unreachable, or was lost before it answered. The
	// attempt may have been committed.
	OutcomeLost

	// Unsent: there was no connection for the attempt, so it was not made.
	Unsent

	// Abandoned: there was no attempt. The caller's context is done, or the store closes.
	Abandoned

	results int = iota
)

// An Event is the result of an attempt for one pending write.
type Event struct {
	Result    Result
	Now       time.Time
	InAttempt int  // how many of the pending write's writes were in the attempt
	OnCached  bool // the attempt relied on cached users
	Alone     bool // the pending write was the only one of its group
}

// An Action is what the store does next with a pending write.
type Action int

const (
	Deliver     Action = iota // send the outcomes, or the error, to the caller
	Abandon                   // send the error of the context to the caller
	GiveUp                    // log the error and send it to the caller
	GiveUpBusy                // like GiveUp, with an error that says that other transactions were in the way
	GiveUpLease               // tell the caller that the lease has to be claimed anew: an earlier attempt may be committed
	Retry                     // attempt again at once, with the rest of the group
	RetryLater                // like Retry, after a pause
	CommitAlone               // attempt at once, and from now on without other pending writes
	Postpone                  // attempt after a pause, in a group to come unless CommitAlone came before
)

// DefaultPatience is longer than any statement of an attempt may take.
const DefaultPatience = 20 * time.Second

// A Progress is the state of a pending write with what transitions depend on.
type Progress struct {
	State        State
	MaxInAttempt int       // how many of its writes may be in the next attempt; less than all after a failure
	BlockedSince time.Time // when the pending write was first postponed; zero means never
	UnsentSince  time.Time // when the first of the latest attempts without a connection ended; zero: the latest one had one

	// Patience is how long a pending write is attempted that other transactions block, or
	// for which there is no connection. It does not change.
	Patience time.Duration
}

// A transition raises the state to `to`. If the state is already later, it stays.
type transition struct {
	on   Result
	when func(Progress, Event) bool // nil means always
	to   State
	then Action
}

// sameState keeps the state: Cached is the first one, so it raises none.
const sameState = Cached

// transitions has the rules. If the conditions of several rules for a result hold, the first
// of these rules applies.
var transitions = [...]transition{
	{Decided, nil, Completed, Deliver},
	{Abandoned, nil, Completed, Abandon},

	{LeftOut, nil, sameState, Retry},
	{Overtaken, nil, MustRead, Retry},
	{PreconditionMissed, nil, MustRead, Retry},

	{Blocked, patienceIsOverAndOutcomeUnknown, Completed, GiveUpLease},
	{Blocked, patienceIsOver, Completed, GiveUpBusy},
	{Blocked, nil, sameState, Postpone},

	{Failed, reliedOnCached, MustRead, Retry},
	{Failed, isInGroup, MustRead, CommitAlone},
	{Failed, hadSeveralWrites, MustRead, Retry},
	{Failed, outcomeIsUnknown, Completed, GiveUpLease},
	{Failed, nil, Completed, GiveUp},

	{Contended, reliedOnCached, MustRead, Retry},
	{Contended, isInGroup, MustRead, CommitAlone},
	{Contended, patienceIsOverAndOutcomeUnknown, Completed, GiveUpLease},
	{Contended, patienceIsOver, Completed, GiveUpBusy},
	{Contended, nil, MustRead, Postpone},

	{Unsent, isUnsentForTooLong, Completed, GiveUp},
	{Unsent, nil, sameState, RetryLater},

	{OutcomeLost, isInGroupWithoutWrites, MustRead, CommitAlone},
	{OutcomeLost, isInGroup, OutcomeUnknown, CommitAlone},
	{OutcomeLost, hadNoWrites, MustRead, RetryLater},
	{OutcomeLost, nil, OutcomeUnknown, RetryLater},
}

func reliedOnCached(_ Progress, e Event) bool         { return e.OnCached }
func isInGroup(_ Progress, e Event) bool              { return !e.Alone }
func hadNoWrites(_ Progress, e Event) bool            { return e.InAttempt == 0 }
func isInGroupWithoutWrites(_ Progress, e Event) bool { return !e.Alone && e.InAttempt == 0 }
func hadSeveralWrites(_ Progress, e Event) bool       { return e.InAttempt > 1 }
func outcomeIsUnknown(p Progress, _ Event) bool       { return p.State == OutcomeUnknown }

// patienceIsOver reports whether other transactions have blocked the pending write for
// too long.
func patienceIsOver(p Progress, e Event) bool {
	return !p.BlockedSince.IsZero() && e.Now.Sub(p.BlockedSince) > p.Patience
}

func patienceIsOverAndOutcomeUnknown(p Progress, e Event) bool {
	return outcomeIsUnknown(p, e) && patienceIsOver(p, e)
}

// isUnsentForTooLong reports whether there has been no connection for too long. A pending
// write whose outcome is unknown waits on, because only an attempt tells the outcome.
func isUnsentForTooLong(p Progress, e Event) bool {
	return p.State != OutcomeUnknown && !p.UnsentSince.IsZero() && e.Now.Sub(p.UnsentSince) > p.Patience
}

// After returns the progress after an event, and what the store does next.
func (p Progress) After(e Event) (Progress, Action) {
	t := p.transition(e)
	if (e.Result == Failed || e.Result == OutcomeLost) && e.InAttempt > 1 {
		p.MaxInAttempt = e.InAttempt / 2
	}
	if e.Result != Unsent {
		p.UnsentSince = time.Time{}
	} else if p.UnsentSince.IsZero() {
		p.UnsentSince = e.Now
	}
	if t.then == Postpone && p.BlockedSince.IsZero() {
		p.BlockedSince = e.Now
	}
	p.State = max(p.State, t.to)
	return p, t.then
}

// transition returns the first transition that applies. There is one for each event.
func (p Progress) transition(e Event) *transition {
	for i := range transitions {
		t := &transitions[i]
		if t.on == e.Result && (t.when == nil || t.when(p, e)) {
			return t
		}
	}
	panic("commitstate: no transition")
}
