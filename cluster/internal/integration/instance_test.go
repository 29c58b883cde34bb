package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestMain(m *testing.M) { testservers.Main(m) }

var limits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

// A setup has a broker and a database for the instances of a test.
type setup struct {
	t        testing.TB
	url      string              // of the broker
	vhost    *testservers.Broker // nil if the broker is the test's own
	database *testservers.Database
	channel  *amqp.Channel
	db       *pgx.Conn
	store    *store.Store
	options  cluster.Options
}

func openStore(t testing.TB, database *testservers.Database) *store.Store {
	t.Helper()
	users, err := store.Open(t.Context(), store.Options{
		Addresses: []string{database.Address()}, Database: database.Name, User: database.User, Password: database.Password,
		SSLMode: "disable", MaxConnections: 10, Keyring: store.NewKeyring([32]byte{1}), Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(users.Close)
	return users
}

func newSetup(t testing.TB) *setup {
	t.Helper()
	b := testservers.RabbitMQ(t)
	s := newSetupAt(t, b.URL(), broker.Options{Addresses: []string{b.Address()}, VHost: b.VHost, Login: b.User, Password: b.Password})
	s.vhost = b
	return s
}

// newSetupAt returns a setup at a broker, which is given in two ways.
func newSetupAt(t testing.TB, url string, at broker.Options) *setup {
	t.Helper()
	database := testservers.Postgres(t)
	db, err := pgx.Connect(t.Context(), database.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	if _, err := store.Migrate(t.Context(), db, func(int, string) {}); err != nil {
		t.Fatal(err)
	}
	users := openStore(t, database)
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	at.LoginMethod, at.Heartbeat, at.MaxBody, at.ConnectionName = broker.AMQPlain, 5*time.Second, limits.Bytes, t.Name()
	return &setup{t: t, url: url, database: database, channel: channel, db: db, store: users, options: cluster.Options{
		Store: users, Broker: at,
		Name: "one", Partitions: 4, QueueType: "quorum", Secret: [][]byte{{1}},
		Prefetch: 64, Mailbox: 64, Limits: limits, InFlight: 64 << 20, Grace: 20 * time.Second, Log: zaptest.NewLogger(t),
		Cache: &actor.CacheOptions{Users: 1000, Bytes: 1 << 20, Idle: time.Minute},
	}}
}

// register writes the parameters of the cluster into the database, and sets the options of
// the next instance.
func (s *setup) register() {
	s.t.Helper()
	err := s.store.EnsureParameters(s.t.Context(), ownership.Parameters{
		Partitions: s.options.Partitions, Table: ownership.TableVersion, QueueType: s.options.QueueType,
	})
	if err == nil {
		s.options.Start, err = s.store.NextStart(s.t.Context())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// launch runs an instance until stop is called, which returns the error of Run.
func (s *setup) launch() (instance *cluster.Instance, stop func() error) {
	s.t.Helper()
	s.register()
	ctx, cancel := context.WithCancel(s.t.Context())
	instance = cluster.New(s.options)
	ended := make(chan error, 1)
	go func() { ended <- instance.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	s.t.Cleanup(func() { stop() })
	return instance, stop
}

// run launches an instance, and waits until it is ready.
func (s *setup) run() (stop func() error) {
	s.t.Helper()
	_, stop = s.runInstance()
	return stop
}

// runInstance is run, and returns the instance as well.
func (s *setup) runInstance() (instance *cluster.Instance, stop func() error) {
	s.t.Helper()
	instance, stop = s.launch()
	s.until("the instance is ready", func() bool { return instance.Ready() == nil })
	return instance, stop
}

// TestInstance runs instances over a broker and a database.
func TestInstance(t *testing.T) {
	t.Run("is_not_ready_while_stopping", testNotReadyWhileStopping)
	t.Run("claims_a_lost_lease_again", testLostLease)
	t.Run("newcomer_is_ready_with_its_partitions", testNewcomer)
}

func testNotReadyWhileStopping(t *testing.T) {
	s := newSetup(t)
	s.register()
	ctx, cancel := context.WithCancel(t.Context())
	instance := cluster.New(s.options)
	ended := make(chan error, 1)
	go func() { ended <- instance.Run(ctx) }()
	s.until("the instance is ready", func() bool { return instance.Ready() == nil })
	cancel()
	s.until("it says that it is to end", func() bool {
		err := instance.Ready()
		return err != nil && strings.Contains(err.Error(), "asked to end")
	})
	if err := <-ended; err != nil {
		t.Errorf("it has ended with %v", err)
	}
}

// A storeThatHolds ends no lease until letGo is closed.
type storeThatHolds struct {
	cluster.Store
	letGo chan struct{}
}

func (s storeThatHolds) Release(ctx context.Context, leases []partition.Lease) error {
	select {
	case <-s.letGo:
		return s.Store.Release(ctx, leases)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s storeThatHolds) HandOver(ctx context.Context, all []ownership.HandOver) ([]ownership.HandedOver, error) {
	select {
	case <-s.letGo:
		return s.Store.HandOver(ctx, all)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A storeThatForgets reports the first leases as lost.
type storeThatForgets struct {
	cluster.Store
	once *sync.Once
}

func (s storeThatForgets) TakeOver(ctx context.Context, by ownership.Member, leases []partition.Lease) ([]actor.TakenOver, error) {
	forgets := false
	s.once.Do(func() { forgets = true })
	if forgets {
		return nil, nil
	}
	return s.Store.TakeOver(ctx, by, leases)
}

func testLostLease(t *testing.T) {
	s := newSetup(t)
	s.options.Partitions = 1
	s.options.Store = storeThatForgets{s.store, new(sync.Once)}
	s.run()
	if epoch := s.one("SELECT epoch FROM ident_partitions WHERE partition = 0"); epoch != int64(2) {
		t.Errorf("it is served under epoch %v", epoch)
	}
}

func testNewcomer(t *testing.T) {
	s := newSetup(t)
	letGo := make(chan struct{})
	s.options.Store = storeThatHolds{s.store, letGo}
	s.run()
	let := sync.OnceFunc(func() { close(letGo) })
	t.Cleanup(let) // before the first is stopped

	s.options.Name, s.options.Store = "two", openStore(t, s.database)
	newcomer, _ := s.launch()
	s.until("the newcomer takes requests", func() bool { return newcomer.Started() == nil })
	if err := newcomer.Ready(); err == nil || !strings.Contains(err.Error(), "waiting for partitions") {
		t.Errorf("without its partitions: %v", err)
	}
	let()
	s.until("the newcomer is ready", func() bool { return newcomer.Ready() == nil })
	if n := s.one("SELECT count(*) FROM ident_partitions WHERE holder = 'two' AND NOT released"); n == int64(0) {
		t.Error("it is ready, and owns nothing")
	}
}

// one returns what a query finds.
func (s *setup) one(sql string) (v any) {
	s.t.Helper()
	if err := s.db.QueryRow(s.t.Context(), sql).Scan(&v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// until waits until a condition holds, with a limit that a slow machine needs.
func (s *setup) until(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

// subscribe makes a queue that is bound to all notifications.
func (s *setup) subscribe(arguments amqp.Table) {
	s.t.Helper()
	q, err := s.channel.QueueDeclare("subscriber", true, false, false, false, arguments)
	if err == nil {
		err = s.channel.QueueBind(q.Name, "notifications.#", "amq.topic", false, nil)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *setup) consume() <-chan amqp.Delivery {
	s.t.Helper()
	deliveries, err := s.channel.Consume("subscriber", "", true, false, false, false, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return deliveries
}

func (s *setup) next(deliveries <-chan amqp.Delivery) amqp.Delivery {
	s.t.Helper()
	select {
	case d := <-deliveries:
		return d
	case <-time.After(2 * time.Minute):
		s.t.Fatal("no notification came")
		return amqp.Delivery{}
	}
}

// lease returns a lease of a user's partition: the present one, or one of an instance that
// has died.
func (s *setup) lease(user int64) partition.Lease {
	s.t.Helper()
	number := partition.Of(user, s.options.Partitions)
	if s.options.Start == 0 {
		s.register()
	}
	rows, err := s.store.Survey(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, row := range rows {
		if row.Partition == number && !row.Released {
			return row.Lease
		}
	}
	dead := ownership.Member{Name: "dead", Incarnation: ownership.Incarnation{Start: 1, Session: 1}}
	events, err := s.store.Claim(s.t.Context(), []ownership.Claim{{Partition: number, By: dead}})
	if err != nil {
		s.t.Fatal(err)
	}
	return partition.Lease{Partition: number, Epoch: events[0].(ownership.Claimed).Epoch, Holder: dead}
}

// commit creates a user in the store, unnoticed by the instance.
func (s *setup) commit(id int64) {
	s.t.Helper()
	if err := s.tryCommit(s.lease(id), id, "Ada"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *setup) tryCommit(lease partition.Lease, id int64, name string) error {
	body, _ := msgp.AppendMapStrIntf(nil, map[string]any{"name": name, "email": fmt.Sprint(id), "github": map[string]any{"id": id, "access_token": "t"}})
	r, refusal := actor.Parse("create", body, actor.RequestID{}, limits)
	if refusal != nil {
		return refusal
	}
	r.Write.UserID = id
	outcomes, err := s.store.Commit(s.t.Context(), lease, []*actor.Write{r.Write})
	if err == nil && outcomes[0].Refusal != nil {
		return outcomes[0].Refusal
	}
	return err
}

// stored returns how many changes are not known in the database to be notified. Instances note
// each second what was notified.
func (s *setup) stored() (n int) {
	s.t.Helper()
	if err := s.db.QueryRow(s.t.Context(), `SELECT count(*) FROM ident_log JOIN ident_partitions AS p USING (partition)
		LEFT JOIN ident_held_back AS h USING (partition, user_id)
		WHERE ident_log.position > p.notified OR ident_log.position >= h.position`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}
