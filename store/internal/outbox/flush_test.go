package outbox

import (
	"io"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/changelog"
)

// A flushModel is a partition with a log, a notifier and a database in memory. Users and their
// changes have small numbers.
type flushModel struct {
	*rapid.T
	outbox    *Outbox
	lease     partition.Lease
	last      int64
	changes   map[int64][]int64 // by user: positions
	confirmed map[int64]int     // by user: how many of them
	reported  int64

	// What is in the database.
	released bool
	notified int64
	heldBack map[int64]int64

	// What is in flight, and what was lost and may still be executed.
	flush *Flush
	lost  []*Flush
	stale bool // a lost flush was executed, perhaps after a later one
}

// TestCursor: whatever the notifier reports, and whichever flushes are lost or executed late, the
// next owner finds each change that is not confirmed; after a hand-over it finds nothing else.
func TestCursor(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &flushModel{T: r, changes: make(map[int64][]int64), confirmed: make(map[int64]int), heldBack: make(map[int64]int64)}
		m.crash(r)
		r.Repeat(map[string]func(*rapid.T){
			"commit": m.commit, "commit again": m.commit, "confirm": m.confirm, "confirm again": m.confirm, "flush": m.doFlush, "flush again": m.doFlush,
			"flush once more": m.doFlush, "write lost": m.writeLost, "end": m.end, "": m.check,
		})
	})
}

func (m *flushModel) commit(*rapid.T) {
	m.last++
	user := rapid.Int64Range(1, 3).Draw(m.T, "user")
	m.changes[user] = append(m.changes[user], m.last)
}

func (m *flushModel) confirm(*rapid.T) {
	user := rapid.Int64Range(1, 3).Draw(m.T, "user")
	m.confirmed[user] = min(m.confirmed[user]+1, len(m.changes[user]))
}

// Progress implements [actor.NotificationSink]. Any user may be held back.
func (m *flushModel) Progress(partition.Lease) (actor.NotificationProgress, bool) {
	first := make(map[int64]int64)
	position := m.last
	for _, user := range slices.Sorted(maps.Keys(m.changes)) {
		if n := m.confirmed[user]; n < len(m.changes[user]) {
			first[user] = m.changes[user][n]
			if first[user] > m.reported && rapid.Bool().Draw(m.T, "waits") {
				position = min(position, first[user]-1)
			}
		}
	}
	maps.DeleteFunc(first, func(_, from int64) bool { return from > position })
	m.reported = position
	return actor.NotificationProgress{Notified: position, Last: m.last, HeldBack: first}, true
}

func (m *flushModel) Send(actor.PendingNotification) {}
func (m *flushModel) Missed(partition.Lease)         {}
func (m *flushModel) Abandon(partition.Lease)        {}

// doFlush begins a flush, or ends the one that was begun. It may be lost, and may be executed all
// the same, after later ones.
func (m *flushModel) doFlush(*rapid.T) {
	if m.flush == nil {
		m.flush = m.outbox.Flush()
		return
	}
	f := m.flush
	m.flush = nil
	outcome := rapid.SampledFrom([]string{"done", "done", "lost", "lost_but_done"}).Draw(m.T, "flush")
	if outcome != "lost" {
		m.write(f)
	} else {
		m.lost = append(m.lost, f)
	}
	var err error
	if outcome != "done" {
		err = io.ErrUnexpectedEOF
	}
	f.Done(err)
}

// writeLost executes a flush whose connection was lost.
func (m *flushModel) writeLost(*rapid.T) {
	if len(m.lost) > 0 {
		m.write(m.lost[0])
		m.lost, m.stale = m.lost[1:], true
	}
}

// write does what the statements of a flush do.
func (m *flushModel) write(f *Flush) {
	if len(f.cursors.epochs) == 0 || f.cursors.epochs[0] != m.lease.Epoch || m.released {
		return
	}
	m.notified = max(m.notified, f.positions[0])
	for i, user := range f.deletedUsers {
		if m.heldBack[user] <= f.deletedPositions[i] {
			delete(m.heldBack, user)
		}
	}
	for i, user := range f.heldUsers {
		m.heldBack[user] = max(m.heldBack[user], f.heldPositions[i])
	}
}

