package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/cluster/wait"
)

const (
	// overlapAfter bounds how long a transaction waits for the reserved connection. If
	// another transaction takes longer, the pool is the better choice.
	overlapAfter = 25 * time.Millisecond

	// The pauses between attempts to open the reserved connection.
	firstReservePause, longestReservePause = 250 * time.Millisecond, 10 * time.Second

	// reserveWithin bounds one attempt. Transactions use the pool meanwhile.
	reserveWithin = 2 * time.Second

	// suspectAfter is how long a connection may be idle until it is asked whether it is
	// alive, as in the pool, and reviveWithin bounds the answer.
	suspectAfter = time.Second
	reviveWithin = time.Second
)

// A reserved connection is beside the pool. It is opened when it is needed.
type reserved struct {
	pool *Pool
	turn chan struct{} // has a value while nobody uses the following fields

	conn    *pgx.Conn // nil before the first use
	used    time.Time
	backoff wait.Backoff
	retryAt time.Time // the next attempt to connect
}

func newReserved(p *Pool) *reserved {
	r := &reserved{pool: p, turn: make(chan struct{}, 1), backoff: wait.Backoff{First: firstReservePause, Longest: longestReservePause}}
	r.turn <- struct{}{}
	return r
}

// TransactReserved is like Transact, on the reserved connection. So it does not wait for
// those of the pool, however many transactions use these. It uses the pool if the reserved
// connection is busy for long, cannot be opened, or does not exist.
func (p *Pool) TransactReserved(ctx context.Context, run func(ctx context.Context, conn *pgx.Conn) error) error {
	if p.reserved == nil || !p.reserved.enter(ctx) {
		return p.Transact(ctx, run)
	}
	defer p.reserved.leave()
	return p.transact(ctx, p.reserved.conn, run)
}

// enter waits for the connection. It returns false if the pool is to be used instead.
func (r *reserved) enter(ctx context.Context) bool {
	timer := time.NewTimer(overlapAfter)
	defer timer.Stop()
	select {
	case <-r.turn:
	case <-timer.C:
		return false
	}
	if r.isOpen(ctx) || r.open(ctx) {
		return true
	}
	r.leave()
	return false
}

func (r *reserved) leave() {
	r.used = time.Now()
	r.turn <- struct{}{}
}

// isOpen reports whether the connection can be used. It closes it if it does not answer.
func (r *reserved) isOpen(ctx context.Context) bool {
	if r.conn == nil || r.conn.IsClosed() {
		return false
	}
	if r.pool.histories.check(ctx, r.conn) != nil {
		CloseConn(r.conn)
		return false
	}
	if time.Since(r.used) < suspectAfter {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, reviveWithin)
	defer cancel()
	if r.conn.Ping(ctx) == nil {
		return true
	}
	CloseConn(r.conn)
	return false
}

func (r *reserved) open(ctx context.Context) bool {
	if time.Now().Before(r.retryAt) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, reserveWithin)
	defer cancel()
	conn, err := r.pool.Connect(ctx)
	if err != nil {
		r.retryAt = time.Now().Add(r.backoff.Next())
		return false
	}
	r.conn, r.retryAt = conn, time.Time{}
	r.backoff.Reset()
	return true
}

// close closes the connection for good.
func (r *reserved) close() {
	select {
	case <-r.turn:
	case <-time.After(CloseTimeout):
		return
	}
	if r.conn != nil {
		CloseConn(r.conn)
	}
}
