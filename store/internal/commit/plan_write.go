package commit

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/postgres"
)

// queue writes what is planned, if an SQL condition holds.
func (pl *plan) queue(batch *pgx.Batch, tables changelog.Tables, condition string) {
	if c := &pl.deletedServices; c.users != nil {
		batch.Queue(`DELETE FROM services s
			USING unnest($1::bigint[], $2::text[]) AS d (user_id, sv_name),
				LATERAL (SELECT ctid FROM services WHERE user_id = d.user_id AND services.sv_name::text = d.sv_name OFFSET 0) AS found
			WHERE s.ctid = found.ctid AND `+condition, c.users, c.names)
	}
	if pl.deletedUsers != nil {
		batch.Queue("DELETE FROM users WHERE id = ANY($1::bigint[]) AND "+condition, pl.deletedUsers)
	}
	pl.updatedUsers.QueueUpdate(batch, condition)
	pl.insertedUsers.QueueInsert(batch, condition)
	pl.accounts.QueueUpsert(batch, condition)
	if pl.reusedIDs != nil {
		// The row of the other request loses its id. A row that is younger was made in the
		// meantime; then the insert fails.
		for _, table := range tables.Recent {
			batch.Queue("UPDATE "+table+" SET request = gen_random_uuid() WHERE request = ANY($1::uuid[]) AND at < now() - $2::interval AND "+condition,
				pl.reusedIDs, idReusedAfter)
		}
	}
	pl.rows.Queue(batch, tables, condition, pl.readTransaction)
}

// commit writes what is planned and commits, in one round trip.
func (pl *plan) commit(ctx context.Context, conn *pgx.Conn, tables changelog.Tables) error {
	batch := new(pgx.Batch)
	pl.queue(batch, tables, "true")
	if pl.replays && pl.rows.IsEmpty() {
		// A record may exist in the primary alone. Whatever this transaction writes comes
		// after the record in the write-ahead log.
		postgres.QueueWAL(batch)
	}
	if batch.Len() == 0 {
		batch.Queue("rollback") // cheaper than a commit: the transaction has written nothing
	} else {
		batch.Queue("commit")
	}
	return conn.SendBatch(ctx, batch).Close()
}

// readTransaction reads the id and the time of the transaction, which are in each row.
func (pl *plan) readTransaction(rows pgx.Rows) error {
	var at time.Time
	for first := true; rows.Next(); first = false {
		if !first {
			continue
		}
		if err := rows.Scan(&pl.xid, &at); err != nil {
			return err
		}
	}
	for i := range pl.toSend {
		pl.toSend[i].CommittedAt = at
	}
	return rows.Err()
}

// setVersions sets the versions of the written users, after the commit.
func (pl *plan) setVersions() {
	for _, u := range pl.versions {
		for i, written := range u.rows {
			if written {
				u.user.Version.Rows[i] = pl.xid
			}
		}
	}
}
