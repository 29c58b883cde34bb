package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/glotpod/ident/cluster/wait"
)

// A Pool is a pool of connections, one more connection for Ping, and perhaps one for
// TransactReserved. Its methods are safe for concurrent use, with the exceptions that they
// name.
type Pool struct {
	// All methods of the pgx pool are meant to be used. Acquire, Ping and Close are replaced.
	*pgxpool.Pool

	pinger     pinger
	reserved   *reserved // nil: there is none
	histories  histories
	standby    standbyWaits
	roundTrips *atomic.Int64
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
	p.histories.turn = make(chan struct{}, 1)
	refuseReadOnly(config.ConnConfig, &p.histories)
	noteReadOnly(config.ConnConfig, &p.pinger.readOnly)
	noteNotReplicated(config.ConnConfig)
	p.pinger.noteConnecting(config)
	p.histories.avoidOldTimelines(config)
	config.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		err := p.histories.check(ctx, conn)
		if errors.Is(err, errOldConnection) {
			return false, nil
		} else if err != nil {
			return false, &unsentError{err}
		}
		return true, nil
	}
	if p.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if settings.Reserve {
		p.reserved = newReserved(p)
	}
	return p, nil
}

// Acquire returns a connection of the pool. If it fails, nothing was sent.
func (p *Pool) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := p.Pool.Acquire(ctx)
	if err != nil {
		return nil, &unsentError{err}
	}
	return conn, nil
}

// Connect opens a connection that is not in the pool.
func (p *Pool) Connect(ctx context.Context) (*pgx.Conn, error) {
	config := p.Config()
	if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, &unsentError{err}
	}
	if err := p.histories.check(ctx, conn); err != nil {
		CloseConn(conn)
		return nil, &unsentError{err}
	}
	p.pinger.noteConnected()
	return conn, nil
}

// NoteFlushed notes how far the write-ahead log is flushed, which a connection has found.
func (p *Pool) NoteFlushed(conn *pgx.Conn, position uint64) { p.histories.noteFlushed(conn, position) }

// SetGuard has a guard called for the first connection to each history. It applies also to
// connections that are open.
func (p *Pool) SetGuard(guard Guard) { p.histories.guard.Store(&guard) }

// TellsHistory reports whether the server of a connection tells its history. Otherwise the guard
// is not called.
func (p *Pool) TellsHistory(conn *pgx.Conn) bool {
	c := historyOf(conn)
	return c != nil && c.ID != ""
}

// Suspect has the guard called for the next use of a connection.
func (p *Pool) Suspect() { p.histories.suspected.Store(true) }

// IsOld reports whether a connection that Connect has returned is to an earlier history, and must
// not be used any longer.
func (p *Pool) IsOld(conn *pgx.Conn) bool { return p.histories.isOld(conn) }

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
		if p.pinger.conn != nil {
			CloseConn(p.pinger.conn)
		}
		if p.reserved != nil {
			p.reserved.close()
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
