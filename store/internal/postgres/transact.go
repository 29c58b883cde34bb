package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/wait"
)

const (
	// AttemptTimeout bounds one attempt at one transaction or query, so that a
	// database that has stopped answering is noticed.
	AttemptTimeout = 10 * time.Second

	// retryTimeout bounds all attempts of one Retry.
	retryTimeout = 30 * time.Second
)

// Retry calls try until it succeeds or fails with an error of class Failed. It returns
// the last error when ctx is done or 30 s have passed. Each attempt has AttemptTimeout.
func (p *Pool) Retry(ctx context.Context, try func(ctx context.Context) error) error {
	begun := time.Now()
	again, err := attempt(ctx, try)
	if !again {
		return err // nearly always, and with one context only
	}
	ctx, cancel := context.WithDeadline(ctx, begun.Add(retryTimeout))
	defer cancel()
	for backoff := (wait.Backoff{First: 50 * time.Millisecond, Longest: time.Second}); again && backoff.Wait(ctx) == nil; {
		again, err = attempt(ctx, try)
	}
	return err
}

// attempt calls try once. It reports whether another attempt may succeed.
func attempt(ctx context.Context, try func(ctx context.Context) error) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, AttemptTimeout)
	defer cancel()
	err = try(ctx)
	return err != nil && Classify(err) != Failed, err
}

// Transact passes a connection of the pool to run, which begins and ends a transaction
// on it. If run fails, Transact rolls back. The error is ErrNotReplicated if the
// transaction is committed and a synchronous standby may lack it.
func (p *Pool) Transact(ctx context.Context, run func(ctx context.Context, conn *pgx.Conn) error) error {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return p.transact(ctx, conn.Conn(), run)
}

// transact runs a transaction on a connection that may not be one of the pool.
func (p *Pool) transact(ctx context.Context, conn *pgx.Conn, run func(ctx context.Context, conn *pgx.Conn) error) error {
	p.standby.begin(conn)
	defer p.standby.end(conn)
	return transact(ctx, conn, run)
}

func transact(ctx context.Context, conn *pgx.Conn, run func(ctx context.Context, conn *pgx.Conn) error) error {
	forgetNotReplicated(conn)
	err := run(ctx, conn)
	if err != nil && conn.IsClosed() {
		return &lostError{err}
	}
	if err != nil {
		Rollback(conn)
		return err
	}
	return checkReplicated(conn)
}

// Rollback ends a transaction that failed, so that the pool can use the connection again.
// If the rollback fails, the pool drops the connection.
func Rollback(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		conn.Exec(ctx, "rollback")
	}
}
