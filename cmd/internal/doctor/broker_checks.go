package doctor

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

// brokerChecks derive findings from the facts about the broker. instances is how many are to run.
var brokerChecks = []func(c *config.Config, f *brokerFacts, instances int, r *report){
	checkBrokerVersion,
	checkPermissions,
	checkBrokerLimits,
	checkMessageSize,
	checkSharedQueue,
	checkPartitionQueues,
	checkDisconnectedTimeout,
	checkInstances,
	checkManaged,
}

// The versions of RabbitMQ that are tested: major, and minor in two digits.
const (
	oldestBroker = 310
	newestBroker = 403
)

// brokerVersion returns major and minor of the version, as 403 for 4.3.6.
func (f *brokerFacts) brokerVersion() int {
	parts := strings.SplitN(f.version, ".", 3)
	if len(parts) < 2 {
		return 0
	}
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	return 100*major + minor
}

func checkBrokerVersion(_ *config.Config, f *brokerFacts, _ int, r *report) {
	switch v := f.brokerVersion(); {
	case v < oldestBroker:
		r.add("broker-version", "RabbitMQ has the version %s", f.version)
	case v > newestBroker:
		r.add("broker-version-untried", "RabbitMQ has the version %s", f.version)
	}
}

func checkPermissions(c *config.Config, f *brokerFacts, _ int, r *report) {
	if len(f.denied) > 0 {
		r.add("broker-permission", "the user %s may not %s in the virtual host %s", c.AMQP.Login, strings.Join(f.denied, ", or "), c.AMQP.VHost)
	}
	if f.unasked != nil {
		r.skip("the plugin of RabbitMQ", "a second connection could not be opened: %v", f.unasked)
	} else if !f.plugin {
		r.add("broker-plugin", "RabbitMQ lacks the plugin for the exchange %s", cluster.DirectExchange)
	}
}

func checkBrokerLimits(c *config.Config, f *brokerFacts, instances int, r *report) {
	if f.noQueue {
		r.add("broker-queues", "no more queues may be declared in the virtual host %s", c.AMQP.VHost)
	}
	if needed := cluster.ChannelsNeeded(c.Cluster.Partitions, instances); f.channels < needed {
		r.add("broker-channels", "a connection may have %d channels, and an instance needs %d", f.channels, needed)
	}
	switch {
	case f.refused != nil && f.opened < 2:
		r.add("broker-connections", "only one connection could be opened: %v", f.refused)
	case f.refused != nil:
		r.skip("to how many nodes of RabbitMQ connections lead", "only %d of %d could be opened at the same time: %v", f.opened, connect.NodeSamples, f.refused)
	}
	// 4 KiB is the least that the protocol allows. The headers of a caller can be larger.
	if f.frame < 8<<10 {
		r.add("broker-frames", "a frame may have %d bytes", f.frame)
	}
}

func checkMessageSize(c *config.Config, f *brokerFacts, _ int, r *report) {
	notification := min(notificationFactor*c.Limits.BodyBytes, maxTried)
	switch {
	case len(f.denied) > 0:
		return // not tried
	case f.largest < pageBytes:
		r.add("broker-message-size", "RabbitMQ does not accept a message of %d bytes", pageBytes)
	case f.largest < notification:
		r.add("broker-notifications", "RabbitMQ does not accept a message of %d bytes, which a notification can have", notification)
	}
}

// nodeCount returns how many nodes the broker has, as far as that is known.
func (f *brokerFacts) nodeCount() int {
	if f.management != nil {
		return max(f.nodes, len(f.management.nodes))
	}
	return f.nodes
}

func checkSharedQueue(_ *config.Config, f *brokerFacts, _ int, r *report) {
	kind, seen := f.shared.kind, "the shared queue is a classic queue"
	if !f.shared.found {
		kind, seen = f.defaultKind, "the shared queue will be a classic queue"
		if f.served {
			r.add("shared-queue-missing", "there is no queue %s, although instances have run here: it was deleted, or its node is down", cluster.RequestQueue)
		}
	}
	if kind == "stream" {
		r.add("shared-queue-stream", "the queue %s is a stream", cluster.RequestQueue)
	}
	managed := f.management.queue(cluster.RequestQueue)
	if managed != nil && kind == "" {
		kind = managed.Type
	}
	if f.nodeCount() < 2 || kind == "quorum" || kind == "stream" || len(f.denied) > 0 {
		return
	}
	_, mirrored := managed.policy("ha-mode")
	switch old := f.brokerVersion() < 400; {
	case old && mirrored:
	case old && managed == nil || kind == "":
		r.skip("whether the shared queue survives the loss of a node", "only the management API tells")
	default:
		r.add("shared-queue-one-node", "%s, and so on one of the %d nodes of RabbitMQ", seen, f.nodeCount())
	}
}

func checkPartitionQueues(c *config.Config, f *brokerFacts, _ int, r *report) {
	kind := f.partition.kind
	if f.partition.found && kind == "" {
		kind = config.QueueQuorum // which has arguments
	} else if !f.partition.found {
		kind = cmp.Or(f.present.QueueType, c.Cluster.QueueType)
	}
	switch nodes := f.nodeCount(); {
	case nodes > 1 && kind == config.QueueClassic:
		r.add("partition-one-node", "the partition queues are classic queues, each on one of the %d nodes of RabbitMQ", nodes)
	case nodes == 1 && kind == config.QueueQuorum:
		r.add("partition-quorum", "the partition queues are quorum queues, and %s", oneNode(f))
	}
}

func oneNode(f *brokerFacts) string {
	if f.management != nil && len(f.management.nodes) == 1 {
		return "RabbitMQ has one node"
	}
	return fmt.Sprintf("all of %d connections lead to the same node of RabbitMQ", connect.NodeSamples)
}

// disconnectedTimeout is a key of policies of RabbitMQ 4.3.
const disconnectedTimeout = "consumer-disconnected-timeout"

func checkDisconnectedTimeout(_ *config.Config, f *brokerFacts, _ int, r *report) {
	if f.brokerVersion() < 403 || f.nodeCount() < 2 || f.management == nil {
		return
	}
	for _, q := range f.management.queues {
		if _, set := q.policy(disconnectedTimeout); q.Type == "quorum" && !set {
			r.add("disconnected-timeout", "no policy sets %s for the queue %s", disconnectedTimeout, q.Name)
			return
		}
	}
}

func checkInstances(_ *config.Config, f *brokerFacts, _ int, r *report) {
	for _, p := range f.problems {
		r.add("cluster", "%s", p)
	}
}
