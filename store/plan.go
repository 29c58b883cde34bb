package store

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/audit"
)

// A plan is what a group is going to write, column by column as the statements
// take it, and what becomes of its writes when that is committed. A statement whose
// first column is nil is left out.
type plan struct {
	deletedServices struct {
		users []int64
		names []string
	}
	deletedUsers  []int64
	updatedUsers  userColumns
	insertedUsers userColumns
	services      struct {
		users  []int64
		names  []string
		ids    []int64
		tokens [][]byte
	}
	requests struct {
		identities uuids
		digests    []int64
		users      []int64
		codes      []*string
		messages   []*string
	}
	notices struct {
		users      []int64
		ids        uuids
		keys       []string
		bodies     [][]byte
		sealeds    []bool
		traces     []string
		partitions []int
	}
	audit audit.Rows

	told     []actor.PendingNotification // one for each of notices, to be sent after the commit
	written  []written                   // users, to be told their versions after it
	xid      uint32                      // of the transaction, once it has written
	stuck    []int64                     // users whose notices may be left in the outbox by a try of unknown outcome
	finished []finished
}

type userColumns struct {
	ids      []int64
	names    []string
	emails   []string
	pictures []*string
}

func (c *userColumns) add(u *actor.User) {
	c.ids = append(c.ids, u.ID)
	c.names = append(c.names, u.Name)
	c.emails = append(c.emails, u.Email)
	c.pictures = append(c.pictures, u.PictureURL)
}

// A written user has these rows written, as the user's version counts them.
type written struct {
	user *actor.User
	rows [len(actor.Version{})]bool
}

// Finished writes are told their outcomes after the commit.
type finished struct {
	pending  *pending
	outcomes []actor.Outcome
	err      error // about the first one
}

// repeat plans nothing: the requests were applied or refused before. If that was
// done by an earlier try, the notices have not been sent yet; where the lease is
// over, its next holder sends them.
func (pl *plan) repeat(p *pending, rows []outcomeRow, leased bool) {
	outcomes := make([]actor.Outcome, len(rows))
	stuck := false
	for i, row := range rows {
		outcomes[i] = row.outcome
		if row.digest != p.writes[i].Digest {
			outcomes[i] = actor.Outcome{Refusal: actor.RequestIDReused}
		}
		stuck = stuck || row.outcome.UserID == p.writes[i].UserID
	}
	if p.unsure && leased && stuck {
		pl.stuck = append(pl.stuck, p.first().UserID)
	}
	pl.finished = append(pl.finished, finished{pending: p, outcomes: outcomes})
}

// fail plans nothing: the first write cannot be done, and may be tried again.
func (pl *plan) fail(p *pending, err error) {
	pl.finished = append(pl.finished, finished{pending: p, err: err})
}

// add plans what decisions take.
func (pl *plan) add(s *Store, d decided) error {
	current := d.current
	outcomes := make([]actor.Outcome, len(d.decisions))
	for i, decision := range d.decisions {
		w, refusal := d.pending.writes[i], decision.Refusal
		switch {
		case refusal == nil:
			outcomes[i] = actor.Outcome{UserID: w.UserID, Applied: true, After: decision.Next}
		case w.NeedsTokens(): // so that they are there
			outcomes[i] = actor.Outcome{Refusal: refusal, After: current}
		default:
			outcomes[i] = actor.Outcome{Refusal: refusal}
		}
		if refusal == nil || d.pending.keeps(w, refusal) {
			pl.record(d.pending.identities[i], w, outcomes[i])
		}
		if refusal != nil {
			continue
		}
		if s.audit != nil {
			pl.audit.Add(w, current, decision.Next)
		}
		if err := pl.tell(s, d.pending.lease, w, decision.Notification); err != nil {
			return err
		}
		current = decision.Next
	}
	pl.finished = append(pl.finished, finished{pending: d.pending, outcomes: outcomes})
	if current == d.current {
		return nil
	}
	return pl.change(s, d, current)
}

