package commit

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/audit"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/userrows"
)

// A planner has the settings of all plans.
type planner struct {
	keyring *keyring.Keyring
	audited bool // changes are recorded in ident_audit
}

// A plan is what an attempt writes, column by column as the statements take it. A
// statement is omitted if its first column is nil.
type plan struct {
	planner *planner // nil if only the columns are used

	deletedServices struct {
		users []int64
		names []string
	}
	deletedUsers  []int64
	updatedUsers  userrows.Users
	insertedUsers userrows.Users
	accounts      userrows.Accounts // inserted or updated
	reusedIDs     uuids             // of requests, with records of other requests
	requests      struct {
		ids      uuids
		digests  []int64
		users    []int64
		codes    []*string
		messages []*string
	}
	notifications struct {
		users      []int64
		messageIDs uuids
		keys       []string
		bodies     [][]byte
		sealed     []bool
		traces     []string
		partitions []int
	}
	audit audit.Rows

	toSend   []actor.PendingNotification // after the commit
	versions []versionUpdate             // after the commit
	xid      uint32                      // the transaction's id; 0 until it has written

	// replays is set if a recorded outcome is to be delivered.
	replays bool

	// missed has the partitions with notifications that may be in the outbox unsent,
	// because an earlier attempt of unknown outcome has committed them.
	missed []int
}

// A versionUpdate says which rows of a user are written. They have a new version.
type versionUpdate struct {
	user *actor.User
	rows [len(actor.Version{})]bool
}

// addReplay plans no change: an earlier attempt or request has decided the writes. If that
// was an attempt of p, its notifications were not sent. If the lease is valid, they are
// sent now; otherwise the next holder of the partition sends them.
func (pl *plan) addReplay(p *pending, rows []recordedOutcome, leaseValid bool) {
	pl.replays = true
	outcomes := make([]actor.Outcome, len(rows))
	applied := false
	for i, row := range rows {
		outcomes[i] = row.outcome
		if row.digest != p.writes[i].Digest {
			outcomes[i] = actor.Outcome{Refusal: actor.RequestIDReused}
		}
		applied = applied || row.outcome.UserID == p.writes[i].UserID
	}
	if p.isOutcomeUnknown() && leaseValid && applied {
		pl.missed = append(pl.missed, p.lease.Partition)
	}
	p.setDecided(outcomes, nil)
}

// add plans what the decisions on a user need.
func (pl *plan) add(d decided) error {
	p, current := d.pending, d.current
	outcomes := make([]actor.Outcome, len(d.decisions))
	for i, decision := range d.decisions {
		w, refusal := p.writes[i], decision.Refusal
		switch {
		case refusal == nil:
			outcomes[i] = actor.Outcome{UserID: w.UserID, Applied: true, After: decision.Next}
		case w.NeedsTokens(): // so that After has the tokens
			outcomes[i] = actor.Outcome{Refusal: refusal, After: current}
		default:
			outcomes[i] = actor.Outcome{Refusal: refusal}
		}
		if p.mustRecord(w, refusal) {
			pl.addRequest(p.requestIDs[i], w, outcomes[i])
		}
		if refusal != nil {
			continue
		}
		if pl.planner.audited {
			pl.audit.Add(w, current, decision.Next)
		}
		if err := pl.addNotification(p.lease, w, decision.Notification); err != nil {
			return err
		}
		current = decision.Next
	}
	p.setDecided(outcomes, nil)
	if current == d.current {
		return nil
	}
	return pl.addChange(d, current)
}

// mustRecord reports whether a decision is recorded: a change is, and a refusal (nil: there is
// none) that is final. A refusal with a random request id has to
// be recorded if the transaction may record other writes of p, because the recorded
// request ids tell which of the writes it has decided.
func (p *pending) mustRecord(w *actor.Write, refusal *actor.Refusal) bool {
	return refusal == nil || refusal.Code != actor.InvocationFailed && (hasRequestID(w) || p.inAttempt > 1 || p.isOutcomeUnknown())
}

func (pl *plan) addRequest(id actor.RequestID, w *actor.Write, o actor.Outcome) {
	r := &pl.requests
	r.ids = append(r.ids, uuidOf(id))
	r.digests = append(r.digests, w.Digest)
	r.users = append(r.users, o.UserID)
	var code, message *string
	if o.Refusal != nil {
		code, message = (*string)(&o.Refusal.Code), &o.Refusal.Message
	}
	r.codes = append(r.codes, code)
	r.messages = append(r.messages, message)
}

// addChange plans the difference between the user before all decisions and after them
// (next), which may be nil.
func (pl *plan) addChange(d decided, next *actor.User) (err error) {
	id := d.pending.first().UserID
	var had, has actor.User
	if d.current != nil {
		had = *d.current
	}
	if next != nil {
		has = *next
	}
	update := versionUpdate{user: next}
	switch {
	case next == nil:
		pl.deletedUsers = append(pl.deletedUsers, id)
	case d.current == nil:
		pl.insertedUsers.Add(next)
		update.rows[0] = true
	default:
		next.Version = had.Version
		if had.Name != has.Name || had.Email != has.Email || !userrows.Equal(had.PictureURL, has.PictureURL) {
			pl.updatedUsers.Add(next)
			update.rows[0] = true
		}
	}
	for i, service := range userrows.Services {
		old, account := *userrows.AccountOf(&had, service), *userrows.AccountOf(&has, service)
		switch {
		case userrows.Equal(account, old):
		case account == nil:
			pl.deletedServices.users = append(pl.deletedServices.users, id)
			pl.deletedServices.names = append(pl.deletedServices.names, service)
			if next != nil {
				next.Version[1+i] = 0
			}
		default:
			sealed := []byte(nil)
			if d.stored != nil && old != nil && old.AccessToken == account.AccessToken {
				sealed = d.stored.Tokens[i]
			} else if sealed, err = pl.planner.keyring.Seal([]byte(account.AccessToken)); err != nil {
				return fmt.Errorf("encrypting an access token: %w", err)
			}
			pl.accounts.Add(id, service, account.ID, sealed)
			update.rows[1+i] = true
		}
	}
	if next != nil {
		pl.versions = append(pl.versions, update)
	}
	return nil
}

func (pl *plan) addNotification(lease partition.Lease, w *actor.Write, n actor.Notification) error {
	body := n.Body
	if n.HasTokens {
		var err error
		if body, err = pl.planner.keyring.Seal(body); err != nil {
			return fmt.Errorf("encrypting a notification: %w", err)
		}
	}
	pending := actor.PendingNotification{UserID: w.UserID, Partition: lease.Partition, MessageID: uuid.New(),
		RoutingKey: n.RoutingKey, Body: n.Body, TraceParent: w.TraceParent, TraceState: w.TraceState}
	c := &pl.notifications
	c.users = append(c.users, w.UserID)
	c.messageIDs = append(c.messageIDs, uuidOf(actor.RequestID(pending.MessageID)))
	c.keys = append(c.keys, n.RoutingKey)
	c.bodies = append(c.bodies, body)
	c.sealed = append(c.sealed, n.HasTokens)
	c.traces = append(c.traces, w.TraceParent)
	c.partitions = append(c.partitions, lease.Partition)
	pl.toSend = append(pl.toSend, pending)
	return nil
}
