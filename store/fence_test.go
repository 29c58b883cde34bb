package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestFence: no write is committed under a lease that has ended.
func TestFence(t *testing.T) {
	t.Run("a lesser fence lets a stale write land", testLesserFences)
	t.Run("the rest of the group is committed", testFenceInGroup)
	t.Run("no lease", testNoLease)
	t.Run("random owners", testFenceAtRandom)
	t.Run("the transaction fails", testFenceAfterFailure)
	t.Run("lost commits", testFenceAfterLostCommits)
	t.Run("a lost transaction stops no other partition", testLostTransaction)
}

// testLostTransaction: a transaction whose end was not seen still has the lock that orders the
// writes of a partition. Writes to the partition wait. Writes that share groups with them do not.
func testLostTransaction(t *testing.T) {
	const rounds, together = 3, 20
	h := storetest.Start(t)
	blocked, free := h.Lease, h.ClaimPartition(1, 0)
	h.Exec("BEGIN; SELECT pg_advisory_xact_lock(x'6964656f'::int, 0)")
	var all sync.WaitGroup
	for round := range rounds {
		var other sync.WaitGroup
		for i := range together {
			lease, done := blocked, &all
			if i%2 > 0 {
				lease, done = free, &other
			}
			n := round*together + i
			w := storetest.Request(t, "create", fmt.Sprint("m", n), storetest.UserArgs(n))
			w.UserID = int64(n + 1)
			done.Go(func() {
				if o, err := storetest.Commit(t.Context(), h, lease, w); err != nil || !o.Applied {
					t.Errorf("under %+v: %+v, %v", lease, o, err)
				}
			})
		}
		other.Wait()
	}
	h.Exec("COMMIT")
	all.Wait()
}

// testLesserFences shows why the fence is an advisory lock. It is not enough to compare the
// epoch, or to lock its row FOR KEY SHARE.
func testLesserFences(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	for name, check := range map[string]string{
		"compared":             "SELECT EXISTS (SELECT FROM ident_partitions WHERE partition = 0 AND epoch = $1)",
		"locked for key share": "SELECT true FROM ident_partitions WHERE partition = 0 AND epoch = $1 FOR KEY SHARE",
	} {
		t.Run(name, func(t *testing.T) {
			epoch := h.PartitionRow(0).Epoch
			stale := storetest.Begin(t, h.Connect(t))
			var current bool
			if err := stale.QueryRow(t.Context(), check, epoch).Scan(&current); err != nil || !current {
				t.Fatal(current, err)
			}
			h.ClaimPartition(0, epoch) // does not wait
			if _, err := stale.Exec(t.Context(), "UPDATE users SET name = $1 WHERE id = $2", name, id); err != nil {
				t.Fatal(err)
			}
			if err := stale.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := h.User(id).Name; got != name {
				t.Errorf("the stale write did not land: %q", got)
			}
		})
	}
}

func testFenceInGroup(t *testing.T) {
	h := storetest.Start(t)
	lost, valid := h.Lease, h.ClaimPartition(1, 0)
	h.ClaimPartition(0, lost.Epoch)
	released := h.ClaimPartition(2, 0)
	h.ReleaseLeases(released)
	leases := []partition.Lease{lost, valid, released, {Partition: 1, Epoch: valid.Epoch + 1, Holder: valid.Holder}, {Partition: 99, Epoch: 1}}

	// The first groups wait for the locks, so that the rest of the writes share groups.
	h.Exec("BEGIN; SELECT pg_advisory_xact_lock(x'6964656e'::int, p) FROM generate_series(0, 3) AS p")
	var committing sync.WaitGroup
	for i := range 100 {
		lease := leases[i%len(leases)]
		w := storetest.Request(t, "create", fmt.Sprint("m", i), storetest.UserArgs(i))
		w.UserID = int64(i + 1)
		committing.Go(func() {
			o, err := storetest.Commit(t.Context(), h, lease, w)
			switch {
			case lease == valid && (err != nil || !o.Applied):
				t.Errorf("under a valid lease: %+v, %v", o, err)
			case lease != valid && !errors.Is(err, actor.ErrFenced):
				t.Errorf("under %+v: %+v, %v", lease, o, err)
			}
		})
	}
	h.WaitUntil(storetest.OneWaitsForLock)
	h.Exec("COMMIT")
	committing.Wait()
	if got := fmt.Sprint(h.Value("SELECT count(*) FROM users"), h.Value("SELECT count(DISTINCT request) FROM ident_log"), h.Value("SELECT count(position) FROM ident_log WHERE partition = 1")); got != "20 20 20" {
		t.Errorf("users, requests, notifications: %s, want 20 of each", got)
	}
}

