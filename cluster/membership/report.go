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

// A Report is a member's reply to a status request. It is about that member.
type Report struct {
	Format int `json:"format"`
	MemberID
	State      string     `json:"state"`
	Version    string     `json:"version"` // of the program
	StartedAt  time.Time  `json:"started_at"`
	Parameters Parameters `json:"parameters"`

	Weight float64 `json:"weight,omitempty"` // in the hash ring; an older program leaves it out
	Moved  []int   `json:"moved,omitempty"`  // the partitions that an operator has moved to this member, in order

	Members    []KnownMember     `json:"members"`    // the other members, sorted by name
	Partitions []ServedPartition `json:"partitions"` // the served partitions, sorted by number

	SharedRequestsPerSecond float64  `json:"shared_requests_per_second"` // taken from the shared queue
	CachedUsers             int      `json:"warm_users"`                 // in memory
	Counters                Counters `json:"counters"`
	Problems                []string `json:"problems,omitempty"` // sentences for people
	Traffic                 Traffic  `json:"traffic,omitzero"`   // an older program leaves it out
}

// A KnownMember is what a member knows about another member.
type KnownMember struct {
	MemberID
	State string `json:"state"`
	Alive bool   `json:"alive"`
}

// A ServedPartition is a partition of which a member holds the lease.
type ServedPartition struct {
	Partition         int     `json:"partition"`
	Phase             string  `json:"phase"`
	Epoch             int64   `json:"epoch"`
	RequestsPerSecond float64 `json:"requests_per_second"`
}

// Counters count since the start of the process.
type Counters struct {
	Forwarded int64 `json:"forwarded"` // requests from the shared queue that were forwarded to a partition queue
	Misrouted int64 `json:"misplaced"` // requests that came through another partition's queue
	Fenced    int64 `json:"fenced"`    // writes that were refused because their lease had ended

	DatabaseRoundTrips int64 `json:"database_round_trips"`
}

// Traffic is the number and the duration of the requests that a member has answered in the
// last minutes.
type Traffic struct {
	IntervalSeconds int            `json:"interval_seconds"` // the length of the interval of each point
	BoundsSeconds   []float64      `json:"bounds_seconds"`   // ascending
	Points          []TrafficPoint `json:"points"`           // in order of time
}

// A TrafficPoint counts the requests that were answered within one interval, by duration.
// Counts[i] is the number of those that took no longer than bound i and longer than the
// bound before. The last of Counts is the number of all others.
type TrafficPoint struct {
	End    int64    `json:"end"` // Unix time in seconds, a multiple of the interval
	Counts []uint64 `json:"counts"`
}

func (t Traffic) validate() error {
	if len(t.Points) > 0 && (t.IntervalSeconds <= 0 || !slices.IsSorted(t.BoundsSeconds)) {
		return errors.New("impossible traffic")
	}
	for _, p := range t.Points {
		if len(p.Counts) != len(t.BoundsSeconds)+1 {
			return errors.New("impossible traffic")
		}
	}
	return nil
}

// NewReport returns a report with the member id, the state, the members and the partitions
// of s. The caller fills in the other fields.
func NewReport(s ownership.Status) Report {
	r := Report{
		Format:     ReportFormat,
		MemberID:   MemberIDOf(s.Self),
		State:      s.State.String(),
		Weight:     float64(s.Weight) / weightUnit,
		Members:    []KnownMember{},
		Partitions: []ServedPartition{},
	}
	for _, m := range s.Moves {
		r.Moved = append(r.Moved, m.Partition)
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

// reportBody is the body of a report on the wire.
type reportBody struct {
	envelope
	Report Report `json:"report"`
}

// encodeReport returns an error if a float is not a number or the body is too large.
func encodeReport(r Report) ([]byte, error) {
	body, err := json.Marshal(reportBody{envelope: envelope{V: wireVersion}, Report: r})
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("%d bytes", len(body))
	}
	if err != nil {
		return nil, fmt.Errorf("encoding a report: %w", err)
	}
	return body, nil
}

func decodeReport(body []byte) (Report, error) {
	var a reportBody
	if err := decodeBody(body, &a); err != nil {
		return Report{}, err
	}
	r := a.Report
	if r.Format != ReportFormat {
		return Report{}, fmt.Errorf("report of format %d", r.Format)
	}
	if err := errors.Join(r.validate(), r.Parameters.validate(), r.Traffic.validate()); err != nil {
		return Report{}, err
	}
	if !isText(r.State) || !isText(r.Version) {
		return Report{}, errors.New("impossible text")
	}
	if slices.ContainsFunc(r.Problems, func(problem string) bool { return !isSentence(problem) }) {
		return Report{}, errors.New("impossible text")
	}
	if !(r.Weight >= 0 && r.Weight <= maxWeight) {
		return Report{}, errors.New("impossible weight")
	}
	if slices.ContainsFunc(r.Moved, func(p int) bool { return p < 0 || p >= r.Parameters.Partitions }) {
		return Report{}, errors.New("impossible partition")
	}
	for _, m := range r.Members {
		if m.validate() != nil || !isText(m.State) {
			return Report{}, errors.New("impossible member")
		}
	}
	for _, p := range r.Partitions {
		if p.Partition < 0 || p.Partition >= r.Parameters.Partitions || !isText(p.Phase) || math.Signbit(p.RequestsPerSecond) {
			return Report{}, errors.New("impossible partition")
		}
	}
	return r, nil
}
