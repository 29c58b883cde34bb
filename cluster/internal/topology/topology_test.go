package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/partition"
)

// A fakeBroker records the methods that are called on its channels.
type fakeBroker struct {
	mu        sync.Mutex // guards the following fields
	calls     []string
	errs      map[string]error // by call
	exchange  bool             // whether the direct exchange exists
	overtaken bool             // another program declares it meanwhile
	queues    map[string]bool  // that exist
	open      int              // channels
	apart     int              // connections of their own
	probed    []amqp.Publishing
	unrouted  bool // the direct exchange has no queue for any request

	// stuck, if not nil, is closed when the broker handles what follows a probe.
	stuck chan struct{}
}

func (b *fakeBroker) call(format string, args ...any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	b.calls = append(b.calls, call)
	return b.errs[call]
}

// make notes that there is a queue.
func (b *fakeBroker) make(queue string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queues == nil {
		b.queues = make(map[string]bool)
	}
	b.queues[queue] = true
}

// take returns the calls since the last one.
func (b *fakeBroker) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func (b *fakeBroker) channel() (Channel, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
	return fakeChannel{b, new(chan amqp.Return)}, b.errs["open"]
}

type fakeChannel struct {
	broker  *fakeBroker
	returns *chan amqp.Return // set if probes are sent
}

func (c fakeChannel) QueueDeclare(name string, durable, _, exclusive, _ bool, args amqp.Table) (amqp.Queue, error) {
	if !durable || exclusive {
		return amqp.Queue{}, errors.New("the queue is lost when the broker restarts")
	}
	err := c.broker.call("declare %s %v", name, args["x-queue-type"])
	if err == nil {
		c.broker.make(name)
	}
	return amqp.Queue{Name: name}, err
}

func (c fakeChannel) QueueDeclarePassive(name string, _, _, _, _ bool, _ amqp.Table) (amqp.Queue, error) {
	err := c.broker.call("find %s", name)
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if err == nil && !c.broker.queues[name] {
		err = &amqp.Error{Code: amqp.NotFound}
	}
	return amqp.Queue{Name: name}, err
}

func (c fakeChannel) QueueBind(name, key, exchange string, _ bool, _ amqp.Table) error {
	return c.broker.call("bind %s to %s by %s", name, exchange, key)
}

func (c fakeChannel) QueueUnbind(name, key, exchange string, _ amqp.Table) error {
	return c.broker.call("unbind %s from %s by %s", name, exchange, key)
}

func (c fakeChannel) ExchangeDeclare(name, kind string, _, _, _, _ bool, args amqp.Table) error {
	err := c.broker.call("exchange %s %s %v", name, kind, args["alternate-exchange"])
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	c.broker.exchange = c.broker.exchange || name == DirectExchange && (err == nil || c.broker.overtaken)
	return err
}

func (c fakeChannel) ExchangeDeclarePassive(name, _ string, _, _, _, _ bool, _ amqp.Table) error {
	if c.broker.stuck != nil && c.returns != nil && *c.returns != nil {
		<-c.broker.stuck
	}
	err := c.broker.call("look for %s", name)
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if err == nil && !c.broker.exchange {
		return &amqp.Error{Code: amqp.NotFound}
	}
	return err
}

func (c fakeChannel) PublishWithContext(_ context.Context, exchange, key string, mandatory, _ bool, m amqp.Publishing) error {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if exchange != DirectExchange || !mandatory || m.Expiration == "" {
		return errors.New("it may be lost, or stay")
	}
	if c.broker.unrouted {
		*c.returns <- amqp.Return{RoutingKey: key}
	}
	c.broker.probed = append(c.broker.probed, m)
	return nil
}

func (c fakeChannel) NotifyReturn(returns chan amqp.Return) chan amqp.Return {
	*c.returns = returns
	return returns
}

func (c fakeChannel) Close() error {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	c.broker.open--
	return nil
}

// newTopology returns a topology of 6 partitions at a broker without anything.
func newTopology(b *fakeBroker) (*Topology, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return New(Options{
		Open: b.channel, OpenPublishing: b.channel,
		OpenApart: func(context.Context) (Channel, func(), error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.apart++
			return fakeChannel{broker: b}, func() { b.mu.Lock(); defer b.mu.Unlock(); b.apart-- }, b.errs["connect"]
		},
		Partitions: 6, QueueType: Quorum, Log: zap.New(core),
	}), logs
}

const (
	declareHashCall = "exchange glotpod.ident x-consistent-hash glotpod.ident.unrouted"
	lookForCall     = "look for glotpod.ident"
	bindSharedCall  = "bind glotpod.rpc/ident to amq.topic by rpc.user.#"
)

