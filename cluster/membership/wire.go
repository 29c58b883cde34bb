package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
	"github.com/glotpod/ident/cluster/partition"
)

// wireVersion is the "v" of all messages.
const wireVersion = 1

// The values of the property type.
const (
	typeHeartbeat  = "heartbeat"   // an ownership.Message
	typeProbe      = "probe"       // has no content
	typeStatus     = "status"      // asks for a Report
	typeDrain      = "drain"       // a request
	typeUndrain    = "undrain"     // a request
	typeMove       = "move"        // a request
	typeUnmove     = "unmove"      // a request
	typeUser       = "user"        // asks for a UserReport; a request
	typeLook       = "look"        // asks to look at the record of repartitions; has no reply
	typeReport     = "report"      // replies to status
	typeUserReport = "user_report" // replies to user
	typeAccepted   = "taken"       // replies to drain, undrain, move and unmove
)

// Limits of what is accepted. Members send far less.
const (
	maxBody       = 1 << 20
	maxName       = 63
	maxText       = 64
	maxSentence   = 256
	maxNext       = time.Minute
	maxPartitions = 1 << 14 // also the most leases or members in one list
	maxWeight     = 100     // ten times the greatest one that can be set
)

type (
	// An envelope is part of each message.
	envelope struct {
		V int `json:"v"`
	}

	// A request is the body of status, user, drain, undrain, move and unmove.
	request struct {
		envelope
		Instance  string `json:"instance,omitempty"`  // the instance that is to act; empty for status and user, which go to all
		Partition int    `json:"partition,omitempty"` // that is to be moved
		UserID    int64  `json:"user_id,omitempty"`   // that is asked for
	}

	// A heartbeat is an ownership.Message.
	heartbeat struct {
		envelope
		From       MemberID   `json:"from"`
		Seq        int64      `json:"seq"`
		State      string     `json:"state"`
		Parameters Parameters `json:"parameters"`
		NextMS     int64      `json:"next_ms,omitempty"` // when the next heartbeat is due at the latest; an older program leaves it out
		Weight     float64    `json:"weight,omitempty"`  // in the ring; an older program leaves it out
		Moves      []move     `json:"moves,omitempty"`   // to the sender
		Wants      []lease    `json:"wants,omitempty"`
		Granted    []lease    `json:"granted,omitempty"`
		Released   []lease    `json:"released,omitempty"`
		Taken      []lease    `json:"taken,omitempty"`
		Gone       []MemberID `json:"gone,omitempty"`
	}

	move struct {
		Partition int   `json:"partition"`
		Version   int64 `json:"version"`
	}

	lease struct {
		Partition int      `json:"partition"`
		Epoch     int64    `json:"epoch"`
		Holder    MemberID `json:"holder"`
	}
)

// A MemberID is the JSON form of an [ownership.Member].
type MemberID struct {
	Name    string `json:"name"`
	Start   int64  `json:"start"`
	Session int64  `json:"session"`
}

// MemberIDOf returns the id of m.
func MemberIDOf(m ownership.Member) MemberID {
	return MemberID{Name: m.Name, Start: m.Incarnation.Start, Session: m.Incarnation.Session}
}

// Member returns the member with the id i.
func (i MemberID) Member() ownership.Member {
	return ownership.Member{Name: i.Name, Incarnation: ownership.Incarnation{Start: i.Start, Session: i.Session}}
}

func (i MemberID) validate() error {
	if !IsName(i.Name) || i.Start < 0 || i.Session < 0 {
		return errors.New("impossible member")
	}
	return nil
}

// Parameters are the JSON form of [ownership.Parameters].
type Parameters struct {
	First        int    `json:"first,omitempty"` // the number of the generation's first partition
	Partitions   int    `json:"partitions"`
	TableVersion int    `json:"table_version"`
	QueueType    string `json:"queue_type"`
}

func (p Parameters) validate() error {
	if p.First < 0 || p.First > maxPartitions || p.Partitions < 0 || p.Partitions > maxPartitions || !isText(p.QueueType) {
		return errors.New("impossible parameters")
	}
	return nil
}

// IsName reports whether name can be the name of an instance: 1 to 63 of the characters
// A–Z a–z 0–9 . _ -
func IsName(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	})
}

// isText reports whether s is short and does no harm in a log or a terminal.
func isText(s string) bool { return len(s) <= maxText && isPrintable(s) }

func isSentence(s string) bool { return len(s) <= maxSentence && isPrintable(s) }

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// statesByName has the states in which a member sends messages.
var statesByName = func() map[string]ownership.State {
	names := make(map[string]ownership.State)
	for s := ownership.Joining; s <= ownership.Left; s++ {
		names[s.String()] = s
	}
	return names
}()

func (e *envelope) version() int { return e.V }

