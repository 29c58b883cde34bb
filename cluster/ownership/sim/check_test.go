package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/ownership/hashring"
	"github.com/glotpod/ident/cluster/ownership/moves"
)

// The work of an instance at rest, by the constants of package ownership.
const (
	heartbeatsPerSecond = 2
	probesPerSecond     = 4 * 2
	secondsPerSurvey    = 10
	hearsItselfWithin   = 700 * time.Millisecond // of the time at which its heartbeat is due
)

// unsettled describes what is still missing in the world, "" if nothing is: all
// instances agree on the ring, each partition is owned and served by the instance that
// the ring assigns it to, and the epoch table says the same.
func (w *world) unsettled() string {
	names, owners, contradiction := w.wanted()
	if contradiction != "" {
		return contradiction
	}
	for _, i := range w.instances {
		if !i.running {
			continue
		}
		if missing := i.unsettled(names, owners); missing != "" {
			return missing
		}
	}
	return ""
}

// wanted returns the members that should be in the ring, sorted, and the owners that
// they, their weights and their moves result in. It describes a partition that is moved to two of them, if
// there is one.
func (w *world) wanted() (names, owners []string, contradiction string) {
	var members []hashring.Member
	var moved []moves.Announcement
	by := make(map[int]string) // by partition
	for _, i := range w.instances {
		if !i.serving() {
			continue
		}
		status := i.core.Status()
		names = append(names, i.name)
		members = append(members, hashring.Member{Name: i.name, Weight: status.Weight})
		moved = append(moved, moves.Announcement{Member: i.name, Moves: status.Moves})
		for _, m := range status.Moves {
			if other := by[m.Partition]; other != "" {
				contradiction = fmt.Sprintf("partition %d is moved to %s and to %s", m.Partition, other, i.name)
			}
			by[m.Partition] = i.name
		}
	}
	slices.Sort(names)
	slices.SortFunc(members, func(a, b hashring.Member) int { return strings.Compare(a.Name, b.Name) })
	owners = slices.Clone(w.assign(members))
	moves.Apply(owners, moved)
	return names, owners, contradiction
}

// unsettled describes what is still missing in one instance. names are those that
// should be in the ring, and owners is what the ring should assign.
func (i *instance) unsettled(names, owners []string) string {
	w, status := i.w, i.core.Status()
	if !slices.Equal(status.Ring, names) {
		return fmt.Sprintf("%s has the ring %v, not %v", status.Self, status.Ring, names)
	}
	for p, part := range status.Partitions {
		row := w.epochs.rows[p]
		switch ours := owners[p] == i.name; {
		case ours && part.Phase != "owned", !ours && part.Phase != "idle":
			return fmt.Sprintf("%s is %v with partition %d of %s", status.Self, part.Phase, p, owners[p])
		case !ours && i.channels[p] != nil:
			return fmt.Sprintf("%s has a channel for partition %d of %s", status.Self, p, owners[p])
		case ours && (row.Holder != status.Self || row.Released || row.Epoch != part.Epoch):
			return fmt.Sprintf("%s owns partition %d under epoch %d, the table says %+v", status.Self, p, part.Epoch, row)
		case ours && (w.broker.served(p) == nil || w.broker.served(p) != i.channels[p]):
			return fmt.Sprintf("%s owns partition %d, but another queue gets its messages", status.Self, p)
		}
	}
	return ""
}

// settle advances the time until nothing has been missing for a second. It returns
// how long that took. More than limit is a failure.
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

// checkAtRest advances the time by some seconds without faults, and checks that the
// instances do no more than necessary.
func (w *world) checkAtRest(seconds int) {
	before, running := w.count, 0
	for _, i := range w.instances {
		if i.running {
			running++
		}
	}
	w.run(time.Duration(seconds) * time.Second)
	after := w.count
	most := func(what string, n, limit int) {
		if n > limit {
			w.fail("%d instances at rest do %d %s in %d seconds", running, n, what, seconds)
		}
	}
	most("claims", after.claims-before.claims, 0)
	most("hand-overs", after.handedOver-before.handedOver, 0)
	most("abandons", after.abandoned-before.abandoned, 0)
	most("messages", after.broadcasts-before.broadcasts, running*(seconds*heartbeatsPerSecond*10/9+1))
	most("probes", after.probes-before.probes, running*(seconds+1)*probesPerSecond)
	most("surveys", after.surveys-before.surveys, running*(seconds/(secondsPerSurvey*9/10)+1))
}

// checkBounds checks that an instance keeps nothing without a limit. Members are kept
// for longer than the time between two surveys.
func (i *instance) checkBounds(commands []ownership.Command) {
	names, partitions := len(i.w.names), i.w.setting.partitions
	if len(commands) > 4*partitions+10 {
		i.w.fail("%s gives %d commands in one step", i.name, len(commands))
	}
	for _, command := range commands {
		switch c := command.(type) {
		case ownership.Survey:
			if members := len(i.core.Status().Members); members > names {
				i.w.fail("%s keeps %d members", i.name, members)
			}
		case ownership.Broadcast:
			if facts := len(c.Message.Released) + len(c.Message.Taken) + len(c.Message.Gone); facts > 2*partitions+names {
				i.w.fail("%s has kept %d unsent facts", i.name, facts)
			}
		}
	}
}

// checkClaims checks that an instance does not claim a partition too often, and none while it does
// not hear itself.
func (i *instance) checkClaims(p int) {
	if silent := i.w.now.Sub(i.heardAt); silent > i.heardNext+hearsItselfWithin {
		i.w.fail("%s claims partition %d and has not heard itself for %v", i.name, p, silent)
	}
	b := i.claims[p]
	if i.w.now.Sub(b.since) > 5*time.Second {
		b = burst{since: i.w.now}
	}
	b.claims++
	i.claims[p] = b
	if b.claims > 20 {
		i.w.fail("%s has claimed partition %d %d times in five seconds", i.name, p, b.claims)
	}
}
