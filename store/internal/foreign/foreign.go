// Package foreign notices when another program writes to the users.
//
// Triggers notify the channel ident_foreign of each write to users and services by a session
// whose application name is not ours. They also notify of rows replicated from another
// database. A [Watcher] listens.
//
// # Design decisions and what they cost
//
//   - The watcher does not say which user was written to, so one foreign write ends the
//     trust in all cached users for 30 s. Notifications of single users would have
//     to be queued and compared, and foreign writes are rare.
//   - Silence is not trusted: the connection is asked every second whether it is alive. That
//     costs one connection and one round trip a second for each instance.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// calmAfter is the time after the last foreign write until none is expected any more.
	calmAfter = 30 * time.Second

	// An idle connection is asked this often whether it is alive, and has this long to
	// answer.
	pingEvery   = time.Second
	pingTimeout = 2 * time.Second

	// Pauses between attempts to listen.
	firstPause, longestPause = 50 * time.Millisecond, 2 * time.Second
)

var errOld = errors.New("another server is the database")

// A Watcher watches for foreign writes over a connection of its own.
type Watcher struct {
	pool   *postgres.Pool // names the database
	writes prometheus.Counter
	log    *zap.Logger
}

// NewWatcher returns a watcher that counts foreign writes in writes.
func NewWatcher(pool *postgres.Pool, writes prometheus.Counter, log *zap.Logger) *Watcher {
	return &Watcher{pool: pool, writes: writes, log: log}
}

// Watch calls changed(true) when it would notice each foreign write and has noticed none for
// 30 s. It calls changed(false) when it notices a foreign write, which is soon after its
// commit, when it cannot listen any more, and when ctx is done. Each call has another
// argument than the call before. Nothing is to be trusted before the first call.
//
// Watch connects again when its connection is lost. It returns when ctx is done.
func (w *Watcher) Watch(ctx context.Context, changed func(bool)) {
	t := trust{changed: changed}
	backoff := wait.Backoff{First: firstPause, Longest: longestPause}
	for {
		listened, err := w.listen(ctx, &t)
		if ctx.Err() != nil {
			return
		}
		if listened {
			backoff.Reset()
		}
		pause := backoff.Next()
		w.log.Warn("foreign writes cannot be noticed, trying again", zap.Duration("in", pause), zap.Error(err))
		wait.For(ctx, pause)
	}
}

// listen watches over one connection. It reports whether it has listened.
func (w *Watcher) listen(ctx context.Context, t *trust) (listened bool, err error) {
	conn, err := w.pool.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		t.lost()
		postgres.CloseConn(conn)
	}()
	if err := exec(ctx, conn, "LISTEN ident_foreign"); err != nil {
		return false, err
	}
	for {
		t.listening()
		idleCtx, cancel := context.WithTimeout(ctx, pingEvery)
		_, err := conn.WaitForNotification(idleCtx)
		idle := idleCtx.Err() != nil && !conn.IsClosed()
		cancel()
		switch {
		case err == nil:
			w.writes.Inc()
			t.wrote()
		case ctx.Err() != nil:
			return true, ctx.Err()
		case !idle:
			return true, fmt.Errorf("waiting for notifications: %w", err)
		case w.pool.IsOld(conn):
			return true, errOld
		default:
			if err := exec(ctx, conn, "SELECT"); err != nil {
				return true, err
			}
		}
	}
}

// exec runs a statement that takes no time.
func exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("asking for notifications: %w", err)
	}
	return nil
}
