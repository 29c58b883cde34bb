package outbox

import (
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// TestCursor: whatever is committed, confirmed, missed, flushed or lost, the next owner finds
// each change that is not confirmed; after a hand-over and in the end it finds nothing else.
func TestCursor(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &cursorModel{t: r, confirmed: make(map[int64]int), heldBack: make(map[int64]int64)}
		m.Crash(r)
		r.Repeat(map[string]func(*rapid.T){
			"commit": m.Commit, "commit again": m.Commit, "lose": m.Lose, "settle": m.Settle, "confirm": m.Confirm, "confirm again": m.Confirm,
			"refuse": m.Refuse, "wait": m.Wait, "page": m.Page, "page again": m.Page, "survey": m.Survey, "flush": m.Flush, "write lost": m.WriteLost,
			"crash": m.Crash, "hand over": m.HandOver, "": m.Check,
		})
		m.settle(r)
	})
}

// Flush begins a flush, or ends the one that was begun. It may be lost, and may be executed all
// the same, after later ones.
func (m *cursorModel) Flush(*rapid.T) {
	if m.flush == nil {
		m.flush = m.outbox.Flush()
		return
	}
	f := m.flush
	m.flush = nil
	outcome := rapid.SampledFrom([]string{"done", "done", "lost", "lost_but_done"}).Draw(m.t, "flush")
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

// WriteLost executes a flush whose connection was lost.
func (m *cursorModel) WriteLost(*rapid.T) {
	if len(m.lost) > 0 {
		m.write(m.lost[0])
		m.lost, m.stale = m.lost[1:], true
	}
}

// write does what the statements of a flush do.
func (m *cursorModel) write(f *Flush) {
	if len(f.cursors.epochs) == 0 || f.cursors.epochs[0] != m.lease.Epoch || m.released {
		return
	}
	if m.notified <= f.positions[0] {
		m.notified = f.positions[0]
	}
	for i, user := range f.deletedUsers {
		if m.heldBack[user] <= f.deletedPositions[i] {
			delete(m.heldBack, user)
		}
	}
	for i, user := range f.heldUsers {
		m.heldBack[user] = max(m.heldBack[user], f.heldPositions[i])
	}
}

// Crash has another owner take the partition over.
func (m *cursorModel) Crash(*rapid.T) {
	m.lease.Epoch++
	m.released, m.unsettled, m.stale = false, false, false
	m.sent, m.behind, m.next, m.pass, m.known = nil, false, noMissed, nil, make(map[int64]bool)
	if m.flush != nil {
		m.lost, m.flush = append(m.lost, m.flush), nil
	}
	s := Start{Lease: m.lease, Notified: m.notified, Since: time.Now()}
	s.Backlog = len(m.changes) > 0 && m.changes[len(m.changes)-1].position > m.notified
	for _, user := range slices.Sorted(maps.Keys(m.heldBack)) {
		s.HeldBack = append(s.HeldBack, HeldBack{UserID: user, Position: m.heldBack[user], Since: time.Now().Add(-day)})
	}
	m.outbox = New(nil, nil, nil, nil)
	m.outbox.limits = limits{commits: modelCommits, pages: modelPages}
	if m.outbox.TakeOver(s) {
		m.fallBehind(0)
	}
}

// HandOver has the owner release the partition. The next owner finds nothing that was confirmed,
// unless the cursor was incomplete, or a lost flush was executed after a later one. Flushes that
// come after the release change nothing.
func (m *cursorModel) HandOver(*rapid.T) {
	clean := !m.cursor().incomplete && !m.unsettled && !m.stale
	f := m.outbox.FlushPartitions([]int{0})
	m.write(f)
	f.Done(nil)
	m.released = true
	if m.flush != nil {
		m.lost, m.flush = append(m.lost, m.flush), nil
	}
	for range len(m.lost) {
		m.WriteLost(nil)
	}
	for _, c := range m.stored(0) {
		if clean && m.known[c.position] {
			m.t.Fatalf("the change %+v is confirmed, and would be sent again: the cursor is at %d, held back are %v", c, m.notified, m.heldBack)
		}
	}
	m.Check(nil)
	m.Crash(nil)
}

// TestFirstDay: what is read and kept of the log does not go back to the first change of a user
// that always has one under way, nor to the beginning of a pass.
func TestFirstDay(t *testing.T) {
	now := time.Now()
	ago := func(days int) time.Time { return now.Add(-time.Duration(days) * day) }
	wantFirst := func(what string, got time.Time, days int) {
		t.Helper()
		if want := ago(days).UTC().Truncate(day); !got.Equal(want) {
			t.Errorf("%s: the first day is %v, want %v", what, got, want)
		}
	}
	c := newCursor(partition.Lease{Epoch: 1}, limits{8, 8})
	wantFirst("unread", c.endPageAt(ago(40), 7), 41)
	c.incomplete = false
	for n := range 30 {
		c.add(1, int64(100+n), ago(30-n))
		c.confirm(1, int64(99+n))
	}
	wantFirst("a busy user", c.firstDay(now), 2)
	c.add(2, 10, ago(20))
	wantFirst("an old change", c.firstDay(now), 21)
	wantFirst("above another position", c.firstDayAfter(6, now), 21)
	c.endPageAt(ago(12), 50)
	wantFirst("in the middle of a pass", c.firstDayAfter(50, now), 13)
	wantFirst("at its beginning", c.firstDayAfter(0, now), 21)
}

// endPageAt ends a page with one change, at a position, which is not the last one.
func (c *cursor) endPageAt(at time.Time, position int64) time.Time {
	c.endPage(c.beginPage(0), []actor.PendingNotification{{UserID: 9, Position: position, CommittedAt: at}}, true)
	c.confirm(9, position)
	return c.firstDayAfter(position, time.Now())
}
