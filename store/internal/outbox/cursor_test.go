package outbox

import (
	"io"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/cluster/partition"
)

// A cursorModel is a partition whose log, cursor and subscriber are in memory. It checks that
// each change is notified, in each user's order, whatever happens.
type cursorModel struct {
	t      *rapid.T
	outbox *Outbox
	lease  partition.Lease

	changes   []modelChange // the log, by position
	confirmed map[int64]int // by user: how many of its changes the subscriber has
	notified  int64         // as in ident_partitions
	heldBack  map[int64]int64
	sent      []modelChange // were sent and not confirmed, in order
	missed    bool          // nothing is sent until the pages are read
	refused   int64         // notifications of this user are not confirmed
}

type modelChange struct {
	user, position int64
	at             time.Time
}

const modelUsers = 4

func (m *cursorModel) cursor() *cursor { return m.outbox.partitions[0] }

// commit adds a change to the log.
func (m *cursorModel) commit() modelChange {
	position := int64(1)
	if n := len(m.changes); n > 0 {
		position = m.changes[n-1].position + 1 + rapid.Int64Range(0, 1).Draw(m.t, "gap")
	}
	c := modelChange{rapid.Int64Range(1, modelUsers).Draw(m.t, "user"), position, time.Now()}
	m.changes = append(m.changes, c)
	return c
}

// Add is a change that is sent after its commit.
func (m *cursorModel) Add(*rapid.T) { m.add(m.commit()) }

func (m *cursorModel) add(c modelChange) {
	m.cursor().add(c.user, c.position, c.at)
	if !m.missed {
		m.sent = append(m.sent, c)
	}
}

// Miss is a change that was committed by an attempt of unknown outcome. The next one finds that
// out.
func (m *cursorModel) Miss(*rapid.T) {
	m.commit()
	m.cursor().miss()
	m.missed = true
	m.add(m.commit())
}

// Confirm confirms the first notification of a user.
func (m *cursorModel) Confirm(*rapid.T) {
	i := slices.IndexFunc(m.sent, func(c modelChange) bool { return c.user != m.refused })
	if i < 0 {
		return
	}
	n := rapid.IntRange(i, len(m.sent)-1).Draw(m.t, "at")
	for j, c := range m.sent {
		if c.user == m.sent[n].user && c.user != m.refused {
			m.sent = slices.Delete(m.sent, j, j+1)
			m.confirm(c)
			return
		}
	}
}

func (m *cursorModel) confirm(c modelChange) {
	m.cursor().confirm(c.user, c.position)
	own := m.of(c.user)
	i := slices.IndexFunc(own, func(o modelChange) bool { return o.position == c.position })
	if i > m.confirmed[c.user] {
		m.t.Fatalf("the notification %d of user %d comes after %d", i+1, c.user, m.confirmed[c.user])
	}
	m.confirmed[c.user] = max(m.confirmed[c.user], i+1)
}

// of returns the changes of a user.
func (m *cursorModel) of(user int64) (own []modelChange) {
	for _, c := range m.changes {
		if c.user == user {
			own = append(own, c)
		}
	}
	return own
}

// Refuse has a subscriber refuse the notifications of a user, or of none.
func (m *cursorModel) Refuse(*rapid.T) {
	m.refused = rapid.Int64Range(0, modelUsers).Draw(m.t, "refused")
}

// Wait lets time pass.
func (m *cursorModel) Wait(*rapid.T) {
	for _, u := range m.cursor().users {
		u.noted = u.noted.Add(-heldBackAfter / 2)
	}
}

// stored returns what pageOf selects after a position.
func (m *cursorModel) stored(after int64) (page []modelChange) {
	for _, c := range m.changes {
		first, held := m.heldBack[c.user]
		if c.position > after && (c.position > m.notified || held && c.position >= first) {
			page = append(page, c)
		}
	}
	return page
}

// Page reads what the owner does not know, and sends it before what it has not sent yet.
func (m *cursorModel) Page(*rapid.T) { m.readPages(rapid.IntRange(1, 3).Draw(m.t, "limit")) }

