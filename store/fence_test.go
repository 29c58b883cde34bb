package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
)

// lockShared locks a partition as a write does.
const lockShared = "SELECT pg_advisory_xact_lock_shared(x'6964656e'::int, $1)"

// waitsForLock says whether a connection waits for an advisory lock.
const waitsForLock = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`

// rename commits a write that renames a user, under a lease.
func rename(h *harness, s *store.Store, lease partition.Lease, id int64, name string) error {
	w := request(h.t, "patch", "", args{"user_id": id, "ops": replace("/name", name)})
	o, err := h.commit(s, lease, w)
	if err == nil && o.Refusal != nil {
		err = o.Refusal
	}
	return err
}

// long says that random tests are to make all their rounds.
var long = os.Getenv("GLOTPOD_IDENT_TEST_LONG") != ""

func begin(t testing.TB, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	return tx
}

// TestFence: no write is committed under a lease that has ended.
func TestFence(t *testing.T) {
	t.Run("a lesser fence lets a stale write land", testLesserFences)
	t.Run("the rest of the group is committed", testFenceInGroup)
	t.Run("no lease", testNoLease)
	t.Run("random owners", testFenceAtRandom)
	t.Run("the transaction fails", testFenceAfterFailure)
}

// testLesserFences shows why the fence is an advisory lock. It is not enough to compare the
// epoch, or to lock its row FOR KEY SHARE.
func testLesserFences(t *testing.T) {
	h := start(t)
	id := h.create(1)
	for name, check := range map[string]string{
		"compared":             "SELECT EXISTS (SELECT FROM ident_partitions WHERE partition = 0 AND epoch = $1)",
		"locked for key share": "SELECT true FROM ident_partitions WHERE partition = 0 AND epoch = $1 FOR KEY SHARE",
	} {
		t.Run(name, func(t *testing.T) {
			epoch := h.row(0).Epoch
			stale := begin(t, connect(t, h.db.Config().ConnString()))
			var current bool
			if err := stale.QueryRow(t.Context(), check, epoch).Scan(&current); err != nil || !current {
				t.Fatal(current, err)
			}
			h.claim(0, epoch) // does not wait
			if _, err := stale.Exec(t.Context(), "UPDATE users SET name = $1 WHERE id = $2", name, id); err != nil {
				t.Fatal(err)
			}
			if err := stale.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := h.get(id).Name; got != name {
				t.Errorf("the stale write did not land: %q", got)
			}
		})
	}
}

func testFenceInGroup(t *testing.T) {
	h := start(t)
	lost, valid := h.lease, h.claim(1, 0)
	h.claim(0, lost.Epoch)
	released := h.claim(2, 0)
	h.release(released)
	leases := []partition.Lease{lost, valid, released, {Partition: 1, Epoch: valid.Epoch + 1}, {Partition: 99, Epoch: 1}}

	// The first groups wait for the locks, so that the rest of the writes share groups.
	h.exec("BEGIN; SELECT pg_advisory_xact_lock(x'6964656e'::int, p) FROM generate_series(0, 3) AS p")
	var committing sync.WaitGroup
	for i := range 100 {
		lease := leases[i%len(leases)]
		w := request(t, "create", fmt.Sprint("m", i), ada(i))
		w.UserID = int64(i + 1)
		committing.Go(func() {
			o, err := commit(t.Context(), h, lease, w)
			switch {
			case lease == valid && (err != nil || !o.Applied):
				t.Errorf("under a valid lease: %+v, %v", o, err)
			case lease != valid && !errors.Is(err, actor.ErrFenced):
				t.Errorf("under %+v: %+v, %v", lease, o, err)
			}
		})
	}
	h.await(waitsForLock)
	h.exec("COMMIT")
	committing.Wait()
	if got := fmt.Sprint(h.one("SELECT count(*) FROM users"), h.one("SELECT count(DISTINCT identity) FROM ident_requests"), h.one("SELECT count(*) FROM ident_outbox WHERE partition = 1")); got != "20 20 20" {
		t.Errorf("users, requests, notifications: %s, want 20 of each", got)
	}
}

func testNoLease(t *testing.T) {
	h := start(t)
	w := request(t, "create", "m1", ada(1))
	w.UserID = 1
	if _, err := commit(t.Context(), h, partition.Lease{}, w); err == nil || errors.Is(err, actor.ErrFenced) {
		t.Errorf("without a lease: %v", err)
	}
	malformed := request(t, "patch", "m2", args{"user_id": 1, "ops": 1})
	o, err := commit(t.Context(), h, partition.Lease{}, malformed)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, o, actor.BadRequest)
	if n := h.one("SELECT count(DISTINCT identity) FROM ident_requests"); n != int64(1) {
		t.Errorf("%v refusals are recorded", n)
	}
}

func TestOutcome(t *testing.T) {
	h := start(t)
	created := h.do("create", "m1", ada(1))
	id := created.UserID
	after := h.get(id)
	if !created.Applied || !reflect.DeepEqual(created.After, after) || after.GitHub.AccessToken != "token-1" {
		t.Errorf("created: %+v, now %+v", created.After, after)
	}
	patched := h.do("patch", "m2", args{"user_id": id, "ops": replace("/name", "Eve")})
	if !patched.Applied || !reflect.DeepEqual(patched.After, h.get(id)) {
		t.Errorf("patched: %+v", patched.After)
	}
	for _, o := range []actor.Outcome{
		h.do("create", "m1", ada(1)),
		h.do("patch", "m2", args{"user_id": id, "ops": replace("/name", "Eve")}),
		h.do("patch", "m3", args{"user_id": id, "ops": replace("/picture_url", "x")}),
		h.do("create", "m4", ada(1)),
	} {
		if o.Applied || o.After != nil && (o.Refusal == nil || !reflect.DeepEqual(o.After, h.get(id))) {
			t.Errorf("a replay or a refusal was applied: %+v", o)
		}
	}
	if deleted := h.do("delete", "m5", args{"user_id": id}); !deleted.Applied || deleted.After != nil {
		t.Errorf("deleted: %+v", deleted)
	}
}

func testFenceAtRandom(t *testing.T) {
	const partitions, users, owners = 3, 6, 4
	steps := 50
	if long {
		steps = 150
	}
	h := start(t)
	var ids []int64
	for n := range users {
		ids = append(ids, h.create(n))
	}
	h.release(h.lease)
	// The trigger reads the epoch table just before the commit, some time after the
	// write has passed the fence.
	h.exec("CREATE TABLE written (n bigserial, user_id int, epoch bigint, current bigint)")
	h.exec(`CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_sleep(random() * 0.005);
		INSERT INTO written (user_id, epoch, current) SELECT NEW.id, NEW.name::bigint, epoch
		FROM ident_partitions WHERE partition = NEW.id % 3; RETURN NULL; END $$`)
	h.exec(`CREATE CONSTRAINT TRIGGER witness AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION witness()`)

	// The owners share the leases that they remember, valid or not. So leases are used
	// long after they have ended.
	var mu sync.Mutex
	var remembered [partitions]partition.Lease
	remember := func(l partition.Lease) {
		mu.Lock()
		defer mu.Unlock()
		remembered[l.Partition] = l
	}
	recall := func(number int) partition.Lease {
		mu.Lock()
		defer mu.Unlock()
		return remembered[number]
	}
	var fenced, applied atomic.Int64
	var acting sync.WaitGroup
	for owner := range owners {
		s := h.open()
		r := rand.New(rand.NewPCG(1, uint64(owner)))
		acting.Go(func() {
			var mine [partitions]partition.Lease
			for step := range steps {
				p := r.IntN(partitions)
				switch {
				case r.IntN(10) == 0:
					claim := ownership.Claim{Partition: p, By: member(fmt.Sprint(owner)), Depose: recall(p).Epoch}
					events, err := s.Claim(t.Context(), []ownership.Claim{claim})
					if err != nil {
						t.Error(err)
						return
					}
					switch e := events[0].(type) {
					case ownership.Claimed:
						mine[p] = partition.Lease{Partition: p, Epoch: e.Epoch}
						remember(mine[p])
					case ownership.ClaimRefused:
						remember(partition.Lease{Partition: p, Epoch: e.Row.Epoch})
					}
				case r.IntN(20) == 0:
					if err := s.Release(t.Context(), []partition.Lease{{Partition: p, Epoch: mine[p].Epoch}}); err != nil {
						t.Error(err)
						return
					}
				default:
					if mine[p].Epoch == 0 {
						continue
					}
					var writing sync.WaitGroup
					for _, id := range ids {
						lease := mine[id%partitions]
						if lease.Epoch == 0 {
							continue
						}
						writing.Go(func() {
							w := request(t, "patch", fmt.Sprint(owner, step, id), args{"user_id": id, "ops": replace("/name", fmt.Sprint(lease.Epoch))})
							o, err := h.commit(s, lease, w)
							switch {
							case errors.Is(err, actor.ErrFenced):
								fenced.Add(1)
							case err != nil:
								t.Error(err)
							case !o.Applied:
								t.Error(o.Refusal)
							default:
								applied.Add(1)
							}
						})
					}
					writing.Wait()
				}
			}
		})
	}
	acting.Wait()
	t.Log(applied.Load(), "applied,", fenced.Load(), "fenced,", h.one("SELECT sum(epoch)::int FROM ident_partitions"), "claims")
	if n := h.one("SELECT count(*) FROM written WHERE epoch <> current"); n != int64(0) {
		t.Errorf("%v writes were committed under a lease that had ended", n)
	}
	if n := h.one(`SELECT count(*) FROM (SELECT epoch, lag(epoch) OVER (PARTITION BY user_id ORDER BY n) AS before FROM written) AS w
		WHERE before > epoch`); n != int64(0) {
		t.Errorf("%v writes came after one of a later epoch", n)
	}
	if least := int64(steps / 2); applied.Load() < least || fenced.Load() < least {
		t.Error("too few writes were applied or fenced")
	}
}

// testFenceAfterFailure: a fenced write stays fenced if the transaction fails that finds
// out.
func testFenceAfterFailure(t *testing.T) {
	h := start(t)
	created := h.do("create", "m1", ada(1))
	// The removal of the confirmed notification fails, since its row is locked.
	foreign := connect(t, h.db.Config().ConnString())
	locked := begin(t, foreign)
	if _, err := locked.Exec(t.Context(), "SELECT FROM ident_outbox FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	h.ConfirmNotifications(h.one("SELECT id FROM ident_outbox").(int64))
	lost := h.lease
	lost.Epoch += 5
	renamed := make(chan error, 1)
	go func() { renamed <- rename(h, h.Store, lost, created.UserID, "stale") }()
	for store.ContendedAttempts(h.Store) == 0 && len(renamed) == 0 {
		h.exec("SELECT pg_sleep(0.01)")
	}
	locked.Rollback(t.Context())
	if err := <-renamed; !errors.Is(err, actor.ErrFenced) {
		t.Errorf("%v", err)
	}
	if u := h.get(created.UserID); u.Name == "stale" {
		t.Error("the stale write was committed")
	}
}
