package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/config"
)

// collect finds out what the server tells about itself.
func (f *databaseFacts) collect(ctx context.Context, conn *pgx.Conn) error {
	for _, step := range []func(context.Context, *pgx.Conn) error{
		f.readServer, f.readLimits, f.readCollation, f.readTables, f.readClock, f.tryPermissions, f.tryHistory,
	} {
		if err := step(ctx, conn); err != nil {
			return fmt.Errorf("ask the database: %w", err)
		}
	}
	return nil
}

func (f *databaseFacts) readServer(ctx context.Context, conn *pgx.Conn) error {
	f.settings = make(map[string]string)
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names"} {
		var value string
		if err := conn.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return err
		}
		f.settings[name] = value
	}
	return conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int,
		current_setting('transaction_read_only')::boolean, current_setting('server_encoding'),
		(SELECT count(*) FROM pg_stat_replication),
		(SELECT datctype FROM pg_database WHERE datname = current_database()), pg_is_in_recovery()`).
		Scan(&f.version, &f.readOnly, &f.encoding, &f.standbys, &f.ctype, &f.recovers)
}

// readLimits counts the connections that the instances may have: what the server allows without
// those of other programs, or what the user or the database is limited to. Of the sessions of other
// users, an ordinary user sees the database, but neither backend_type nor application_name.
func (f *databaseFacts) readLimits(ctx context.Context, conn *pgx.Conn) error {
	return conn.QueryRow(ctx, `SELECT least(
		current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
			- coalesce(current_setting('reserved_connections', true)::int, 0)
			- (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid()
				AND coalesce(application_name, '') NOT LIKE 'glotpod.ident/%'),
		(SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
		(SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))`).Scan(&f.allowed)
}

// readCollation compares the version of the collation, which PostgreSQL records from 15 on.
func (f *databaseFacts) readCollation(ctx context.Context, conn *pgx.Conn) error {
	if f.version < 150000 {
		return nil
	}
	return conn.QueryRow(ctx, `SELECT coalesce(datcollversion, ''), coalesce(pg_database_collation_actual_version(oid), '')
		FROM pg_database WHERE datname = current_database()`).Scan(&f.collation, &f.collates)
}

// readTables looks at the owners and the triggers of the tables, if there are any.
func (f *databaseFacts) readTables(ctx context.Context, conn *pgx.Conn) error {
	const ours = `SELECT oid FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
		AND relkind IN ('r', 'p') AND (relname IN ('users', 'services') OR relname LIKE 'ident\_%')`
	return conn.QueryRow(ctx, `SELECT
		(SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class
			WHERE oid IN (`+ours+`) AND NOT pg_has_role(relowner, 'USAGE')),
		(SELECT coalesce(array_agg(tgrelid::regclass || '.' || tgname ORDER BY 1), '{}') FROM pg_trigger
			WHERE tgrelid IN (`+ours+`) AND tgname LIKE 'ident\_foreign%' AND tgenabled IN ('D', 'O'))`).
		Scan(&f.foreignOwns, &f.disabled)
}

func (f *databaseFacts) readClock(ctx context.Context, conn *pgx.Conn) error {
	var server time.Time
	before := time.Now()
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&server); err != nil {
		return err
	}
	f.ahead = offset(server, server, before, time.Now())
	return nil
}

// tryPermissions tries what an instance needs in transactions that it rolls back.
func (f *databaseFacts) tryPermissions(ctx context.Context, conn *pgx.Conn) error {
	if f.readOnly {
		return nil
	}
	for _, trial := range []struct{ what, sql string }{
		{"create and drop tables", "CREATE TABLE ident_doctor (x int); DROP TABLE ident_doctor"},
		{"listen for notifications", "LISTEN ident_doctor"},
		{"take advisory locks", "SELECT pg_try_advisory_xact_lock_shared(pg_backend_pid())"},
		{"write messages into the write-ahead log", "SELECT pg_logical_emit_message(true, 'glotpod.ident'::text, ''::text)"},
	} {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, trial.sql, pgx.QueryExecModeSimpleProtocol)
		if _, refused := errors.AsType[*pgconn.PgError](err); refused {
			f.denied = append(f.denied, trial.what)
		} else if err != nil {
			return err
		}
		if err := tx.Rollback(ctx); err != nil {
			return err
		}
	}
	return nil
}

// tryHistory tries what an instance recognizes a failover by.
func (f *databaseFacts) tryHistory(ctx context.Context, conn *pgx.Conn) error {
	const read = "SELECT system_identifier, pg_walfile_name(pg_current_wal_flush_lsn()) FROM pg_control_system()"
	_, err := conn.Exec(ctx, read, pgx.QueryExecModeSimpleProtocol)
	if _, refused := errors.AsType[*pgconn.PgError](err); !refused {
		return err
	}
	f.hidesHistory = !f.recovers
	return nil
}

// standbyTimeout is how long a commit may wait for a standby.
const standbyTimeout = 3 * time.Second

// waitsForStandby reports whether the commit of a transaction without content waits for a standby.
// If it does, the connection is closed. Without a name of a synchronous standby, a commit is slow for
// other reasons.
func (f *databaseFacts) waitsForStandby(ctx context.Context, conn *pgx.Conn) bool {
	if f.settings["synchronous_standby_names"] == "" {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, standbyTimeout)
	defer cancel()
	_, err := conn.Exec(limited, "SELECT pg_logical_emit_message(true, 'glotpod.ident'::text, ''::text)", pgx.QueryExecModeSimpleProtocol)
	return err != nil && limited.Err() != nil && ctx.Err() == nil
}

// parametersOf returns the parameters that the settings give an instance of the cluster.
func parametersOf(c *config.Config, theirs ownership.Parameters) ownership.Parameters {
	p := ownership.Parameters{Partitions: c.Cluster.Partitions, Table: ownership.TableVersion, QueueType: c.Cluster.QueueType}
	if theirs.First > 0 { // a repartition has changed what the settings say
		p.First, p.Partitions, p.QueueType = theirs.First, theirs.Partitions, theirs.QueueType
	}
	if p.QueueType == config.QueueAuto {
		p.QueueType = theirs.QueueType
	}
	return p
}
