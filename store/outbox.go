package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
)

// outbox hands notifications over to whoever sends them.
type outbox struct {
	mu        sync.Mutex // guards the following fields
	sink      func(actor.Notification)
	delivered []int64 // ids that are still stored
}

const (
	outboxColumns = "SELECT id, user_id, message_id, routing_key, coalesce(traceparent, ''), body, sealed FROM "
	deleteOutbox  = "DELETE FROM ident_outbox WHERE id = ANY($1::bigint[])"

	// sweepEvery is how long a notification that was delivered may stay
	// stored, when no commit takes it along.
	sweepEvery = time.Second
)

// SendTo has each notification handed to sink after its commit, in the order
// of each user's changes. Sink may block; commits then wait. With nil they
// stay in the database, for Undelivered to find.
func (s *Store) SendTo(sink func(actor.Notification)) {
	s.outbox.mu.Lock()
	defer s.outbox.mu.Unlock()
	s.outbox.sink = sink
}

func (o *outbox) send(notifications []actor.Notification) {
	o.mu.Lock()
	sink := o.sink
	o.mu.Unlock()
	if sink == nil {
		return
	}
	for _, n := range notifications {
		sink(n)
	}
}

// Undelivered returns up to limit notifications, fewer if they are large, that
// are in the database and were committed at least age ago, by id from afterID
// on. Without commits under way, and with age 0, what one call after another
// returns is all that was not delivered. One that no key opens has no body.
func (s *Store) Undelivered(ctx context.Context, afterID int64, age time.Duration, limit int) ([]actor.Notification, error) {
	var all []actor.Notification
	err := s.retry(ctx, func(ctx context.Context) error {
		if err := s.deleteDelivered(ctx); err != nil {
			return err
		}
		rows, err := s.pool.Query(ctx, outboxColumns+`(
				SELECT *, sum(octet_length(body)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ident_outbox
				WHERE id > $1 AND committed_at <= now() - $2::interval ORDER BY id LIMIT $3) AS page
			WHERE bytes - octet_length(body) < $4 ORDER BY id`, afterID, age, limit, maxPageBytes)
		if err != nil {
			return err
		}
		all, err = s.readOutbox(rows)
		return err
	})
	if err != nil {
		return nil, s.logged(ctx, "reading the outbox", err)
	}
	return all, nil
}

// commitLock is the key of the advisory lock that each commit shares: "idento" in
// ASCII.
const commitLock = 0x6964656e746f

// Settle waits until every commit that is under way, be it of a process that has
// ended meanwhile, is done. Commits that begin later wait for it.
func (s *Store) Settle(ctx context.Context) error {
	for {
		_, err := s.pool.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", commitLock)
		switch {
		case err == nil:
			return nil
		case classify(err) == failed || ctx.Err() != nil:
			return s.logged(ctx, "waiting for commits", err)
		}
		s.sleep(100 * time.Millisecond)
		if s.ctx.Err() != nil {
			return errClosed
		}
	}
}

func (s *Store) readOutbox(rows pgx.Rows) ([]actor.Notification, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (n actor.Notification, err error) {
		var sealed bool
		if err = r.Scan(&n.ID, &n.UserID, &n.MessageID, &n.RoutingKey, &n.TraceParent, &n.Body, &sealed); err != nil || !sealed {
			return n, err
		}
		if n.Body, err = s.keyring.open(n.Body); err != nil {
			s.log.Error("notification cannot be read, so it is not sent",
				zap.Int64("id", n.ID), zap.Int64("user_id", n.UserID), zap.Error(err))
		}
		return n, nil
	})
}

// Delivered says that the broker has taken the notifications with these ids.
// They are removed from the database soon.
func (s *Store) Delivered(ids ...int64) { s.outbox.Delivered(ids...) }

func (o *outbox) Delivered(ids ...int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delivered = append(o.delivered, ids...)
}

func (o *outbox) takeDelivered() []int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := o.delivered
	o.delivered = nil
	return ids
}

func (s *Store) deleteDelivered(ctx context.Context) error {
	ids := s.outbox.takeDelivered()
	if len(ids) == 0 {
		return nil
	}
	if _, err := s.pool.Exec(ctx, deleteOutbox, ids); err != nil {
		s.outbox.Delivered(ids...)
		return fmt.Errorf("emptying the outbox: %w", err)
	}
	return nil
}

// sweepOutbox removes what was delivered and no commit took along.
func (s *Store) sweepOutbox() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			open = false
		}
		ctx, cancel := context.WithTimeout(s.work, attemptTimeout)
		if err := s.deleteDelivered(ctx); err != nil {
			s.log.Warn("outbox not emptied", zap.Error(err))
		}
		cancel()
	}
}
