package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

const (
	clusterSize = 3       // the number of nodes of the broker, and of instances
	chaosLogin  = "ident" // of the instances
)

// Faults strike instances, the nodes of a broker cluster, and a primary with a synchronous
// standby, while callers send requests over any node. What TestChaos checks holds here too.
//
// It takes minutes of two cores, so it runs only when it is asked for: by make chaos-engines, make
// test-engines and make test-long.
func TestClusterChaos(t *testing.T) {
	t.Parallel()
	if os.Getenv("GLOTPOD_IDENT_CHAOS_SEED") == "" && os.Getenv("GLOTPOD_IDENT_RABBITMQ") == "" && !harness.Long() {
		t.Log("not asked for")
		return
	}
	for _, seed := range chaosSeeds(t) {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) {
			duration := chaosDuration(t)
			t.Logf("seed %d: faults for %v", seed, duration)
			c := &calamity{fleet: newClusterFleet(t, rand.New(rand.NewPCG(seed, 1)))}
			c.kinds = []kind{{1, c.downNode}, {1, c.failOver}} // what a short run has time for
			if duration > shortChaos {
				c.kinds = []kind{
					{5, c.downNode}, {2, c.rollNodes}, {3, c.splitNode}, {2, c.moveLeader},
					{4, c.failOver}, {3, c.stallStandby}, {2, c.fillDisk}, {2, c.rotatePassword},
					{2, c.orphanSubscriber}, {2, c.fillDatabaseDisk}, {2, c.rotateDatabasePassword},
					{2, c.kill}, {2, c.freeze}, {2, c.cutFromBroker}, {2, c.cutFromDatabase}, {1, c.roll},
				}
			}
			c.run(seed, clusterSize, duration)
		})
	}
}

// newClusterFleet makes a site on a broker cluster and a replicated database, with a subscriber's
// queue that survives the loss of a node, but no instance.
func newClusterFleet(t *testing.T, random *rand.Rand) *fleet {
	t.Helper()
	f := &fleet{t: t, random: random}
	first := testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{PauseMinority: true})
	f.brokers = make([]*localserver.RabbitMQ, clusterSize)
	f.brokers[0] = first
	for i := 1; i < clusterSize; i++ {
		f.brokers[i] = testservers.OwnRabbitMQ(t, localserver.RabbitMQOptions{PauseMinority: true, Join: first})
	}
	f.keepSharedQueue()
	f.databases, f.folders = make([]*localserver.Postgres, 2), make([]string, 2)
	f.ownDisks = true
	f.newDatabase(0, nil)
	f.makeSite("amqp://"+f.brokers[0].User+":"+f.brokers[0].Password+"@"+f.front()+"/", "quorum")
	f.loginFile, f.roleFile = filepath.Join(t.TempDir(), "login"), filepath.Join(t.TempDir(), "role")
	f.useLogin()
	f.useRole()
	f.follow(1, 0)
	f.declareSubscriber(amqp.Table{"x-queue-type": "quorum"})
	return f
}

// useLogin makes the members use a login of the broker whose password is in a file.
func (f *fleet) useLogin() {
	f.t.Helper()
	writeFile(f.t, f.loginFile, "first")
	f.changePassword("first")
	if err := f.brokers[0].Management.Permit(f.t.Context(), chaosLogin, "/", ".*", ".*", ".*"); err != nil {
		f.t.Fatal(err)
	}
	delete(f.site.Settings, "amqp.password")
	f.site.Settings["amqp.login"], f.site.Settings["amqp.password_file"] = chaosLogin, f.loginFile
}

