package doctor

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/config"
)

// checkManaged derives findings from what the management API tells.
func checkManaged(c *config.Config, f *brokerFacts, instances int, r *report) {
	m := f.management
	if m == nil {
		return
	}
	m.checkNodes(r)
	m.checkLimits(c.Cluster.Partitions, instances, r)
	for _, q := range m.queues {
		if keys := q.droppingKeys(); len(keys) > 0 {
			r.add("queue-policy", "a policy or an argument sets %s for the queue %s", strings.Join(keys, ", "), q.Name)
			break // one policy has many queues
		}
	}
	m.checkBindings(r)
	m.checkUsers(c.AMQP.Login, r)
	if m.ahead.Abs() > maxDrift {
		r.add("broker-clock", "the clock of RabbitMQ differs from that of this machine by %s", m.ahead.Abs().Round(time.Second))
	}
}

func (m *managementFacts) checkNodes(r *report) {
	for _, n := range m.nodes {
		switch {
		case !n.Running:
			r.add("broker-nodes-down", "the node %s of RabbitMQ does not run", n.Name)
		case n.MemAlarm:
			r.add("broker-alarm", "the node %s of RabbitMQ has too little memory left", n.Name)
		case n.DiskAlarm:
			r.add("broker-alarm", "the node %s of RabbitMQ has too little disk space left", n.Name)
		}
	}
	if len(m.nodes) == 2 {
		r.add("broker-two-nodes", "RabbitMQ has two nodes")
	}
}

func (m *managementFacts) checkLimits(partitions, instances int, r *report) {
	// Partition queues, the shared queue, two for each instance, and one for a command.
	if limit, needed := m.limits.Queues, partitions+2+2*instances; limit != nil && *limit < needed {
		r.add("broker-queues", "other programs leave %d queues of those that the virtual host may have, and %d are needed for %d instances", *limit, needed, instances)
	}
	// Three for each instance, one for moments, and one for a command.
	if limit, needed := m.limits.Connections, 3*instances+2; limit != nil && *limit < needed {
		r.add("broker-connections", "other programs leave %d connections of those that are allowed, and %d are needed for %d instances", *limit, needed, instances)
	}
}

// minDeliveries is the lowest delivery limit of the shared queue at which no request is dropped:
// an instance takes a request out of reach of the limit when it came back three times.
const minDeliveries = 4

// droppingKeys returns the keys of policies and arguments with which the queue drops requests.
func (q *managedQueue) droppingKeys() (keys []string) {
	for _, key := range []string{"message-ttl", "expires", "max-length", "max-length-bytes"} {
		_, argument := q.Arguments["x-"+key]
		if _, set := q.policy(key); set || argument {
			keys = append(keys, key)
		}
	}
	value, set := q.policy("delivery-limit")
	if !set && q.Name == cluster.RequestQueue {
		value, set = q.Arguments["x-delivery-limit"]
	}
	limit, _ := value.(float64)
	if set && limit >= 0 && (limit < minDeliveries || q.Name != cluster.RequestQueue) {
		keys = append(keys, "delivery-limit")
	}
	return keys
}

// checkBindings looks for other queues that get requests.
func (m *managementFacts) checkBindings(r *report) {
	for _, b := range m.bindings {
		if b.Destination != cluster.RequestQueue && getsRequests(b.RoutingKey) {
			r.add("requests-copied", "the %s %s is bound to amq.topic with %s", b.DestinationType, b.Destination, b.RoutingKey)
		}
	}
}

// getsRequests reports whether a binding of a topic exchange with this key can match rpc.user.get or
// another operation.
func getsRequests(key string) bool {
	return matchesTopic(strings.Split(key, "."), []string{"rpc", "user", ""})
}

// matchesTopic reports whether a pattern can match words. An empty word stands for any.
func matchesTopic(pattern, words []string) bool {
	switch {
	case len(pattern) == 0:
		return len(words) == 0
	case pattern[0] == "#":
		return matchesTopic(pattern[1:], words) || len(words) > 0 && matchesTopic(pattern, words[1:])
	case len(words) == 0:
		return false
	}
	return (pattern[0] == "*" || words[0] == "" || pattern[0] == words[0]) && matchesTopic(pattern[1:], words[1:])
}

// requestKeys are keys that bind a queue to requests, of each form that a topic permission may allow.
var requestKeys = []string{"rpc.user.get", "rpc.user.#", "rpc.#", "rpc.*.*", "*.user.*", "*.*.*", "#.get", "#"}

// checkUsers looks for users that may read requests or send notifications.
func (m *managementFacts) checkUsers(self string, r *report) {
	var readers, writers []string
	for _, p := range m.permissions {
		if p.User == self {
			continue
		}
		topic := m.topicPermission(p.User)
		if allows(p.Read, cluster.RequestQueue) || allows(p.Read, cluster.PartitionQueue(0)) ||
			allows(p.Read, cluster.RequestExchange) && allowsAny(topic.Read, requestKeys...) {
			readers = append(readers, p.User)
		}
		if allows(p.Write, cluster.RequestExchange) && allows(topic.Write, "notifications.user.create") {
			writers = append(writers, p.User)
		}
	}
	for id, users := range map[string][]string{"requests-readable": readers, "notifications-writable": writers} {
		if len(users) > 0 {
			slices.Sort(users)
			r.add(id, "these users: %s", strings.Join(users, ", "))
		}
	}
}

// topicPermission returns the topic permissions of a user on amq.topic. A user without any may
// read and write all.
func (m *managementFacts) topicPermission(user string) managedPermission {
	for _, t := range m.topics {
		if t.User == user {
			return t
		}
	}
	return managedPermission{Write: ".*", Read: ".*"}
}

func allowsAny(permission string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return allows(permission, name) })
}

// allows reports whether a permission of RabbitMQ, a regular expression, allows a name. One that Go
// does not understand is taken to allow it. An empty one allows nothing.
func allows(permission, name string) bool {
	if permission == "" {
		return false
	}
	re, err := regexp.Compile(permission)
	return err != nil || re.MatchString(name)
}
