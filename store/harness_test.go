package store_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestMain(m *testing.M) { testservers.Main(m) }

var limits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

// A harness is a store with its own database and a connection to that database.
type harness struct {
	*store.Store
	t    testing.TB
	db   *pgx.Conn
	opts store.Options

	lease partition.Lease // of partition 0

	commits atomic.Int64
	cached  sync.Map // user id → user after the last write
}

// commit commits one write.
func commit(ctx context.Context, s actor.Store, lease partition.Lease, w *actor.Write) (actor.Outcome, error) {
	outcomes, err := s.Commit(ctx, lease, []*actor.Write{w})
	if err != nil {
		return actor.Outcome{}, err
	}
	return outcomes[0], nil
}

// commit commits a write. Every other write has the user that the harness has cached, which
// may be out of date.
func (h *harness) commit(s *store.Store, lease partition.Lease, w *actor.Write) (actor.Outcome, error) {
	if cached, ok := h.cached.Load(w.UserID); ok && h.commits.Add(1)%2 == 0 {
		w.Cached = cached.(*actor.User)
	}
	o, err := commit(h.t.Context(), s, lease, w)
	if err == nil && o.After != nil {
		h.cached.Store(o.After.ID, o.After)
	}
	return o, err
}

func options(t testing.TB, db *testservers.Database) store.Options {
	return store.Options{
		Host: db.Host, Port: db.Port, Database: db.Name, User: db.User, Password: db.Password,
		SSLMode: "disable", MaxConnections: 10, Name: t.Name(),
		Keyring:   store.NewKeyring([32]byte{1, 2, 3}),
		AuditKeep: 30 * 24 * time.Hour,
		Log:       zaptest.NewLogger(t),
	}
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func migrate(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	if _, err := store.Migrate(t.Context(), conn, func(int, string) {}); err != nil {
		t.Fatal(err)
	}
}

// migrated is a database with the current schema.
var migrated testservers.Template

func start(t testing.TB, change ...func(*store.Options)) *harness {
	t.Helper()
	db := migrated.Postgres(t, func(template *testservers.Database) {
		conn, err := pgx.Connect(t.Context(), template.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		migrate(t, conn)
	})
	return startOn(t, db, change...)
}

func startOn(t testing.TB, db *testservers.Database, change ...func(*store.Options)) *harness {
	t.Helper()
	h := &harness{t: t, db: connect(t, db.URL()), opts: options(t, db)}
	migrate(t, h.db)
	for _, c := range change {
		c(&h.opts)
	}
	h.Store = h.open()
	h.agree(4)
	h.lease = h.claim(0, 0)
	return h
}

// open opens another store on the same database.
func (h *harness) open() *store.Store {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	return s
}

// one returns the value that a query selects.
func (h *harness) one(sql string, args ...any) (v any) {
	h.t.Helper()
	if err := h.db.QueryRow(h.t.Context(), sql, args...).Scan(&v); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (h *harness) exec(sql string, args ...any) {
	h.t.Helper()
	if _, err := h.db.Exec(h.t.Context(), sql, args...); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

// await repeats a query until it selects true.
func (h *harness) await(sql string, args ...any) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); h.one(sql, args...) != true; {
		if time.Now().After(deadline) {
			h.t.Fatalf("never true: %s", sql)
		}
	}
}

type args = map[string]any

func request(t testing.TB, operation, messageID string, a args) *actor.Write {
	t.Helper()
	body, err := msgp.AppendMapStrIntf(nil, a)
	if err != nil {
		t.Fatal(err)
	}
	r, refusal := actor.Parse(operation, body, actor.RequestIDOf(messageID, "", ""), limits)
	if refusal != nil || r.Write == nil {
		t.Fatalf("%s %v is not a write: %v", operation, a, refusal)
	}
	return r.Write
}

func ada(n int) args {
	return args{"name": fmt.Sprintf("Ada %d", n), "email": fmt.Sprintf("ada%d@example.org", n),
		"github": args{"id": n, "access_token": fmt.Sprintf("token-%d", n)}}
}

func replace(path string, value any) []any {
	return []any{args{"op": "replace", "path": path, "value": value}}
}

// do commits a write.
func (h *harness) do(operation, messageID string, a args) actor.Outcome {
	h.t.Helper()
	w := request(h.t, operation, messageID, a)
	if w.IsCreate() {
		id, err := h.NewUserID(h.t.Context())
		if err != nil {
			h.t.Fatal(err)
		}
		w.UserID = id
	}
	o, err := h.commit(h.Store, h.lease, w)
	if err != nil {
		h.t.Fatalf("%s: %v", operation, err)
	}
	return o
}

func (h *harness) create(n int) int64 {
	h.t.Helper()
	o := h.do("create", rand.Text(), ada(n))
	if o.Refusal != nil {
		h.t.Fatal(o.Refusal)
	}
	return o.UserID
}

func (h *harness) get(id int64) *actor.User {
	h.t.Helper()
	u, err := h.Find(h.t.Context(), &actor.Lookup{UserID: &id})
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

// same reports whether two outcomes have the same reply.
func same(a, b actor.Outcome) bool {
	return a.UserID == b.UserID && reflect.DeepEqual(a.Refusal, b.Refusal)
}

func wantCode(t testing.TB, o actor.Outcome, code actor.Code) {
	t.Helper()
	if o.Refusal == nil || o.Refusal.Code != code {
		t.Fatalf("outcome %+v, want the refusal %s", o, code)
	}
}

func parameters(partitions int) ownership.Parameters {
	return ownership.Parameters{Partitions: partitions, Table: ownership.TableVersion, QueueType: "quorum"}
}

func (h *harness) agree(partitions int) {
	h.t.Helper()
	if err := h.EnsureParameters(h.t.Context(), parameters(partitions)); err != nil {
		h.t.Fatal(err)
	}
}

// member returns a member for tests.
func member(name string) ownership.Member {
	return ownership.Member{Name: name, Incarnation: ownership.Incarnation{Start: 7, Session: 3}}
}

// claim claims a partition and deposes the holder of an epoch; 0 deposes nobody.
func (h *harness) claim(number int, depose int64) partition.Lease {
	h.t.Helper()
	events, err := h.Claim(h.t.Context(), []ownership.Claim{{Partition: number, Attempt: 1, Depose: depose, By: member("test")}})
	if err != nil {
		h.t.Fatal(err)
	}
	won, ok := events[0].(ownership.Claimed)
	if !ok {
		h.t.Fatalf("claim: %+v", events[0])
	}
	return partition.Lease{Partition: won.Partition, Epoch: won.Epoch}
}

func (h *harness) release(leases ...partition.Lease) {
	h.t.Helper()
	if err := h.Release(h.t.Context(), leases); err != nil {
		h.t.Fatal(err)
	}
}

// row returns the row of a partition in the epoch table.
func (h *harness) row(partition int) ownership.Row {
	h.t.Helper()
	rows, err := h.Survey(h.t.Context())
	if err != nil || len(rows) <= partition || rows[partition].Partition != partition {
		h.t.Fatal(rows, err)
	}
	return rows[partition]
}
