package reads

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/generations"
)

const (
	// positionVersion is the first byte of a position.
	positionVersion = 2

	// maxPartitions is the maximum over all generations.
	maxPartitions = generations.MaxNumbers

	// lastDay is 9999-12-31, in days since 1970.
	lastDay = 2_932_896

	day = 24 * time.Hour
)

// maxPositionLength is the length of the longest position.
var maxPositionLength = base64.RawURLEncoding.EncodedLen(1 + (3+maxPartitions)*binary.MaxVarintLen64)

// A logPosition says which changes of the log come after it: those whose position in their
// partition is greater than the partition's element of partitions.
//
// Invariant: none of them is in the log of a day before first.
type logPosition struct {
	first      time.Time // the beginning of a day in UTC
	partitions []int64
	next       int // the partition whose changes the next page has first: each gets its turn
}

// String returns the position in base64url.
func (p *logPosition) String() string {
	b := append(make([]byte, 0, 8+8*len(p.partitions)), positionVersion)
	b = binary.AppendUvarint(b, uint64(p.first.Unix()/int64(day/time.Second)))
	b = binary.AppendUvarint(b, uint64(p.next))
	b = binary.AppendUvarint(b, uint64(len(p.partitions)))
	for _, n := range p.partitions {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parsePosition parses what String has returned. The refusal is ChangesMissing if String of
// another version may have returned the text: the subscriber has to start anew. Otherwise it is
// NoPosition.
func parsePosition(text string) (*logPosition, *actor.Refusal) {
	if len(text) > maxPositionLength {
		return nil, actor.NoPosition
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	switch {
	case err != nil || len(b) == 0 || base64.RawURLEncoding.EncodeToString(b) != text:
		return nil, actor.NoPosition
	case b[0] != positionVersion:
		return nil, actor.ChangesMissing
	}
	b = b[1:]
	next := func(limit uint64) int64 {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > limit {
			b = nil
			return 0
		}
		b = b[size:]
		return int64(n)
	}
	p := &logPosition{first: time.Unix(next(lastDay)*int64(day/time.Second), 0).UTC()}
	p.next = int(next(maxPartitions))
	number := next(maxPartitions)
	if int64(len(b)) < number {
		return nil, actor.NoPosition
	}
	p.partitions = make([]int64, number)
	for i := range p.partitions {
		p.partitions[i] = next(math.MaxInt64)
	}
	if p.String() != text { // there is one text for each position
		return nil, actor.NoPosition
	}
	return p, nil
}

// A partitionState is what the database knows about a partition.
type partitionState struct {
	Pruned int64 // up to this position, changes may have been dropped
	Epoch  int64
	Lost   bool // the position is one that the database has lost

	First    int        // of its generation
	EndedAt  *time.Time // of its generation; nil: it goes on
	Notified int64      // if it has ended, there are no later changes
}

// oldestPosition returns the position before all changes that are kept.
func oldestPosition(states []partitionState) *logPosition {
	p := &logPosition{partitions: make([]int64, len(states))}
	for i, s := range states {
		p.partitions[i] = s.Pruned
	}
	return p
}

// extend adds the partitions of the generations that have begun since the position was given. Nothing
// of them was read.
func (p *logPosition) extend(states []partitionState) {
	if n := len(p.partitions); n > 0 && n < len(states) && states[n].First == n {
		p.partitions = append(p.partitions, make([]int64, len(states)-n)...)
	}
}

// unread returns the first and the last partition, excluded, of the earliest generation that has changes
// after the position, or else of the present one.
func (p *logPosition) unread(states []partitionState) (first, end int) {
	for i, s := range states {
		if i > 0 && s.First != states[i-1].First {
			if p.hasUnread(states, first, i) {
				return first, i
			}
			first = i
		}
	}
	return first, len(states)
}

func (p *logPosition) hasUnread(states []partitionState, first, end int) bool {
	for i := first; i < end; i++ {
		if p.partitions[i] < states[i].Notified {
			return true
		}
	}
	return false
}

// isGone reports whether the log may lack changes after the position: because later changes may
// have been dropped, or because the position is not one of this log. That is certain if the
// number of partitions is another one, if the database went back after the position was given, or
// if a partition has not reached the epoch of its position: then the database is another one.
func (p *logPosition) isGone(states []partitionState) bool {
	if len(p.partitions) != len(states) {
		return true
	}
	for i, s := range states {
		if p.partitions[i] < s.Pruned || s.Lost || changelog.EpochOf(p.partitions[i]) > s.Epoch {
			return true
		}
	}
	return false
}

// firstDay returns the first day of which the log may have changes after what was read until
// now. The clock of the database may go back, by less than a day.
func firstDay(t changelog.Tables) time.Time { return t.Date.Add(-day) }
