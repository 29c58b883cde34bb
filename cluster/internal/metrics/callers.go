package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxCallers bounds the logins that have a label value of their own, since each makes
	// another series.
	maxCallers = 32

	// CallerOther stands for the logins beyond that.
	CallerOther = "other"
)

// callers counts requests by the login of the caller.
type callers struct {
	counts *prometheus.CounterVec
	known  sync.Map // from login to prometheus.Counter

	mu  sync.Mutex // guards the following field
	own int        // logins that have a label value of their own
}

func (c *callers) count(login string) {
	counter, ok := c.known.Load(login)
	if !ok {
		counter = c.add(login)
	}
	counter.(prometheus.Counter).Inc()
}

// add returns the counter of a login. One that gets none of its own is not remembered.
func (c *callers) add(login string) prometheus.Counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.known.Load(login); ok {
		return known.(prometheus.Counter)
	}
	if login != "" {
		if c.own == maxCallers {
			return c.counts.WithLabelValues(CallerOther)
		}
		c.own++
	}
	counter := c.counts.WithLabelValues(login)
	c.known.Store(login, counter)
	return counter
}
