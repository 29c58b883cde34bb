package commitstate

import (
	"fmt"
	"testing"
	"time"
)

var now = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// TestTransitions has one case for each rule, and for each condition beside it.
func TestTransitions(t *testing.T) {
	const late = DefaultPatience + 1
	mustRead := Progress{State: MustRead, MaxInAttempt: 8, Patience: DefaultPatience}
	unknown := Progress{State: OutcomeUnknown, MaxInAttempt: 8, Patience: DefaultPatience}
	blocked := func(p Progress, since time.Duration) Progress { p.BlockedSince = ago(since); return p }
	unsent := func(p Progress, since time.Duration) Progress { p.UnsentSince = ago(since); return p }
	with := func(p Progress, s State) Progress { p.State = s; return p }
	most := func(p Progress, n int) Progress { p.MaxInAttempt = n; return p }
	cached := with(mustRead, Cached)

	for _, c := range []struct {
		name   string
		before Progress
		event  Event
		after  Progress
		action Action
	}{
		{"decided on cached", cached, Event{Result: Decided, InAttempt: 8, OnCached: true}, with(cached, Completed), Deliver},
		{"decided by reading", mustRead, Event{Result: Decided, InAttempt: 8}, with(mustRead, Completed), Deliver},
		{"abandoned", unknown, Event{Result: Abandoned}, with(unknown, Completed), Abandon},
		{"left out", cached, Event{Result: LeftOut, OnCached: true}, cached, Retry},
		{"left out of reading", unknown, Event{Result: LeftOut}, unknown, Retry},
		{"overtaken", cached, Event{Result: Overtaken, OnCached: true}, mustRead, Retry},
		{"precondition missed", cached, Event{Result: PreconditionMissed, OnCached: true, InAttempt: 8, Alone: true}, mustRead, Retry},

		{"blocked/first", mustRead, Event{Result: Blocked}, blocked(mustRead, 0), Postpone},
		{"blocked/first, not read before", cached, Event{Result: Blocked}, blocked(cached, 0), Postpone},
		{"blocked/patience lasts", blocked(mustRead, DefaultPatience), Event{Result: Blocked}, blocked(mustRead, DefaultPatience), Postpone},
		{"blocked/patience is over", blocked(mustRead, late), Event{Result: Blocked}, with(blocked(mustRead, late), Completed), GiveUpBusy},
		{"blocked/patience lasts, outcome unknown", blocked(unknown, DefaultPatience), Event{Result: Blocked}, blocked(unknown, DefaultPatience), Postpone},
		{"blocked/patience is over, outcome unknown", blocked(unknown, late), Event{Result: Blocked}, with(blocked(unknown, late), Completed), GiveUpLease},

		{"failed/on cached", cached, Event{Result: Failed, InAttempt: 1, OnCached: true, Alone: true}, mustRead, Retry},
		{"failed/on cached, several", cached, Event{Result: Failed, InAttempt: 7, OnCached: true}, most(mustRead, 3), Retry},
		{"failed/in a group", mustRead, Event{Result: Failed, InAttempt: 1}, mustRead, CommitAlone},
		{"failed/in a group, several", mustRead, Event{Result: Failed, InAttempt: 8}, most(mustRead, 4), CommitAlone},
		{"failed/in a group, not in the attempt", cached, Event{Result: Failed}, mustRead, CommitAlone},
		{"failed/alone, several", mustRead, Event{Result: Failed, InAttempt: 2, Alone: true}, most(mustRead, 1), Retry},
		{"failed/alone, several, may commit", unknown, Event{Result: Failed, InAttempt: 2, Alone: true}, most(unknown, 1), Retry},
		{"failed/alone", mustRead, Event{Result: Failed, InAttempt: 1, Alone: true}, with(mustRead, Completed), GiveUp},
		{"failed/alone, outcome unknown", unknown, Event{Result: Failed, InAttempt: 1, Alone: true}, with(unknown, Completed), GiveUpLease},
		{"failed/alone, fenced before", mustRead, Event{Result: Failed, Alone: true}, with(mustRead, Completed), GiveUp},

		{"contended/on cached", cached, Event{Result: Contended, InAttempt: 8, OnCached: true}, mustRead, Retry},
		{"contended/in a group", mustRead, Event{Result: Contended, InAttempt: 8}, mustRead, CommitAlone},
		{"contended/alone", mustRead, Event{Result: Contended, InAttempt: 8, Alone: true}, blocked(mustRead, 0), Postpone},
		{"contended/alone, patience is over", blocked(mustRead, late), Event{Result: Contended, InAttempt: 1, Alone: true}, with(blocked(mustRead, late), Completed), GiveUpBusy},
		{"contended/alone, outcome unknown", unknown, Event{Result: Contended, InAttempt: 1, Alone: true}, blocked(unknown, 0), Postpone},
		{"contended/alone, patience is over, outcome unknown", blocked(unknown, late), Event{Result: Contended, InAttempt: 1, Alone: true}, with(blocked(unknown, late), Completed), GiveUpLease},

		{"unsent/first", cached, Event{Result: Unsent, InAttempt: 8, OnCached: true}, unsent(cached, 0), RetryLater},
		{"unsent/alone, outcome unknown", unknown, Event{Result: Unsent, InAttempt: 1, Alone: true}, unsent(unknown, 0), RetryLater},
		{"unsent/patience lasts", unsent(mustRead, DefaultPatience), Event{Result: Unsent}, unsent(mustRead, DefaultPatience), RetryLater},
		{"unsent/patience is over", unsent(mustRead, late), Event{Result: Unsent}, with(unsent(mustRead, late), Completed), GiveUp},
		{"unsent/patience is over, outcome unknown", unsent(unknown, late), Event{Result: Unsent}, unsent(unknown, late), RetryLater},
		{"unsent/sent then", unsent(mustRead, 1), Event{Result: LeftOut}, mustRead, Retry},

		{"outcome lost/on cached", cached, Event{Result: OutcomeLost, InAttempt: 1, OnCached: true, Alone: true}, unknown, RetryLater},
		{"outcome lost/in a group", cached, Event{Result: OutcomeLost, InAttempt: 8, OnCached: true}, most(unknown, 4), CommitAlone},
		{"outcome lost/in a group, not in the attempt", cached, Event{Result: OutcomeLost, OnCached: true}, mustRead, CommitAlone},
		{"outcome lost/alone", mustRead, Event{Result: OutcomeLost, InAttempt: 1, Alone: true}, unknown, RetryLater},
		{"outcome lost/alone, not in the attempt", mustRead, Event{Result: OutcomeLost, Alone: true}, mustRead, RetryLater},
		{"outcome lost/again", unknown, Event{Result: OutcomeLost, InAttempt: 1, Alone: true}, unknown, RetryLater},
		{"outcome lost/again, not in the attempt", unknown, Event{Result: OutcomeLost, Alone: true}, unknown, RetryLater},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.event.Now = now
			after, action := c.before.After(c.event)
			if after != c.after || action != c.action {
				t.Errorf("%+v, action %d, want %+v, action %d", after, action, c.after, c.action)
			}
		})
	}
}

