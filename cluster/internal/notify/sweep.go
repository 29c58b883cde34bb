package notify

import (
	"context"
	"time"

	"github.com/glotpod/ident/actor"
)

// sweepOutbox sends held-back and overdue notifications until ctx is done.
func (n *Notifier) sweepOutbox(ctx context.Context) {
	retry, overdue := time.NewTicker(retryEvery), time.NewTicker(overdueEvery)
	defer retry.Stop()
	defer overdue.Stop()
	defer n.o.Metrics.Overdue.Set(0) // the next owners of the partitions count them
	for {
		var err error
		select {
		case <-retry.C:
			err = n.retryHeldBack(ctx)
		case <-overdue.C:
			err = n.sendOverdue(ctx)
		case <-ctx.Done():
			return
		}
		if err != nil {
			return // the channel is closed, which ends the session
		}
	}
}

// retryHeldBack sends the held-back notifications of the users that are due.
func (n *Notifier) retryHeldBack(ctx context.Context) error {
	due := n.heldBack.due(time.Now())
	if len(due) == 0 {
		return nil
	}
	r, err := n.sweep(ctx, 0, func(user int64) bool {
		_, ok := due[user]
		return ok
	})
	if err != nil || r == nil {
		return err
	}
	n.heldBack.update(due, r, time.Now())
	return nil
}

// sendOverdue sends overdue notifications, and counts them. Held-back notifications are
// only counted here; retryHeldBack sends them.
func (n *Notifier) sendOverdue(ctx context.Context) error {
	overdue := 0
	r, err := n.sweep(ctx, overdueAge, func(user int64) bool {
		overdue++
		return !n.heldBack.has(user)
	})
	if r != nil {
		n.o.Metrics.Overdue.Set(float64(overdue))
	}
	return err
}

// A sweepResult is what became of the notifications in the outbox.
type sweepResult struct {
	// refused has each user with a notification in the outbox, and whether one was
	// refused or could not be decrypted.
	refused  map[int64]bool
	accepted int // notifications
}

// sweep sends stored notifications of selected users that are at least of an age and not
// pending. It sends one at a time, and none of a user after one that was refused or
// cannot be decrypted. The result is nil if the outbox could not be read to its end. An
// error means that the channel is closed.
func (n *Notifier) sweep(ctx context.Context, age time.Duration, selected func(user int64) bool) (*sweepResult, error) {
	r := &sweepResult{refused: make(map[int64]bool)}
	var last int64
	for {
		page, err := n.readOutbox(ctx, last, age)
		if err != nil {
			return nil, nil // the database is out of reach; a later sweep follows
		}
		if len(page) == 0 {
			return r, nil
		}
		for _, x := range page {
			last = x.ID
			if !selected(x.UserID) || r.refused[x.UserID] {
				continue
			}
			if err := n.resend(ctx, x, r); err != nil {
				return nil, err
			}
		}
	}
}

// resend sends one stored notification, unless it is pending or its partition is no
// longer this instance's. It waits for the confirmation, and adds the outcome to r.
func (n *Notifier) resend(ctx context.Context, x actor.PendingNotification, r *sweepResult) error {
	r.refused[x.UserID] = false
	if n.pending.has(x.ID) {
		return nil
	}
	if x.Body == nil { // it cannot be decrypted; the store has logged that
		r.refused[x.UserID] = true
		if n.o.Owns(n.partitionOf(x)) && !n.heldBack.has(x.UserID) {
			n.heldBack.add(x.UserID, time.Now())
		}
		return nil
	}
	accepted, sent, err := n.sendOne(ctx, x)
	switch {
	case err != nil:
		return err
	case accepted:
		n.o.Outbox.ConfirmNotifications(x.ID)
		r.accepted++
	case sent:
		r.refused[x.UserID] = true
	}
	return nil
}

// sendOne sends one stored notification, if its partition is this instance's, and waits
// for the confirmation.
func (n *Notifier) sendOne(ctx context.Context, x actor.PendingNotification) (accepted, sent bool, err error) {
	// It must be pending before Owns is asked: otherwise Flush could miss it when the
	// partition is handed over.
	n.pending.add(x.ID, n.partitionOf(x))
	defer n.removePending(x)
	if !n.o.Owns(n.partitionOf(x)) {
		return false, false, nil
	}
	out := outbound{notification: x}
	if err := n.publish(&out); err != nil {
		return false, true, err
	}
	accepted, err = n.awaitConfirmation(ctx, out)
	return accepted, true, err
}

// readOutbox reads a page of the outbox, for the partitions that are this instance's.
func (n *Notifier) readOutbox(ctx context.Context, afterID int64, age time.Duration) ([]actor.PendingNotification, error) {
	ctx, cancel := context.WithTimeout(ctx, outboxTimeout)
	defer cancel()
	owned := []int{}
	for p := range n.o.Partitions {
		if n.o.Owns(p) {
			owned = append(owned, p)
		}
	}
	return n.o.Outbox.PendingNotifications(ctx, owned, afterID, age, outboxPage)
}
