package userdata_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/changelog"
	"github.com/glotpod/ident/store/internal/storetest"
	"github.com/glotpod/ident/store/internal/userdata"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func TestErase(t *testing.T) {
	h := storetest.Start(t)
	conn := connect(t, h)
	id, other := h.CreateUser(1), h.CreateUser(2)
	erase := func(id, want int64) {
		t.Helper()
		if e, err := userdata.Erase(t.Context(), conn, id); e.Rows != want || !e.Known || err != nil {
			t.Fatalf("%+v, want %d rows of a known user: %v", e, want, err)
		}
	}
	const count = "SELECT count(*) FROM ident_log WHERE user_id = $1 AND change::text LIKE '%example%'"

	if _, err := userdata.Erase(t.Context(), conn, id); !errors.Is(err, userdata.ErrExists) || h.Value(count, id) != int64(1) {
		t.Errorf("a user that exists: %v", err)
	}
	if e, err := userdata.Erase(t.Context(), conn, 1<<40); e.Known || err != nil {
		t.Errorf("an unknown user: %+v, %v", e, err)
	}
	h.Write("delete", "", storetest.Args{"user_id": id})

	// Enough for several transactions, over three days, and from before positions.
	for day := range 3 {
		h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, operation, change)
			SELECT now() - $1 * interval '1 day', gen_random_uuid(), 0, u, 2, 'patch', '[{"op":"replace","path":"/email","value":"x@example"}]'
			FROM generate_series(1, 1100), unnest($2::bigint[]) AS u`, day, []int64{id, other})
	}
	before := h.Value("SELECT count(*) FROM ident_log")

	// Another transaction has a row for too long.
	tx := storetest.Begin(t, h.Connect(t))
	if _, err := tx.Exec(t.Context(), "SELECT FROM ident_log WHERE user_id = $1 AND at > now() - interval '10 minutes' LIMIT 1 FOR UPDATE", id); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SET lock_timeout = '50ms'"); err != nil {
		t.Fatal(err)
	}
	interrupted, err := userdata.Erase(t.Context(), conn, id)
	if err == nil || interrupted.Rows < 2200 {
		t.Errorf("%+v before the row that is locked: %v", interrupted, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	erase(id, 3301-interrupted.Rows)
	erase(id, 0)
	if left := h.Value(count, id); left != int64(0) {
		t.Errorf("%v changes are left", left)
	}
	if now := h.Value("SELECT count(*) FROM ident_log"); now != before {
		t.Errorf("the log has %v rows, and had %v", now, before)
	}
	if n := h.Value(count, other); n != int64(3301) {
		t.Errorf("another user has %v changes", n)
	}
	want := fmt.Sprintf(`{"email":"erased-%d@invalid","id":%d,"name":""}`, id, id)
	if created := h.Value("SELECT change::text FROM ident_log WHERE user_id = $1 AND operation = 'create'", id); created != want {
		t.Errorf("the create is %v, want %s", created, want)
	}
	var operations []string
	err = userdata.Log(t.Context(), conn, id, func(r userdata.LoggedRequest) error {
		operations = append(operations, r.Operation)
		return nil
	})
	if err != nil || len(operations) != 3302 || !slices.Contains(operations, "delete") {
		t.Errorf("the log has %d requests: %v", len(operations), err)
	}
}

func connect(t *testing.T, h *storetest.Harness) *pgx.Conn {
	t.Helper()
	conn, err := store.Connect(t.Context(), h.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

// TestEraseOldRequests: rows that no replay can find keep no digest and no message.
func TestEraseOldRequests(t *testing.T) {
	h := storetest.Start(t)
	conn := connect(t, h)
	for _, hours := range []int{1, 23, 25, 49} {
		h.Exec("SELECT ident_log_day((now() - $1 * interval '1 hour')::date)", hours)
		h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, operation, code, message, sequence, change)
			SELECT now() - $1 * interval '1 hour', gen_random_uuid(), 5, u, o, c, m, s, x::json
			FROM (VALUES ('patch', 'patch_failed', '"/secret"', NULL, NULL), ('patch', NULL, NULL, 2, '[]'), ('delete', NULL, NULL, 3, NULL)) AS r (o, c, m, s, x),
				(VALUES (77), (78)) AS u (u)`, hours)
	}
	for round, want := range []userdata.Erasure{{Rows: 6, Left: 4, Known: true}, {Left: 4, Known: true}} {
		if e, err := userdata.Erase(t.Context(), conn, 77); e != want || err != nil {
			t.Errorf("round %d: %+v, %v, want %+v", round, e, err, want)
		}
	}
	const kept = "SELECT count(*) FROM ident_log WHERE user_id = $1 AND (digest = 5 AND message IS NOT DISTINCT FROM CASE WHEN code IS NULL THEN NULL ELSE '\"/secret\"' END)"
	const gone = "SELECT count(*) FROM ident_log WHERE user_id = $1 AND (digest = 0 AND message IS NOT DISTINCT FROM CASE WHEN code IS NULL THEN NULL ELSE '' END)"
	for user, want := range map[int]int64{77: 6, 78: 12} {
		if n := h.Value(kept, user); n != want {
			t.Errorf("%v rows of user %d are as before, want %d", n, user, want)
		}
		if n := h.Value(gone, user); n != 12-want {
			t.Errorf("%v rows of user %d have no digest, want %d", n, user, 12-want)
		}
	}
}

