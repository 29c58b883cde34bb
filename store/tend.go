package store

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// tendEvery is how long a store that tends the tables rests in between.
const tendEvery = 10 * time.Minute

// tend does something for the tables, for the first time after a while, until the
// store closes, and logs by this message what went wrong.
func (s *Store) tend(after time.Duration, wrong string, do func(context.Context) error) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
		if err := do(s.ctx); err != nil && s.ctx.Err() == nil {
			s.log.Warn(wrong, zap.Duration("in", tendEvery), zap.Error(err))
		}
		timer.Reset(tendEvery)
	}
}
