package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/workload"
)

// A fault is a failure that is healed later.
type fault struct {
	name    string
	strikes []string // members and servers that no other fault may strike meanwhile
	begin   func()
	heal    func() // nil if the fault is over when begin returns

	lasts time.Duration // from its begin until it is healed
	ends  time.Time
}

// A calamity draws random faults that strike a fleet. The draws depend on the seed alone,
// not on the speed of the machine.
type calamity struct {
	*fleet
	kinds  []kind
	script func() // what happens instead of random faults; nil: nothing
	begun  time.Time
	now    []*fault       // those that are not healed yet
	drawn  map[string]int // how many, by name
	silences
}

// A kind is a kind of faults.
type kind struct {
	weight int           // how often it is drawn, in proportion
	draw   func() *fault // nil if it cannot happen now
}

// happen causes faults for a duration, one after another, or two at once. When it
// returns, all are healed and all members are ready.
func (c *calamity) happen(duration time.Duration) {
	c.t.Helper()
	for c.begun = time.Now(); time.Since(c.begun) < duration; {
		c.strike()
		if c.random.IntN(3) == 0 {
			c.wait(c.between(0, 1500*time.Millisecond))
			c.strike()
		}
		for len(c.now) > 0 {
			c.healNext()
		}
		switch c.random.IntN(3) {
		case 0:
			c.awaitReady()
		case 1:
			c.wait(c.between(0, 2*time.Second))
		}
		c.allLive()
	}
	c.awaitReady()
}

// strike draws a fault that can happen now, and begins it.
func (c *calamity) strike() {
	c.t.Helper()
	f := c.draw()
	for f == nil {
		f = c.draw()
	}
	c.drawn[f.name]++
	c.log("%s: %s", f.name, strings.Join(f.strikes, ", "))
	c.silences.begin(f.name)
	f.begin()
	if f.heal == nil {
		c.silences.end(f.name)
		c.log("%s: over", f.name)
		return
	}
	f.ends = time.Now().Add(f.lasts)
	c.now = append(c.now, f)
}

// draw draws a fault, nil if it is one that cannot happen now.
func (c *calamity) draw() *fault {
	total := 0
	for _, k := range c.kinds {
		total += k.weight
	}
	n := c.random.IntN(total)
	for _, k := range c.kinds {
		if n -= k.weight; n < 0 {
			return k.draw()
		}
	}
	return nil
}

// healNext waits for the end of the fault that ends next, and heals it.
func (c *calamity) healNext() {
	c.t.Helper()
	f := slices.MinFunc(c.now, func(a, b *fault) int { return a.ends.Compare(b.ends) })
	c.wait(time.Until(f.ends))
	c.log("%s: healing", f.name)
	f.heal()
	c.silences.end(f.name)
	c.now = slices.DeleteFunc(c.now, func(other *fault) bool { return other == f })
}

func (c *calamity) log(format string, args ...any) {
	c.t.Helper()
	c.t.Logf("%6.2f s: %s", time.Since(c.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (c *calamity) wait(d time.Duration) { workload.Pause(c.t.Context(), d) }

func (c *calamity) between(least, most time.Duration) time.Duration {
	return least + time.Duration(c.random.Int64N(int64(most-least)))
}

// allLive fails if a process of a member has exited by itself.
func (c *calamity) allLive() {
	c.t.Helper()
	for _, m := range c.members {
		if m.service != nil {
			m.lives()
		}
	}
}

func (c *calamity) isStruck(what string) bool {
	return slices.ContainsFunc(c.now, func(f *fault) bool { return slices.Contains(f.strikes, what) })
}

// victim draws a member without a fault, nil if there is none.
func (c *calamity) victim() *member {
	whole := slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return c.isStruck(m.name) })
	if len(whole) == 0 {
		return nil
	}
	return whole[c.random.IntN(len(whole))]
}
