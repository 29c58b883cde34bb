package ownership

import (
	"slices"
	"time"
)

// scheduleRing compares the ring with the members that should be in it, and sets the
// time at which it changes. A member that is no longer ready is removed at once. A new
// member waits for further new members, except if there is no ring yet and no other
// member is joining.
func (c *Core) scheduleRing() {
	names := c.ringNames()
	switch {
	case slices.Equal(names, c.ring):
		c.nextRing, c.ringDiffersSince, c.applyRingAt = nil, time.Time{}, time.Time{}
	case c.state == Joining:
		c.ring = names // no partition depends on it yet
	case slices.ContainsFunc(c.ring, func(name string) bool { return !containsSorted(names, name) }),
		len(c.ring) == 0 && !c.othersAreJoining():
		c.applyRingAt = c.now
	case !slices.Equal(names, c.nextRing):
		if c.ringDiffersSince.IsZero() {
			c.ringDiffersSince = c.now
		}
		c.nextRing = names
		c.applyRingAt = c.now.Add(c.cfg.Debounce)
		if latest := c.ringDiffersSince.Add(maxDebounces * c.cfg.Debounce); latest.Before(c.applyRingAt) {
			c.applyRingAt = latest
		}
	}
}

// ringNames returns the names that should be in the ring, sorted.
func (c *Core) ringNames() []string {
	var names []string
	for name, m := range c.members {
		if m.inRing() {
			names = append(names, name)
		}
	}
	if c.state == Ready {
		names = append(names, c.self.Name)
	}
	slices.Sort(names)
	return names
}

func (c *Core) othersAreJoining() bool {
	for _, m := range c.members {
		if m.isAlive() && m.state == Joining && !m.refused {
			return true
		}
	}
	return false
}

// applyRing changes the ring to the members that should be in it.
func (c *Core) applyRing() {
	c.ring = c.ringNames()
	c.owners = c.cfg.Assign(c.ring)
	c.nextRing, c.ringDiffersSince, c.applyRingAt = nil, time.Time{}, time.Time{}
	for p := range c.partitions {
		c.reconcile(p)
	}
}

// isOurs reports whether the ring assigns the partition to this instance.
func (c *Core) isOurs(p int) bool {
	return c.state == Ready && c.owners[p] == c.self.Name
}
