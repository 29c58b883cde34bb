package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
)

// ReportFormat is the Format of a [Report]. It is raised when a field changes
// its meaning or goes away, and not when one is added.
const ReportFormat = 1

// A Report is what a member says of itself when it is asked for its status.
type Report struct {
	Format int `json:"format"`
	MemberID
	State      string     `json:"state"`
	Version    string     `json:"version"` // of the program
	StartedAt  time.Time  `json:"started_at"`
	Parameters Parameters `json:"parameters"`

	Members    []KnownMember     `json:"members"`    // the others, by name
	Partitions []ServedPartition `json:"partitions"` // those that it holds, by number

	SharedRequestsPerSecond float64  `json:"shared_requests_per_second"` // taken from the shared queue
	CachedUsers             int      `json:"warm_users"`                 // kept in memory
	Counters                Counters `json:"counters"`
	Problems                []string `json:"problems,omitempty"` // in words
	Traffic                 Traffic  `json:"traffic,omitzero"`   // an older program leaves it out
}

// A KnownMember is what a member knows of another one.
type KnownMember struct {
	MemberID
	State string `json:"state"`
	Alive bool   `json:"alive"`
}

// A ServedPartition is a partition that a member holds a lease of.
type ServedPartition struct {
	Partition         int     `json:"partition"`
	Phase             string  `json:"phase"`
	Epoch             int64   `json:"epoch"`
	RequestsPerSecond float64 `json:"requests_per_second"`
}

// Counters count since the process has started.
type Counters struct {
	Forwarded int64 `json:"forwarded"` // requests taken from the shared queue that went on to a partition's
	Misrouted int64 `json:"misplaced"` // requests that came by another partition's queue
	Fenced    int64 `json:"fenced"`    // writes that were refused because their lease was over

	DatabaseRoundTrips int64 `json:"database_round_trips"`
}

// Traffic says how many requests a member has answered in the last minutes, and
// how fast.
type Traffic struct {
	IntervalSeconds int            `json:"interval_seconds"` // that each point is about
	BoundsSeconds   []float64      `json:"bounds_seconds"`   // ascending
	Points          []TrafficPoint `json:"points"`           // the latest is the last
}

// A TrafficPoint says how many requests were answered within one interval, by the
// time that they took: Counts has the number of those that took no longer than
// each bound, and longer than the one before, and last that of all others.
type TrafficPoint struct {
	End    int64    `json:"end"` // Unix time in seconds, a multiple of the interval
	Counts []uint64 `json:"counts"`
}

func (t Traffic) check() error {
	if len(t.Points) > 0 && (t.IntervalSeconds <= 0 || !slices.IsSorted(t.BoundsSeconds)) {
		return errors.New("a traffic that cannot be")
	}
	for _, p := range t.Points {
		if len(p.Counts) != len(t.BoundsSeconds)+1 {
			return errors.New("a traffic that cannot be")
		}
	}
	return nil
}

// NewReport returns a report that tells what s does: the identity, the state, the
// members and the partitions. All else is left to the caller.
func NewReport(s ownership.Status) Report {
	r := Report{
		Format:     ReportFormat,
		MemberID:   MemberIDOf(s.Self),
		State:      s.State.String(),
		Members:    []KnownMember{},
		Partitions: []ServedPartition{},
	}
	for _, m := range s.Members {
		r.Members = append(r.Members, KnownMember{MemberID: MemberIDOf(m.Member), State: m.State.String(), Alive: m.Alive})
	}
	for p, status := range s.Partitions {
		if status.Epoch != 0 {
			r.Partitions = append(r.Partitions, ServedPartition{Partition: p, Phase: status.Phase, Epoch: status.Epoch})
		}
	}
	return r
}

// answer is the body of a report on the wire.
type answer struct {
	envelope
	Report Report `json:"report"`
}

// encodeReport returns an error where a number is none, or there is too much.
func encodeReport(r Report) ([]byte, error) {
	body, err := json.Marshal(answer{envelope: envelope{V: wireVersion}, Report: r})
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("%d bytes", len(body))
	}
	if err != nil {
		return nil, fmt.Errorf("encoding a report: %w", err)
	}
	return body, nil
}

func decodeReport(body []byte) (Report, error) {
	var a answer
	if err := decode(body, &a); err != nil {
		return Report{}, err
	}
	r := a.Report
	if r.Format != ReportFormat {
		return Report{}, fmt.Errorf("a report of format %d", r.Format)
	}
	if err := errors.Join(r.check(), r.Parameters.check(), r.Traffic.check()); err != nil {
		return Report{}, err
	}
	if !isText(r.State) || !isText(r.Version) {
		return Report{}, errors.New("a text that cannot be")
	}
	if slices.ContainsFunc(r.Problems, func(problem string) bool { return !isSentence(problem) }) {
		return Report{}, errors.New("a text that cannot be")
	}
	for _, m := range r.Members {
		if m.check() != nil || !isText(m.State) {
			return Report{}, errors.New("a member that cannot be")
		}
	}
	for _, p := range r.Partitions {
		if p.Partition < 0 || p.Partition >= r.Parameters.Partitions || !isText(p.Phase) || math.Signbit(p.RequestsPerSecond) {
			return Report{}, errors.New("a partition that cannot be")
		}
	}
	return r, nil
}
