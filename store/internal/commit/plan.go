package commit

import (
	"fmt"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/userrows"
)

// A planner has the settings of all plans.
type planner struct {
	keyring *keyring.Keyring
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
	rows          changelog.Rows

	toSend   []actor.PendingNotification // after the commit
	versions []versionUpdate             // after the commit
	xid      uint32                      // the transaction's id; 0 until it has written

	// replays is set if a recorded outcome is to be delivered.
	replays bool
}

// A versionUpdate says which rows of a user are written. They have a new version.
type versionUpdate struct {
	user *actor.User
	rows [len(actor.Version{}.Rows)]bool
}

// addReplay plans no change: an earlier attempt or request has decided the writes. If that
// was an attempt of p, reportMissed has its notifications sent.
func (pl *plan) addReplay(p *pending, rows []recordedOutcome) {
	pl.replays = true
	outcomes := make([]actor.Outcome, len(rows))
	for i, row := range rows {
		outcomes[i] = row.outcome
		if row.digest != p.writes[i].Digest {
			outcomes[i] = actor.Outcome{Refusal: actor.RequestIDReused}
		}
	}
	p.setDecided(outcomes, nil)
}

// add plans what the decisions on a user need.
func (pl *plan) add(d decided) error {
	p, current := d.pending, d.current
	outcomes := make([]actor.Outcome, len(d.decisions))
	changed, sequence := false, int64(0)
	if current != nil {
		sequence = current.Version.Sequence
	}
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
		if refusal != nil {
			if p.mustRecord(w, refusal) {
				pl.rows.AddRefusal(p.requestIDs[i], w, refusal)
			}
			continue
		}
		sequence++
		if err := pl.addDecision(p, i, sequence, decision); err != nil {
			return err
		}
		current, changed = decision.Next, true
	}
	p.setDecided(outcomes, nil)
	if !changed {
		return nil
	}
	return pl.addChange(d, current, sequence)
}

// mustRecord reports whether a decision is recorded: a change is, and a refusal (nil: there is
// none) that is final. A refusal with a random request id has to
// be recorded if the transaction may record other writes of p, because the recorded
// request ids tell which of the writes it has decided.
func (p *pending) mustRecord(w *actor.Write, refusal *actor.Refusal) bool {
	return refusal == nil || refusal.Code != actor.InvocationFailed && (hasRequestID(w) || p.inAttempt > 1 || p.isOutcomeUnknown())
}

// addDecision plans the row of the log and the notification of the i-th write of p.
func (pl *plan) addDecision(p *pending, i int, sequence int64, d actor.Decision) error {
	w, n := p.writes[i], d.Notification
	change := changelog.Change{Partition: p.lease.Partition, Position: p.turn.planned, Sequence: sequence, Change: d.Change}
	if n.HasTokens {
		var err error
		if change.Sealed, err = pl.planner.keyring.Seal(n.Body); err != nil {
			return fmt.Errorf("encrypting a notification: %w", err)
		}
	}
	pl.rows.AddChange(p.requestIDs[i], w, change)
	pl.toSend = append(pl.toSend, actor.PendingNotification{UserID: w.UserID, Sequence: sequence, Lease: p.lease, Position: change.Position,
		RoutingKey: n.RoutingKey, Body: n.Body, TraceParent: w.TraceParent, TraceState: w.TraceState})
	p.turn.planned++
	return nil
}

// addChange plans the difference between the user before all decisions and after them
// (next), which may be nil. sequence is the number of the last change.
func (pl *plan) addChange(d decided, next *actor.User, sequence int64) (err error) {
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
		next.Version = actor.Version{Sequence: sequence}
		pl.insertedUsers.Add(next)
		update.rows[0] = true
	default:
		next.Version = had.Version
		next.Version.Sequence = sequence
		pl.updatedUsers.Add(next)
		update.rows[0] = true
	}
	for i, service := range userrows.Services {
		old, account := *userrows.AccountOf(&had, service), *userrows.AccountOf(&has, service)
		switch {
		case userrows.Equal(account, old):
		case account == nil:
			pl.deletedServices.users = append(pl.deletedServices.users, id)
			pl.deletedServices.names = append(pl.deletedServices.names, service)
			if next != nil {
				next.Version.Rows[1+i] = 0
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
