package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// reportFormat is the version of a report's form.
const reportFormat = 1

// A report is all that a run has measured. It is what is saved.
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
	LoadAverage string `json:"load_average"`       // at the beginning, of 1, 5 and 15 minutes; "": not known
	LoadAtEnd   string `json:"load_average_after"` // likewise
}

// A setup says what was measured.
type setup struct {
	Local      int    `json:"local"` // instances that were started for it; 0: it ran already
	Partitions int    `json:"partitions"`
	QueueType  string `json:"queue_type"`
	RabbitMQ   string `json:"rabbitmq"`
	PostgreSQL string `json:"postgresql,omitempty"` // "": out of reach
	Durable    bool   `json:"durable"`              // commits wait for the disk; false as well where that is not known
}

// A cell is a case with a number of requests in flight.
type cell struct {
	Case     string         `json:"case"`
	InFlight int            `json:"in_flight"`
	Sides    []sideResult   `json:"sides"` // the service first
	Database *databaseShare `json:"database,omitempty"`
	Targets  []outcome      `json:"targets,omitempty"`
}

// serviceSide is the name of the first side.
const serviceSide = "service"

func (c *cell) side(name string) *sideResult {
	i := slices.IndexFunc(c.Sides, func(s sideResult) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Sides[i]
}

// A sideResult is the service, or something that was measured in turn with it.
type sideResult struct {
	Name      string   `json:"name"`
	Requests  int      `json:"requests"`
	PerSecond float64  `json:"requests_per_second"`
	P50       float64  `json:"p50_ms"`
	P99       float64  `json:"p99_ms"`
	P999      float64  `json:"p999_ms"`
	Rate      *spread  `json:"rate_ratio,omitempty"` // the service's rate to this one's, over all pairs
	Latency   *spread  `json:"p50_ratio,omitempty"`  // likewise
	CPU       *cpuCost `json:"cpu,omitempty"`
	Slices    []point  `json:"slices"`
}

// A cpuCost is CPU seconds per 1,000 requests.
type cpuCost struct {
	Server   float64 `json:"server_seconds_per_1000"` // the instances or the echo
	Broker   float64 `json:"broker_seconds_per_1000"`
	Database float64 `json:"database_seconds_per_1000"`
}

// A point is what one slice came to.
type point struct {
	PerSecond float64 `json:"requests_per_second"`
	P50       float64 `json:"p50_ms"`
}

// A databaseShare is the database's share in the service's requests.
type databaseShare struct {
	CommitsPerSecond float64 `json:"write_commits_per_second"`
	Commits          float64 `json:"write_commits_per_request"`
	Transactions     float64 `json:"transactions_per_request"`

	RoundTrips *float64 `json:"round_trips_per_request,omitempty"` // nil: not known
	Rows       float64  `json:"rows_written_per_request"`
	WAL        float64  `json:"wal_bytes_per_request"`
}

// A outcome tells whether an aim was reached.
type outcome struct {
	Target   string  `json:"target"`
	Beside   string  `json:"beside"`
	Rate     bool    `json:"rate"`     // else latency, in ms
	Measured float64 `json:"measured"` // in the middle of all slices
	Limit    float64 `json:"limit"`    // likewise
	Share    spread  `json:"share_of_limit"`
	Met      bool    `json:"met"`
}

// A spread is how a ratio varied.
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

// overlaps reports whether two ratios may be the same, but for noise.
func (s spread) overlaps(other spread) bool {
	return s.Min <= other.Max && other.Min <= s.Max
}

// ratios compares slices that were measured one after the other. Those in which
// nothing was answered do not count.
func ratios(a, b []point, of func(point) float64) (all []float64) {
	for i := range min(len(a), len(b)) {
		if x, y := of(a[i]), of(b[i]); x > 0 && y > 0 {
			all = append(all, x/y)
		}
	}
	return all
}

func rateOf(p point) float64 { return p.PerSecond }

func latencyOf(p point) float64 { return p.P50 }

// compareSides puts into each other side how the service compares with it.
func (c *cell) compareSides() {
	service := c.Sides[0].Slices
	for i := range c.Sides[1:] {
		s := &c.Sides[i+1]
		s.Rate = spreadOf(ratios(service, s.Slices, rateOf))
		s.Latency = spreadOf(ratios(service, s.Slices, latencyOf))
	}
}

// judge tells which targets were reached, of those that were measured.
func (c *cell) judge(targets []target) {
	for _, a := range targets {
		if a.inFlight != c.InFlight {
			continue
		}
		if o, ok := a.judge(c); ok {
			c.Targets = append(c.Targets, o)
		}
	}
}

func (a target) judge(c *cell) (o outcome, ok bool) {
	beside, commit := c.side(a.beside), c.side(commitSide)
	if beside == nil || a.commits > 0 && commit == nil {
		return o, false
	}
	of := latencyOf
	if a.rate {
		of = rateOf
	}
	limits := make([]point, len(beside.Slices))
	for i, p := range beside.Slices {
		limits[i] = point{PerSecond: a.times * p.PerSecond, P50: a.times * p.P50}
		if a.commits > 0 {
			limits[i].P50 += float64(a.commits) * commit.Slices[i].P50
		}
	}
	share := spreadOf(ratios(c.Sides[0].Slices, limits, of))
	if share == nil {
		return o, false
	}
	o = outcome{Target: a.String(), Beside: a.beside, Rate: a.rate, Share: *share,
		Measured: middle(c.Sides[0].Slices, of), Limit: middle(limits, of)}
	if o.Met = share.Median <= 1; a.rate {
		o.Met = share.Median >= 1
	}
	return o, true
}

func middle(points []point, of func(point) float64) float64 {
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = of(p)
	}
	slices.Sort(values)
	return median(values)
}

func (r *report) encode() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the result: %w", err)
	}
	return append(text, '\n'), nil
}

// readReport reads what was saved.
func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is not what --save has written: %w", path, err)
	}
	if r.Format != reportFormat {
		return nil, fmt.Errorf("%s has format %d, not %d", path, r.Format, reportFormat)
	}
	for _, c := range r.Cells {
		if len(c.Sides) == 0 {
			return nil, fmt.Errorf("%s has nothing measured of %s", path, c.Case)
		}
	}
	return r, nil
}
