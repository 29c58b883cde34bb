package store

import (
	"context"
	"fmt"
)

// EmptyNextSlot is what is done every now and then.
func (s *Store) EmptyNextSlot(ctx context.Context) error { return s.emptyNextSlot(ctx) }

// TendAudit is what is done every now and then.
func (s *Store) TendAudit(ctx context.Context) error { return s.tendAudit(ctx) }

// MigrationSQL is what takes the schema from version-1 to version.
func MigrationSQL(version int) string { return migrations[version-1].sql }

// A Watcher is a watcher.
type Watcher struct{ w watcher }

func NewWatcher(trust func(bool)) *Watcher { return &Watcher{watcher{trust: trust}} }
func (w *Watcher) Listening()              { w.w.listening() }
func (w *Watcher) Foreign()                { w.w.wrote() }
func (w *Watcher) Lost()                   { w.w.lost() }

// SampleTokens returns whose tokens CheckKeys looks at, as "gh 17".
func SampleTokens(ctx context.Context, s *Store) (looked []string, err error) {
	rows, err := s.sampleTokens(ctx)
	for _, row := range rows {
		looked = append(looked, fmt.Sprint(row.service, " ", row.userID))
	}
	return looked, err
}
