package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// reportFormat is the version of the format of a report.
const reportFormat = 1

// A report is the result of a run. It is what --save writes.
type report struct {
	Format  int       `json:"format"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Machine machine   `json:"machine"`
	Cluster setup     `json:"cluster"`
	Cells   []cell    `json:"cells"`
}

type machine struct {
	CPUs        int    `json:"cpus"`
	System      string `json:"system"`
	LoadAverage string `json:"load_average"`       // at the beginning, over 1, 5 and 15 minutes; "": unknown
	LoadAtEnd   string `json:"load_average_after"` // at the end
}

// A setup describes the measured cluster.
type setup struct {
	Local      int    `json:"local"`                // instances that were started for the run; 0: the cluster was running
	MoreLocal  []int  `json:"more_local,omitempty"` // likewise, of the other clusters that were measured in turn
	Partitions int    `json:"partitions"`
	QueueType  string `json:"queue_type"`
	RabbitMQ   string `json:"rabbitmq"`
	PostgreSQL string `json:"postgresql,omitempty"` // "": unreachable
	Durable    bool   `json:"durable"`              // commits wait for the disk; false if it is unknown
}

// A cell is a case with a number of requests in flight and a number of instances.
type cell struct {
	Case      string       `json:"case"`
	InFlight  int          `json:"in_flight"`
	Instances int          `json:"instances,omitempty"` // 0: unknown
	Sides     []sideResult `json:"sides"`               // the service first
	Targets   []outcome    `json:"targets,omitempty"`
}

// serviceSide is the name of the first side.
const serviceSide = "service"

// instancesSide is the name of the service with another number of instances, as a baseline.
func instancesSide(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

func (c *cell) side(name string) *sideResult {
	i := slices.IndexFunc(c.Sides, func(s sideResult) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Sides[i]
}

// A sideResult is the result of the service or of a baseline.
type sideResult struct {
	Name      string   `json:"name"`
	Requests  int      `json:"requests"`
	PerSecond float64  `json:"requests_per_second"`
	P50       float64  `json:"p50_ms"`
	P99       float64  `json:"p99_ms"`
	P999      float64  `json:"p999_ms"`
	Rate      *spread  `json:"rate_ratio,omitempty"` // the service's rate divided by this one, over all pairs
	Latency   *spread  `json:"p50_ratio,omitempty"`  // the same for the latency
	CPU       *cpuCost `json:"cpu,omitempty"`

	// The service's CPU time divided by this one, over rounds of pairs: of all processes, of
	// the broker and of the database. They are set for sides that use the database.
	TotalCPU    *spread `json:"total_cpu_ratio,omitempty"`
	BrokerCPU   *spread `json:"broker_cpu_ratio,omitempty"`
	DatabaseCPU *spread `json:"database_cpu_ratio,omitempty"`

	Relayed  float64       `json:"requests_per_relayed_message,omitempty"` // 0: unknown, or none was relayed
	Database *databaseWork `json:"database,omitempty"`                     // of the service and the plain service
	Slices   []point       `json:"slices"`
}

// A cpuCost is CPU seconds per 1,000 requests.
type cpuCost struct {
	Server   float64 `json:"server_seconds_per_1000"` // the instances, or the process of the baseline
	Broker   float64 `json:"broker_seconds_per_1000"`
	Database float64 `json:"database_seconds_per_1000"`
}

// A point is the result of one turn.
type point struct {
	PerSecond float64  `json:"requests_per_second"`
	P50       float64  `json:"p50_ms"`
	Work      turnWork `json:"work,omitzero"`
}

// A turnWork is what was done in one turn, or in several. Zero: unknown.
type turnWork struct {
	Requests    int     `json:"requests"`
	Writes      int     `json:"writes"`
	ServerCPU   float64 `json:"server_cpu_seconds"`
	BrokerCPU   float64 `json:"broker_cpu_seconds"`
	DatabaseCPU float64 `json:"database_cpu_seconds"`
	WAL         int64   `json:"wal_bytes"`
	Commits     int64   `json:"write_commits"`
	Statements  int64   `json:"statements"`
}

func (w turnWork) plus(other turnWork) turnWork {
	return turnWork{
		w.Requests + other.Requests, w.Writes + other.Writes,
		w.ServerCPU + other.ServerCPU, w.BrokerCPU + other.BrokerCPU, w.DatabaseCPU + other.DatabaseCPU,
		w.WAL + other.WAL, w.Commits + other.Commits, w.Statements + other.Statements,
	}
}

// roundCount is the number of rounds that turns are joined to. In a single turn, the CPU time
// of a process is only a few clock ticks.
const roundCount = 5

// roundsOf joins consecutive turns. Rounds have no rate and no latency.
func roundsOf(turns []point) []point {
	rounds := make([]point, min(roundCount, len(turns)))
	for i, p := range turns {
		r := &rounds[i*len(rounds)/len(turns)]
		r.Work = r.Work.plus(p.Work)
	}
	return rounds
}

// A databaseWork is what the database does for the requests to a side.
type databaseWork struct {
	CommitsPerSecond    float64 `json:"write_commits_per_second"`
	WritesPerCommit     float64 `json:"writes_per_commit"`               // 0: there was no commit
	StatementsPerCommit float64 `json:"statements_per_commit,omitempty"` // with BEGIN and COMMIT; 0: unknown
	Rows                float64 `json:"rows_written_per_request"`
	WAL                 float64 `json:"wal_bytes_per_request"`

	Transactions *float64 `json:"transactions_per_request,omitempty"` // of the service only
	RoundTrips   *float64 `json:"round_trips_per_request,omitempty"`  // likewise; nil: unknown
}

// An outcome says whether a target was met.
type outcome struct {
	Target   string  `json:"target"`
	Baseline string  `json:"beside,omitempty"`
	Unit     string  `json:"unit"`     // of the following two
	Measured float64 `json:"measured"` // median of all turns or rounds
	Limit    float64 `json:"limit"`    // median of all turns or rounds
	Share    spread  `json:"share_of_limit"`
	Met      bool    `json:"met"`
}

// A spread is the median and the range of a ratio.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf returns nil if there are no values.
func spreadOf(values []float64) *spread {
	if len(values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(values))
	return &spread{Median: median(sorted), Min: sorted[0], Max: sorted[len(sorted)-1]}
}

// median returns the median of values in ascending order.
func median(sorted []float64) float64 {
	half := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[half-1] + sorted[half]) / 2
	}
	return sorted[half]
}

// overlaps says whether the ranges overlap, so that a difference may be noise.
func (s spread) overlaps(other spread) bool {
	return s.Min <= other.Max && other.Min <= s.Max
}

// ratios returns the ratios of the values at the same index. It skips unknown values, which
// are 0.
func ratios(a, b []float64) (all []float64) {
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			all = append(all, a[i]/b[i])
		}
	}
	return all
}

// values returns the values of all turns, or of all rounds.
func (q quantity) values(turns []point) []float64 {
	if q.rounds {
		turns = roundsOf(turns)
	}
	values := make([]float64, len(turns))
	for i, p := range turns {
		values[i] = q.of(p)
	}
	return values
}

// compareSides sets the ratios of each baseline.
func (c *cell) compareSides() {
	for i := range c.Sides[1:] {
		s := &c.Sides[i+1]
		ratio := func(q quantity) *spread { return spreadOf(ratios(q.values(c.Sides[0].Slices), q.values(s.Slices))) }
		s.Rate, s.Latency = ratio(rate), ratio(latency)
		s.TotalCPU, s.BrokerCPU, s.DatabaseCPU = ratio(totalCPU), ratio(brokerCPU), ratio(databaseCPU)
	}
}

// judge sets the outcomes of the targets for which there are measurements.
func (c *cell) judge(targets []target) {
	for _, a := range targets {
		if a.inFlight != c.InFlight || a.instances != 0 && a.instances != c.Instances {
			continue
		}
		if o, ok := a.judge(c); ok {
			c.Targets = append(c.Targets, o)
		}
	}
}

func (a target) judge(c *cell) (o outcome, ok bool) {
	measured := a.quantity.values(c.Sides[0].Slices)
	limits := slices.Repeat([]float64{a.limit}, len(measured))
	if a.baseline != "" {
		baseline := c.side(a.baseline)
		if baseline == nil {
			return o, false
		}
		limits = a.quantity.values(baseline.Slices)
		for i := range limits {
			limits[i] *= a.limit
		}
	}
	share := spreadOf(ratios(measured, limits))
	if share == nil {
		return o, false
	}
	o = outcome{Target: a.String(), Baseline: a.baseline, Unit: a.quantity.unit, Share: *share,
		Measured: spreadOf(measured).Median, Limit: spreadOf(limits).Median}
	if o.Met = share.Median <= 1; a.quantity.atLeast {
		o.Met = share.Median >= 1
	}
	return o, true
}

func (r *report) encode() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	return append(text, '\n'), nil
}

// readReport reads a report that --save has written.
func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s was not written by --save: %w", path, err)
	}
	if r.Format != reportFormat {
		return nil, fmt.Errorf("%s has format %d, not %d", path, r.Format, reportFormat)
	}
	for _, c := range r.Cells {
		if len(c.Sides) == 0 {
			return nil, fmt.Errorf("%s has no measurement of %s", path, c.Case)
		}
	}
	return r, nil
}
