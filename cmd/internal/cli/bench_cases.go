package cli

import (
	"fmt"
	"slices"
	"strings"
)

// A benchCase is a kind of request that is measured, or a mix of them.
type benchCase struct {
	name   string
	direct bool // it goes to the user's partition at once
	writes bool // its requests are persistent, and it is measured beside the database alone
	next   func(u *benchUsers) benchRequest
	aims   []benchAim
}

// The names of what a case is measured beside.
const (
	benchEcho       = "echo"        // on a classic queue
	benchDirectEcho = "echo direct" // on a queue and an exchange of the partitions' kinds
	benchSpreadEcho = "echo spread" // likewise, on as many queues as there are partitions
	benchRowLock    = "row lock"    // a transaction per request, over pgx
	benchCommit     = "commit"      // an update of one row, over pgx
)

// A benchAim is what a case should reach, in proportion to something that is
// measured beside it.
type benchAim struct {
	inFlight int
	beside   string
	times    float64 // the median latency is at most times that of beside, or the rate at least
	rate     bool    // it is about the rate
	commits  int     // what the latency may be more, in commits
}

func latencyAim(times float64, beside string, commits int) benchAim {
	return benchAim{inFlight: 1, beside: beside, times: times, commits: commits}
}

func rateAim(times float64, beside string) benchAim {
	return benchAim{inFlight: 128, beside: beside, times: times, rate: true}
}

func (a benchAim) String() string {
	if a.rate {
		return fmt.Sprintf("rate >= %g x %s", a.times, a.beside)
	}
	text := fmt.Sprintf("p50 <= %g x %s", a.times, a.beside)
	if a.commits > 0 {
		text += fmt.Sprintf(" + %d commits", a.commits)
	}
	return text
}

func benchCases() []benchCase {
	return []benchCase{
		{name: "get", next: (*benchUsers).get,
			aims: []benchAim{latencyAim(1.5, benchEcho, 0), rateAim(0.8, benchEcho)}},
		{name: "get-direct", direct: true, next: (*benchUsers).get,
			aims: []benchAim{latencyAim(1.15, benchDirectEcho, 0), rateAim(0.9, benchDirectEcho)}},
		{name: "get-email", next: (*benchUsers).getByEmail,
			aims: []benchAim{latencyAim(1.7, benchEcho, 0), rateAim(0.7, benchEcho)}},
		{name: "patch", writes: true, next: (*benchUsers).patch,
			aims: []benchAim{latencyAim(2, benchEcho, 2), rateAim(0.35, benchEcho), rateAim(2, benchRowLock)}},
		{name: "patch-direct", direct: true, writes: true, next: (*benchUsers).patch,
			aims: []benchAim{latencyAim(1, benchEcho, 2), rateAim(0.5, benchEcho), rateAim(2, benchRowLock)}},
		{name: "patch-one", writes: true, next: (*benchUsers).patchOne},
		{name: "create", writes: true, next: (*benchUsers).create,
			aims: []benchAim{latencyAim(2, benchEcho, 2), rateAim(0.3, benchEcho)}},
		{name: "mix", writes: true, next: (*benchUsers).mixed},
	}
}

func benchCaseNames() string {
	var names []string
	for _, c := range benchCases() {
		names = append(names, c.name)
	}
	return strings.Join(names, ",")
}

// benchCasesNamed returns the cases of a list as in "get,patch", in its order.
func benchCasesNamed(list string) (cases []benchCase, err error) {
	all := benchCases()
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(c benchCase) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no case %q; there are %s", name, benchCaseNames())
		}
		cases = append(cases, all[i])
	}
	return cases, nil
}

// beside returns what a case is measured beside. withDatabase says that there is
// a database to measure beside, too.
func (c benchCase) beside(inFlight int, withDatabase bool) []string {
	names := []string{benchEcho}
	if c.direct {
		names = append(names, benchDirectEcho, benchSpreadEcho)
	}
	for _, a := range c.aims {
		if !withDatabase || a.inFlight != inFlight {
			continue
		}
		if a.commits > 0 {
			names = append(names, benchCommit)
		}
		if a.beside == benchRowLock {
			names = append(names, benchRowLock)
		}
	}
	return names
}
