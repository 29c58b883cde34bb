package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// A database is a connection to the database of the service, and a schema with tables
// for the baselines. It is not safe for concurrent use.
type database struct {
	config *pgx.ConnConfig
	schema string
	conn   *pgx.Conn
	turn   atomic.Int64

	// own counts the transactions of the benchmark.
	own atomic.Int64
}

// openDatabase connects and creates the schema.
func openDatabase(ctx context.Context, c *config.Config, run string) (_ *database, err error) {
	pool, err := store.PoolConfig(connect.Store(c, nil))
	if err != nil {
		return nil, err
	}
	pool.ConnConfig.RuntimeParams["application_name"] = "glotpod.ident/bench"
	d := &database{config: pool.ConnConfig, schema: pgx.Identifier{"glotpod_bench_" + run}.Sanitize()}
	if d.conn, err = pgx.ConnectConfig(ctx, d.config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.conn.Close(context.WithoutCancel(ctx))
		}
	}()
	_, err = d.conn.Exec(ctx, `
		CREATE SCHEMA `+d.schema+`;
		CREATE TABLE `+d.schema+`.users (LIKE users INCLUDING INDEXES INCLUDING CONSTRAINTS);
		CREATE TABLE `+d.schema+`.requests (LIKE ident_requests_0 INCLUDING ALL);
		CREATE TABLE `+d.schema+`.outbox (LIKE ident_outbox INCLUDING ALL);
		CREATE TABLE `+d.schema+`.counter (id int PRIMARY KEY, n bigint NOT NULL);
		INSERT INTO `+d.schema+`.users (id, name, email_address)
			SELECT n, 'Bench user', 'bench-' || n || '@bench.invalid' FROM generate_series(0, `+fmt.Sprint(userCount-1)+`) AS n;
		INSERT INTO `+d.schema+`.counter VALUES (1, 0)`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, fmt.Errorf("create the tables of the baselines: %w", err)
	}
	return d, nil
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

// A counters holds the values of the counters of the database. wal and writes are
// exact; the others lag behind by up to a second.
type counters struct {
	wal    int64 // bytes
	writes int64 // transactions that wrote
	all    int64 // transactions except those of the benchmark
	rows   int64 // inserted, updated or deleted
}

func (c counters) since(before counters) counters {
	return counters{c.wal - before.wal, c.writes - before.writes, c.all - before.all, c.rows - before.rows}
}

func (c counters) plus(other counters) counters {
	return counters{c.wal + other.wal, c.writes + other.writes, c.all + other.all, c.rows + other.rows}
}

// count reads the counters. It reads those that lag behind only if lagging is true.
func (d *database) count(ctx context.Context, lagging bool) (c counters, err error) {
	d.own.Add(1)
	err = d.conn.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::int8,
		pg_snapshot_xmax(pg_current_snapshot())::text::int8`).Scan(&c.wal, &c.writes)
	if err == nil && lagging {
		d.own.Add(1)
		err = d.conn.QueryRow(ctx, `SELECT
			(SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),
			(SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::int8 FROM pg_stat_user_tables
				WHERE schemaname NOT LIKE 'glotpod_bench_%')`).Scan(&c.all, &c.rows)
		c.all -= d.own.Load()
	}
	if err != nil {
		return c, fmt.Errorf("read the counters of the database: %w", err)
	}
	return c, nil
}

// A clientPool is a pool of connections that run the same work at the same time.
type clientPool struct {
	d     *database
	conns []*pgx.Conn
	do    func(ctx context.Context, conn *pgx.Conn) error
}

func (d *database) clients(ctx context.Context, n int, do func(ctx context.Context, conn *pgx.Conn) error) (*clientPool, error) {
	c := &clientPool{d: d, do: do}
	for range n {
		conn, err := pgx.ConnectConfig(ctx, d.config)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("open connection %d of %d to the database: %w", len(c.conns)+1, n, err)
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *clientPool) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, conn := range c.conns {
		conn.Close(ctx) // an error means that it is closed
	}
}

// run runs the work on each connection repeatedly for the given time.
func (c *clientPool) run(ctx context.Context, lasting time.Duration) (*loadResult, error) {
	end := time.Now().Add(lasting)
	slices := make([]loadResult, len(c.conns))
	group, ctx := errgroup.WithContext(ctx)
	for i, conn := range c.conns {
		group.Go(func() error {
			for begin := time.Now(); begin.Before(end); {
				if err := c.do(ctx, conn); err != nil {
					return err
				}
				now := time.Now()
				slices[i].latencies.add(now.Sub(begin))
				if now.Before(end) {
					slices[i].inTime++
				}
				begin = now
				c.d.own.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("write to the database: %w", err)
	}
	whole := &loadResult{lasted: lasting}
	for i := range slices {
		whole.merge(&slices[i])
	}
	return whole, nil
}

// updateRow updates one row, the cheapest possible commit.
func (d *database) updateRow(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "UPDATE "+d.schema+".counter SET n = n + 1 WHERE id = 1")
	return err
}

// lockAndUpdate does what a service without ownership of users would do: it locks the
// row of the user for each request.
func (d *database) lockAndUpdate(ctx context.Context, conn *pgx.Conn) error {
	turn := d.turn.Add(1)
	user := turn % userCount
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var name string
		var picture *string
		err := tx.QueryRow(ctx, "SELECT name, picture_url FROM "+d.schema+".users WHERE id = $1 FOR UPDATE", user).Scan(&name, &picture)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE "+d.schema+".users SET name = $2 WHERE id = $1", user, fmt.Sprint("Bench user ", turn)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO "+d.schema+".requests (identity, slot, digest, user_id) VALUES ($1, 0, $2, $3)", uuid.New(), turn, user)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO "+d.schema+".outbox (user_id, message_id, routing_key, body, sealed, partition) VALUES ($1, $2, $3, $4, false, 0)",
			user, uuid.New(), "notifications.user.patch", []byte(`{"user_id":1234567,"ops":[{"op":"replace","path":"/name","value":"Bench user 1234567"}]}`))
		return err
	})
}
