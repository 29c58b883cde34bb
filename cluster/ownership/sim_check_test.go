package ownership

import (
	"fmt"
	"slices"
	"time"
)

// unsettled says what is still missing until all is as it should be, "" if
// nothing is: each partition is owned and served by the one whom the ring
// names, all agree on the ring, and the epoch table says the same.
func (w *world) unsettled() string {
	var names []string
	for _, i := range w.instances {
		if i.serving() {
			names = append(names, i.name)
		}
	}
	slices.Sort(names)
	owners := w.assign(names)
	for _, i := range w.instances {
		if !i.running {
			continue
		}
		if !slices.Equal(i.core.ring, names) {
			return fmt.Sprintf("%s has the ring %v, not %v", i.core.self, i.core.ring, names)
		}
		for p, part := range i.core.partitions {
			switch ours := owners[p] == i.name; {
			case ours && part.phase != owned, !ours && part.phase != idle:
				return fmt.Sprintf("%s is %v with partition %d of %s", i.core.self, part.phase, p, owners[p])
			case !ours && i.channels[p] != nil:
				return fmt.Sprintf("%s has a channel for partition %d of %s", i.core.self, p, owners[p])
			case ours && (w.epochs.rows[p].Holder != i.core.self || w.epochs.rows[p].Released || w.epochs.rows[p].Epoch != part.epoch):
				return fmt.Sprintf("%s owns partition %d under epoch %d, the table says %+v", i.core.self, p, part.epoch, w.epochs.rows[p])
			case ours && (w.broker.served(p) == nil || w.broker.served(p) != i.channels[p]):
				return fmt.Sprintf("%s owns partition %d, and its messages go elsewhere", i.core.self, p)
			}
		}
	}
	return ""
}

// settle lets time pass until nothing has been missing for a heartbeat, and
// returns how long it took. More than limit is wrong.
func (w *world) settle(limit time.Duration) time.Duration {
	began, since := w.now, w.now
	for {
		why := w.unsettled()
		switch {
		case why == "" && w.now.Sub(since) >= time.Second:
			return since.Sub(began)
		case why != "" && w.now.Sub(began) >= limit:
			w.fail("not settled after %v: %s", limit, why)
			return limit
		}
		w.run(50 * time.Millisecond)
		if why != "" {
			since = w.now
		}
	}
}

// rest lets some heartbeats pass in which nothing happens, and checks that the
// instances do no more than they must.
func (w *world) rest(heartbeats int) {
	before, running := w.count, 0
	for _, i := range w.instances {
		if i.running {
			running++
		}
	}
	w.run(time.Duration(heartbeats) * time.Second)
	after := w.count
	most := func(what string, n, limit int) {
		if n > limit {
			w.fail("%d instances at rest do %d %s in %d heartbeats", running, n, what, heartbeats)
		}
	}
	most("claims", after.claims-before.claims, 0)
	most("hand-overs", after.handedOver-before.handedOver, 0)
	most("abandons", after.abandoned-before.abandoned, 0)
	most("messages", after.messages-before.messages, running*(heartbeats*10/9+1))
	most("probes", after.probes-before.probes, running*(heartbeats+1)*checksPerHeartbeat*neighboursPerCheck)
	most("surveys", after.surveys-before.surveys, running*(heartbeats/(heartbeatsPerSurvey*9/10)+1))
}

// checkBounds checks that an instance keeps nothing without limit.
func (i *instance) checkBounds(commands []Command) {
	c, names := i.core, len(i.w.names)
	if len(c.members) > names {
		i.w.fail("%s keeps %d members", i.name, len(c.members))
	}
	if facts := len(c.unsentFacts.Released) + len(c.unsentFacts.Taken) + len(c.unsentFacts.Gone); facts > 2*len(c.partitions)+names {
		i.w.fail("%s keeps %d facts to tell", i.name, facts)
	}
	if len(commands) > 4*len(c.partitions)+10 {
		i.w.fail("%s gives %d commands in one step", i.name, len(commands))
	}
}

// checkClaims checks that an instance does not claim a partition over and over.
func (i *instance) checkClaims(p int) {
	b := i.claimed[p]
	if i.w.now.Sub(b.since) > 5*time.Second {
		b = burst{since: i.w.now}
	}
	b.claims++
	i.claimed[p] = b
	if b.claims > 20 {
		i.w.fail("%s has claimed partition %d %d times in five heartbeats", i.name, p, b.claims)
	}
}
