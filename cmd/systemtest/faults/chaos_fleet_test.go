package faults

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

const (
	chaosPartitions = 8
	chaosSubscriber = "chaos.subscriber"

	// fleetMin and fleetMax bound how many instances a run begins with.
	fleetMin, fleetMax = 3, 5
)

// A fleet is all instances of a site with its own broker and database. Only the goroutine
// of the test uses it.
type fleet struct {
	t         *testing.T
	random    *rand.Rand
	site      *harness.Site
	brokers   []*localserver.RabbitMQ // the nodes of one cluster
	databases []*localserver.Postgres // one is the primary, the others are standbys
	folders   []string                // of the databases, if they are replicated
	ownDisks  bool                    // each of these folders is a file system
	members   []*member
	joined    int       // members that there have been
	declared  time.Time // since when all durable queues have been there

	// The files with the passwords of the members, "" if they do not change.
	loginFile string // of their login at the broker
	roleFile  string // of their role in the database
}

// A member is an instance with a name, which is restarted as another process.
type member struct {
	*fleet
	name        string
	toBrokers   []*wire
	toDatabases []*wire
	service     *harness.Instance // nil while it is down
}

// newFleet makes a site, with a subscriber's queue that keeps all notifications,
// but no instance.
func newFleet(t *testing.T, random *rand.Rand, queueType string) *fleet {
	t.Helper()
	f := &fleet{
		t:         t,
		random:    random,
		brokers:   []*localserver.RabbitMQ{testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{})},
		databases: []*localserver.Postgres{testservers.OwnPostgres(t, localserver.PostgresOptions{})},
	}
	f.makeSite(f.brokers[0].URL("/"), queueType)
	f.declareSubscriber(nil)
	return f
}

// makeSite makes the settings that all members share, and the database.
func (f *fleet) makeSite(url, queueType string) {
	f.t.Helper()
	broker := f.brokers[0]
	f.site = &harness.Site{AMQPURL: url, Settings: harness.Settings{
		"amqp.vhost":                 "/",
		"amqp.login":                 broker.User,
		"amqp.password":              broker.Password,
		"amqp.heartbeat":             "1s",
		"amqp.insist":                "true",
		"cluster.partitions":         strconv.Itoa(chaosPartitions),
		"cluster.queue_type":         queueType,
		"database.encryption_key":    harness.NewKey(),
		"database.postgres.host":     f.databases[0].Host,
		"database.postgres.database": "chaos",
		"http.listen":                "127.0.0.1:0",
		"shutdown.grace":             "5s",
	}}
	f.site.UsePostgres(f.t, f.databases[0])
}

// channel opens a channel to the broker, over a connection of its own.
func (f *fleet) channel() *amqp.Channel {
	f.t.Helper()
	conn, err := amqp.Dial(f.site.AMQPURL)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(harness.Timeout)) })
	channel, err := conn.Channel()
	if err != nil {
		f.t.Fatal(err)
	}
	return channel
}

func (f *fleet) declareSubscriber(arguments amqp.Table) {
	f.t.Helper()
	channel := f.channel()
	if _, err := channel.QueueDeclare(chaosSubscriber, true, false, false, false, arguments); err != nil {
		f.t.Fatal(err)
	}
	if err := channel.QueueBind(chaosSubscriber, "notifications.user.#", "amq.topic", false, nil); err != nil {
		f.t.Fatal(err)
	}
}

// join adds a member that is down. Some members have a longer way to the database than
// others, so that more of their requests are in flight when a fault strikes.
func (f *fleet) join() *member {
	f.t.Helper()
	f.joined++
	distance := time.Duration(f.random.IntN(4)) * 10 * time.Millisecond
	m := &member{fleet: f, name: fmt.Sprintf("chaos-%d", f.joined)}
	for _, broker := range f.brokers {
		m.toBrokers = append(m.toBrokers, newWire(f.t, broker.Address(), 0))
	}
	for _, database := range f.databases {
		m.toDatabases = append(m.toDatabases, newWire(f.t, database.Address(), distance))
	}
	f.members = append(f.members, m)
	return m
}

// start starts the member's next process, and does not wait until it is ready.
func (m *member) start() {
	m.t.Helper()
	m.service = &harness.Instance{Process: harness.Launch(m.t, m.site.Settings.With(harness.Settings{
		"cluster.instance":       m.name,
		"amqp.host":              addressesOf(m.toBrokers),
		"database.postgres.host": addressesOf(m.toDatabases),
	}).Environ(), "serve")}
}

func addressesOf(wires []*wire) string {
	var all []string
	for _, k := range wires {
		all = append(all, k.address())
	}
	return strings.Join(all, ", ")
}

func (m *member) kill() {
	m.t.Helper()
	m.lives()
	m.service.Kill(m.t)
	m.service = nil
}

// stop sends SIGTERM, as an operator does, and expects status 0.
func (m *member) stop() {
	m.t.Helper()
	m.lives()
	harness.Eventually(m.t, "it heeds signals", func() bool { return m.service.Stderr.Count("starting") > 0 })
	m.service.Stop(m.t)
	m.service = nil
}

// lives fails if the process has exited.
func (m *member) lives() {
	m.t.Helper()
	select {
	case <-m.service.Done:
		m.t.Fatalf("%s has ended by itself, with %d", m.name, m.service.Cmd.ProcessState.ExitCode())
	default:
	}
}

// awaitReady returns when all members that are up can serve.
func (f *fleet) awaitReady() {
	f.t.Helper()
	for _, m := range f.members {
		if m.service != nil {
			m.service.AwaitReady(f.t)
		}
	}
}

// heard takes all notifications from the subscriber's queue. No instance may run any more.
func (f *fleet) heard() (all []harness.Notification) {
	f.t.Helper()
	channel := f.channel()
	q, err := channel.QueueDeclarePassive(chaosSubscriber, true, false, false, false, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	deliveries, err := channel.Consume(chaosSubscriber, "", true, true, false, false, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	s := harness.SubscriberTo(deliveries)
	for range q.Messages {
		all = append(all, s.Next(f.t))
	}
	return all
}
