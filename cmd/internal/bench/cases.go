package bench

import (
	"fmt"
	"slices"
	"strings"
)

// A benchCase is a kind of request, or a mix of kinds.
type benchCase struct {
	name    string
	direct  bool // requests go to the partition queue of the user
	writes  bool // requests are persistent and change users
	next    func(u *userPool) request
	targets []target
}

// The names of the baselines, which are measured in turn with the service.
const (
	echoSide       = "echo"        // on a classic queue
	directEchoSide = "echo direct" // on a queue and an exchange like those of the partitions
	spreadEchoSide = "echo spread" // like directEchoSide, on as many queues as there are partitions
	rowLockSide    = "row lock"    // one transaction per request, without the service
	commitSide     = "commit"      // an update of one row, without the service
)

// A target is a limit on the ratio between a case and a baseline.
type target struct {
	inFlight int
	baseline string
	times    float64 // the median latency is at most this multiple of the baseline, or the rate at least
	rate     bool    // the target limits the rate, else the latency
	commits  int     // the latency may be longer by this many commits
}

func latencyTarget(times float64, baseline string, commits int) target {
	return target{inFlight: 1, baseline: baseline, times: times, commits: commits}
}

func rateTarget(times float64, baseline string) target {
	return target{inFlight: 128, baseline: baseline, times: times, rate: true}
}

func (a target) String() string {
	if a.rate {
		return fmt.Sprintf("rate >= %g x %s", a.times, a.baseline)
	}
	text := fmt.Sprintf("p50 <= %g x %s", a.times, a.baseline)
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

// casesNamed returns the cases of a comma-separated list.
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

// baselines returns the baselines of a case. withDatabase says whether the database can
// be measured too.
func (c benchCase) baselines(inFlight int, withDatabase bool) []string {
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
		if a.baseline == rowLockSide {
			names = append(names, rowLockSide)
		}
	}
	return names
}
