package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestLockedRows: writes to users wait if another transaction has locked the users' rows.
// Other writes do not wait.
func TestLockedRows(t *testing.T) {
	t.Run("read", func(t *testing.T) { testLockedRows(t, false) })
	t.Run("cached", func(t *testing.T) { testLockedRows(t, true) })
}

func testLockedRows(t *testing.T, cached bool) {
	h := storetest.Start(t)
	var ids []int64
	users := make(map[int64]*actor.User)
	for i := range 20 {
		id := h.CreateUser(i)
		ids = append(ids, id)
		if cached {
			users[id] = h.User(id)
		}
	}
	foreign := h.Connect(t)
	locked, err := foreign.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Rollback(context.Background())
	if _, err := locked.Exec(t.Context(), "UPDATE users SET picture_url = 'theirs' WHERE id = ANY($1)", ids[:10]); err != nil {
		t.Fatal(err)
	}
	if _, err := locked.Exec(t.Context(), "UPDATE services SET sv_id = sv_id + 100 WHERE user_id = $1", ids[10]); err != nil {
		t.Fatal(err)
	}

	var waiting sync.WaitGroup
	rename := func(id int64) actor.Outcome {
		return h.WriteCached(users[id], "patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "ours")})
	}
	for _, id := range ids[:11] {
		waiting.Go(func() {
			if o := rename(id); o.Refusal != nil {
				t.Error(o.Refusal)
			}
		})
	}
	for range 20 { // while the others wait
		for _, id := range ids[11:] {
			if o := rename(id); o.Refusal != nil {
				t.Fatal(o.Refusal)
			}
		}
	}
	if u := h.User(ids[0]); u.Name == "ours" {
		t.Error("a locked row was written")
	}
	late := storetest.Request(t, "patch", "late", storetest.Args{"user_id": ids[0], "ops": storetest.Replace("/name", "late")})
	late.Expires = time.Now().Add(50 * time.Millisecond)
	if _, err := storetest.Commit(t.Context(), h, h.Lease, late); !errors.Is(err, actor.ErrExpired) {
		t.Errorf("a write that expires while it waits: %v", err)
	}
	if err := locked.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	for i, id := range ids[:11] {
		u := h.User(id)
		if i < 10 && (u.PictureURL == nil || *u.PictureURL != "theirs") || i == 10 && u.GitHub.ID != 110 || u.Name != "ours" {
			t.Errorf("user %d is %+v", id, u)
		}
	}
}

// TestLockedKeys: a create waits for another transaction that inserts the same email.
// Writes to other users, also of other partitions, are not delayed as long.
func TestLockedKeys(t *testing.T) {
	t.Run("read", func(t *testing.T) { testLockedKeys(t, false) })
	t.Run("cached", func(t *testing.T) { testLockedKeys(t, true) })
}

func testLockedKeys(t *testing.T, cached bool) {
	h := storetest.Start(t)
	const users = 20
	var ids []int64
	for i := range users {
		ids = append(ids, h.CreateUser(i))
	}
	create := func(lease partition.Lease, n int) error {
		w := storetest.Request(t, "create", fmt.Sprint(n), storetest.UserArgs(n))
		w.UserID = int64(1000 + n)
		_, err := storetest.Commit(t.Context(), h, lease, w)
		return err
	}
	tx := storetest.Begin(t, h.Connect(t))
	var leases []partition.Lease
	for p := 1; p < 4; p++ {
		leases = append(leases, h.ClaimPartition(p, 0))
		if err := create(leases[p-1], users+p); err != nil { // so that the last position is certain
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "INSERT INTO users (id, name, email_address) VALUES ($1, '', $2)", 2000+p, fmt.Sprintf("ada%d@example.org", 2*users+p)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var written [users]atomic.Int64 // how many writes of each user
	var writing, creating sync.WaitGroup
	for i, id := range ids {
		user := h.User(id)
		writing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				w := storetest.Request(t, "patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(n))})
				if cached {
					w.Cached = user
				}
				o, err := storetest.Commit(t.Context(), h, h.Lease, w)
				if err != nil || o.Refusal != nil {
					t.Errorf("%+v, %v", o, err)
					return
				}
				user = o.After
				written[i].Add(1)
			}
		})
	}
	for i, lease := range leases {
		creating.Go(func() {
			if err := create(lease, 2*users+i+1); err != nil {
				t.Error(err)
			}
		})
		h.WaitUntil("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid' AND datname = current_database())")
	}
	for attempts := store.ContendedAttempts(h.Store); store.ContendedAttempts(h.Store) < attempts+4; {
		time.Sleep(10 * time.Millisecond)
	}
	deadline := time.Now().Add(time.Minute)
	for i := range written { // while the creates wait
		for before := written[i].Load(); written[i].Load() < before+3; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("user %d is not written", ids[i])
			}
		}
	}
	close(done)
	writing.Wait()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	creating.Wait()
}

