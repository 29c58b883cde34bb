package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// A database is a connection to the database of the service, and a schema with the tables
// of the plain service. It is not safe for concurrent use.
type database struct {
	schema string // needs no quotes
	conn   *pgx.Conn

	// statements is the function of pg_stat_statements, "" if that is not available.
	statements string

	// own counts the transactions of the benchmark and of the plain service.
	own int64
}

// poolConfig returns the configuration of connections to the database of the service.
func poolConfig(c *config.Config) (*pgxpool.Config, error) {
	return store.PoolConfig(storeOptions(c))
}

func storeOptions(c *config.Config) store.Options {
	o := connect.Store(c, nil)
	o.Name = "bench" // in the name of the application
	return o
}

// openDatabase connects and creates the schema.
func openDatabase(ctx context.Context, c *config.Config, run string) (*database, error) {
	conn, err := store.Connect(ctx, storeOptions(c))
	if err != nil {
		return nil, err
	}
	d := &database{schema: schemaOf(run), conn: conn}
	if _, err = d.conn.Exec(ctx, "CREATE SCHEMA "+d.schema); err != nil {
		d.conn.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("create the schema of the plain service: %w", err)
	}
	return d, nil
}

// findStatements finds out whether the database counts statements. With install, it installs
// the extension that does so if the server has loaded its library.
func (d *database) findStatements(ctx context.Context, install bool) error {
	if install {
		_, err := d.conn.Exec(ctx, `DO $$ BEGIN
			IF current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%' THEN
				CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
			END IF; END $$`)
		if err != nil {
			return fmt.Errorf("install pg_stat_statements: %w", err)
		}
	}
	var schema string
	err := d.conn.QueryRow(ctx, `SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
		WHERE extname = 'pg_stat_statements'`).Scan(&schema)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for pg_stat_statements: %w", err)
	}
	function := schema + ".pg_stat_statements(false)"
	if _, err := d.conn.Exec(ctx, "SELECT FROM "+function+" LIMIT 1"); err == nil { // else the library is not loaded, or it is forbidden
		d.statements = function
	}
	return nil
}

func (d *database) close(ctx context.Context) error {
	_, err := d.conn.Exec(ctx, "DROP SCHEMA "+d.schema+" CASCADE", pgx.QueryExecModeSimpleProtocol)
	return errors.Join(err, d.conn.Close(ctx))
}

// grow adds users to the tables of the service. The planner does not learn that before
// autovacuum does, as after any growth.
func (d *database) grow(ctx context.Context, run string) error {
	_, err := d.conn.Exec(ctx, `SET statement_timeout = 0;
		WITH added AS (
			INSERT INTO users (name, email_address, picture_url)
			SELECT 'Bench user ' || n, 'bench-`+run+`-more-' || n || '@bench.invalid', 'https://bench.invalid/picture.png'
			FROM generate_series(1, `+strconv.Itoa(grownCount)+`) AS n RETURNING id)
		INSERT INTO services (user_id, sv_name, sv_id, access_token) SELECT id, 'gh', -id, repeat('x', 140)::bytea FROM added`,
		pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("add users: %w", err)
	}
	return nil
}

// describe returns the version of the server. durable is false if a commit does not
// wait for the disk.
func (d *database) describe(ctx context.Context) (version string, durable bool, err error) {
	err = d.conn.QueryRow(ctx, `SELECT current_setting('server_version'),
		current_setting('fsync')::bool AND current_setting('synchronous_commit') <> 'off'`).Scan(&version, &durable)
	return version, durable, err
}

// A counters holds the values of the exact counters of the whole server.
type counters struct {
	wal        int64 // bytes
	commits    int64 // transactions that wrote
	statements int64 // including BEGIN and COMMIT; 0: unknown
}

// count reads the exact counters. Of two consecutive counts, the second one includes one
// statement of the first one.
func (d *database) count(ctx context.Context) (c counters, err error) {
	statements := "0"
	if d.statements != "" {
		statements = "(SELECT coalesce(sum(calls), 0) FROM " + d.statements + ")"
	}
	d.own++
	err = d.conn.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::int8,
		pg_snapshot_xmax(pg_current_snapshot())::text::int8, `+statements+`::int8`).Scan(&c.wal, &c.commits, &c.statements)
	if err != nil {
		return c, fmt.Errorf("read the counters of the database: %w", err)
	}
	return c, nil
}

// since returns the work between two consecutive counts.
func (c counters) since(before counters) counters {
	return counters{c.wal - before.wal, c.commits - before.commits, max(0, c.statements-before.statements-1)}
}

// A laggingCounters holds the values of counters that lag behind by up to a second.
type laggingCounters struct {
	transactions int64            // except those of the benchmark and of the plain service
	rows         map[string]int64 // inserted, updated or deleted, by side
}

// countLagging reads the lagging counters. The tables of the plain service have a schema of
// their own.
func (d *database) countLagging(ctx context.Context) (c laggingCounters, err error) {
	d.own++
	var service, plain int64
	err = d.conn.QueryRow(ctx, `SELECT
		(SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),
		coalesce(sum(n) FILTER (WHERE schemaname NOT LIKE 'glotpod_bench_%'), 0)::int8,
		coalesce(sum(n) FILTER (WHERE schemaname = $1), 0)::int8
		FROM (SELECT schemaname, n_tup_ins + n_tup_upd + n_tup_del AS n FROM pg_stat_user_tables) t`,
		d.schema).Scan(&c.transactions, &service, &plain)
	if err != nil {
		return c, fmt.Errorf("read the statistics of the database: %w", err)
	}
	c.transactions -= d.own
	c.rows = map[string]int64{serviceSide: service, plainSide: plain}
	return c, nil
}
