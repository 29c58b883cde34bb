package cluster

import (
	"math"
	"sync/atomic"
	"time"
)

// meterMemory is the share of the last rate in a meter's next one. With it a rate follows
// the load within some seconds and does not jump.
const meterMemory = 0.7

// A meter measures the rate of an event. Any number of goroutines may count; one
// measures.
type meter struct {
	total atomic.Int64
	last  int64         // used by measure alone
	rate  atomic.Uint64 // per second, as the bits of a float64
}

func (m *meter) count() { m.total.Add(1) }

func (m *meter) perSecond() float64 { return math.Float64frombits(m.rate.Load()) }

// measure updates the rate. since is the time since measure was called last.
func (m *meter) measure(since time.Duration) {
	total := m.total.Load()
	now := float64(total-m.last) / since.Seconds()
	m.last = total
	m.rate.Store(math.Float64bits(meterMemory*m.perSecond() + (1-meterMemory)*now))
}