// TestDaysAlone: what is read and erased locks one day at a time.
func TestDaysAlone(t *testing.T) {
	h := storetest.Start(t)
	conn := connect(t, h)
	h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, operation, change)
		SELECT now() - n * interval '1 day', gen_random_uuid(), 0, 77, 4 - n, 'patch', '[1]' FROM generate_series(0, 2) AS n`)
	tx := storetest.Begin(t, h.Connect(t))
	if _, err := tx.Exec(t.Context(), "LOCK TABLE "+changelog.TableOf(time.Now())+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SET lock_timeout = '50ms'"); err != nil {
		t.Fatal(err)
	}
	var read []int64
	err := userdata.Log(t.Context(), conn, 77, func(r userdata.LoggedRequest) error {
		read = append(read, *r.Sequence)
		return nil
	})
	if err == nil || !slices.Equal(read, []int64{2, 3}) {
		t.Errorf("the changes %v were read before the day that is locked: %v", read, err)
	}
	if e, err := userdata.Erase(t.Context(), conn, 77); err == nil || e.Rows != 2 || !e.Known {
		t.Errorf("%+v before the day that is locked: %v", e, err)
	}
}

// TestEraseWhileCreated: a user that comes into being meanwhile keeps what is of it.
func TestEraseWhileCreated(t *testing.T) {
	h := storetest.Start(t)
	conn := connect(t, h)
	h.Exec(`INSERT INTO ident_log (at, request, digest, user_id, sequence, operation, change)
		SELECT now() - n * interval '1 day', gen_random_uuid(), 0, 77, 2, 'patch', '[1]' FROM generate_series(1, 2) AS n`)
	h.Exec("INSERT INTO ident_sealed (partition, position, user_id, body) VALUES (0, 1, 77, '')")
	// Erasing the first day makes the user.
	h.Exec(`CREATE FUNCTION make_user() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO users (id, name, email_address) VALUES (77, 'n', 'e@example'); RETURN NULL; END $$`)
	h.Exec("CREATE TRIGGER make_user AFTER UPDATE ON " + changelog.TableOf(time.Now().Add(-48*time.Hour)) + " FOR EACH ROW EXECUTE FUNCTION make_user()")
	e, err := userdata.Erase(t.Context(), conn, 77)
	if !errors.Is(err, userdata.ErrExists) || e.Rows != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if n := h.Value("SELECT count(*) FROM ident_log WHERE user_id = 77 AND change::text = '[1]'"); n != int64(1) {
		t.Errorf("%v changes are left", n)
	}
	if n := h.Value("SELECT count(*) FROM ident_sealed WHERE user_id = 77"); n != int64(1) {
		t.Errorf("%v notifications are left", n)
	}
}
