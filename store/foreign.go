package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/store/internal/postgres"
)

const (
	// calmAfter is how long ago the last foreign write has to be, until none is
	// expected any more.
	calmAfter = 30 * time.Second

	// A connection that is idle is asked this often whether it is alive, and has
	// this long to answer.
	askEvery     = time.Second
	answerWithin = 2 * time.Second
)

// watches says whether there is a connection for WatchForeignWrites: not where it
// would leave one to all the work.
func watches(o Options) bool { return o.MaxConnections >= 4 }

// WatchForeignWrites tells trust whether what this process has read of users, and
// keeps, is as it stands in the database but for what it writes itself. It calls
// trust(true) when it would hear of each write by another program, and has heard
// of none for 30 s; and trust(false) when it hears of one, which is soon after
// that was committed, or hears nothing any more, or ctx is done. Until the first
// call nothing is to be trusted; each call says something else than the one
// before.
//
// It has a connection of its own, and makes another when that is lost. It
// returns when ctx is done, which has to be before Close. With less than 4
// connections in all it calls nothing.
func (s *Store) WatchForeignWrites(ctx context.Context, trust func(bool)) {
	if !s.watches {
		<-ctx.Done()
		return
	}
	w := watcher{trust: trust}
	const first, longest = 50 * time.Millisecond, 2 * time.Second
	for pause := first; ; pause = min(2*pause, longest) {
		listened, err := s.listen(ctx, &w)
		if ctx.Err() != nil {
			return
		}
		if listened {
			pause = first
		}
		s.log.Warn("cannot hear of foreign writes, trying again", zap.Duration("in", pause), zap.Error(err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// listen watches over one connection. It says whether it came to that.
func (s *Store) listen(ctx context.Context, w *watcher) (listened bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return false, fmt.Errorf("reaching the database: %w", err)
	}
	defer func() {
		w.lost()
		postgres.CloseConn(conn)
	}()
	if err := ask(ctx, conn, "LISTEN ident_foreign"); err != nil {
		return false, err
	}
	for {
		w.listening()
		wait, cancel := context.WithTimeout(ctx, askEvery)
		_, err := conn.WaitForNotification(wait)
		idle := wait.Err() != nil && !conn.IsClosed()
		cancel()
		switch {
		case err == nil:
			s.metrics.foreign.Inc()
			w.wrote()
		case ctx.Err() != nil:
			return true, ctx.Err()
		case !idle:
			return true, fmt.Errorf("waiting for notifications: %w", err)
		default:
			if err := ask(ctx, conn, "SELECT"); err != nil {
				return true, err
			}
		}
	}
}

// ask has the database do something that takes no time.
func ask(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("asking for notifications: %w", err)
	}
	return nil
}

// A watcher tells trust what is new.
type watcher struct {
	trust   func(bool)
	trusted bool
	foreign time.Time // of the last foreign write; zero for none
}

// listening says that no foreign write would go unheard.
func (w *watcher) listening() {
	if w.foreign.IsZero() || time.Since(w.foreign) >= calmAfter {
		w.say(true)
	}
}

// wrote says that there was a foreign write.
func (w *watcher) wrote() {
	w.say(false)
	w.foreign = time.Now()
}

// lost says that nothing is heard any more.
func (w *watcher) lost() { w.say(false) }

func (w *watcher) say(trusted bool) {
	if trusted != w.trusted {
		w.trusted = trusted
		w.trust(trusted)
	}
}
