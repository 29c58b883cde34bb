package userdata_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
	"github.com/glotpod/ident/store/internal/userdata"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func TestErase(t *testing.T) {
	h := storetest.Start(t)
	conn, err := store.Connect(t.Context(), h.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	id, other := h.CreateUser(1), h.CreateUser(2)
	erase := func(id, want int64) {
		t.Helper()
		if changes, known, err := userdata.Erase(t.Context(), conn, id); changes != want || !known || err != nil {
			t.Fatalf("%d changes of a known (%t) user were erased, want %d: %v", changes, known, want, err)
		}
	}
	const count = "SELECT count(*) FROM ident_log WHERE user_id = $1 AND change::text LIKE '%example%'"

	if _, _, err := userdata.Erase(t.Context(), conn, id); !errors.Is(err, userdata.ErrExists) || h.Value(count, id) != int64(1) {
		t.Errorf("a user that exists: %v", err)
	}
	if _, known, err := userdata.Erase(t.Context(), conn, 1<<40); known || err != nil {
		t.Errorf("an unknown user: %t, %v", known, err)
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
	done, _, err := userdata.Erase(t.Context(), conn, id)
	if err == nil || done < 2200 {
		t.Errorf("%d changes were erased before the row that is locked: %v", done, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	erase(id, 3301-done)
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
