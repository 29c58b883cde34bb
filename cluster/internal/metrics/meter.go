package metrics

import (
	"math"
	"sync/atomic"
	"time"
)

// meterMemory is the share of the last rate in a Meter's next one. With it a rate follows
// the load within some seconds and does not jump.
const meterMemory = 0.7

// A Meter measures the rate of an event. Any number of goroutines may count; one
// measures.
type Meter struct {
	total atomic.Int64
	last  int64         // used by Measure alone
	rate  atomic.Uint64 // per second, as the bits of a float64
}

// Count counts an event.
func (m *Meter) Count() { m.total.Add(1) }

// PerSecond returns the rate.
func (m *Meter) PerSecond() float64 { return math.Float64frombits(m.rate.Load()) }

// Measure updates the rate. since is the time since Measure was called last.
func (m *Meter) Measure(since time.Duration) {
	total := m.total.Load()
	now := float64(total-m.last) / since.Seconds()
	m.last = total
	m.rate.Store(math.Float64bits(meterMemory*m.PerSecond() + (1-meterMemory)*now))
}
