package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

// brokerFacts are what is known of the broker and of the instances that run.
type brokerFacts struct {
	present  ownership.Parameters
	version  string
	nodes    int   // different nodes that connections lead to; 0: this broker does not tell
	opened   int   // connections at the same time, of connect.NodeSamples
	refused  error // nil, or why not all of these could be opened
	channels int   // for each connection
	frame    int   // bytes

	denied      []string // what the user may not do
	noQueue     bool     // no more queues may be declared
	plugin      bool     // for the consistent-hash exchange
	unasked     error    // nil, or why the plugin is not known
	defaultKind string   // of a queue that is declared without a type; "": not tried
	largest     int      // bytes of the largest message that was tried and accepted

	served    bool // instances have run in this virtual host
	shared    queueFacts
	partition queueFacts // of the first partition of the present generation

	instances int      // that run
	problems  []string // of the cluster

	management *managementFacts // nil: not asked
}

type queueFacts struct {
	found bool   // it exists, and its node runs
	kind  string // "": with other arguments than a type
}

// surveyTimeout is how long instances may take to reply.
const surveyTimeout = 5 * time.Second

// examineBroker collects the facts about the broker and adds what is wrong to the report.
func examineBroker(ctx context.Context, c *config.Config, o options, r *report) *brokerFacts {
	f := &brokerFacts{present: o.present}
	dialing := connect.Broker(c, quiet, "doctor", o.version)
	dialing.Addresses = reachBroker(ctx, dialing, o, r)
	if len(dialing.Addresses) == 0 {
		r.skip("RabbitMQ", "it cannot be reached")
		return f
	}
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	err := f.collect(limited, dialing, c)
	f.askManagement(ctx, c, o, r)
	if err != nil {
		f.addFailure(limited, err, o, r)
		return f
	}
	instances := max(o.instances, f.instances, 1)
	for _, check := range brokerChecks {
		check(c, f, instances, r)
	}
	return f
}

