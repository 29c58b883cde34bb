package store

import (
	"context"
	"fmt"
	"strconv"

	"github.com/glotpod/ident/store/internal/schema"
)

// EmptyNextSlot is what is done every now and then.
func (s *Store) EmptyNextSlot(ctx context.Context) error { return s.emptyNextSlot(ctx) }

// MaintainAudit is what is done every now and then.
func (s *Store) MaintainAudit(ctx context.Context) error { return s.tendAudit(ctx) }

// MigrationSQL is what takes the schema from version-1 to version.
func MigrationSQL(version int) string { return schema.SQL(version) }

// A Watcher is a watcher.
type Watcher struct{ w watcher }

func NewWatcher(trust func(bool)) *Watcher { return &Watcher{watcher{trust: trust}} }
func (w *Watcher) Listening()              { w.w.listening() }
func (w *Watcher) Foreign()                { w.w.wrote() }
func (w *Watcher) Lost()                   { w.w.lost() }

// SampleTokens returns whose tokens CheckKeyring looks at, as "gh 17".
func SampleTokens(ctx context.Context, s *Store) (looked []string, err error) {
	rows, err := s.sampleTokens(ctx)
	for _, row := range rows {
		looked = append(looked, fmt.Sprint(row.service, " ", row.userID))
	}
	return looked, err
}

// Planned returns how many statements have been planned on each of the connections
// that are idle.
func Planned(ctx context.Context, s *Store) (statements []int, err error) {
	for _, conn := range s.pool.AcquireAllIdle(ctx) {
		defer conn.Release()
		results, err := conn.Conn().PgConn().Exec(ctx, "SELECT count(*) FROM pg_prepared_statements").ReadAll()
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(string(results[0].Rows[0][0]))
		if err != nil {
			return nil, err
		}
		statements = append(statements, n)
	}
	return statements, nil
}

// OnEachIdle runs a statement on each of the connections that are idle.
func OnEachIdle(ctx context.Context, s *Store, sql string) error {
	for _, conn := range s.pool.AcquireAllIdle(ctx) {
		defer conn.Release()
		if _, err := conn.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}
