package commit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/commitstate"
	"github.com/glotpod/ident/store/internal/postgres"
	"github.com/glotpod/ident/store/internal/userrows"
)

// attemptRead attempts to commit a group in one transaction that reads and locks the
// users first. It returns how many writes it committed with an outcome.
func (c *Committer) attemptRead(group []*pending) (committed int, err error) {
	ctx, cancel := context.WithTimeout(c.working, postgres.AttemptTimeout)
	defer cancel()
	tables, err := c.days.Tables(ctx)
	if err != nil {
		return 0, err
	}
	a := c.newAttempt(group, commitstate.LeftOut, tables)
	err = c.pool.Transact(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := a.lock(ctx, conn); err != nil {
			return fmt.Errorf("locking the users: %w", err)
		}
		c.reportMissed(a)
		a.failFenced()
		a.leaveOutBlocked()
		if err := a.decideOnStored(ctx, conn, time.Now().Add(decideGroupFor)); err != nil {
			return fmt.Errorf("checking for conflicts: %w", err)
		}
		if err := a.plan.commit(ctx, conn, a.tables); err != nil {
			return fmt.Errorf("committing: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return c.announce(group, &a.plan), nil
}

// setShortWait bounds the waits of an attempt for the locks of another transaction, which may
// insert a row with the same key. All writes to the partitions of the attempt wait meanwhile.
const setShortWait = "set_config('lock_timeout', '100ms', true)"

// lock begins the transaction, locks the partitions and the users' rows, and reads
// everything that is known to be needed. It takes one round trip.
func (a *attempt) lock(ctx context.Context, conn *pgx.Conn) error {
	a.leases = make(map[int]partition.Lease)
	a.rows = make(map[int64]int, len(a.group))
	a.stored = make(map[int64]*userrows.Stored, len(a.group))
	a.recorded = make(map[actor.RequestID]recordedOutcome)
	var users []int64
	var requests uuids
	var wanted userrows.WantedKeys
	for _, p := range a.group {
		for i, id := range p.requestIDs {
			if p.isOutcomeUnknown() || hasRequestID(p.writes[i]) {
				requests = append(requests, uuidOf(id))
			}
		}
		w := p.first()
		if w.Refusal() != nil {
			continue
		}
		if next := w.NewUser(); next != nil {
			wanted.Add(nil, next)
		}
		users = append(users, w.UserID)
	}

	batch := new(pgx.Batch)
	// The fence needs a statement to see everything that was committed before it.
	batch.Queue("begin isolation level read committed")
	// A lost attempt may have the lock on a partition. Otherwise only a claim may have it, and
	// ends soon.
	hasLost := isNextUnknown(a.group)
	if hasLost {
		batch.Queue("SELECT " + setShortWait)
	}
	a.queueFence(batch)
	if !hasLost {
		batch.Queue("SELECT " + setShortWait)
	}
	a.queueLastPositions(batch)
	if len(users) > 0 {
		// To wait for a row that another transaction has locked would delay all other
		// users of the group.
		batch.Queue(`SELECT id FROM users WHERE id = ANY($1::bigint[])
			UNION ALL SELECT user_id FROM services WHERE user_id = ANY($1::bigint[])`, users).Query(a.countRows)
		batch.Queue(`SELECT id, name, email_address, picture_url, xmin, sequence
			FROM users WHERE id = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED`, users).Query(a.readUsers)
		batch.Queue(`SELECT user_id, sv_name::text, sv_id, access_token, xmin
			FROM services WHERE user_id = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED`, users).Query(a.readServices)
	}
	if len(requests) > 0 {
		const record = "SELECT request, digest, user_id, code, message, now() - at FROM %s WHERE request = ANY($1::uuid[])"
		batch.Queue(a.tables.Union(record), requests).Query(a.readOutcomes)
	}
	wanted.Queue(batch, &a.owners)
	return conn.SendBatch(ctx, batch).Close()
}

func (a *attempt) countRows(rows pgx.Rows) error {
	for rows.Next() {
		var user int64
		if err := rows.Scan(&user); err != nil {
			return err
		}
		a.rows[user]++
	}
	return rows.Err()
}

func (a *attempt) readUsers(rows pgx.Rows) error {
	for rows.Next() {
		u := new(userrows.Stored)
		if err := rows.Scan(&u.User.ID, &u.User.Name, &u.User.Email, &u.User.PictureURL, &u.User.Version.Rows[0], &u.User.Version.Sequence); err != nil {
			return err
		}
		a.stored[u.User.ID] = u
	}
	return rows.Err()
}

func (a *attempt) readServices(rows pgx.Rows) error {
	for rows.Next() {
		var user, id int64
		var service string
		var token []byte
		var version uint32
		if err := rows.Scan(&user, &service, &id, &token, &version); err != nil {
			return err
		}
		if u := a.stored[user]; u != nil {
			u.SetAccount(service, id, token, version)
		}
	}
	return rows.Err()
}

func (a *attempt) readOutcomes(rows pgx.Rows) error {
	for rows.Next() {
		var id uuid.UUID
		var row recordedOutcome
		var code, message *string
		if err := rows.Scan(&id, &row.digest, &row.outcome.UserID, &code, &message, &row.age); err != nil {
			return err
		}
		if code != nil {
			row.outcome.UserID = 0
			row.outcome.Refusal = &actor.Refusal{Code: actor.Code(*code), Message: *message}
		}
		if other, found := a.recorded[actor.RequestID(id)]; !found || row.age < other.age {
			a.recorded[actor.RequestID(id)] = row
		}
	}
	return rows.Err()
}

// isReplay reports whether the first write was decided before.
func (a *attempt) isReplay(p *pending) bool {
	_, decided := a.record(p, 0)
	return decided
}

// leaveOutBlocked takes the pending writes to blocked users out of the attempt. A user is
// blocked if this transaction could not lock one of its rows, because another transaction
// has locked or changed the row.
func (a *attempt) leaveOutBlocked() {
	a.group = slices.DeleteFunc(a.group, func(p *pending) bool {
		user := p.first().UserID
		if a.isReplay(p) || p.first().Refusal() != nil || a.rows[user] == a.stored[user].Count() {
			return false
		}
		p.leaveOut(commitstate.Blocked)
		return true
	})
}
