package outbox

import (
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
)

// A cursorModel is a partition whose log, cursor, notifier and subscriber are in memory. Users
// and their changes have small numbers, and so have the limits of the cursor.
type cursorModel struct {
	t      *rapid.T
	outbox *Outbox
	lease  partition.Lease

	changes   []modelChange  // the log, by position
	confirmed map[int64]int  // by user: how many of its changes the subscriber has
	known     map[int64]bool // positions of which the cursor has learned that they were confirmed
	refused   int64          // notifications of this user are not confirmed

	// What is in the database.
	released bool
	notified int64
	heldBack map[int64]int64

	// What is in flight, and what was lost and may still be executed.
	flush     *Flush
	lost      []*Flush
	stale     bool // a lost flush was executed, perhaps after a later one
	unsettled bool // a change was committed, and the cursor was not told

	// The notifier.
	sent   []modelChange // were sent and not confirmed, in order
	behind bool          // nothing is sent but what pages have
	next   int64         // the next pass begins after this position
	pass   *modelPass
}

type modelChange struct {
	user, position int64
	at             time.Time
}

// A modelPass reads pages. A page has the rows that were there when it began.
type modelPass struct {
	after   int64
	missed  int64 // a change after this position was committed meanwhile
	reading reading
	rows    []actor.PendingNotification
	more    bool
	done    map[int64]bool
	held    map[int64]bool // users whose notifications are left, because an earlier one was
}

const (
	modelUsers   = 8
	noMissed     = int64(1 << 40)
	modelCommits = 2
	modelPages   = 3
)

func (m *cursorModel) cursor() *cursor { return m.outbox.partitions[0] }

// committed adds a change to the log.
func (m *cursorModel) committed() modelChange {
	position := int64(1)
	if n := len(m.changes); n > 0 {
		position = m.changes[n-1].position + 1 + rapid.Int64Range(0, 1).Draw(m.t, "gap")
	}
	c := modelChange{rapid.Int64Range(1, modelUsers).Draw(m.t, "user"), position, time.Now()}
	m.changes = append(m.changes, c)
	return c
}

// Commit is a change that is sent after its commit. If the one before was lost, that is found out.
func (m *cursorModel) Commit(*rapid.T) {
	m.Settle(nil)
	c := m.committed()
	if m.cursor().commit(c.user, c.position, c.at) {
		m.fallBehind(0)
		maps.DeleteFunc(m.known, func(position int64, _ bool) bool { return position > m.cursor().read })
	}
	if !m.behind {
		m.sent = append(m.sent, c)
		return
	}
	m.fallBehind(c.position - 1)
}

// Lose is a change whose attempt has an unknown outcome.
func (m *cursorModel) Lose(*rapid.T) { m.committed(); m.unsettled = true }

// Settle finds out that a change was committed by an attempt of unknown outcome.
func (m *cursorModel) Settle(*rapid.T) {
	if m.unsettled {
		m.unsettled = false
		m.cursor().miss()
		m.fallBehind(0)
	}
}

// fallBehind has the notifier send what comes after a position from the log.
func (m *cursorModel) fallBehind(after int64) {
	if m.pass != nil {
		m.pass.missed = min(m.pass.missed, after)
	} else {
		m.next = min(m.next, after)
	}
	m.behind = true
}

