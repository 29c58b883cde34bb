package history

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/glotpod/ident/store/internal/postgres"
)

// A Keeper keeps numbers from being given twice. It is safe for concurrent use.
type Keeper struct {
	o Options

	mu      sync.Mutex // guards the following fields
	marker  string     // as ident_cluster has it; "": not known
	changed func()     // nil: none
	lost    time.Time  // when it was last noticed that commits were lost; zero: never
}

// Options are what a Keeper needs.
type Options struct {
	Pool *postgres.Pool
	Seen *Seen
	Log  *zap.Logger

	LockClass int // of the advisory locks on partitions, which claims take exclusively

	Changes prometheus.Counter // of the history
	Losses  prometheus.Counter // of commits
}

// NewKeeper returns a Keeper that does nothing before Start is called.
func NewKeeper(o Options) *Keeper { return &Keeper{o: o} }

// Start has each new history examined from now on, and examines the present one.
func (k *Keeper) Start(ctx context.Context) error {
	k.o.Pool.SetGuard(k.examine)
	k.o.Pool.SetObserver(k.observe)
	return k.examineNow(ctx)
}

// Record records the present history if the database has none yet.
func (k *Keeper) Record(ctx context.Context) error {
	k.mu.Lock()
	known := k.marker != ""
	k.mu.Unlock()
	if known {
		return nil
	}
	k.o.Pool.Suspect()
	return k.examineNow(ctx)
}

func (k *Keeper) examineNow(ctx context.Context) error {
	conn, err := k.o.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	if !k.o.Pool.TellsHistory(conn.Conn()) {
		k.o.Log.Warn("PostgreSQL does not tell its timeline to this user; a failover that loses commits is not noticed")
	}
	conn.Release()
	return nil
}

// OnChange has changed called after each change of the history. changed must not block.
func (k *Keeper) OnChange(changed func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = changed
}

// Lost returns when it was last noticed that commits were lost; the zero time if never.
func (k *Keeper) Lost() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost
}

// A marker is the text in the column history: the ID of the history, and a random text that tells
// when the numbers were raised.
func newMarker(id string) string { return id + "#" + rand.Text() }

func idOf(marker string) string {
	id, _, _ := strings.Cut(marker, "#")
	return id
}

// observation selects what is asked for each second.
const observation = `SELECT coalesce(history, ''), (pg_current_wal_flush_lsn() - '0/0')::bigint,
		coalesce(pg_sequence_last_value(pg_get_serial_sequence('users', 'id')::regclass), 0)
	FROM ident_cluster`

// observe asks what other instances have done.
func (k *Keeper) observe(batch *pgx.Batch, conn *pgx.Conn) {
	batch.Queue(observation).Query(func(rows pgx.Rows) error {
		var marker string
		var flushed uint64
		var userID int64
		_, err := pgx.ForEachRow(rows, []any{&marker, &flushed, &userID}, func() error {
			k.o.Pool.NoteFlushed(conn, flushed)
			k.o.Seen.UserID(userID)
			k.compare(marker)
			return nil
		})
		return err
	})
}

// compare has the history examined if the marker is another one than was known: another instance
// has raised the numbers, or an operator has marked the database as restored.
func (k *Keeper) compare(marker string) {
	if known := k.known(); known == "" {
		k.note(marker)
	} else if marker != "" && marker != known {
		k.o.Pool.Suspect()
	}
}

// note notes the marker, and calls changed if it is another one.
func (k *Keeper) note(marker string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if marker == k.marker || marker == "" {
		return
	}
	first := k.marker == ""
	k.marker = marker
	if k.changed != nil && !first {
		k.changed()
	}
}
