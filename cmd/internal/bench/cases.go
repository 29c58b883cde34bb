package bench

import (
	"fmt"
	"slices"
	"strings"
)

// A benchCase is a kind of request that is measured, or a mix of them.
type benchCase struct {
	name    string
	direct  bool // it goes to the user's partition at once
	writes  bool // its requests are persistent, and it is measured beside the database alone
	next    func(u *userPool) request
	targets []target
}

// The names of what a case is measured beside.
const (
	echoSide       = "echo"        // on a classic queue
	directEchoSide = "echo direct" // on a queue and an exchange of the partitions' kinds
	spreadEchoSide = "echo spread" // likewise, on as many queues as there are partitions
	rowLockSide    = "row lock"    // a transaction per request, over pgx
	commitSide     = "commit"      // an update of one row, over pgx
)

// A target is what a case should reach, in proportion to something that is
// measured beside it.
type target struct {
	inFlight int
	beside   string
	times    float64 // the median latency is at most times that of beside, or the rate at least
	rate     bool    // it is about the rate
	commits  int     // what the latency may be more, in commits
}

func latencyTarget(times float64, beside string, commits int) target {
	return target{inFlight: 1, beside: beside, times: times, commits: commits}
}

func rateTarget(times float64, beside string) target {
	return target{inFlight: 128, beside: beside, times: times, rate: true}
}

func (a target) String() string {
	if a.rate {
		return fmt.Sprintf("rate >= %g x %s", a.times, a.beside)
	}
	text := fmt.Sprintf("p50 <= %g x %s", a.times, a.beside)
	if a.commits > 0 {
		text += fmt.Sprintf(" + %d commits", a.commits)
	}
	return text
}

func allCases() []benchCase {
	return []benchCase{
		{name: "get", next: (*userPool).get,
			targets: []target{latencyTarget(1.5, echoSide, 0), rateTarget(0.8, echoSide)}},
		{name: "get-direct", direct: true, next: (*userPool).get,
			targets: []target{latencyTarget(1.15, directEchoSide, 0), rateTarget(0.9, directEchoSide)}},
		{name: "get-email", next: (*userPool).getByEmail,
			targets: []target{latencyTarget(1.7, echoSide, 0), rateTarget(0.7, echoSide)}},
		{name: "patch", writes: true, next: (*userPool).patch,
			targets: []target{latencyTarget(2, echoSide, 2), rateTarget(0.35, echoSide), rateTarget(2, rowLockSide)}},
		{name: "patch-direct", direct: true, writes: true, next: (*userPool).patch,
			targets: []target{latencyTarget(1, echoSide, 2), rateTarget(0.5, echoSide), rateTarget(2, rowLockSide)}},
		{name: "patch-one", writes: true, next: (*userPool).patchOne},
		{name: "create", writes: true, next: (*userPool).create,
			targets: []target{latencyTarget(2, echoSide, 2), rateTarget(0.3, echoSide)}},
		{name: "mix", writes: true, next: (*userPool).mixed},
	}
}

func caseNames() string {
	var names []string
	for _, c := range allCases() {
		names = append(names, c.name)
	}
	return strings.Join(names, ",")
}

// casesNamed returns the cases of a list as in "get,patch", in its order.
func casesNamed(list string) (cases []benchCase, err error) {
	all := allCases()
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(c benchCase) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no case %q; there are %s", name, caseNames())
		}
		cases = append(cases, all[i])
	}
	return cases, nil
}

// beside returns what a case is measured beside. withDatabase says that there is
// a database to measure beside, too.
func (c benchCase) beside(inFlight int, withDatabase bool) []string {
	names := []string{echoSide}
	if c.direct {
		names = append(names, directEchoSide, spreadEchoSide)
	}
	for _, a := range c.targets {
		if !withDatabase || a.inFlight != inFlight {
			continue
		}
		if a.commits > 0 {
			names = append(names, commitSide)
		}
		if a.beside == rowLockSide {
			names = append(names, rowLockSide)
		}
	}
	return names
}