// decodeBody decodes a body of version wireVersion.
func decodeBody(body []byte, into interface{ version() int }) error {
	if len(body) > maxBody {
		return fmt.Errorf("more than %d bytes", maxBody)
	}
	err := json.Unmarshal(body, into)
	if err == nil && into.version() == wireVersion {
		return nil
	}
	var e envelope // another version may be the cause
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("decoding the envelope: %w", err)
	}
	if e.V != wireVersion {
		return fmt.Errorf("version %d", e.V)
	}
	return fmt.Errorf("decoding the body: %w", err)
}

// encodeBody encodes a value of this package's own types. That cannot fail.
func encodeBody(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}

func encodeMessage(m ownership.Message) []byte {
	h := heartbeat{
		envelope:   envelope{V: wireVersion},
		From:       MemberIDOf(m.From),
		Seq:        m.Seq,
		State:      m.State.String(),
		Parameters: Parameters{First: m.Parameters.First, Partitions: m.Parameters.Partitions, TableVersion: m.Parameters.Table, QueueType: m.Parameters.QueueType},
		NextMS:     m.Next.Milliseconds(),
		Weight:     float64(m.Weight) / weightUnit,
		Wants:      encodeLeases(m.Wants),
		Granted:    encodeLeases(m.Granted),
		Released:   encodeLeases(m.Released),
		Taken:      encodeLeases(m.Taken),
	}
	for _, moved := range m.Moves {
		h.Moves = append(h.Moves, move(moved))
	}
	for _, member := range m.Gone {
		h.Gone = append(h.Gone, MemberIDOf(member))
	}
	return encodeBody(h)
}

func encodeLeases(leases []partition.Lease) []lease {
	var all []lease
	for _, l := range leases {
		all = append(all, lease{Partition: l.Partition, Epoch: l.Epoch, Holder: MemberIDOf(l.Holder)})
	}
	return all
}

// decodeMessage decodes a heartbeat. If it returns no error, the message can be given to
// an ownership.Core, also if its sender is no member.
func decodeMessage(body []byte) (ownership.Message, error) {
	var h heartbeat
	if err := decodeBody(body, &h); err != nil {
		return ownership.Message{}, err
	}
	state, known := statesByName[h.State]
	if !known {
		return ownership.Message{}, errors.New("impossible state")
	}
	if err := errors.Join(h.From.validate(), h.Parameters.validate()); err != nil {
		return ownership.Message{}, err
	}
	if h.NextMS < 0 || h.NextMS > maxNext.Milliseconds() {
		return ownership.Message{}, errors.New("impossible time of the next heartbeat")
	}
	weight, list, err := h.decodeShare()
	if err != nil {
		return ownership.Message{}, err
	}
	m := ownership.Message{
		From:       h.From.Member(),
		Seq:        h.Seq,
		State:      state,
		Parameters: ownership.Parameters{First: h.Parameters.First, Partitions: h.Parameters.Partitions, Table: h.Parameters.TableVersion, QueueType: h.Parameters.QueueType},
		Next:       time.Duration(h.NextMS) * time.Millisecond,
		Weight:     weight,
		Moves:      list,
	}
	for _, list := range []struct {
		from []lease
		to   *[]partition.Lease
	}{{h.Wants, &m.Wants}, {h.Granted, &m.Granted}, {h.Released, &m.Released}, {h.Taken, &m.Taken}} {
		leases, err := decodeLeases(list.from)
		if err != nil {
			return ownership.Message{}, err
		}
		*list.to = leases
	}
	if len(h.Gone) > maxPartitions {
		return ownership.Message{}, errors.New("too many members")
	}
	for _, id := range h.Gone {
		if err := id.validate(); err != nil {
			return ownership.Message{}, err
		}
		m.Gone = append(m.Gone, id.Member())
	}
	return m, nil
}

// weightUnit is the weight 1 in the unit of package ownership.
const weightUnit = hashring.UsualWeight

// decodeShare returns the weight, and the moves.
func (h *heartbeat) decodeShare() (weight int, list moves.List, err error) {
	if !(h.Weight >= 0 && h.Weight <= maxWeight) {
		return 0, nil, errors.New("impossible weight")
	}
	if len(h.Moves) > moves.Max {
		return 0, nil, errors.New("too many moves")
	}
	for _, m := range h.Moves {
		if m.Partition < 0 || m.Partition >= maxPartitions || m.Version < 1 {
			return 0, nil, errors.New("impossible move")
		}
		list = list.With(moves.Move(m))
	}
	return TenthsOf(h.Weight), list, nil
}

// TenthsOf returns a weight of a message or a report in the unit of package hashring.
func TenthsOf(weight float64) int { return int(math.Round(weight * weightUnit)) }

func decodeLeases(leases []lease) ([]partition.Lease, error) {
	if len(leases) > maxPartitions {
		return nil, errors.New("too many leases")
	}
	var all []partition.Lease
	for _, l := range leases {
		if err := l.Holder.validate(); err != nil {
			return nil, err
		}
		if l.Partition < 0 || l.Partition >= maxPartitions || l.Epoch < 0 {
			return nil, errors.New("impossible lease")
		}
		all = append(all, partition.Lease{Partition: l.Partition, Epoch: l.Epoch, Holder: l.Holder.Member()})
	}
	return all, nil
}