// end ends the lease, but not often.
func (m *flushModel) end(*rapid.T) {
	switch rapid.IntRange(0, 9).Draw(m.T, "end") {
	case 0:
		m.crash(nil)
	case 1:
		m.handOver(nil)
	}
}

// crash has another owner take the partition over.
func (m *flushModel) crash(*rapid.T) {
	m.lease.Epoch++
	m.released, m.stale, m.reported = false, false, m.notified
	if m.flush != nil {
		m.lost, m.flush = append(m.lost, m.flush), nil
	}
	m.outbox = New(nil, changelog.NewDays(nil), nil, nil)
	m.outbox.SetSink(m)
	m.outbox.TakeOver(actor.TakenOver{Lease: m.lease,
		NotificationProgress: actor.NotificationProgress{Notified: m.notified, HeldBack: maps.Clone(m.heldBack)}}, time.Time{})
}

// handOver has the owner release the partition. The next owner finds nothing that was confirmed,
// unless a lost flush was executed after a later one. Flushes that come after the release change
// nothing.
func (m *flushModel) handOver(*rapid.T) {
	clean := !m.stale && m.flush == nil
	f := m.outbox.FlushPartitions([]int{0})
	m.write(f)
	f.Done(nil)
	m.released = true
	if m.flush != nil {
		m.lost, m.flush = append(m.lost, m.flush), nil
	}
	for range len(m.lost) {
		m.writeLost(nil)
	}
	for user, all := range m.changes {
		n := m.confirmed[user]
		if clean && n > 0 && all[n-1] <= m.reported && m.finds(user, all[n-1]) {
			m.Fatalf("%d of user %d is confirmed, and is found: notified is %d, held back are %v", all[n-1], user, m.notified, m.heldBack)
		}
	}
	m.check(nil)
	m.crash(nil)
}

func (m *flushModel) finds(user, position int64) bool {
	first, held := m.heldBack[user]
	return position > m.notified || held && position >= first
}

// check is called after each of the above.
func (m *flushModel) check(*rapid.T) {
	for user, all := range m.changes {
		for _, position := range all[m.confirmed[user]:] {
			if !m.finds(user, position) {
				m.Fatalf("%d of user %d is not confirmed: notified is %d, held back are %v", position, user, m.notified, m.heldBack)
			}
		}
	}
}

// TestFirstDay: the day from which on the log is read follows the cursor, a day behind, and does
// not pass what was not notified.
func TestFirstDay(t *testing.T) {
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	o := New(nil, changelog.NewDays(nil), nil, nil)
	o.TakeOver(actor.TakenOver{Lease: partition.Lease{Epoch: 1}}, start.Add(-3*day))
	c := o.cursors[0]
	for _, step := range []struct {
		today          int
		notified, last int64
		want           int // days
	}{
		{0, 5, 10, -3}, // there may be others from before the take-over
		{0, 6, math.MaxInt64, -3},
		{0, 10, 10, -1},
		{1, 20, 30, -1}, // a change of the first day may have been the last one up to 10
		{1, 30, 40, 0},
		{5, 39, 50, 0}, // 40 is of the second day
		{6, 40, 60, 0},
		{7, 60, 70, 5},
		{8, 60, 70, 5},
		{9, 70, 70, 8}, // there is nothing else
	} {
		f := &Flush{outbox: o}
		f.addLocked(c, &actor.NotificationProgress{Notified: step.notified, Last: step.last}, start.Add(time.Duration(step.today)*day))
		f.Done(nil)
		if want := start.Add(time.Duration(step.want) * day); !c.day.Equal(want) {
			t.Errorf("on day %d, notified up to %d of %d: the first day is %v, want %v", step.today, step.notified, step.last, c.day, want)
		}
	}
}