// bindings returns the partitions with queues that were bound or unbound, in order.
func bindings(calls []string, verb string) (partitions []int) {
	for _, call := range calls {
		var p int
		if n, _ := fmt.Sscanf(call, verb+" glotpod.rpc/ident/%d", &p); n == 1 {
			partitions = append(partitions, p)
		}
	}
	return partitions
}

var inOrder = []int{0, 1, 2, 3, 4, 5}

func TestDeclare(t *testing.T) {
	t.Run("all_in_order", func(t *testing.T) {
		b := new(fakeBroker)
		topology, _ := newTopology(b)
		if err := topology.Declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		calls := b.take()
		if first := calls[:4]; !slices.Equal(first, []string{"find glotpod.rpc/ident", "declare glotpod.rpc/ident <nil>", bindSharedCall, "declare glotpod.rpc/ident classic"}) {
			t.Errorf("first comes %v", first)
		}
		declared := bindings(calls, "declare")
		slices.Sort(declared) // several channels declare at the same time
		if !slices.Equal(declared, inOrder) || !slices.Contains(calls, "declare glotpod.rpc/ident/0003 quorum") {
			t.Errorf("declared were %v", calls)
		}
		if bound := bindings(calls, "bind"); !slices.Equal(bound, inOrder) {
			t.Errorf("bound were %v", bound)
		}
		if !slices.Contains(calls, declareHashCall) || !slices.Contains(calls, "bind glotpod.rpc/ident to glotpod.ident.unrouted by ") {
			t.Errorf("the direct exchange is not there, or loses requests: %v", calls)
		}
		if last := calls[len(calls)-1]; last != lookForCall {
			t.Errorf("the bindings are not waited for: the last call is %s", last)
		}
		if b.open != 0 || b.apart != 0 {
			t.Errorf("%d channels and %d connections are open", b.open, b.apart)
		}
	})

	for name, x := range map[string]struct {
		call  string
		code  int
		setup bool
	}{
		"forbidden_shared_queue_is_a_setup_error": {"declare glotpod.rpc/ident <nil>", amqp.AccessRefused, true},
		"limit_of_queues_is_a_setup_error":        {"declare glotpod.rpc/ident <nil>", amqp.PreconditionFailed, true},
		"forbidden_binding_is_a_setup_error":      {bindSharedCall, amqp.AccessRefused, true},
		"other_partition_queue_is_a_setup_error":  {"declare glotpod.rpc/ident/0004 quorum", amqp.PreconditionFailed, true},
		"forbidden_partition_binding_is_one":      {"bind glotpod.rpc/ident/0002 to glotpod.ident by 1", amqp.AccessRefused, true},
		"a_broker_that_is_short_of_memory_is_not": {"declare glotpod.rpc/ident/0004 quorum", amqp.ResourceError, false},
		"a_broker_that_is_being_stopped_is_not":   {lookForCall, amqp.ConnectionForced, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := &fakeBroker{errs: map[string]error{x.call: &amqp.Error{Code: x.code}}}
			topology, _ := newTopology(b)
			err := topology.Declare(t.Context())
			var setup *SetupError
			if err == nil || errors.As(err, &setup) != x.setup || !broker.IsCode(err, x.code) {
				t.Errorf("the error is %v", err)
			}
			if b.open != 0 {
				t.Errorf("%d channels are open", b.open)
			}
		})
	}

	for name, x := range map[string]struct {
		code int
		why  string
	}{
		"a_missing_plugin_leaves_the_shared_queue":        {amqp.CommandInvalid, "rabbitmq_consistent_hash_exchange"},
		"a_missing_plugin_of_4.x_leaves_the_shared_queue": {amqp.PreconditionFailed, "rabbitmq_consistent_hash_exchange"},
		"a_forbidden_exchange_leaves_the_shared_queue":    {amqp.AccessRefused, "may not configure"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &fakeBroker{errs: map[string]error{declareHashCall: &amqp.Error{Code: x.code}}}
			topology, logs := newTopology(b)
			if err := topology.Declare(t.Context()); err != nil {
				t.Fatal(err)
			}
			if bound := bindings(b.take(), "bind"); len(bound) > 0 {
				t.Errorf("bound were %v", bound)
			}
			all := logs.All()
			if len(all) != 1 || all[0].Level != zap.WarnLevel || !strings.Contains(fmt.Sprint(all[0].ContextMap()["why"]), x.why) {
				t.Errorf("the log has %v", all)
			}
			if b.apart != 0 {
				t.Errorf("%d connections are open", b.apart)
			}
		})
	}

	for name, x := range map[string]struct {
		call string
		want []int // the partitions that are bound
	}{
		"shared_queue":    {"declare glotpod.rpc/ident <nil>", inOrder},
		"partition_queue": {"declare glotpod.rpc/ident/0001 quorum", []int{0, 2, 3, 4, 5}},
	} {
		t.Run("a_"+name+"_that_is_down_is_left_out", func(t *testing.T) {
			b := &fakeBroker{exchange: true, errs: map[string]error{x.call: &amqp.Error{Code: amqp.NotFound}}}
			topology, logs := newTopology(b)
			if err := topology.Declare(t.Context()); err != nil {
				t.Fatal(err)
			}
			calls := b.take()
			if declared := bindings(calls, "declare"); len(declared) != len(inOrder) {
				t.Errorf("declared were %v", declared)
			}
			if bound := bindings(calls, "bind"); !slices.Equal(bound, x.want) || logs.Len() != 1 || b.open != 0 {
				t.Errorf("bound were %v, %d channels are open, and the log has %v", bound, b.open, logs.All())
			}
		})
	}

	t.Run("an_exchange_of_another_program_is_used", func(t *testing.T) {
		errs := map[string]error{declareHashCall: &amqp.Error{Code: amqp.PreconditionFailed}}
		for when, b := range map[string]*fakeBroker{"before": {exchange: true, errs: errs}, "meanwhile": {overtaken: true, errs: errs}} {
			topology, logs := newTopology(b)
			if err := topology.Declare(t.Context()); err != nil {
				t.Fatal(err)
			}
			if bound := bindings(b.take(), "bind"); !slices.Equal(bound, inOrder) || logs.Len() != 1 || b.apart != 0 {
				t.Errorf("%s: bound were %v, and the log has %v", when, bound, logs.All())
			}
		}
	})

	t.Run("no_connection_is_an_error", func(t *testing.T) {
		down := errors.New("down")
		for _, at := range []string{"open", "connect"} {
			topology, _ := newTopology(&fakeBroker{errs: map[string]error{at: down}})
			if err := topology.Declare(t.Context()); !errors.Is(err, down) {
				t.Errorf("%s: the error is %v", at, err)
			}
		}
	})
}

