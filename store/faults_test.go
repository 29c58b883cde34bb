package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestLockedRows: writes to users whose rows another transaction has locked wait, and no
// other writes do.
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
