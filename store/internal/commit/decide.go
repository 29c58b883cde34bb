package commit

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/tracelog"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/userrows"
)

// A decider has writes decide.
type decider struct {
	keyring               *keyring.Keyring
	tokensInNotifications bool
	log                   *zap.Logger
	panics                prometheus.Counter
	logUnreadable         func(userID int64, err error)

	// notificationFits reports whether a notification of so many bytes can be sent. It is
	// nil if that is not limited.
	notificationFits atomic.Pointer[func(bytes int) bool]
}

// decide has one write decide. A write that panics fails, and no other one with it.
func (d *decider) decide(w *actor.Write, current *actor.User) (decision actor.Decision) {
	defer func() {
		if r := recover(); r != nil {
			d.panics.Inc()
			tracelog.With(d.log, w.TraceParent).Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			decision = actor.Decision{Refusal: actor.InternalError("the request could not be carried out")}
		}
	}()
	decision = w.Decide(current, d.tokensInNotifications)
	fits := d.notificationFits.Load()
	if decision.Refusal == nil && fits != nil && !(*fits)(len(decision.Notification.Body)) {
		return actor.Decision{Refusal: actor.NotificationTooLarge}
	}
	return decision
}

// current returns the user on which a write decides, with access tokens if the write
// needs them. It returns nil if there is no user, or the write decides without one.
func (d *decider) current(stored *userrows.Stored, w *actor.Write) (*actor.User, error) {
	if stored == nil || w.Refusal() != nil {
		return nil, nil
	}
	if !w.NeedsTokens() {
		return &stored.User, nil
	}
	user, err := stored.Unseal(d.keyring)
	if err != nil {
		d.logUnreadable(stored.User.ID, err)
	}
	return user, err
}

// decided are the writes of a pending write that have decided in an attempt.
type decided struct {
	pending   *pending
	stored    *userrows.Stored // nil if there is no user, or it was not read
	current   *actor.User      // the user before the first decision
	decisions []actor.Decision // of the first writes, each on the result of the one before
}

// firstNext returns the user after the first decision. It is nil if the write was refused
// or deletes the user. No later decision gives the user another email or service id.
func (d *decided) firstNext() *actor.User {
	if first := d.decisions[0]; first.Refusal == nil {
		return first.Next
	}
	return nil
}

// decideOnStored has the writes decide on the locked users, and plans the changes. It
// leaves out the pending writes that no longer fit, or for which no time is left. If a patch gives a user another
// email or service id, it takes a round trip to find the owner of that.
func (a *attempt) decideOnStored(ctx context.Context, conn *pgx.Conn, deadline time.Time) error {
	var all []decided
	var wanted userrows.WantedKeys
	for i, p := range a.group {
		if i > 0 && a.isFull(deadline) {
			a.leaveOutRest(i)
			break
		}
		if a.replay(p) {
			continue
		}
		stored := a.stored[p.first().UserID]
		current, err := a.decider.current(stored, p.first())
		if err != nil {
			if p.isOutcomeUnknown() {
				err = actor.ErrFenced // see giveUpLease
			}
			p.setDecided(nil, err)
			continue
		}
		d := decided{pending: p, stored: stored, current: current}
		a.decide(&d, deadline)
		if next := d.firstNext(); next != nil && current != nil {
			wanted.Add(current, next)
		}
		all = append(all, d)
	}

	batch := new(pgx.Batch)
	if wanted.Queue(batch, &a.owners); batch.Len() > 0 {
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
	}
	for _, d := range all {
		if next := d.firstNext(); next != nil {
			if conflict := a.owners.Conflict(next); conflict != nil {
				// There is no other decision: the write had to be committed alone.
				d.decisions = []actor.Decision{{Refusal: conflict}}
			} else {
				a.owners.Add(next)
			}
		}
		if err := a.plan.add(d); err != nil {
			return err
		}
	}
	return nil
}

// replay plans the recorded outcomes of the first writes, as far as they were decided
// before. It reports whether the first one was.
func (a *attempt) replay(p *pending) bool {
	var rows []recordedOutcome
	for i := range p.requestIDs {
		row, decided := a.record(p, i)
		if !decided {
			break
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return false
	}
	a.plan.addReplay(p, rows)
	return true
}

// decide has the writes of d.pending that are in the attempt decide, each on the result of
// the one before. It stops early before a replay or a write that must be committed alone,
// or if the attempt is full. It decides at least the first one.
func (a *attempt) decide(d *decided, deadline time.Time) {
	p, current := d.pending, d.current
	if own := time.Now().Add(decideUserFor); own.Before(deadline) {
		deadline = own
	}
	for i, w := range p.writes[:p.inAttempt] {
		if _, decided := a.record(p, i); decided || i > 0 && a.isFull(deadline) {
			break
		}
		decision := a.decider.decide(w, current)
		alone := mustCommitAlone(current, decision)
		if alone && i > 0 {
			break
		}
		d.decisions = append(d.decisions, decision)
		if _, recorded := a.recorded[p.requestIDs[i]]; recorded && p.mustRecord(w, decision.Refusal) {
			a.plan.reusedIDs = append(a.plan.reusedIDs, uuidOf(p.requestIDs[i]))
		}
		a.size += w.Size + 2*len(decision.Notification.Body) // the change in the log has about the same size
		if decision.Refusal == nil {
			current = decision.Next
		}
		if alone {
			break
		}
	}
	p.inAttempt = len(d.decisions)
	if current != d.current && current != nil {
		a.size += current.Size()
	}
}

// mustCommitAlone reports whether a write must not share a transaction with other writes
// to its user: it could fail and they would fail with it, or no write can follow it.
func mustCommitAlone(current *actor.User, d actor.Decision) bool {
	if d.Refusal != nil {
		return d.Refusal.Code == actor.InvocationFailed
	}
	return d.Next == nil || new(userrows.WantedKeys).Add(current, d.Next)
}
