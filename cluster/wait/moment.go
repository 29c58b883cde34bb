package wait

import (
	"sync/atomic"
	"time"
)

// A Moment is a time that goroutines share, or none. Its age does not change when the clock of the
// machine is set. The zero Moment is none.
type Moment struct{ at atomic.Pointer[time.Time] }

// Set makes it a time, which should come from [time.Now].
func (m *Moment) Set(at time.Time) { m.at.Store(&at) }

// Clear makes it none.
func (m *Moment) Clear() { m.at.Store(nil) }

// Renew makes it the present time, unless it is none or is set meanwhile.
func (m *Moment) Renew() {
	if at := m.at.Load(); at != nil {
		now := time.Now()
		m.at.CompareAndSwap(at, &now)
	}
}

// Age returns the time since then. ok is false if it is none.
func (m *Moment) Age() (age time.Duration, ok bool) {
	at := m.at.Load()
	if at == nil {
		return 0, false
	}
	return time.Since(*at), true
}