func (m *cursorModel) readPages(limit int) {
	var found []modelChange
	for after, more := int64(0), true; more; {
		page := m.stored(after)
		more = len(page) > limit
		page = page[:min(len(page), limit)]
		c, last := m.cursor(), after
		for _, n := range page {
			last = max(last, n.position)
		}
		kept := slices.DeleteFunc(slices.Clone(page), func(n modelChange) bool { return c.isConfirmed(n.user, n.position) })
		for _, n := range kept {
			c.add(n.user, n.position, n.at)
		}
		c.pageRead(after, last, !more)
		found, after = append(found, kept...), last
		if more && len(found) > 0 && found[0].user != m.refused && rapid.Bool().Draw(m.t, "confirmed between pages") {
			m.confirm(found[0])
			found = found[1:]
		}
	}
	m.sent, m.missed = found, false
}

// Flush writes the cursor. The transaction may be lost, with or without its effect.
func (m *cursorModel) Flush(*rapid.T) {
	f := m.outbox.Flush()
	outcome := rapid.SampledFrom([]string{"done", "done", "lost", "lost_but_done"}).Draw(m.t, "flush")
	if rapid.Bool().Draw(m.t, "confirmed meanwhile") {
		m.Confirm(m.t)
	}
	if outcome != "lost" {
		m.write(f)
	}
	var err error
	if outcome != "done" {
		err = io.ErrUnexpectedEOF
	}
	f.Done(err)
}

// write does what the statements of a flush do.
func (m *cursorModel) write(f *Flush) {
	for _, position := range f.positions {
		m.notified = max(m.notified, position)
	}
	for _, user := range f.deletedUsers {
		delete(m.heldBack, user)
	}
	for i, user := range f.heldUsers {
		m.heldBack[user] = f.heldPositions[i]
	}
}

// Crash has another owner take the partition over.
func (m *cursorModel) Crash(*rapid.T) {
	m.lease.Epoch++
	m.sent, m.missed = nil, false
	s := Start{Lease: m.lease, Notified: m.notified, Since: time.Now()}
	s.Backlog = len(m.changes) > 0 && m.changes[len(m.changes)-1].position > m.notified
	for _, user := range slices.Sorted(maps.Keys(m.heldBack)) {
		s.HeldBack = append(s.HeldBack, HeldBack{UserID: user, Position: m.heldBack[user], Since: time.Now().Add(-day)})
	}
	m.outbox = New(nil, nil, nil, nil)
	if m.outbox.TakeOver(s) {
		m.readPages(math.MaxInt)
	}
}

// Check is called after each of the above: everything that is not confirmed would be found by
// the next owner.
func (m *cursorModel) Check(*rapid.T) {
	found := make(map[int64]bool)
	for _, c := range m.stored(0) {
		found[c.position] = true
	}
	for user := range int64(modelUsers + 1) {
		for i, c := range m.of(user) {
			if i >= m.confirmed[user] && !found[c.position] {
				m.t.Fatalf("the change %d of user %d is not confirmed, and the cursor is at %d, held back are %v", c.position, user, m.notified, m.heldBack)
			}
		}
	}
}

// TestCursor: whatever is committed, confirmed, missed, flushed or lost, the next owner finds
// each change that is not confirmed, and in the end nothing else.
func TestCursor(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &cursorModel{t: r, confirmed: make(map[int64]int), heldBack: make(map[int64]int64)}
		m.Crash(r)
		r.Repeat(map[string]func(*rapid.T){
			"add": m.Add, "miss": m.Miss, "confirm": m.Confirm, "refuse": m.Refuse, "wait": m.Wait,
			"page": m.Page, "flush": m.Flush, "crash": m.Crash, "": m.Check,
		})
		m.settle(r)
	})
}

// settle has the subscriber take everything. Then a flush leaves nothing to the next owner.
func (m *cursorModel) settle(r *rapid.T) {
	m.refused = 0
	m.readPages(math.MaxInt)
	for len(m.sent) > 0 {
		c := m.sent[0]
		m.sent = m.sent[1:]
		m.confirm(c)
	}
	for range 2 { // the first one may find the users that are no longer held back
		f := m.outbox.Flush()
		m.write(f)
		f.Done(nil)
	}
	if left := m.stored(0); len(left) > 0 || len(m.heldBack) > 0 {
		r.Fatalf("everything is confirmed, and the next owner finds %v, held back are %v", left, m.heldBack)
	}
	if all := m.outbox.Survey([]int{0}, 10); len(all) > 0 {
		r.Fatalf("everything is confirmed, and the survey finds %v", all)
	}
}
