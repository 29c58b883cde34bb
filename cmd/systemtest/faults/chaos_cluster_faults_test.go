package faults

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
)

// downNode stops or kills a node, and starts it again. Two of three may be down at once: then
// no queue has a majority.
func (c *calamity) downNode() *fault {
	i := c.node()
	if i < 0 {
		return nil
	}
	broker := c.brokers[i]
	f := &fault{name: "stop a node", lasts: c.between(0, 4*time.Second), strikes: []string{broker.Node()}, heal: func() { restart(c.t, broker) }}
	f.begin = func() {
		if err := broker.Stop(); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.random.IntN(2) == 0 {
		f.name = "kill a node"
		f.begin = func() {
			c.wait(time.Until(c.declared.Add(brokerSettles)))
			broker.Kill()
		}
	}
	return f
}

// node draws a node without a fault, often that with the leader of the shared queue. It returns
// -1 if there is none, or if only one of the nodes would be left.
func (c *calamity) node() int {
	var whole []int
	for i, broker := range c.brokers {
		if !c.isStruck(broker.Node()) {
			whole = append(whole, i)
		}
	}
	if len(whole) < 2 {
		return -1
	}
	i := whole[c.random.IntN(len(whole))]
	if c.random.IntN(2) > 0 {
		return i
	}
	var queue struct{ Node string }
	if c.running().Management.Call(c.t.Context(), http.MethodGet, "/api/queues/%2F/"+url.PathEscape(harness.RequestQueue), nil, &queue) != nil {
		return i
	}
	if at := slices.IndexFunc(c.brokers, func(b *localserver.RabbitMQ) bool { return b.Node() == queue.Node }); slices.Contains(whole, at) {
		return at
	}
	return i
}

// rollNodes restarts all nodes, one by one.
func (c *calamity) rollNodes() *fault {
	if len(c.now) > 0 {
		return nil
	}
	return &fault{name: "rolling restart of the nodes", begin: func() {
		for _, broker := range c.brokers {
			if err := broker.Stop(); err != nil {
				c.t.Fatal(err)
			}
			restart(c.t, broker)
		}
	}}
}

// splitNode cuts a node off from the others. Its clients are not cut off.
func (c *calamity) splitNode() *fault {
	for _, broker := range c.brokers {
		if c.isStruck(broker.Node()) {
			return nil // no queue would have a majority, for long
		}
	}
	broker := c.brokers[c.random.IntN(len(c.brokers))]
	return &fault{name: "cut a node off", lasts: c.between(time.Second, 8*time.Second), strikes: []string{broker.Node()},
		begin: func() {
			// Another secret for each of the others makes it refuse their connections.
			c.eval(broker, "[begin erlang:set_cookie(N, cut), erlang:disconnect_node(N) end || N <- nodes(), N =/= node()].")
		},
		heal: func() {
			var others []string
			for _, other := range c.brokers {
				if other != broker {
					others = append(others, "'"+other.Node()+"'")
				}
			}
			c.eval(broker, "[erlang:set_cookie(N, erlang:get_cookie()) || N <- ["+strings.Join(others, ",")+"]].")
			c.awaitNodes()
		}}
}

func (c *calamity) eval(broker *localserver.RabbitMQ, expression string) {
	c.t.Helper()
	if _, err := broker.Control.Eval(c.t.Context(), expression); err != nil {
		c.t.Fatal(err)
	}
}

// awaitNodes returns when all nodes accept connections and see each other.
func (c *calamity) awaitNodes() {
	c.t.Helper()
	harness.Eventually(c.t, "all nodes are one cluster", func() bool {
		for _, broker := range c.brokers {
			var nodes []struct {
				Running    bool
				Partitions []string
			}
			if broker.Management.Call(c.t.Context(), http.MethodGet, "/api/nodes", nil, &nodes) != nil {
				return false
			}
			for _, n := range nodes {
				if !n.Running || len(n.Partitions) > 0 {
					return false
				}
			}
			if len(nodes) != len(c.brokers) {
				return false
			}
		}
		return true
	})
}

// moveLeader moves the leader of a partition queue to another node.
func (c *calamity) moveLeader() *fault {
	i := c.node()
	if i < 0 || len(c.now) > 0 {
		return nil
	}
	queue := fmt.Sprintf("%s/%04d", harness.RequestQueue, c.random.IntN(chaosPartitions))
	to := c.brokers[i]
	return &fault{name: "move a leader", strikes: []string{to.Node()}, begin: func() {
		c.eval(to, `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"`+queue+`">>)), rabbit_quorum_queue:transfer_leadership(Q, node()).`)
	}}
}

// failOver kills the primary and promotes the standby. Later the killed one becomes the standby.
func (c *calamity) failOver() *fault {
	if c.isStruck(theDatabase) {
		return nil
	}
	var before, after int
	return &fault{name: "fail over", lasts: c.between(time.Second, 3*time.Second), strikes: []string{theDatabase},
		begin: func() {
			before = c.primary()
			after = 1 - before
			c.databases[before].Kill()
			if err := c.databases[after].Promote(c.t.Context()); err != nil {
				c.t.Fatal(err)
			}
			c.execute(after, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
		},
		heal: func() { c.follow(before, after) }}
}

// stallStandby disconnects the standby, so that no commit of the primary returns.
func (c *calamity) stallStandby() *fault {
	if c.isStruck(theDatabase) {
		return nil
	}
	var standby int
	var conninfo string
	return &fault{name: "stall the standby", lasts: c.between(500*time.Millisecond, 4*time.Second), strikes: []string{theDatabase},
		begin: func() {
			standby = 1 - c.primary()
			conn := c.connect(standby)
			defer conn.Close(c.t.Context())
			if err := conn.QueryRow(c.t.Context(), "SHOW primary_conninfo").Scan(&conninfo); err != nil {
				c.t.Fatal(err)
			}
			c.execute(standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
		},
		heal: func() {
			c.execute(standby, "ALTER SYSTEM SET primary_conninfo = '"+strings.ReplaceAll(conninfo, "'", "''")+"'", "SELECT pg_reload_conf()")
		}}
}

// fillDisk makes a node believe that its disk is full, so that the broker accepts no messages.
func (c *calamity) fillDisk() *fault {
	i := c.node()
	if i < 0 || c.isStruck(theDisk) {
		return nil
	}
	broker := c.brokers[i]
	limit := func(limit string) func() {
		return func() { c.eval(broker, `rabbit_disk_monitor:set_disk_free_limit("`+limit+`").`) }
	}
	return &fault{name: "fill a disk", lasts: c.between(time.Second, 4*time.Second), strikes: []string{theDisk, broker.Node()},
		begin: limit("900000GB"), heal: limit("50MB")}
}

// rotatePassword changes the password of the members' login, in the broker and in the file, one
// after the other.
func (c *calamity) rotatePassword() *fault {
	if c.isStruck(chaosLogin) {
		return nil
	}
	password := fmt.Sprintf("password-%d", c.random.Int())
	first, second := func() { c.changePassword(password) }, func() { writeFile(c.t, c.loginFile, password) }
	if c.random.IntN(2) == 0 {
		first, second = second, first
	}
	return &fault{name: "rotate the password", lasts: c.between(0, 4*time.Second), strikes: []string{chaosLogin}, begin: first, heal: second}
}