// askManagement asks the management API, if that is wanted.
func (f *brokerFacts) askManagement(ctx context.Context, c *config.Config, o options, r *report) {
	if o.management == "" {
		r.skip("what only the management API of RabbitMQ tells: policies, limits, alarms, the nodes, and who may bind queues to amq.topic",
			"--management-url is not given")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	f.management = askManagement(ctx, o.management, c, r)
}

// addFailure adds why not all facts could be found out.
func (f *brokerFacts) addFailure(ctx context.Context, err error, o options, r *report) {
	blocked, isBlocked := errors.AsType[*connect.BlockedError](err)
	switch {
	case isBlocked:
		r.add("broker-alarm", "%v", blocked)
	case broker.IsCode(err, amqp.NotAllowed):
		r.add("broker-not-allowed", "%v", err)
	case broker.Refused(err):
		r.add("broker-login", "%v", err)
	case f.version != "" && ctx.Err() != nil:
		r.add("broker-silent", "RabbitMQ has not replied within %s: %v", o.timeout, err)
	default:
		r.add("broker-unreachable", "%v", err)
	}
	r.skip("RabbitMQ", "it cannot be used")
	if f.management != nil {
		f.management.checkNodes(r)
	}
}

// reachBroker returns the addresses at which a broker replies, though it may refuse the login.
func reachBroker(ctx context.Context, dialing broker.Options, o options, r *report) (reached []string) {
	tlsConfig, err := dialing.TLS()
	if err != nil {
		r.add("settings", "%v", err)
		return nil
	}
	for _, address := range dialing.Addresses {
		limited, cancel := context.WithTimeout(ctx, o.ofHost())
		one := dialing
		one.Addresses = []string{address}
		if reach(limited, address, tlsConfig, r) && replies(limited, one, r) {
			reached = append(reached, address)
		}
		cancel()
	}
	return reached
}

// replies reports whether the broker at the only address of o replies to a login. It adds a finding
// if not.
func replies(ctx context.Context, o broker.Options, r *report) bool {
	conn, err := broker.Dial(ctx, o)
	switch {
	case err == nil:
		connect.Close(conn)
	case !broker.Refused(err):
		r.add("broker-unreachable", "%v", err)
		return false
	}
	return true
}

// collect finds out all facts that AMQP tells.
func (f *brokerFacts) collect(ctx context.Context, o broker.Options, c *config.Config) error {
	conn, err := f.sample(ctx, o)
	if err != nil {
		return err
	}
	defer connect.Close(conn)
	return f.probe(ctx, conn, o, c)
}

// probe finds out over conn all facts but those of sample.
func (f *brokerFacts) probe(ctx context.Context, conn *amqp.Connection, o broker.Options, c *config.Config) error {
	f.version, _ = conn.Properties["version"].(string)
	f.channels, f.frame = int(conn.Config.ChannelMax), conn.Config.FrameSize

	ctx, stop := connect.WithBlocked(ctx, conn)
	defer stop()
	// A call that waits for the broker ignores ctx.
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
	p := &prober{conn: conn, name: "glotpod.ident.doctor/" + rand.Text(), facts: f}
	for _, step := range []func() error{
		func() error { return p.tryPermissions(ctx) },
		func() error { return p.tryPlugin(ctx, o) },
		p.findQueues,
		func() error { return p.trySizes(ctx, c.Limits.BodyBytes) },
		func() error { return f.survey(ctx, conn) },
	} {
		if err := step(); err != nil {
			p.cleanUp(context.WithoutCancel(ctx), o)
			if blocked, ok := errors.AsType[*connect.BlockedError](context.Cause(ctx)); ok {
				return blocked
			}
			return err
		}
	}
	return nil
}

// sample opens several connections at the same time, and counts the nodes that they lead to. It
// closes all but one, because instances may need them.
func (f *brokerFacts) sample(ctx context.Context, o broker.Options) (chosen *amqp.Connection, err error) {
	samples := connect.SampleNodes(ctx, o)
	defer connect.CloseSamples(samples)
	nodes := make(map[string]bool)
	known := true
	keep := -1
	for i, s := range samples {
		known = known && s.Known && s.Err == nil
		if s.Conn == nil {
			f.refused = s.Err
			continue
		}
		if blocked, ok := errors.AsType[*connect.BlockedError](s.Err); ok {
			f.version, _ = s.Conn.Properties["version"].(string)
			return nil, blocked
		}
		f.opened++
		nodes[s.Node] = true
		if keep < 0 || s.Err == nil {
			keep = i
		}
	}
	if keep < 0 {
		return nil, f.refused
	}
	if known {
		f.nodes = len(nodes)
	}
	chosen, samples[keep].Conn = samples[keep].Conn, nil
	return chosen, nil
}

// survey asks the instances that run. Where none has ever run, the question would declare the
// exchange that leads to them.
func (f *brokerFacts) survey(ctx context.Context, conn *amqp.Connection) error {
	if !f.served || len(f.denied) > 0 || f.noQueue {
		return nil
	}
	o, err := clusterview.Survey(ctx, conn, surveyTimeout, surveyTimeout)
	if errors.Is(err, membership.ErrNoInstance) {
		return nil
	} else if err != nil {
		return fmt.Errorf("ask the instances: %w", err)
	}
	f.instances = len(o.Members) + len(o.Missing)
	f.problems = o.FindProblems()
	return nil
}

// findQueues looks for the queues of the service, and finds out the default type of queues if
// there is no shared queue yet.
func (p *prober) findQueues() (err error) {
	for name, q := range map[string]*queueFacts{
		cluster.RequestQueue:                          &p.facts.shared,
		cluster.PartitionQueue(p.facts.present.First): &p.facts.partition,
	} {
		q.kind, q.found, err = cluster.QueueKind(p.conn, name)
		if err != nil && !broker.IsCode(err, amqp.AccessRefused) {
			return err
		}
	}
	err = p.try(func(c *amqp.Channel) error {
		return c.ExchangeDeclarePassive(membership.Exchange, amqp.ExchangeFanout, true, false, false, false, nil)
	})
	p.facts.served = err == nil
	if p.facts.shared.found || len(p.facts.denied) > 0 || p.facts.noQueue {
		return nil
	}
	p.facts.defaultKind, err = p.defaultKind()
	return err
}
