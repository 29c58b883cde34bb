package contract

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A forwarding has an instance that forwards all writes to the queue of its only
// partition, which the test consumes.
type forwarding struct {
	site     *harness.Site
	instance *harness.Process
	caller   *harness.Caller
	taken    *amqp.Channel
	copies   <-chan amqp.Delivery
}

const onlyPartition = harness.RequestQueue + "/0000"

// startForwarding starts a site with one user, which it returns.
func startForwarding(t *testing.T) (f *forwarding, user dict) {
	t.Helper()
	s := harness.NewSite(t)
	s.Settings["cluster.partitions"] = "1"
	s.Settings["cluster.queue_type"] = "classic" // of which the test can be the consumer
	f = &forwarding{site: s, caller: s.NewCaller(t)}
	v := s.Serve(t)
	user = f.caller.Create(t, harness.NewUser())
	v.Stop(t)
	var err error
	if f.taken, err = f.caller.Conn.Channel(); err == nil {
		f.copies, err = f.taken.Consume(onlyPartition, "", true, true, false, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.instance = harness.Launch(t, s.Settings.Environ(), "serve") // it is not ready before it has the partition
	return f, user
}

// copyOf sends a request and returns the copy that the instance forwards.
func (f *forwarding) copyOf(t *testing.T, m *harness.Request) amqp.Delivery {
	t.Helper()
	f.caller.Send(t, m)
	select {
	case d := <-f.copies:
		return d
	case <-time.After(harness.Timeout):
		t.Fatal("the request was not forwarded")
		panic("unreachable")
	}
}

// release gives the partition's queue to the instance, and puts copies into it.
func (f *forwarding) release(t *testing.T, copies ...amqp.Delivery) {
	t.Helper()
	if err := f.taken.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range copies {
		err := f.caller.Channel.Publish("", onlyPartition, false, false, amqp.Publishing{
			Type: d.Type, MessageId: d.MessageId, ReplyTo: d.ReplyTo, CorrelationId: d.CorrelationId,
			Headers: d.Headers, Body: d.Body,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	f.site.Adopt(t, f.instance)
}

// TestForwardedTwice: a forwarded request that is in the queue twice is applied once, also
// if the caller has given it nothing that identifies it.
func TestForwardedTwice(t *testing.T) {
	t.Parallel()
	f, u := startForwarding(t)
	c := f.caller
	rename := func(name string) *harness.Request {
		return c.NewRequest("patch", harness.Patch(u, op("replace", "/name", name)))
	}
	var copies []amqp.Delivery
	want := "s3cret A"
	for _, identify := range []func(*harness.Request){
		func(m *harness.Request) { m.MessageId, m.ReplyTo, m.CorrelationId = "", "", "" },
		func(m *harness.Request) { m.MessageId, m.CorrelationId = "", "" },
		func(m *harness.Request) { m.MessageId, m.ReplyTo = "", "" },
		func(m *harness.Request) { m.MessageId, m.ReplyTo = "", harness.DirectReplyTo+".garbage" },
		func(m *harness.Request) { m.MessageId, m.ReplyTo = "", "no UTF-8: \xff" },
		func(m *harness.Request) { m.MessageId = "" },
	} {
		want += "B"
		m := rename(want)
		identify(m)
		copies = append(copies, f.copyOf(t, m))
	}
	last := rename("s3cret end")
	f.release(t, append(append(copies, copies...), f.copyOf(t, last))...)
	c.AwaitReply(t, last).Result(t)
	changes := f.site.Count(t, "SELECT count(*) FROM ident_audit WHERE user_id = $1 AND operation = 'patch'", u["id"])
	if want := len(copies) + 1; changes != want {
		t.Errorf("%d changes of the user, want %d", changes, want)
	}
}
