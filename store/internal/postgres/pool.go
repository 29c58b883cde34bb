package postgres

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/glotpod/ident/cluster/wait"
)

// A Pool is a pool of connections, and one more connection for Ping. Its methods are
// safe for concurrent use, with the exceptions that they name.
type Pool struct {
	// All methods of the pgx pool are meant to be used. Ping and Close are replaced.
	*pgxpool.Pool

	pingConn   *pgx.Conn // nil before the first Ping
	roundTrips *atomic.Int64
	readOnly   atomic.Bool // a statement has found its connection read-only since the last Ping
}

// Open opens a pool. It does not wait for a connection. Connections that are read-only are
// refused or closed. Close must be called.
func Open(ctx context.Context, settings Settings) (*Pool, error) {
	config, err := settings.PoolConfig()
	if err != nil {
		return nil, err
	}
	p := &Pool{roundTrips: new(atomic.Int64)}
	countRoundTrips(config, p.roundTrips)
	refuseReadOnly(config.ConnConfig)
	noteReadOnly(config.ConnConfig, &p.readOnly)
	noteNotReplicated(config.ConnConfig)
	if p.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return p, nil
}

// Ping returns an error unless the database answers and accepts writes. It uses its own
// connection, so that load on the pool does not delay it. One goroutine at a time may
// call Ping.
func (p *Pool) Ping(ctx context.Context) error {
	if p.pingConn != nil && !p.pingConn.IsClosed() {
		readOnly := p.readOnly.Swap(false)
		if !readOnly {
			const query = "SELECT current_setting('transaction_read_only')::boolean"
			if err := p.pingConn.QueryRow(ctx, query).Scan(&readOnly); err != nil {
				return fmt.Errorf("reaching the database: %w", err)
			}
		}
		if !readOnly {
			return nil
		}
		p.pingConn.Close(ctx) // only a new connection tells whether the database accepts writes
	}
	conn, err := pgx.ConnectConfig(ctx, p.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("reaching the database: %w", err)
	}
	p.pingConn = conn
	return nil
}

// CloseTimeout bounds how long closing one connection, or all of them, may take. A
// silent database does not confirm a close.
const CloseTimeout = 2 * time.Second

// The pool closes its connections one after another: a PostgreSQL backend that exits
// keeps a core busy for some milliseconds. If there are few cores, requests to other
// instances would wait for all backends that exit at once.
const (
	closePause    = 25 * time.Millisecond // between two connections, at most
	closePauseSum = 500 * time.Millisecond
)

// Close closes all connections within CloseTimeout. No Ping may be under way.
func (p *Pool) Close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if p.pingConn != nil {
			CloseConn(p.pingConn)
		}
		p.closeIdle()
		p.Pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(CloseTimeout):
	}
}

// closeIdle closes the idle connections one after another.
func (p *Pool) closeIdle() {
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	idle := p.AcquireAllIdle(ctx)
	for i, conn := range idle {
		if i > 0 {
			wait.For(ctx, min(closePause, closePauseSum/time.Duration(len(idle))))
		}
		conn.Hijack().Close(ctx)
	}
}

// CloseConn closes a connection within CloseTimeout.
func CloseConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), CloseTimeout)
	defer cancel()
	conn.Close(ctx)
}
