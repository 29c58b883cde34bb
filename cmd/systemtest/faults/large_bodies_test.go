package faults

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// testSharedBrokerLargeBodies starts an instance at partition queues that are full of large
// bodies, while the database does not reply. The instance's memory depends on
// limits.in_flight_bytes, and not on how much the broker sends ahead.
func testSharedBrokerLargeBodies(t *testing.T) {
	t.Parallel()
	const partitions, each, size = 16, 32, 512 << 10 // 256 MiB
	s := harness.NewSite(t)
	s.Settings = s.Settings.With(harness.Settings{
		"cluster.partitions": fmt.Sprint(partitions), "cluster.queue_type": "classic", "limits.in_flight_bytes": fmt.Sprint(4 << 20), "log.level": "info",
		// On a busy machine, heartbeats and confirmations take long that stand behind 256 MiB.
		"amqp.heartbeat": "20s", "amqp.insist": "true",
	})
	c := s.NewCaller(t)
	reply, err := c.Channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for p := range partitions {
		declareQueue(t, c, partitionQueue(p), amqp.Table{"x-queue-type": "classic"})
		id := 1
		for partition.Of(int64(id), partitions) != p {
			id++
		}
		body := harness.Pack(dict{"user_id": id, "ops": []any{dict{"op": "test", "path": "/name", "value": strings.Repeat("x", size)}}})
		for n := range each {
			err := c.Channel.Publish("", partitionQueue(p), false, false, amqp.Publishing{
				Type: "rpc.user.patch", ReplyTo: reply.Name, CorrelationId: fmt.Sprint(p, n), MessageId: fmt.Sprint(p, n), Body: body,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	lock, err := s.Connect(t).Begin(t.Context())
	if err == nil {
		_, err = lock.Exec(t.Context(), "LOCK TABLE users")
	}
	if err != nil {
		t.Fatal(err)
	}
	v := s.Serve(t)
	peak := 0
	harness.Eventually(t, "no more memory is taken", func() bool {
		before := peak
		time.Sleep(500 * time.Millisecond) // nothing signals that nothing happens
		peak = peakMemory(t, v)
		return peak == before
	})
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	replies, err := c.Channel.Consume(reply.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := map[string]bool{}
	for len(answered) < partitions*each {
		select {
		case d := <-replies:
			if !bytes.Contains(d.Body, []byte("not_found")) {
				t.Fatalf("the reply is %q", d.Body)
			}
			answered[d.CorrelationId] = true
		case <-v.Done:
			t.Fatal("the instance has ended")
		}
	}
	if whole := peakMemory(t, v); peak > 400 || whole > 500 { // depends on the garbage collector
		t.Errorf("the instance has used %d MiB, and %d when the database replied", peak, whole)
	} else {
		t.Logf("the instance has used %d MiB, and %d when the database replied", peak, whole)
	}
}

// peakMemory returns the largest resident memory of an instance in MiB.
func peakMemory(t *testing.T, v *harness.Instance) (mib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