// testFenceAfterLostCommits: a failover has lost a claim, and another member has claimed the
// partition under the same epoch. The first holder can neither write nor end that lease, and
// claims beyond both.
func testFenceAfterLostCommits(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	first := h.Lease
	h.Exec("UPDATE ident_partitions SET epoch = epoch - 1, released = true WHERE partition = 0")
	claim := func(by string, depose, seen int64) partition.Lease {
		events, err := h.Claim(t.Context(), []ownership.Claim{{Partition: 0, Depose: depose, Seen: seen, By: storetest.Member(by)}})
		if err != nil {
			t.Fatal(err)
		}
		won, ok := events[0].(ownership.Claimed)
		if !ok {
			t.Fatalf("claim: %+v", events[0])
		}
		return partition.Lease{Partition: 0, Epoch: won.Epoch, Holder: storetest.Member(by)}
	}
	second := claim("other", 0, 0)
	if second.Epoch != first.Epoch {
		t.Fatalf("epochs %d and %d", first.Epoch, second.Epoch)
	}
	for _, cached := range []*actor.User{nil, h.User(id)} {
		w := storetest.Request(t, "patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "stale")})
		w.Cached = cached
		if _, err := storetest.Commit(t.Context(), h, first, w); !errors.Is(err, actor.ErrFenced) {
			t.Errorf("under the lost lease: %v", err)
		}
	}
	h.ReleaseLeases(first)
	if answers, err := h.HandOver(t.Context(), []ownership.HandOver{{Lease: first, To: storetest.Member("third")}}); err != nil || answers[0].To != (ownership.Member{}) {
		t.Errorf("handed over: %+v, %v", answers, err)
	}
	if err := h.RenameUser(h.Store, second, id, "second"); err != nil {
		t.Errorf("under the lease of the table: %v", err)
	}
	if next := claim("test", second.Epoch, first.Epoch+5); next.Epoch != first.Epoch+6 {
		t.Errorf("claimed epoch %d", next.Epoch)
	}
}

func testNoLease(t *testing.T) {
	h := storetest.Start(t)
	w := storetest.Request(t, "create", "m1", storetest.UserArgs(1))
	w.UserID = 1
	if _, err := storetest.Commit(t.Context(), h, partition.Lease{}, w); err == nil || errors.Is(err, actor.ErrFenced) {
		t.Errorf("without a lease: %v", err)
	}
	malformed := storetest.Request(t, "patch", "m2", storetest.Args{"user_id": 1, "ops": 1})
	o, err := storetest.Commit(t.Context(), h, partition.Lease{}, malformed)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCode(t, o, actor.BadRequest)
	if n := h.Value("SELECT count(DISTINCT request) FROM ident_log"); n != int64(1) {
		t.Errorf("%v refusals are recorded", n)
	}
}

func TestOutcome(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m1", storetest.UserArgs(1))
	id := created.UserID
	after := h.User(id)
	if !created.Applied || !reflect.DeepEqual(created.After, after) || after.GitHub.AccessToken != "token-1" {
		t.Errorf("created: %+v, now %+v", created.After, after)
	}
	patched := h.Write("patch", "m2", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "Eve")})
	if !patched.Applied || !reflect.DeepEqual(patched.After, h.User(id)) {
		t.Errorf("patched: %+v", patched.After)
	}
	for _, o := range []actor.Outcome{
		h.Write("create", "m1", storetest.UserArgs(1)),
		h.Write("patch", "m2", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "Eve")}),
		h.Write("patch", "m3", storetest.Args{"user_id": id, "ops": storetest.Replace("/picture_url", "x")}),
		h.Write("create", "m4", storetest.UserArgs(1)),
	} {
		if o.Applied || o.After != nil && (o.Refusal == nil || !reflect.DeepEqual(o.After, h.User(id))) {
			t.Errorf("a replay or a refusal was applied: %+v", o)
		}
	}
	if deleted := h.Write("delete", "m5", storetest.Args{"user_id": id}); !deleted.Applied || deleted.After != nil {
		t.Errorf("deleted: %+v", deleted)
	}
}

