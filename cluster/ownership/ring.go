package ownership

import (
	"slices"
	"time"
)

// reconsider compares the ring with who should be in it, and sets when it is to
// follow. Who does not count any more is taken out at once. Who comes is waited
// for together with those who come after, unless there is no ring yet that
// could be disturbed and nobody else is on the way.
func (c *Core) reconsider() {
	names := c.counting()
	switch {
	case slices.Equal(names, c.ring):
		c.pending, c.pendingSince, c.settleAt = nil, time.Time{}, time.Time{}
	case c.state == Joining:
		c.ring = names // nothing here depends on it yet
	case slices.ContainsFunc(c.ring, func(name string) bool { return !contains(names, name) }),
		len(c.ring) == 0 && !c.othersJoin():
		c.settleAt = c.now
	case !slices.Equal(names, c.pending):
		if c.pendingSince.IsZero() {
			c.pendingSince = c.now
		}
		c.pending = names
		c.settleAt = c.now.Add(c.cfg.Debounce)
		if latest := c.pendingSince.Add(maxDebounces * c.cfg.Debounce); latest.Before(c.settleAt) {
			c.settleAt = latest
		}
	}
}

// counting returns the names that should be in the ring, in order.
func (c *Core) counting() []string {
	var names []string
	for name, m := range c.members {
		if m.counts() {
			names = append(names, name)
		}
	}
	if c.state == Ready {
		names = append(names, c.self.Name)
	}
	slices.Sort(names)
	return names
}

func (c *Core) othersJoin() bool {
	for _, m := range c.members {
		if m.alive() && m.state == Joining && !m.refused {
			return true
		}
	}
	return false
}

// settle makes the ring what it should be.
func (c *Core) settle() {
	c.ring = c.counting()
	c.owners = c.assign(c.ring)
	c.pending, c.pendingSince, c.settleAt = nil, time.Time{}, time.Time{}
	for p := range c.partitions {
		c.align(p)
	}
}

// ours reports whether the ring gives the partition to this instance.
func (c *Core) ours(p int) bool {
	return c.state == Ready && c.owners[p] == c.self.Name
}