// all calls yield with each combination of a progress and an event.
func all(yield func(Progress, Event)) {
	var times []time.Time
	for _, d := range []time.Duration{0, time.Second, DefaultPatience - 1, DefaultPatience, DefaultPatience + 1, time.Hour} {
		times = append(times, ago(d))
	}
	for s := Cached; s < Completed; s++ {
		for _, blockedSince := range append(times, time.Time{}) {
			for result := range results {
				for _, inAttempt := range []int{0, 1, 2, 3, 10} {
					for _, flags := range [][2]bool{{false, false}, {false, true}, {true, false}, {true, true}} {
						e := Event{Result(result), now, inAttempt, flags[0], flags[1]}
						for _, unsentSince := range []time.Time{{}, ago(DefaultPatience), ago(DefaultPatience + 1)} {
							yield(Progress{s, 10, blockedSince, unsentSince, DefaultPatience}, e)
						}
					}
				}
			}
		}
	}
}

func TestInvariants(t *testing.T) {
	combinations := 0
	used := make(map[*transition]bool)
	all(func(p Progress, e Event) {
		combinations++
		used[p.transition(e)] = true
		after, action := p.After(e)
		wrong := func(what string) { t.Errorf("%s: %+v, %+v: %+v, action %d", what, p, e, after, action) }
		if ends := action == Deliver || action == Abandon || action == GiveUp || action == GiveUpBusy || action == GiveUpLease; ends != (after.State == Completed) {
			wrong("completed by another action")
		}
		if after.State < p.State {
			wrong("an earlier state")
		}
		if (action == GiveUp || action == GiveUpBusy) && p.State == OutcomeUnknown {
			wrong("given up without the lease, and an earlier attempt may be committed")
		}
		if e.Result == Unsent && after != p && p.UnsentSince == after.UnsentSince && action != GiveUp {
			wrong("an attempt that was not made has changed something")
		}
		if after.MaxInAttempt < 1 || after.MaxInAttempt > p.MaxInAttempt {
			wrong("size of the next attempt")
		}
		if e.Result == OutcomeLost && e.InAttempt > 0 && after.State != OutcomeUnknown {
			wrong("an outcome was forgotten")
		}
		if !e.Alone && (e.Result == Failed || e.Result == OutcomeLost || e.Result == Contended) && action == RetryLater {
			wrong("others wait")
		}
		if (action == Postpone) != (action == Postpone && !after.BlockedSince.IsZero()) {
			wrong("postponed without a limit")
		}
	})
	for i := range transitions {
		if !used[&transitions[i]] {
			t.Errorf("transition %d never applies", i)
		}
	}
	t.Log(combinations, "combinations")
}

// A pending write of many writes, one of which fails, is attempted until that write is
// alone, and then given up.
func TestHalving(t *testing.T) {
	for _, writes := range []int{2, 3, 64, 127, 128} {
		t.Run(fmt.Sprint(writes, " writes"), func(t *testing.T) {
			p := Progress{State: Cached, MaxInAttempt: writes, Patience: DefaultPatience}
			for attempts := 1; ; attempts++ {
				var action Action
				p, action = p.After(Event{Result: Failed, Now: now, InAttempt: p.MaxInAttempt, OnCached: p.State == Cached, Alone: true})
				if action == GiveUp {
					break
				}
				if action != Retry || attempts > 8 {
					t.Fatalf("action %d after %d attempts", action, attempts)
				}
			}
		})
	}
}