func testFenceAtRandom(t *testing.T) {
	const partitions, users, owners = 3, 6, 4
	steps := 50
	if storetest.Long {
		steps = 150
	}
	h := storetest.Start(t)
	var ids []int64
	for n := range users {
		ids = append(ids, h.CreateUser(n))
	}
	h.ReleaseLeases(h.Lease)
	// The trigger reads the epoch table just before the commit, some time after the
	// write has passed the fence.
	h.Exec("CREATE TABLE written (n bigserial, user_id int, epoch bigint, current bigint)")
	h.Exec(`CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_sleep(random() * 0.005);
		INSERT INTO written (user_id, epoch, current) SELECT NEW.id, NEW.name::bigint, epoch
		FROM ident_partitions WHERE partition = NEW.id % 3; RETURN NULL; END $$`)
	h.Exec(`CREATE CONSTRAINT TRIGGER witness AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED
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
		s := h.OpenStore()
		r := rand.New(rand.NewPCG(1, uint64(owner)))
		acting.Go(func() {
			var mine [partitions]partition.Lease
			for step := range steps {
				p := r.IntN(partitions)
				switch {
				case r.IntN(10) == 0:
					claim := ownership.Claim{Partition: p, By: storetest.Member(fmt.Sprint(owner)), Depose: recall(p).Epoch}
					events, err := s.Claim(t.Context(), []ownership.Claim{claim})
					if err != nil {
						t.Error(err)
						return
					}
					switch e := events[0].(type) {
					case ownership.Claimed:
						mine[p] = partition.Lease{Partition: p, Epoch: e.Epoch, Holder: claim.By}
						remember(mine[p])
					case ownership.ClaimRefused:
						remember(e.Row.Lease)
					}
				case r.IntN(20) == 0:
					if err := s.Release(t.Context(), []partition.Lease{mine[p]}); err != nil {
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
							w := storetest.Request(t, "patch", fmt.Sprint(owner, step, id), storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(lease.Epoch))})
							o, err := h.CommitUnder(s, lease, w)
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
	t.Log(applied.Load(), "applied,", fenced.Load(), "fenced,", h.Value("SELECT sum(epoch)::int FROM ident_partitions"), "claims")
	if n := h.Value("SELECT count(*) FROM written WHERE epoch <> current"); n != int64(0) {
		t.Errorf("%v writes were committed under a lease that had ended", n)
	}
	if n := h.Value(`SELECT count(*) FROM (SELECT epoch, lag(epoch) OVER (PARTITION BY user_id ORDER BY n) AS before FROM written) AS w
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
	h := storetest.Start(t)
	created := h.Write("create", "m1", storetest.UserArgs(1))
	confirmed := h.StoredNotifications()[0].Key()
	// The removal of the confirmed notification fails, since its row is locked.
	foreign := h.Connect(t)
	locked := storetest.Begin(t, foreign)
	if _, err := locked.Exec(t.Context(), "SELECT FROM ident_partitions FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	storetest.Confirm(h.Store, confirmed)
	lost := h.Lease
	lost.Epoch += 5
	renamed := make(chan error, 1)
	go func() { renamed <- h.RenameUser(h.Store, lost, created.UserID, "stale") }()
	for store.ContendedAttempts(h.Store) == 0 && len(renamed) == 0 {
		h.Exec("SELECT pg_sleep(0.01)")
	}
	locked.Rollback(t.Context())
	if err := <-renamed; !errors.Is(err, actor.ErrFenced) {
		t.Errorf("%v", err)
	}
	if u := h.User(created.UserID); u.Name == "stale" {
		t.Error("the stale write was committed")
	}
}
