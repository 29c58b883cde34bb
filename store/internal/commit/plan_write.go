package commit

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/postgres"
)

// queue writes what is planned, if an SQL condition holds. It removes the delivered
// notifications in any case.
func (pl *plan) queue(batch *pgx.Batch, removal *outbox.Removal, condition string) {
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
		// A record that is younger was made in the meantime; then the insert fails.
		batch.Queue("DELETE FROM ident_requests WHERE identity = ANY($1::uuid[]) AND at < now() - $2::interval AND "+condition,
			pl.reusedIDs, idReusedAfter)
	}
	if c := &pl.requests; c.ids != nil {
		batch.Queue(`INSERT INTO ident_requests (slot, identity, digest, user_id, code, message)
			SELECT slots.slot, r.* FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[]) AS r,
			(SELECT ident_slot(now()) UNION SELECT ident_slot(now() - interval '10 minutes')) AS slots (slot) WHERE `+condition,
			c.ids, c.digests, c.users, c.codes, c.messages)
	}
	pl.audit.Queue(batch, condition)
	if c := &pl.notifications; c.users != nil {
		batch.Queue(`INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, traceparent, partition)
			SELECT n.user_id, n.message_id, n.routing_key, n.body, n.sealed, nullif(n.trace, ''), n.partition
			FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bytea[], $5::boolean[], $6::text[], $7::int[])
				AS n (user_id, message_id, routing_key, body, sealed, trace, partition) WHERE `+condition+`
			RETURNING id, pg_current_xact_id()::xid`, c.users, c.messageIDs, c.keys, c.bodies, c.sealed, c.traces, c.partitions).
			Query(pl.readNotificationIDs)
	}
	removal.Queue(batch)
}

// commit writes what is planned and commits, in one round trip.
func (pl *plan) commit(ctx context.Context, conn *pgx.Conn, o *outbox.Outbox) error {
	batch := new(pgx.Batch)
	removal := o.Remove()
	pl.queue(batch, removal, "true")
	if pl.replays && pl.requests.ids == nil {
		// A record may exist in the primary alone. Whatever this transaction writes comes
		// after the record in the write-ahead log.
		postgres.QueueWAL(batch)
	}
	if batch.Len() == 0 {
		batch.Queue("rollback") // cheaper than a commit: the transaction has written nothing
	} else {
		batch.Queue("commit")
	}
	err := conn.SendBatch(ctx, batch).Close()
	removal.Done(err)
	return err
}

func (pl *plan) readNotificationIDs(rows pgx.Rows) error {
	for i := 0; rows.Next(); i++ {
		if err := rows.Scan(&pl.toSend[i].ID, &pl.xid); err != nil {
			return err
		}
	}
	return rows.Err()
}

// setVersions sets the versions of the written users, after the commit.
func (pl *plan) setVersions() {
	for _, u := range pl.versions {
		for i, written := range u.rows {
			if written {
				u.user.Version[i] = pl.xid
			}
		}
	}
}