// TestRefusedByDatabase: a write that the database refuses is attempted once with others and once
// alone, although the writes of its partition wait for each other.
func TestRefusedByDatabase(t *testing.T) {
	h := storetest.Start(t)
	var ids []int64
	for i := range 60 {
		ids = append(ids, h.CreateUser(i))
	}
	h.Exec("CREATE SEQUENCE refusals")
	h.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.name = 'refused' THEN PERFORM nextval('refusals'); RAISE 'refused'; END IF; RETURN NEW; END $$`)
	h.Exec("CREATE TRIGGER refuse AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()")
	rename := func(id int64, name string) error {
		_, err := storetest.Commit(t.Context(), h, h.Lease, storetest.Request(t, "patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", name)}))
		return err
	}
	done := make(chan struct{})
	var writing sync.WaitGroup
	for _, id := range ids[1:] {
		writing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if err := rename(id, fmt.Sprint(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	const rounds = 20
	for range rounds {
		if rename(ids[0], "refused") == nil {
			t.Error("it is not refused")
		}
	}
	close(done)
	writing.Wait()
	if n := h.Value("SELECT last_value FROM refusals").(int64); n > 2*rounds {
		t.Errorf("%d writes took %d attempts", rounds, n)
	}
}

// TestAbort: no commit outlasts it, however many wait.
func TestAbort(t *testing.T) {
	h := storetest.Start(t)
	foreign := h.Connect(t)
	err := pgx.BeginFunc(t.Context(), foreign, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "LOCK TABLE users"); err != nil {
			return err
		}
		var committing sync.WaitGroup
		for i := range 1000 {
			w := storetest.Request(t, "create", fmt.Sprint(i), storetest.UserArgs(i))
			w.UserID = int64(i + 1)
			committing.Go(func() {
				if _, err := storetest.Commit(context.Background(), h, h.Lease, w); err == nil {
					t.Error("committed over a lock")
				}
			})
		}
		h.Abort()
		committing.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnknownOutcome: the outcome of an attempt is found out after its connection was lost.
func TestUnknownOutcome(t *testing.T) {
	t.Run("the database refuses the write", testUnknownOutcomeRefused)
	t.Run("the attempt blocks its repetition", testUnknownOutcomeBlocked)
	t.Run("the lease has ended", testUnknownOutcomeFenced)
	t.Run("each connection breaks", testUnknownOutcomeSwept)
	t.Run("the caller is gone", testUnknownOutcomeAbandoned)
}

// testUnknownOutcomeSwept: a write is done once, whichever reply of the database is lost.
func testUnknownOutcomeSwept(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	s, p := h.OpenThroughProxy()
	writes := int64(1)
	for reply := range 4 {
		for range 3 {
			p.LoseReply(reply)
			if err := h.RenameUser(s, h.Lease, id, fmt.Sprint(writes)); err != nil {
				t.Errorf("reply %d is lost: %v", reply, err)
			}
			writes++
		}
	}
	if n := h.Value("SELECT count(*) FROM ident_log"); n != writes {
		t.Errorf("%v changes are on record, want %d", n, writes)
	}
}

// testUnknownOutcomeRefused: a write whose attempt was lost gives its lease up when the next
// attempt fails, instead of failing while the first one may still be committed.
func testUnknownOutcomeRefused(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	s, p := h.OpenThroughProxy()
	letGo := h.HoldUpdates()
	h.Exec("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$")
	h.Exec("CREATE TRIGGER refuse AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()")
	failed := make(chan error, 1)
	go func() { failed <- h.RenameUser(s, h.Lease, id, "second") }()
	h.WaitUntil(storetest.OneWaitsForLock)
	p.Cut()
	letGo()
	if err := <-failed; !errors.Is(err, actor.ErrFenced) {
		t.Errorf("%v, want that the lease is given up", err)
	}
	if err := h.RenameUser(s, h.ClaimPartition(0, h.Lease.Epoch), id, "second"); err == nil || errors.Is(err, actor.ErrFenced) {
		t.Errorf("under the next lease: %v", err)
	}
}

// testUnknownOutcomeBlocked: an attempt whose connection is lost goes on in the server and
// blocks its own repetition. When the partition is claimed anew, it is certain whether the
// attempt is committed, and its notification comes before those of later writes.
func testUnknownOutcomeBlocked(t *testing.T) {
	for name, landed := range map[string]bool{"it_is_committed": true, "it_is_rolled_back": false} {
		t.Run(name, func(t *testing.T) {
			h := storetest.Start(t, func(o *store.Options) { store.SetPatience(o, time.Second) })
			id := h.CreateUser(1)
			s, p := h.OpenThroughProxy()
			letGo := h.HoldUpdates()
			// The attempt outlasts the cancel request that follows the loss of its connection.
			h.Exec(`CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '1min' AS $$
				BEGIN
					PERFORM pg_advisory_xact_lock_shared(42);
					RETURN NEW;
				EXCEPTION WHEN query_canceled THEN
					PERFORM pg_advisory_xact_lock_shared(42);
					RETURN NEW;
				END $$`)
			first := make(chan error, 1)
			go func() { first <- h.RenameUser(s, h.Lease, id, "first") }()
			h.WaitUntil(storetest.OneWaitsForLock)
			p.Cut()
			if err := <-first; !errors.Is(err, actor.ErrFenced) {
				t.Fatalf("%v, want that the lease is given up", err)
			}
			want := "created, second"
			if landed {
				letGo()
				h.WaitUntil("SELECT name = 'first' FROM users WHERE id = $1", id)
				want = "created, first, second"
			}
			next := h.ClaimPartition(0, h.Lease.Epoch)
			if !landed {
				letGo()
			}
			if err := h.RenameUser(s, next, id, "second"); err != nil {
				t.Fatal(err)
			}
			if got := h.Value(`SELECT string_agg(coalesce(substring(change::text FROM 'first|second'), 'created'), ', ' ORDER BY position) FROM ident_log`); got != want {
				t.Errorf("notifications: %v, want %s", got, want)
			}
		})
	}
}

// testUnknownOutcomeFenced: a write that was committed under its lease has its outcome, even
// after the lease has ended.
func testUnknownOutcomeFenced(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	s, p := h.OpenThroughProxy()
	if err := h.RenameUser(s, h.Lease, id, "first"); err != nil {
		t.Fatal(err)
	}
	// This delays the write before its commit, until its answer cannot come back.
	letGo := h.HoldUpdates()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := h.RenameUser(s, h.Lease, id, "second"); err != nil {
			t.Error(err)
		}
	})
	h.WaitUntil(storetest.OneWaitsForLock)
	p.FallSilent()
	letGo()
	h.WaitUntil("SELECT name = 'second' FROM users WHERE id = $1", id)
	h.ClaimPartition(0, h.Lease.Epoch)
	p.Cut()
	writing.Wait()
	if n := h.Value("SELECT count(*) FROM ident_log"); n != int64(3) {
		t.Errorf("%v changes are on record, want 3", n)
	}
}

// testUnknownOutcomeAbandoned: a write that was committed after its caller had gone is notified
// once, before later writes to the user, and without waiting for one.
func testUnknownOutcomeAbandoned(t *testing.T) {
	for name, laterWrite := range map[string]bool{"nothing_follows": false, "a_write_follows_at_once": true} {
		t.Run(name, func(t *testing.T) {
			h := storetest.Start(t)
			id, other := h.CreateUser(1), h.CreateUser(2)
			s, p := h.OpenThroughProxy()
			if _, _, err := storetest.TakeOver(t.Context(), s, storetest.Member("test"), []partition.Lease{h.Lease}); err != nil {
				t.Fatal(err)
			}
			if err := h.RenameUser(s, h.Lease, other, "first"); err != nil { // which finds the writes of the other store
				t.Fatal(err)
			}
			for _, n := range storetest.StoredNotifications(t, s, 0) {
				storetest.Confirm(s, n.Key())
			}
			missed := make(chan partition.Lease, 10)
			storetest.OnMissed(s, func(l partition.Lease) { missed <- l })
			letGo := h.HoldUpdates()
			ctx, cancel := context.WithCancel(t.Context())
			written := make(chan error, 1)
			go func() {
				_, err := storetest.Commit(ctx, s, h.Lease, storetest.Request(t, "patch", "", storetest.Args{"user_id": id, "ops": storetest.Replace("/name", "lost")}))
				written <- err
			}()
			h.WaitUntil(storetest.OneWaitsForLock)
			p.FallSilent()
			letGo()
			h.WaitUntil("SELECT name = 'lost' FROM users WHERE id = $1", id)
			cancel()
			p.Cut()
			if err := <-written; !errors.Is(err, context.Canceled) {
				t.Fatalf("%v, want that the write is abandoned", err)
			}
			want := []int64{id}
			if laterWrite {
				for _, user := range []int64{other, id} {
					if err := h.RenameUser(s, h.Lease, user, "later"); err != nil {
						t.Fatal(err)
					}
				}
				want = []int64{id, other, id}
			}
			select {
			case lease := <-missed:
				if lease != h.Lease {
					t.Errorf("notifications of %v are missed", lease)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it is not notified")
			}
			var got []int64
			for _, n := range storetest.StoredNotifications(t, s, 0) {
				got = append(got, n.UserID)
				if len(got) == 1 && !strings.Contains(string(n.Body), "lost") {
					t.Errorf("the first is %s", n.Body)
				}
				storetest.Confirm(s, n.Key())
			}
			if !slices.Equal(got, want) {
				t.Errorf("notified are changes of %v, want %v", got, want)
			}
			if err := s.WriteCursors(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, reader := range []*store.Store{s, h.OpenStore()} {
				if left := storetest.StoredNotifications(t, reader, 0); len(left) != 0 {
					t.Errorf("confirmed ones are found again: %+v", left)
				}
			}
		})
	}
}
