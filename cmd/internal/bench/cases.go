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
	client  bool // the Go client sends the requests
	writes  bool // requests are persistent and change users
	plain   bool // the plain service can serve the requests
	next    func(u *userPool) request
	targets []target
}

// The names of the baselines, which are measured in turn with the service.
const (
	echoSide       = "echo"        // on a classic queue
	directEchoSide = "echo direct" // on a queue and an exchange like those of the partitions
	spreadEchoSide = "echo spread" // like directEchoSide, on as many queues as there are partitions
	rawSide        = "raw"         // the service, with requests over one connection without the Go client
	plainSide      = "plain"       // one transaction per request, on a classic queue
)

// A quantity is a result that a target limits.
type quantity struct {
	name    string
	unit    string
	atLeast bool                // the limit is the lower one
	rounds  bool                // its values are those of rounds, else of turns
	of      func(point) float64 // 0: unknown
}

var (
	rate        = quantity{name: "rate", unit: "/s", atLeast: true, of: func(p point) float64 { return p.PerSecond }}
	latency     = quantity{name: "p50", unit: " ms", of: func(p point) float64 { return p.P50 }}
	databaseCPU = cpuQuantity("database CPU", func(w turnWork) float64 { return w.DatabaseCPU })
	brokerCPU   = cpuQuantity("broker CPU", func(w turnWork) float64 { return w.BrokerCPU })
	totalCPU    = cpuQuantity("CPU", func(w turnWork) float64 { return w.ServerCPU + w.BrokerCPU + w.DatabaseCPU })
	walBytes    = quantity{name: "WAL", unit: " B", rounds: true, of: func(p point) float64 {
		return perUnit(float64(p.Work.WAL), p.Work.Requests)
	}}
	statementsPerCommit = quantity{name: "statements per commit", rounds: true, of: func(p point) float64 {
		return perUnit(float64(p.Work.Statements), int(p.Work.Commits))
	}}
)

// cpuQuantity returns a CPU time for each request.
func cpuQuantity(name string, seconds func(turnWork) float64) quantity {
	return quantity{name: name, unit: " ms", rounds: true, of: func(p point) float64 {
		return perUnit(1000*seconds(p.Work), p.Work.Requests)
	}}
}

func perUnit(sum float64, n int) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// A target is a limit of a quantity of the service.
type target struct {
	inFlight  int
	instances int // 0: any number
	quantity  quantity
	limit     float64
	baseline  string // the limit is a multiple of the quantity of this side; "": it is absolute
}

// with returns a target for a number of instances.
func (a target) with(instances int) target {
	a.instances = instances
	return a
}

func latencyTarget(times float64, baseline string) target {
	return target{inFlight: 1, quantity: latency, limit: times, baseline: baseline}
}

func rateTarget(times float64, baseline string) target {
	return target{inFlight: 128, quantity: rate, limit: times, baseline: baseline}
}

func (a target) String() string {
	sign := "<="
	if a.quantity.atLeast {
		sign = ">="
	}
	text := fmt.Sprintf("%s %s %g", a.quantity.name, sign, a.limit)
	if a.baseline != "" {
		return text + " x " + a.baseline
	}
	return text + a.quantity.unit
}

// scaleTarget is the rate that three instances reach, compared with one.
func scaleTarget(times float64) target { return rateTarget(times, instancesSide(1)).with(3) }

func allCases() []benchCase {
	return []benchCase{
		{name: "get", plain: true, next: (*userPool).get,
			targets: []target{latencyTarget(1.5, echoSide), rateTarget(0.8, echoSide), scaleTarget(0.8)}},
		{name: "get-direct", direct: true, next: (*userPool).get,
			targets: []target{latencyTarget(1.5, echoSide), rateTarget(0.8, spreadEchoSide)}},
		{name: "get-client", client: true, next: (*userPool).get, targets: []target{rateTarget(0.95, rawSide).with(1)}},
		{name: "get-email", next: (*userPool).getByEmail,
			targets: []target{latencyTarget(1.7, echoSide), rateTarget(0.7, echoSide), scaleTarget(0.8)}},
		{name: "patch", writes: true, plain: true, next: (*userPool).patch, targets: []target{
			latencyTarget(1.3, plainSide).with(1), latencyTarget(1.6, plainSide).with(3),
			rateTarget(0.35, echoSide).with(1), rateTarget(2.5, plainSide).with(1), rateTarget(2, plainSide).with(3), scaleTarget(0.75),
			{inFlight: 128, instances: 3, quantity: totalCPU, limit: 1.4, baseline: instancesSide(1)},
			{inFlight: 128, instances: 3, quantity: brokerCPU, limit: 1.5, baseline: instancesSide(1)},
			{inFlight: 1, instances: 1, quantity: databaseCPU, limit: 1.3, baseline: plainSide},
			{inFlight: 128, instances: 1, quantity: databaseCPU, limit: 0.10}, {inFlight: 128, instances: 3, quantity: databaseCPU, limit: 0.20},
			{inFlight: 1, quantity: walBytes, limit: 700}, {inFlight: 128, quantity: walBytes, limit: 700},
			{inFlight: 1, quantity: statementsPerCommit, limit: 5}, {inFlight: 128, quantity: statementsPerCommit, limit: 5},
		}},
		{name: "patch-direct", direct: true, writes: true, plain: true, next: (*userPool).patch,
			targets: []target{latencyTarget(1.3, plainSide), rateTarget(0.5, echoSide), rateTarget(2.5, plainSide)}},
		{name: "patch-one", writes: true, plain: true, next: (*userPool).patchOne},
		{name: "create", writes: true, plain: true, next: (*userPool).create,
			targets: []target{latencyTarget(1.3, plainSide), rateTarget(0.3, echoSide).with(1), scaleTarget(0.75)}},
		{name: "mix", writes: true, plain: true, next: (*userPool).mixed},
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

// baselines returns the baselines of a case. withPlain says whether the plain service runs.
func (c benchCase) baselines(withPlain bool) []string {
	names := []string{echoSide}
	if c.client {
		names = append(names, rawSide)
	}
	if c.direct {
		names = append(names, directEchoSide, spreadEchoSide)
	}
	if c.plain && withPlain {
		names = append(names, plainSide)
	}
	return names
}
