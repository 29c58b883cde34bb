package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/glotpod/ident/cluster/wait"
)

const (
	// connectEvery is the longest time in which no connection is made. The server may
	// refuse new connections while those that are open work: the password or the role was
	// changed, or there are too many connections. It is shortened by up to half (jitter).
	connectEvery = 10 * time.Second

	// connectWithin bounds that connection.
	connectWithin = 4 * time.Second

	// acquireWithin bounds the wait for a connection of the pool. If all are in use, the
	// pool works.
	acquireWithin = time.Second
)

// A pinger finds out whether the database can be reached.
type pinger struct {
	conn  *pgx.Conn     // nil before the first Ping
	every time.Duration // since connected, until a new connection is to be made

	observer atomic.Pointer[func(*pgx.Batch, *pgx.Conn)] // nil: none

	readOnly   atomic.Bool  // a statement has found its connection read-only since the last Ping
	connecting atomic.Int64 // when an attempt to connect last began, in Unix nanoseconds
	connected  atomic.Int64 // when one last succeeded
}

// noteConnecting notes the attempts of config to connect.
func (p *pinger) noteConnecting(config *pgxpool.Config) {
	before := config.BeforeConnect
	config.BeforeConnect = func(ctx context.Context, config *pgx.ConnConfig) error {
		p.connecting.Store(time.Now().UnixNano())
		return before(ctx, config)
	}
	config.AfterConnect = func(context.Context, *pgx.Conn) error {
		p.noteConnected()
		return nil
	}
}

func (p *pinger) noteConnected() { p.connected.Store(time.Now().UnixNano()) }

// mustConnect reports whether only a new connection tells whether the database can be
// reached: the open one is lost or read-only, an attempt to connect has failed since the
// last one that succeeded, or none was made for long.
func (p *pinger) mustConnect() bool {
	connected := p.connected.Load()
	return p.conn == nil || p.conn.IsClosed() || p.readOnly.Swap(false) ||
		p.connecting.Load() > connected || time.Since(time.Unix(0, connected)) > p.every
}

// errReadOnly is returned if a connection of the pool leads to a server that accepts no writes.
var errReadOnly = errors.New("the database is read-only")

const readOnlyQuery = "SELECT current_setting('transaction_read_only')::boolean"

// Ping returns an error unless the database answers and accepts writes, a new connection can
// be made, and the pool has a connection. It uses its own connection, so that load on the
// pool does not delay it by more than a second. If there is no new connection, and the
// pool can go on with those that it has, the error is a [wait.ErrNoNewConnection]. If
// neither an attempt to connect nor the pool gets an answer, the pool cannot. One goroutine at
// a time may call Ping.
func (p *Pool) Ping(ctx context.Context) error {
	if !p.pinger.mustConnect() && !p.IsOld(p.pinger.conn) {
		readOnly, err := p.observe(ctx)
		if err != nil {
			return fmt.Errorf("reaching the database: %w", err)
		}
		if !readOnly {
			_, err := p.checkPool(ctx)
			return err
		}
	}
	silent, connectErr := p.pinger.connect(ctx, p)
	var unwritable *unwritableError
	if errors.As(connectErr, &unwritable) {
		return connectErr
	}
	answered, err := p.checkPool(ctx)
	switch {
	case err != nil:
		return err
	case silent && !answered:
		return connectErr
	case connectErr != nil:
		return fmt.Errorf("%w: %w", wait.ErrNoNewConnection, connectErr)
	}
	return nil
}

// observe asks over the connection of Ping whether it accepts writes, and what the observer and
// the standby's watch want to know.
func (p *Pool) observe(ctx context.Context) (readOnly bool, err error) {
	conn, asked := p.pinger.conn, false
	batch := new(pgx.Batch)
	batch.Queue(readOnlyQuery).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&readOnly)
		asked = err == nil
		return err
	})
	p.standby.queue(batch)
	if observe := p.pinger.observer.Load(); observe != nil {
		(*observe)(batch, conn)
	}
	err = conn.SendBatch(ctx, batch).Close()
	var refused *pgconn.PgError
	if asked && !conn.IsClosed() && errors.As(err, &refused) {
		err = nil // the database can be used, whatever is wrong with the questions
	}
	return readOnly, err
}

// SetObserver has observe add questions to each round trip of Ping.
func (p *Pool) SetObserver(observe func(*pgx.Batch, *pgx.Conn)) { p.pinger.observer.Store(&observe) }

// WaitingForStandby returns how long transactions have been waiting for a synchronous standby, 0
// if none has for more than a few seconds. Ping asks the server.
func (p *Pool) WaitingForStandby() time.Duration { return p.standby.duration(time.Now()) }

// connect replaces the connection. It closes the old one first, so that there is never one
// more than the settings say. silent reports that it has failed without an answer in time.
func (p *pinger) connect(ctx context.Context, pool *Pool) (silent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if p.conn != nil {
		CloseConn(p.conn)
	}
	conn, err := pool.Connect(ctx)
	if err != nil {
		return ctx.Err() != nil, err
	}
	p.conn, p.every = conn, connectEvery-rand.N(connectEvery/2)
	return false, nil
}

// checkPool returns an error if the pool has no connection and gets none. answered reports
// that a connection of the pool works: it answers and accepts writes. If there is neither an
// error nor an answer, all may be in use, or lost without a sign.
func (p *Pool) checkPool(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, acquireWithin)
	defer cancel()
	for {
		conn, err := p.Acquire(ctx)
		if err == nil {
			var readOnly bool
			err = conn.QueryRow(ctx, readOnlyQuery).Scan(&readOnly) // Acquire asks only those that have been idle for long
			if readOnly {
				conn.Conn().Close(ctx)
				err = errReadOnly
			}
			lost := conn.Conn().IsClosed()
			conn.Release()
			if err == nil {
				return true, nil
			}
			if lost && ctx.Err() == nil {
				continue
			}
		}
		if s := p.Stat(); s.AcquiredConns()+s.IdleConns() > 0 {
			return false, nil
		}
		return false, err
	}
}
