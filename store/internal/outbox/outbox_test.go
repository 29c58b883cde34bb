package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/outbox"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// A harness has an outbox that has taken partition 0 over.
type harness struct {
	*storetest.Harness
	*outbox.Outbox
	*storetest.Notifier
	conn *pgx.Conn
	last int64 // position
}

func start(t *testing.T) *harness {
	t.Helper()
	h := storetest.Start(t)
	pool := h.OpenPool()
	o := outbox.New(pool, changelog.NewDays(pool), h.Options.Keyring, h.Options.Log)
	own := &harness{Harness: h, Outbox: o, Notifier: storetest.NewNotifier(), conn: h.Connect(t)}
	o.SetSink(own.Notifier)
	own.takeOver(h.Lease)
	return own
}

// takeOver takes a partition over of which nothing was notified.
func (h *harness) takeOver(lease partition.Lease) {
	t := actor.TakenOver{Lease: lease}
	h.Outbox.TakeOver(t, time.Now().Add(-24*time.Hour))
	h.Notifier.TakeOver(t)
}

// change adds a change of a user, with an encrypted notification.
func (h *harness) change(user int64) actor.NotificationKey {
	h.T.Helper()
	h.last++
	h.Exec(`INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation)
		VALUES (gen_random_uuid(), 0, $1, 1, $2, 0, 'delete')`, user, h.last)
	h.Exec("INSERT INTO ident_sealed (partition, position, user_id, body) VALUES (0, $1, $2, '')", h.last, user)
	n := actor.PendingNotification{UserID: user, Lease: h.Lease, Position: h.last, CommittedAt: time.Now()}
	h.Outbox.Send([]actor.PendingNotification{n})
	return n.Key()
}

// execute executes the statements of a flush, and returns how many rows of ident_sealed they read.
func (h *harness) execute(f *outbox.Flush) (rows int64) {
	h.T.Helper()
	h.Exec("SELECT pg_stat_reset()")
	batch := new(pgx.Batch)
	f.Queue(batch)
	if err := h.conn.SendBatch(context.Background(), batch).Close(); err != nil {
		h.T.Fatal(err)
	}
	if _, err := h.conn.Exec(h.T.Context(), "SELECT pg_stat_force_next_flush()"); err != nil {
		h.T.Fatal(err)
	}
	return h.Value("SELECT (idx_tup_fetch + seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname = 'ident_sealed'").(int64)
}

// flush writes the cursor without waiting for users that others have overtaken.
func (h *harness) flush() (rows int64) {
	h.T.Helper()
	f := h.FlushPartitions([]int{0})
	rows = h.execute(f)
	f.Done(nil)
	return rows
}

// lose begins a flush whose connection is lost before it is executed.
func (h *harness) lose() *outbox.Flush {
	f := h.FlushPartitions([]int{0})
	f.Done(io.ErrUnexpectedEOF)
	return f
}

// wantStored checks the cursor and the users that are held back.
func (h *harness) wantStored(notified int64, heldBack string) {
	h.T.Helper()
	got := h.Value(`SELECT concat(notified, ' ', (SELECT string_agg(concat(user_id, '@', position), ' ' ORDER BY user_id) FROM ident_held_back))
		FROM ident_partitions WHERE partition = 0`)
	if want := fmt.Sprint(notified, " ", heldBack); got != want {
		h.T.Errorf("stored is %q, want %q", got, want)
	}
}

func TestFlush(t *testing.T) {
	t.Run("a_lost_one_takes_nothing_of_a_later_one_back", testFlushLost)
	t.Run("a_lost_one_changes_nothing_after_the_release", testFlushAfterRelease)
	t.Run("a_lost_one_is_waited_for_by_claims", testFlushLocks)
	t.Run("looks_at_no_notification_that_stays", testFlushSealed)
	t.Run("locks_partitions_in_order", testFlushOrder)
}

func testFlushLost(t *testing.T) {
	h := start(t)
	const refused, other = 1, 2
	first := h.change(refused)
	h.Notifier.Confirm(h.change(other))
	holding := h.lose()
	h.wantStored(0, "")
	h.Notifier.Confirm(first)
	second := h.change(refused)
	h.Notifier.Confirm(h.change(other))
	h.flush()
	h.wantStored(4, "1@3")
	h.execute(holding)
	h.wantStored(4, "1@3")

	h.Notifier.Confirm(second)
	deleting := h.lose()
	third := h.change(refused)
	h.Notifier.Confirm(h.change(other))
	h.flush()
	h.wantStored(6, "1@5")
	h.execute(deleting)
	h.wantStored(6, "1@5")

	h.Notifier.Confirm(third)
	h.flush()
	h.wantStored(6, "")
	if n := h.Value("SELECT count(*) FROM ident_sealed"); n != int64(0) {
		t.Errorf("%v encrypted notifications are left", n)
	}
}

