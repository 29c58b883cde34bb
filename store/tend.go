package store

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// tendEvery is how often each store that tends the tables looks after them.
const tendEvery = 10 * time.Minute

// tend looks after the tables until the store closes, for the first time after a
// while.
func (s *Store) tend(after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
		timer.Reset(tendEvery)
		s.tended("old requests not removed, trying again", s.emptyNextSlot)
		if s.auditKeep > 0 {
			s.tended("audit table not tended, trying again", s.tendAudit)
		}
	}
}

// tended does one thing, and logs what went wrong.
func (s *Store) tended(wrong string, do func(context.Context) error) {
	if err := do(s.ctx); err != nil && s.ctx.Err() == nil {
		s.log.Warn(wrong, zap.Duration("in", tendEvery), zap.Error(err))
	}
}