// Confirm confirms the first notification of a user that has any.
func (m *cursorModel) Confirm(*rapid.T) {
	if len(m.sent) == 0 {
		return
	}
	user := m.sent[rapid.IntRange(0, len(m.sent)-1).Draw(m.t, "at")].user
	if user == m.refused {
		return
	}
	i := slices.IndexFunc(m.sent, func(c modelChange) bool { return c.user == user })
	c := m.sent[i]
	m.sent = slices.Delete(m.sent, i, i+1)
	if m.pass != nil {
		m.pass.done[c.position] = true
	}
	if m.cursor().users[user] != nil {
		m.known[c.position] = true
	}
	m.cursor().confirm(c.user, c.position)
	own := m.of(user)
	n := slices.IndexFunc(own, func(o modelChange) bool { return o.position == c.position })
	if n > m.confirmed[user] {
		m.t.Fatalf("the notification %d of user %d comes after %d", n+1, user, m.confirmed[user])
	}
	m.confirmed[user] = max(m.confirmed[user], n+1)
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

// isConfirmed reports whether the subscriber has a change.
func (m *cursorModel) isConfirmed(c modelChange) bool {
	i := slices.IndexFunc(m.of(c.user), func(o modelChange) bool { return o.position == c.position })
	return i < m.confirmed[c.user]
}

// Refuse has a subscriber refuse the notifications of a user, or of none. Those that were sent
// are sent again from the log.
func (m *cursorModel) Refuse(*rapid.T) {
	m.refused = rapid.Int64Range(0, modelUsers).Draw(m.t, "refused")
	if m.pass != nil {
		m.pass.held[m.refused] = true
	}
	if i := slices.IndexFunc(m.sent, func(c modelChange) bool { return c.user == m.refused }); i >= 0 {
		m.fallBehind(m.sent[i].position - 1)
		m.sent = slices.DeleteFunc(m.sent, func(c modelChange) bool { return c.user == m.refused })
	}
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

// Page begins a page, or ends the one that was begun.
func (m *cursorModel) Page(*rapid.T) {
	switch {
	case m.pass != nil:
		m.endPage()
	case m.behind:
		m.pass = &modelPass{after: m.next, missed: noMissed, held: map[int64]bool{m.refused: true}}
		m.next = noMissed
		m.beginPage(rapid.IntRange(1, 3).Draw(m.t, "limit"))
	}
}

func (m *cursorModel) beginPage(limit int) {
	p := m.pass
	p.after, p.missed, p.done, p.rows = min(p.after, p.missed), noMissed, make(map[int64]bool), nil
	p.reading = m.cursor().beginPage(p.after)
	page := m.stored(p.after)
	p.more = len(page) > limit
	for _, c := range page[:min(len(page), limit)] {
		n := actor.PendingNotification{UserID: c.user, Position: c.position, CommittedAt: c.at}
		p.rows = append(p.rows, n)
	}
}

func (m *cursorModel) endPage() {
	p := m.pass
	if n := len(p.rows); n > 0 {
		p.after = p.rows[n-1].Position
	}
	left := noMissed
	for _, n := range m.cursor().endPage(p.reading, p.rows, p.more) {
		pending := slices.ContainsFunc(m.sent, func(c modelChange) bool { return c.position == n.Position })
		switch {
		case p.done[n.Position]:
			m.cursor().confirm(n.UserID, n.Position)
		case pending:
		case p.held[n.UserID]:
			left = min(left, n.Position-1)
		default:
			m.sent = append(m.sent, modelChange{n.UserID, n.Position, n.CommittedAt})
		}
	}
	m.next = min(m.next, left)
	if p.more || p.missed < noMissed {
		m.beginPage(3)
		return
	}
	m.pass, m.behind = nil, m.next < noMissed
}

// Survey has the notifier look for what it was not told.
func (m *cursorModel) Survey(*rapid.T) {
	for _, n := range m.outbox.Survey([]int{0}, 10) {
		pending := slices.ContainsFunc(m.sent, func(c modelChange) bool { return c.position == n.Position })
		if !m.behind && !pending && (n.UserID == 0 || n.UserID != m.refused) {
			m.fallBehind(n.Position - 1)
		}
	}
}

// Check is called after each of the above: everything that is not confirmed would be found by
// the next owner, and what is in memory is bounded.
func (m *cursorModel) Check(*rapid.T) {
	found := make(map[int64]bool)
	for _, c := range m.stored(0) {
		found[c.position] = true
	}
	for _, c := range m.changes {
		if !found[c.position] && !m.isConfirmed(c) {
			m.t.Fatalf("the change %+v is not confirmed, and the cursor is at %d, held back are %v", c, m.notified, m.heldBack)
		}
	}
	c, held := m.cursor(), 0
	for _, u := range c.users {
		if u.isHeldBack() {
			held++
		}
	}
	if held != c.heldBack {
		m.t.Fatalf("%d users are held back, and the cursor counts %d", held, c.heldBack)
	}
	if n := len(c.users); n > modelCommits+max(modelPages, len(m.heldBack)) {
		m.t.Fatalf("%d users are in memory", n)
	}
}

// settle has the subscriber take everything. Then flushes leave nothing to the next owner.
func (m *cursorModel) settle(r *rapid.T) {
	m.Settle(r)
	m.refused = 0
	for n := 0; m.behind || len(m.sent) > 0 || m.cursor().incomplete; n++ {
		if n == 1_000_000 { // each pass learns of few users, and sends all others again
			r.Fatalf("it never ends: %+v", m.cursor())
		}
		m.Survey(r)
		m.Page(r)
		if len(m.sent) > 0 {
			m.Confirm(r)
		}
		m.Check(r)
	}
	if m.flush != nil {
		m.write(m.flush)
		m.flush.Done(nil)
	}
	f := m.outbox.Flush()
	m.write(f)
	f.Done(nil)
	if m.stale { // a lost flush has made rows again, which the next owner finds
		clear(m.heldBack)
	}
	if left := m.stored(0); len(left) > 0 || len(m.heldBack) > 0 {
		r.Fatalf("everything is confirmed, and the next owner finds %v, held back are %v", left, m.heldBack)
	}
	if all := m.outbox.Survey([]int{0}, 10); len(all) > 0 {
		r.Fatalf("everything is confirmed, and the survey finds %v", all)
	}
}