// testFlushLocks: a flush that is executed after a later one locks its partition too.
func testFlushLocks(t *testing.T) {
	h := start(t)
	h.change(1)
	h.Notifier.Confirm(h.change(2))
	holding := h.lose()
	h.Notifier.Confirm(h.change(2))
	h.flush()
	h.Exec("UPDATE ident_partitions SET notified_on = notified_on + 1 WHERE partition = 0")
	const dayOf = "SELECT notified_on::text FROM ident_partitions WHERE partition = 0"
	before := h.Value(dayOf)
	tx := storetest.Begin(t, h.conn)
	batch := new(pgx.Batch)
	holding.Queue(batch)
	if err := tx.SendBatch(t.Context(), batch).Close(); err != nil {
		t.Fatal(err)
	}
	_, err := h.DB.Exec(t.Context(), "SELECT FROM ident_partitions WHERE partition = 0 FOR UPDATE NOWAIT")
	var locked *pgconn.PgError
	if !errors.As(err, &locked) || locked.Code != "55P03" {
		t.Errorf("a claim gets %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantStored(3, "1@1")
	if after := h.Value(dayOf); after != before {
		t.Errorf("the first day goes from %v to %v", before, after)
	}
}

func testFlushAfterRelease(t *testing.T) {
	h := start(t)
	first := h.change(1)
	h.Notifier.Confirm(h.change(2))
	holding := h.lose()
	h.Notifier.Confirm(first)
	h.flush()
	h.wantStored(2, "")
	h.ReleaseLeases(h.Lease)
	h.execute(holding)
	h.wantStored(2, "")
}

// testFlushSealed counts the encrypted notifications that flushes read while many are held back.
func testFlushSealed(t *testing.T) {
	h := start(t)
	var held []actor.NotificationKey
	for user := range int64(300) {
		held = append(held, h.change(100+user))
	}
	h.Notifier.Confirm(h.change(1))
	h.flush()
	for range 3 {
		h.Notifier.Confirm(h.change(1))
		if rows := h.flush(); rows != 1 {
			t.Errorf("a flush after one notification reads %d", rows)
		}
	}
	h.Notifier.Confirm(held[7])
	if rows := h.flush(); rows != 1 {
		t.Errorf("a flush after one that was held back reads %d", rows)
	}
	if n := h.Value("SELECT count(*) FROM ident_sealed"); n != int64(len(held)-1) {
		t.Errorf("%v are left", n)
	}
	h.Notifier.Confirm(held...)
	h.flush()
	h.wantStored(h.last, "")
	if n := h.Value("SELECT count(*) FROM ident_sealed"); n != int64(0) {
		t.Errorf("in the end %v are left", n)
	}
}

// testFlushOrder: a flush that waits for the row of the first partition has locked no other one.
func testFlushOrder(t *testing.T) {
	h := start(t)
	for p := range 4 {
		if p > 0 {
			h.takeOver(h.ClaimPartition(p, 0))
		}
		h.Outbox.Send([]actor.PendingNotification{{UserID: 1, Lease: h.PartitionRow(p).Lease, Position: 1}})
		h.Notifier.Confirm(actor.NotificationKey{Partition: p, UserID: 1, Position: 1})
	}
	const lock = "SELECT FROM ident_partitions WHERE partition = $1 FOR UPDATE NOWAIT"
	if _, err := h.conn.Exec(t.Context(), "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"); err != nil { // as the pool does
		t.Fatal(err)
	}
	foreign := h.Connect(t)
	for name, begin := range map[string]func() *outbox.Flush{
		"all":  h.Flush,
		"some": func() *outbox.Flush { return h.FlushPartitions([]int{3, 1, 0, 2}) },
	} {
		for range 5 {
			tx := storetest.Begin(t, foreign)
			if _, err := tx.Exec(t.Context(), lock, 0); err != nil {
				t.Fatal(err)
			}
			written := make(chan error, 1)
			go func() {
				f := begin()
				batch := new(pgx.Batch)
				f.Queue(batch)
				written <- h.conn.SendBatch(context.Background(), batch).Close()
				f.Done(io.ErrUnexpectedEOF) // the next one writes the same
			}()
			h.WaitUntil("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid' AND datname = current_database())")
			for p := 1; p < 4; p++ {
				if _, err := h.DB.Exec(t.Context(), lock, p); err != nil {
					t.Errorf("%s: partition %d: %v", name, p, err)
				}
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-written; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPage(t *testing.T) {
	t.Run("days_overlap", testPageDaysOverlap)
	t.Run("has_all_changes_before_one_that_it_has", testPageSnapshot)
	t.Run("finds_held_back_users_by_user", testPageHeldBack)
}

// testPageSnapshot: two transactions of a partition are committed while a page is read, between the
// tables of yesterday and today. The first one began before midnight.
func testPageSnapshot(t *testing.T) {
	h := start(t)
	h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - 1)")
	h.positions(0, 10) // makes the tables of the other days
	const change = `INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation, at)
		VALUES (gen_random_uuid(), 0, $1, 1, $1, 0, 'delete', now() - $2 * interval '1 day')`
	today := storetest.Begin(t, h.Connect(t))
	execute := func(sql string, args ...any) {
		t.Helper()
		if _, err := today.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	execute("LOCK TABLE " + h.Value("SELECT "+storetest.LogDay+"::text", 0).(string) + " IN ACCESS EXCLUSIVE MODE")
	first := make(chan []int64)
	go func() {
		all, _ := h.positions(0, 10)
		first <- all
	}()
	h.WaitUntil("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database())")
	h.Exec(change, 100, 1)
	execute(change, 101, 0)
	if err := today.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-first; len(got) > 0 && got[0] != 100 {
		t.Errorf("a page has %v", got)
	}
	if got, _ := h.positions(0, 10); !slices.Equal(got, []int64{100, 101}) {
		t.Errorf("the next page has %v", got)
	}
}

// testPageHeldBack: a page reads no changes of others between those of users that are held back,
// although the statement was planned when the partition seemed to have fewer changes than a user.
func testPageHeldBack(t *testing.T) {
	h := start(t)
	today := h.Value("SELECT "+storetest.LogDay+"::text", 0).(string)
	h.Exec("ALTER TABLE " + today + " SET (autovacuum_enabled = false)")
	h.Exec(`INSERT INTO ident_log (request, digest, user_id, operation, code, message)
		SELECT gen_random_uuid(), 0, 0, 'create', 'conflict', '' FROM generate_series(1, 1000) AS n`)
	h.Exec(`INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation)
		SELECT gen_random_uuid(), 0, 1 + n % 64, 1, n, 4 + n % 64, 'delete' FROM generate_series(1, 2000) AS n`)
	h.Exec("ANALYZE")
	const changes = 50_000
	h.Exec(`INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation)
		SELECT gen_random_uuid(), 0, n, 1, n, 0, 'delete' FROM generate_series(1, $1::int) AS n`, changes)
	h.Exec("UPDATE ident_partitions SET notified = $1", changes)
	h.Exec("INSERT INTO ident_held_back SELECT 0, n, n, now() - interval '1 day' FROM generate_series(1, 10) AS n")
	h.Exec("SELECT pg_stat_reset()")
	pool := h.OpenPool()
	o := outbox.New(pool, changelog.NewDays(pool), h.Options.Keyring, h.Options.Log)
	if all, more, err := o.Page(t.Context(), 0, 0, 100); len(all) != 10 || more || err != nil {
		t.Fatalf("%d changes, %v, %v", len(all), more, err)
	}
	pool.Close() // the server counts its work soon after
	h.WaitUntil("SELECT sum(idx_scan) > 0 FROM pg_stat_user_indexes WHERE relname = $1", today)
	if n := h.Value("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1", today+"_position"); n.(int64) > 100 {
		t.Errorf("%d changes were read by position", n)
	}
}

// positions reads all pages of partition 0 after a position.
func (h *harness) positions(after int64, limit int) (all []int64, pages int) {
	h.T.Helper()
	for more := true; more; pages++ {
		page, others, err := h.Page(h.T.Context(), 0, after, limit)
		if err != nil {
			h.T.Fatal(err)
		}
		for _, n := range page {
			all, after = append(all, n.Position), n.Position
		}
		more = others
	}
	return all, pages
}

// testPageDaysOverlap: no change is left out if the clock of the database went back over
// midnight, so that some positions of a day are between those of the next day.
func testPageDaysOverlap(t *testing.T) {
	for _, days := range [][]int{{1, 1, 0, 0, 1, 1, 0, 0, 0}, {5, 4, 5, 4, 5, 4, 0, 0, 0}, {5, 5, 5, 4, 5, 3, 4, 1, 0}} {
		h := start(t)
		var want []int64
		for i, back := range days {
			h.change(int64(1 + i%2))
			h.Exec("SELECT ident_log_day((now() AT TIME ZONE 'UTC')::date - $1::int)", back)
			h.Exec("UPDATE ident_log SET at = at - $2 * interval '1 day' WHERE position = $1", h.last, back)
			want = append(want, h.last)
		}
		h.Exec("UPDATE ident_partitions SET notified_on = notified_on - 5")
		for limit := range 5 {
			pool := h.OpenPool()
			o := outbox.New(pool, changelog.NewDays(pool), h.Options.Keyring, h.Options.Log)
			h.Outbox = o
			if got, _ := h.positions(0, limit+1); !slices.Equal(got, want) {
				t.Errorf("days %v, %d at a time: %v", days, limit+1, got)
			}
		}
	}
}

// TestForget: the notifier learns of a lease that has ended, and only then.
func TestForget(t *testing.T) {
	h := storetest.Start(t)
	lost := h.ClaimPartition(1, 0)
	wantKnown := func(when string, want ...int) {
		t.Helper()
		if _, err := h.Survey(t.Context()); err != nil {
			t.Fatal(err)
		}
		var known []int
		for _, lease := range []partition.Lease{h.Lease, lost} {
			if _, ok := storetest.NotifierOf(h.Store).Progress(lease); ok {
				known = append(known, lease.Partition)
			}
		}
		if !slices.Equal(known, want) {
			t.Errorf("%s, the partitions %v are known", when, known)
		}
	}
	wantKnown("while both leases stand", 0, 1)
	h.Exec("UPDATE ident_partitions SET epoch = epoch + 1 WHERE partition = 1")
	wantKnown("after a loss", 0)
	h.ReleaseLeases(h.Lease)
	wantKnown("after a release")
}