// keeps says whether a refusal is recorded. Under an identity that was made up it has to
// be where the same transaction may record other writes, since it tells of all of them.
func (p *pending) keeps(w *actor.Write, refusal *actor.Refusal) bool {
	return refusal.Code != actor.InvocationFailed && (w.RequestID != (actor.RequestID{}) || p.part > 1 || p.unsure)
}

func (pl *plan) record(identity actor.RequestID, w *actor.Write, o actor.Outcome) {
	r := &pl.requests
	r.identities = append(r.identities, uuidOf(identity))
	r.digests = append(r.digests, w.Digest)
	r.users = append(r.users, o.UserID)
	var code, message *string
	if o.Refusal != nil {
		code, message = (*string)(&o.Refusal.Code), &o.Refusal.Message
	}
	r.codes = append(r.codes, code)
	r.messages = append(r.messages, message)
}

// change plans the difference that decisions make to the user's rows, whom they leave as
// next.
func (pl *plan) change(s *Store, d decided, next *actor.User) (err error) {
	id := d.pending.first().UserID
	var had, has actor.User
	if d.current != nil {
		had = *d.current
	}
	if next != nil {
		has = *next
	}
	x := written{user: next}
	switch {
	case next == nil:
		pl.deletedUsers = append(pl.deletedUsers, id)
	case d.current == nil:
		pl.insertedUsers.add(next)
		x.rows[0] = true
	default:
		next.Version = had.Version
		if had.Name != has.Name || had.Email != has.Email || !equal(had.PictureURL, has.PictureURL) {
			pl.updatedUsers.add(next)
			x.rows[0] = true
		}
	}
	for i, service := range services {
		old, account := *accountOf(&had, service), *accountOf(&has, service)
		switch {
		case equal(account, old):
		case account == nil:
			pl.deletedServices.users = append(pl.deletedServices.users, id)
			pl.deletedServices.names = append(pl.deletedServices.names, service)
			if next != nil {
				next.Version[1+i] = 0
			}
		default:
			sealed := []byte(nil)
			if d.before != nil && old != nil && old.AccessToken == account.AccessToken {
				sealed = d.before.tokens[i]
			} else if sealed, err = s.keyring.Seal([]byte(account.AccessToken)); err != nil {
				return fmt.Errorf("sealing an access token: %w", err)
			}
			pl.services.users = append(pl.services.users, id)
			pl.services.names = append(pl.services.names, service)
			pl.services.ids = append(pl.services.ids, account.ID)
			pl.services.tokens = append(pl.services.tokens, sealed)
			x.rows[1+i] = true
		}
	}
	if next != nil {
		pl.written = append(pl.written, x)
	}
	return nil
}

// equal says whether both point to the same, or to nothing.
func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// tell plans a notification.
func (pl *plan) tell(s *Store, lease partition.Lease, w *actor.Write, n actor.Notification) error {
	body := n.Body
	if n.HasTokens {
		var err error
		if body, err = s.keyring.Seal(body); err != nil {
			return fmt.Errorf("sealing a notification: %w", err)
		}
	}
	told := actor.PendingNotification{UserID: w.UserID, Partition: lease.Partition, MessageID: uuid.New(),
		RoutingKey: n.RoutingKey, Body: n.Body, TraceParent: w.TraceParent, TraceState: w.TraceState}
	c := &pl.notices
	c.users = append(c.users, w.UserID)
	c.ids = append(c.ids, uuidOf(actor.RequestID(told.MessageID)))
	c.keys = append(c.keys, n.RoutingKey)
	c.bodies = append(c.bodies, body)
	c.sealeds = append(c.sealeds, n.HasTokens)
	c.traces = append(c.traces, w.TraceParent)
	c.partitions = append(c.partitions, lease.Partition)
	pl.told = append(pl.told, told)
	return nil
}