// TestUnbind: a queue whose node is down keeps no other one bound, and one stays bound that is named.
func TestUnbind(t *testing.T) {
	missing := &amqp.Error{Code: amqp.NotFound}
	find := "look for glotpod.ident"
	b := &fakeBroker{exchange: true, errs: map[string]error{"unbind glotpod.rpc/ident/0006 from glotpod.ident by 1": missing}}
	g := partition.Generation{First: 4, Partitions: 4}
	if err := Unbind(b.channel, g, 1); err != nil {
		t.Fatal(err)
	}
	calls := b.take()
	if calls = calls[1:]; len(calls) != 3 || !strings.Contains(calls[0], "/0007 ") || !strings.Contains(calls[2], "/0004 ") {
		t.Errorf("%q", calls)
	}
	b = &fakeBroker{errs: map[string]error{find: missing}}
	if err := Unbind(b.channel, g); err != nil || len(b.take()) != 1 {
		t.Errorf("without the exchange: %v", err)
	}
}

func TestPartitionArguments(t *testing.T) {
	if a := PartitionArguments(Classic); len(a) != 1 || a["x-queue-type"] != Classic {
		t.Errorf("a classic queue has %v", a)
	}
	if a := PartitionArguments(Quorum); a["x-single-active-consumer"] != true || a["x-delivery-limit"] != int32(unlimitedDeliveries) {
		t.Errorf("a quorum queue has %v", a)
	}
	if q := PartitionQueue(42); q != "glotpod.rpc/ident/0042" {
		t.Errorf("the queue is %s", q)
	}
}

func TestSetupError(t *testing.T) {
	refusal := &amqp.Error{Code: amqp.AccessRefused, Reason: "no"}
	err := asSetupError(fmt.Errorf("binding: %w", refusal))
	var setup *SetupError
	if !errors.As(err, &setup) || !errors.Is(err, refusal) {
		t.Fatalf("%v is no setup error", err)
	}
	if text := err.Error(); !strings.HasPrefix(text, setup.What+": binding: ") {
		t.Errorf("it says %q", text)
	}
	if other := errors.New("down"); errors.As(asSetupError(other), &setup) {
		t.Error("another error is wrapped")
	}
}
