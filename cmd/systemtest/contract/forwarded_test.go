package contract

import (
	"bytes"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A forwarding has an instance with one partition. After hold, the instance forwards all
// writes to the queue of that partition, which the test consumes.
type forwarding struct {
	site     *harness.Site
	instance *harness.Instance // nil while the test consumes the queue
	held     *harness.Process  // the instance then
	caller   *harness.Caller
	taken    *amqp.Channel
	copies   <-chan amqp.Delivery
}

const onlyPartition = harness.RequestQueue + "/0000"

// newForwarding starts an instance, and creates a user.
func newForwarding(t *testing.T) (f *forwarding, user dict) {
	t.Helper()
	s := harness.NewSite(t)
	s.Settings["cluster.partitions"] = "1"
	s.Settings["cluster.queue_type"] = "classic" // of which the test can be the consumer
	f = &forwarding{site: s, instance: s.Serve(t), caller: s.NewCaller(t)}
	return f, f.caller.Create(t, harness.NewUser())
}

// hold restarts the instance, and keeps the partition's queue from it.
func (f *forwarding) hold(t *testing.T) {
	t.Helper()
	f.instance.Stop(t)
	var err error
	if f.taken, err = f.caller.Conn.Channel(); err == nil {
		f.copies, err = f.taken.Consume(onlyPartition, "", true, true, false, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.held = harness.Launch(t, f.site.Settings.Environ(), "serve") // it is not ready before it has the partition
}

// copyOf sends a request and returns the copy that the instance forwards.
func (f *forwarding) copyOf(t *testing.T, m *harness.Request) amqp.Delivery {
	t.Helper()
	f.caller.Send(t, m)
	for timeout := time.After(harness.Timeout); ; {
		select {
		case d := <-f.copies:
			if bytes.Equal(d.Body, m.Body) { // no probe of the instance
				return d
			}
		case <-timeout:
			t.Fatal("the request was not forwarded")
		}
	}
}

// release gives the partition's queue to the instance, and puts copies into it.
func (f *forwarding) release(t *testing.T, copies ...amqp.Delivery) {
	t.Helper()
	if err := f.taken.Close(); err != nil {
		t.Fatal(err)
	}
	f.put(t, copies...)
	f.instance = f.site.Adopt(t, f.held)
}

// put puts copies into the partition's queue.
func (f *forwarding) put(t *testing.T, copies ...amqp.Delivery) {
	t.Helper()
	for _, d := range copies {
		err := f.caller.Channel.Publish("", onlyPartition, false, false, amqp.Publishing{
			Type: d.Type, MessageId: d.MessageId, ReplyTo: d.ReplyTo, CorrelationId: d.CorrelationId,
			Headers: d.Headers, Body: d.Body,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// changes returns how many patches have changed the user.
func (f *forwarding) changes(t *testing.T, user dict) int {
	t.Helper()
	return f.site.Count(t, "SELECT count(position) FROM ident_log WHERE user_id = $1 AND operation = 'patch'", user["id"])
}

// TestForwardedTwice: a forwarded request that is in the queue twice is applied once, also
// if the caller has given it nothing that identifies it.
func TestForwardedTwice(t *testing.T) {
	t.Parallel()
	f, u := newForwarding(t)
	f.hold(t)
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
	if got, want := f.changes(t, u), len(copies)+1; got != want {
		t.Errorf("%d changes of the user, want %d", got, want)
	}
}

// TestReusedCorrelationID: a caller with a fixed reply queue counts from 1 on again after a
// restart. Its requests are carried out, unless they may be the earlier ones.
func TestReusedCorrelationID(t *testing.T) {
	t.Parallel()
	f, u := newForwarding(t)
	c := f.caller
	name := u["name"].(string)
	// request asks for another name than the last request did, with the correlation id n.
	request := func(n int, direct bool) *harness.Request {
		last := name
		name += "+"
		m := c.NewRequest("patch", harness.Patch(u, op("test", "/name", last), op("replace", "/name", name)))
		m.MessageId, m.CorrelationId = "", strconv.Itoa(n)
		if direct {
			m = m.ViaDirectReply(fmt.Sprint(u["id"]))
		}
		return m
	}
	want := 0
	changed := func(what string, m *harness.Request, by int) {
		t.Helper()
		c.AwaitReply(t, m).Result(t)
		want += by
		if got := f.changes(t, u); got != want {
			t.Errorf("%s: %d changes, want %d", what, got, want)
		}
	}
	restartLater := func() {
		t.Helper()
		f.site.Exec(t, "UPDATE ident_log SET at = now() - interval '11 minutes'")
	}

	for _, direct := range []bool{false, true} {
		for run := range 2 {
			restartLater()
			for n := range 3 {
				m := request(n+1, direct)
				c.Send(t, m)
				changed(fmt.Sprintf("request %d of run %d, direct: %t", n+1, run, direct), m, 1)
				c.Send(t, m)
				changed("a retry", m, 0)
			}
			last := name
			c.Ask(t, request(1, direct)).IsError(t, "bad_request")
			name = last
		}
	}

	f.hold(t)
	restartLater()
	m := request(2, false)
	forwarded := f.copyOf(t, m)
	f.release(t, forwarded)
	changed("a forwarded request", m, 1)
	f.put(t, forwarded)
	changed("its copy", m, 0)
	restartLater()
	late := forwarded
	late.Headers = maps.Clone(late.Headers)
	late.Headers["ident-received"] = time.Now().Add(-11 * time.Minute).UnixMilli()
	f.put(t, late)
	changed("a copy that was in the queue for long", m, 0)
	delete(late.Headers, "ident-received")
	f.put(t, late)
	changed("a copy by an older version", m, 0)

	f.instance.Stop(t)
	restartLater()
	c.Send(t, m)
	harness.Eventually(t, "the request is delivered and given back", func() bool {
		d, found, err := c.Channel.Get(harness.RequestQueue, false)
		return err == nil && found && d.Nack(false, true) == nil
	})
	f.site.Serve(t)
	changed("the request, delivered again", m, 0)
}