// useRole makes the members use a role of the database whose password is in a file.
func (f *fleet) useRole() {
	f.t.Helper()
	writeFile(f.t, f.roleFile, "first")
	f.execute(0, "CREATE ROLE "+chaosLogin+" LOGIN SUPERUSER")
	f.changeRolePassword("first")
	delete(f.site.Settings, "database.postgres.password")
	f.site.Settings["database.postgres.user"], f.site.Settings["database.postgres.password_file"] = chaosLogin, f.roleFile
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// changeRolePassword changes the password of the members' role in the database.
func (f *fleet) changeRolePassword(password string) {
	f.t.Helper()
	f.execute(f.primary(), "ALTER ROLE "+chaosLogin+" PASSWORD '"+password+"'")
}

// changePassword changes the password of the members' login in the broker.
func (f *fleet) changePassword(password string) {
	f.t.Helper()
	if err := f.running().Management.CreateUser(f.t.Context(), chaosLogin, password); err != nil {
		f.t.Fatal(err)
	}
}

// keepSharedQueue makes the shared queue survive the loss of a node, as an operator does.
func (f *fleet) keepSharedQueue() {
	f.t.Helper()
	management := f.brokers[0].Management
	major, _, err := management.Version(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	method, path, body := http.MethodPut, "/api/vhosts/%2F", json.RawMessage(`{"default_queue_type": "quorum"}`)
	if major < 4 {
		method, path = http.MethodPost, "/api/definitions/%2F"
		if body, err = os.ReadFile("../../../deploy/rabbitmq/policies-3.x.json"); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := management.Call(f.t.Context(), method, path, body, nil); err != nil {
		f.t.Fatal(err)
	}
}

// front listens on an address from which each connection leads to a node that runs, as a load
// balancer does.
func (f *fleet) front() (address string) {
	f.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	var running sync.WaitGroup
	f.t.Cleanup(func() {
		listener.Close()
		for _, broker := range f.brokers {
			broker.Kill()
		}
		running.Wait()
	})
	brokers := slices.Clone(f.brokers)
	relay := func(near net.Conn) {
		defer near.Close()
		for _, i := range rand.Perm(len(brokers)) {
			far, err := net.Dial("tcp", brokers[i].Address())
			if err != nil {
				continue
			}
			defer far.Close()
			running.Go(func() {
				io.Copy(near, far) // an error is the end of the connection
				near.Close()
			})
			io.Copy(far, near)
			return
		}
	}
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { relay(near) })
		}
	})
	return listener.Addr().String()
}

// running returns a node that runs.
func (f *fleet) running() *localserver.RabbitMQ {
	f.t.Helper()
	for _, broker := range f.brokers {
		conn, err := net.Dial("tcp", broker.Address())
		if err == nil {
			conn.Close()
			return broker
		}
	}
	f.t.Fatal("no node runs")
	return nil
}

// newDatabase starts the database i, as a standby if it has a primary. Each database has a file
// system of its own, if that is possible.
func (f *fleet) newDatabase(i int, primary *localserver.Postgres) {
	f.t.Helper()
	f.folders[i] = testservers.Dir(f.t)
	f.ownDisks = f.ownDisks && newDisk(f.t, f.folders[i])
	f.databases[i] = testservers.OwnPostgres(f.t, localserver.PostgresOptions{Dir: f.folders[i], StandbyOf: primary})
	if primary == nil {
		f.execute(i, "ALTER SYSTEM SET max_wal_size = '96MB'", "SELECT pg_reload_conf()")
	}
}

// follow makes the database i a new standby of the primary, which waits for it from then on.
func (f *fleet) follow(i, primary int) {
	f.t.Helper()
	f.newDatabase(i, f.databases[primary])
	for _, m := range f.members {
		m.toDatabases[i].lead(f.databases[i].Address())
	}
	f.site.DB = f.connect(primary)
	f.execute(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	harness.Eventually(f.t, "the primary waits for the standby", func() bool {
		return f.site.Count(f.t, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1
	})
}

func (f *fleet) connect(database int) *pgx.Conn {
	f.t.Helper()
	name := "postgres"
	if f.site != nil {
		name = f.site.Settings["database.postgres.database"]
	}
	conn, err := pgx.Connect(f.t.Context(), f.databases[database].URL(name))
	if err != nil {
		f.t.Fatalf("%v; the server: %v", err, f.databases[database].Err())
	}
	f.t.Cleanup(func() { conn.Close(f.t.Context()) })
	return conn
}

// execute executes statements in a database, over a connection of their own.
func (f *fleet) execute(database int, statements ...string) {
	f.t.Helper()
	conn := f.connect(database)
	defer conn.Close(f.t.Context())
	for _, sql := range statements {
		if _, err := conn.Exec(f.t.Context(), sql); err != nil {
			f.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// primary returns the index of the database that accepts writes.
func (f *fleet) primary() int {
	f.t.Helper()
	return slices.IndexFunc(f.databases, func(d *localserver.Postgres) bool {
		conn, err := pgx.Connect(f.t.Context(), d.URL("postgres"))
		if err != nil {
			return false
		}
		defer conn.Close(f.t.Context())
		var standby bool
		return conn.QueryRow(f.t.Context(), "SELECT pg_is_in_recovery()").Scan(&standby) == nil && !standby
	})
}
