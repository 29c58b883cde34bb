package operate

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/membership"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/testservers"
)

// A stage is a virtual host where a test plays the instances itself.
type stage struct {
	vhost    *testservers.Broker
	conn     *amqp.Connection
	settings harness.Settings
}

func newStage(t *testing.T) *stage {
	t.Helper()
	broker := testservers.RabbitMQ(t)
	conn, err := amqp.Dial(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &stage{broker, conn, harness.Settings{
		"amqp.host":     broker.Host,
		"amqp.port":     strconv.Itoa(broker.Port),
		"amqp.vhost":    broker.VHost,
		"amqp.login":    broker.User,
		"amqp.password": broker.Password,
	}}
}

// run runs the program.
func (s *stage) run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return harness.Run(t, s.settings.Environ(), args...)
}

// declare makes queues in which messages wait.
func (s *stage) declare(t *testing.T, waiting map[string]int) {
	t.Helper()
	channel, err := s.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for name, n := range waiting {
		if _, err := channel.QueueDeclare(name, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		for range n {
			confirmation, err := channel.PublishWithDeferredConfirm("", name, false, false, amqp.Publishing{})
			if err != nil || !confirmation.Wait() {
				t.Fatal(err)
			}
		}
	}
}

// An actor plays an instance: it replies to a status request with its report.
type actor struct {
	*membership.Membership
	mu     sync.Mutex // guards the following fields
	report membership.Report
	silent bool
	drain  func(report *membership.Report, yes bool)
}

// play has an instance appear that is ready and knows the others by name.
func (s *stage) play(t *testing.T, name string, others ...string) *actor {
	t.Helper()
	member := func(name string) ownership.Member {
		return ownership.Member{Name: name, Incarnation: ownership.Incarnation{Start: 12, Session: 3}}
	}
	status := ownership.Status{Self: member(name), State: ownership.Ready}
	for _, other := range others {
		status.Members = append(status.Members, ownership.MemberStatus{Member: member(other), State: ownership.Ready, Alive: true})
	}
	a := &actor{report: membership.NewReport(status), drain: func(*membership.Report, bool) {}}
	a.report.Version = "1.2.3"
	a.report.StartedAt = time.Now().Add(-time.Hour)
	a.report.Parameters = membership.Parameters{Partitions: 4, TableVersion: 1, QueueType: "quorum"}
	var err error
	a.Membership, err = membership.Join(t.Context(), s.conn, membership.Options{
		Self: status.Self,
		Report: func() membership.Report {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.silent {
				return membership.Report{} // which is taken for none
			}
			return a.report
		},
		OnEvent: func(ownership.Event) {},
		OnDrain: func(yes bool) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.drain(&a.report, yes)
		},
		Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// hold has the instance hold a partition.
func (a *actor) hold(partition int, epoch int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.report.Partitions = append(a.report.Partitions, membership.ServedPartition{
		Partition: partition, Phase: "owned", Epoch: epoch, RequestsPerSecond: 1.5,
	})
}

// rows returns the words of the lines of a text.
func rows(text string) (all []string) {
	for line := range strings.Lines(text) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all
}

func TestStatus(t *testing.T) {
	t.Parallel()
	t.Run("owners_and_queues", testStatusOwnersAndQueues)
	t.Run("unowned_and_contested", testStatusUnownedAndContested)
	t.Run("failures", testStatusFailures)
}

func testStatusOwnersAndQueues(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.declare(t, map[string]int{"glotpod.rpc/ident": 2, "glotpod.rpc/ident/0000": 0, "glotpod.rpc/ident/0001": 3, "glotpod.rpc/ident/0003": 0})
	a, b := s.play(t, "web-1", "web-2"), s.play(t, "web-2", "web-1")
	a.hold(0, 7)
	a.hold(1, 8)
	b.hold(2, 1<<40)
	b.hold(3, 1)

	status, stdout, stderr := s.run(t, "status")
	if status != 0 || stderr != "" {
		t.Errorf("status ended with %d: %s", status, stderr)
	}
	want := []string{
		"INSTANCE INCARNATION STATE VERSION UP PARTITIONS REQUESTS/S SHARED/S CACHED USERS",
		"web-1 12.3 ready 1.2.3 1h0m 2 3.0 0.0 0",
		"web-2 12.3 ready 1.2.3 1h0m 2 3.0 0.0 0",
		"",
		"Shared queue glotpod.rpc/ident: 2 ready",
		"",
		"PARTITION OWNER EPOCH STATE READY REQUESTS/S",
		"0 web-1 7 owned 0 1.5",
		"1 web-1 8 owned 3 1.5",
		"2 web-2 1099511627776 owned no queue 1.5",
		"3 web-2 1 owned 0 1.5",
		"",
		"Each of 4 partitions has one owner.",
	}
	got := rows(stdout)
	for i := range got {
		if words := strings.Fields(got[i]); len(words) == 9 && strings.HasPrefix(words[4], "1h0m") {
			words[4] = "1h0m" // and some seconds
			got[i] = strings.Join(words, " ")
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s", stdout)
	}

	status, stdout, stderr = s.run(t, "status", "--json")
	var document struct {
		Format      int
		Members     []membership.Report
		SharedQueue struct {
			Name          string
			MessagesReady *int `json:"messages_ready"`
		} `json:"shared_queue"`
		Partitions []struct {
			Partition int
			Owner     string
			Epoch     int64
			Queue     struct {
				Name          string
				MessagesReady *int `json:"messages_ready"`
			}
		}
		Unowned, Contested []int
		Missing            []string
	}
	if err := json.Unmarshal([]byte(stdout), &document); err != nil || status != 0 || stderr != "" {
		t.Fatalf("status --json ended with %d: %v %s", status, err, stderr)
	}
	if document.Format != 1 || len(document.Members) != 2 || document.Members[1].Name != "web-2" ||
		document.Unowned == nil || document.Contested == nil || document.Missing == nil ||
		document.SharedQueue.MessagesReady == nil || *document.SharedQueue.MessagesReady != 2 || len(document.Partitions) != 4 {
		t.Fatalf("%s", stdout)
	}
	if p := document.Partitions[1]; p.Owner != "web-1" || p.Epoch != 8 || p.Queue.Name != "glotpod.rpc/ident/0001" || *p.Queue.MessagesReady != 3 {
		t.Errorf("%+v", p)
	}
	if p := document.Partitions[2]; p.Queue.MessagesReady != nil {
		t.Errorf("%+v", p)
	}
}

func testStatusUnownedAndContested(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a, b, c := s.play(t, "web-1", "web-2", "web-3"), s.play(t, "web-2", "web-1", "web-3"), s.play(t, "web-3", "web-1", "web-2")
	a.hold(3, 7)
	b.hold(3, 9)
	c.hold(3, 8)

	status, stdout, stderr := s.run(t, "status")
	if status != 1 || stderr != "" {
		t.Errorf("status ended with %d: %s", status, stderr)
	}
	got := strings.Join(rows(stdout), "\n")
	for _, want := range []string{
		"Shared queue glotpod.rpc/ident: no such queue\n\nPARTITION OWNER EPOCH STATE READY REQUESTS/S\n0 none - - no queue 0.0\n1 none - - no queue 0.0\n2 none - - no queue 0.0\n3 web-2 9 owned no queue 1.5\n",
		"\n3 of 4 partitions have no owner: 0-2\n",
		"\n3: web-2 under epoch 9, not web-3 under epoch 8, not web-1 under epoch 7",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %q:\n%s", want, stdout)
		}
	}
	if status, stdout, _ := s.run(t, "status", "--json"); status != 1 || !strings.Contains(stdout, `"contested": [`) {
		t.Errorf("status --json ended with %d: %s", status, stdout)
	}
}

func testStatusFailures(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	if status, stdout, stderr := s.run(t, "status"); status != 1 || stdout != "" || !strings.Contains(stderr, "no such instance") {
		t.Errorf("where nobody is, status ended with %d: %s", status, stdout+stderr)
	}
	silent := s.play(t, "web-2")
	silent.mu.Lock()
	silent.silent = true
	silent.mu.Unlock()
	if status, stdout, stderr := s.run(t, "status", "--timeout=1s"); status != 3 || stdout != "" || stderr == "" {
		t.Errorf("where nobody answers, status ended with %d: %s", status, stdout+stderr)
	}
	s.play(t, "web-1", "web-2")
	if status, stdout, _ := s.run(t, "status", "--timeout=1s"); status != 3 || !strings.Contains(stdout, "No reply in time from web-2.") {
		t.Errorf("where one does not answer, status ended with %d: %s", status, stdout)
	}
	if status, stdout, stderr := s.run(t, "status", "web-1"); status != 2 || stdout != "" || stderr == "" {
		t.Errorf("with a surplus argument, status ended with %d: %s", status, stdout+stderr)
	}
	s.settings["amqp.port"] = harness.FreePort(t)
	if status, stdout, stderr := s.run(t, "status"); status != 129 || stdout != "" || stderr == "" {
		t.Errorf("where no broker is, status ended with %d: %s", status, stdout+stderr)
	}
	s.settings["amqp.prot"] = "1"
	if status, stdout, stderr := s.run(t, "status"); status != 78 || stdout != "" || stderr == "" {
		t.Errorf("with wrong settings, status ended with %d: %s", status, stdout+stderr)
	}
}
