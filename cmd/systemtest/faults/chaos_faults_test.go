package faults

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"time"
)

// The names of the servers, as faults strike them.
const theBroker, theDatabase, theDisk = "broker", "database", "disk"

// brokerSettles is how long a broker as old as 3.10 may need to write down what
// was declared, so that it survives being killed.
const brokerSettles = 5 * time.Second

// kill sends SIGKILL to a member, and starts it again.
func (c *calamity) kill() *fault {
	m := c.victim()
	if m == nil {
		return nil
	}
	return &fault{name: "kill", lasts: c.between(0, 3*time.Second), strikes: []string{m.name}, begin: m.kill, heal: m.start}
}

// killAll sends SIGKILL to all members at once, and starts them again.
func (c *calamity) killAll() *fault {
	if len(c.now) > 0 {
		return nil
	}
	all := slices.Clone(c.members)
	var names []string
	for _, m := range all {
		names = append(names, m.name)
	}
	return &fault{
		name:    "kill all",
		lasts:   c.between(0, 2*time.Second),
		strikes: names,
		begin: func() {
			for _, m := range all {
				m.kill()
			}
		},
		heal: func() {
			for _, m := range all {
				m.start()
			}
		},
	}
}

// freeze stops a member by SIGSTOP, often for so long that the broker drops it.
func (c *calamity) freeze() *fault {
	m := c.victim()
	if m == nil {
		return nil
	}
	send := func(signal syscall.Signal) func() {
		return func() {
			if err := m.service.Cmd.Process.Signal(signal); err != nil {
				c.t.Fatalf("%v to %s: %v", signal, m.name, err)
			}
		}
	}
	return &fault{name: "freeze", lasts: c.between(time.Second, 8*time.Second), strikes: []string{m.name},
		begin: send(syscall.SIGSTOP), heal: send(syscall.SIGCONT)}
}

// cutFromBroker cuts a member off from the broker.
func (c *calamity) cutFromBroker() *fault {
	return c.cut("from the broker", func(m *member) []*wire { return m.toBrokers })
}

// cutFromDatabase cuts a member off from the database.
func (c *calamity) cutFromDatabase() *fault {
	return c.cut("from the database", func(m *member) []*wire { return m.toDatabases })
}

// cutOff cuts a member off from broker and database.
func (c *calamity) cutOff() *fault {
	return c.cut("off", func(m *member) []*wire { return slices.Concat(m.toBrokers, m.toDatabases) })
}

func (c *calamity) cut(from string, wiresOf func(*member) []*wire) *fault {
	m := c.victim()
	if m == nil {
		return nil
	}
	each := func(do func(*wire)) func() {
		return func() {
			for _, k := range wiresOf(m) {
				do(k)
			}
		}
	}
	f := &fault{name: "cut " + from, lasts: c.between(100*time.Millisecond, 8*time.Second), strikes: []string{m.name}}
	f.heal = each((*wire).heal)
	if c.random.IntN(3) == 0 {
		f.name, f.lasts, f.begin = f.name+", refused", f.lasts/2, each((*wire).refuse)
		return f
	}
	ways := []int{toServer, toInstance}
	switch c.random.IntN(4) {
	case 0:
		ways, f.name = ways[:1], f.name+" on the way there"
	case 1:
		ways, f.name = ways[1:], f.name+" on the way back"
	}
	f.name, f.begin = f.name+", silent", each(func(k *wire) { k.silence(ways...) })
	if c.random.IntN(2) == 0 {
		f.name += ", then broken"
		f.heal = each(func(k *wire) {
			k.refuse()
			k.heal()
		})
	}
	return f
}

// roll restarts all members in order, one by one.
func (c *calamity) roll() *fault {
	if len(c.now) > 0 {
		return nil
	}
	return &fault{name: "rolling restart", begin: func() {
		for _, m := range c.members {
			m.stop()
			m.start()
			m.service.AwaitReady(c.t)
		}
	}}
}

// comeOrGo adds a member or removes one.
func (c *calamity) comeOrGo() *fault {
	up := len(c.members)
	if c.random.IntN(2) == 0 && up < fleetMax {
		m := c.join()
		return &fault{name: "join", strikes: []string{m.name}, begin: m.start}
	}
	m := c.victim()
	if m == nil || up <= fleetMin {
		return nil
	}
	return &fault{name: "leave", strikes: []string{m.name}, begin: func() {
		m.stop()
		c.members = slices.DeleteFunc(c.members, func(other *member) bool { return other == m })
	}}
}

// restartBroker stops the broker, or kills it, and starts it again. That takes as
// much time as several other faults.
func (c *calamity) restartBroker() *fault {
	if c.isStruck(theBroker) {
		return nil
	}
	f := &fault{name: "stop the broker", lasts: c.between(0, time.Second), strikes: []string{theBroker}}
	f.begin = func() {
		if err := c.brokers[0].Stop(); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.random.IntN(2) == 0 {
		f.name = "kill the broker"
		f.begin = func() {
			c.wait(time.Until(c.declared.Add(brokerSettles)))
			c.brokers[0].Kill()
		}
	}
	f.heal = func() { restart(c.t, c.brokers[0]) }
	return f
}

// restartDatabase kills the database server and starts it again.
func (c *calamity) restartDatabase() *fault {
	if c.isStruck(theDatabase) {
		return nil
	}
	return &fault{name: "kill the database", lasts: c.between(0, 3*time.Second), strikes: []string{theDatabase},
		begin: c.databases[0].Kill, heal: func() { restart(c.t, c.databases[0]) }}
}

// restart starts a server again.
func restart(t *testing.T, server interface{ Restart(context.Context) error }) {
	t.Helper()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
