package postgres

import "time"

// TransactOn is Pool.Transact on a connection that is not in a pool.
var TransactOn = transact

// StandbyWaits are standbyWaits.
type StandbyWaits struct{ w standbyWaits }

func (s *StandbyWaits) See(now time.Time)                    { s.w.see(now) }
func (s *StandbyWaits) Duration(now time.Time) time.Duration { return s.w.duration(now) }
