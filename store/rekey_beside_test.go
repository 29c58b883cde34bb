package store_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store"
)

func TestRekeyDuringWrites(t *testing.T) {
	t.Run("overwrites_nothing", testRekeyDuringWritesOverwritesNothing)
	t.Run("leaves_rows_changed_after_reading", testRekeyDuringWritesLeavesRowsChangedAfterReading)
}

// While Rekey runs, callers change the tokens, and half of the new tokens are still sealed
// with the old key.
func testRekeyDuringWritesOverwritesNothing(t *testing.T) {
	h, ids := startStale(t, 40)
	h.opts.TokensInNotifications = false // otherwise the outbox grows all the time
	stores := []*store.Store{h.with(newKey, oldKey), h.with(oldKey, newKey)}
	last := make([]string, len(ids))
	for i := range last {
		last[i] = fmt.Sprintf("token-%d", i)
	}
	over := make(chan struct{})
	var writing sync.WaitGroup
	for i, id := range ids {
		writing.Go(func() {
			var known *actor.User
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				token := fmt.Sprintf("%d-%d", id, n)
				ops := append([]any{args{"op": "test", "path": "/github/access_token", "value": last[i]}}, replace("/github/access_token", token)...)
				w := request(t, "patch", "", args{"user_id": id, "ops": ops})
				w.Cached = known
				o, err := commit(t.Context(), stores[i%2], h.lease, w)
				if err != nil || o.Refusal != nil {
					t.Error(o.Refusal, err)
					return
				}
				known, last[i] = o.After, token
			}
		})
	}
	var rekeying sync.WaitGroup
	for range 3 {
		rekeying.Go(func() {
			if _, err := h.Rekey(t.Context(), store.RekeyOptions{Batch: 100}); err != nil {
				t.Error(err)
			}
		})
	}
	rekeying.Wait()
	close(over)
	writing.Wait()
	if report := h.rekey(store.RekeyOptions{}); !report.Done {
		t.Errorf("at the end: %+v", report)
	}
	h.Store = h.with(newKey)
	for i, id := range ids {
		if u := h.get(id); u.GitHub.AccessToken != last[i] || u.Facebook.AccessToken != fmt.Sprintf("facebook-%d", i) {
			t.Errorf("the tokens of user %d are %s and %s, written last was %s", id, u.GitHub.AccessToken, u.Facebook.AccessToken, last[i])
		}
	}
}

func testRekeyDuringWritesLeavesRowsChangedAfterReading(t *testing.T) {
	h, ids := startStale(t, 3)
	newer := h.one("SELECT access_token FROM services WHERE user_id = $1 AND sv_name = 'gh'", ids[0])
	foreign := begin(t, connect(t, h.db.Config().ConnString()))
	if _, err := foreign.Exec(t.Context(), "LOCK TABLE services IN EXCLUSIVE MODE"); err != nil { // reading is allowed
		t.Fatal(err)
	}
	done := make(chan store.RekeyReport)
	go func() {
		report, err := h.Rekey(t.Context(), store.RekeyOptions{Batch: 100})
		if err != nil {
			t.Error(err)
		}
		done <- report
	}()
	h.await("SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'services'::regclass AND NOT granted)")
	if _, err := foreign.Exec(t.Context(), "UPDATE services SET access_token = $1 WHERE user_id = $2 AND sv_name = 'fb'", newer, ids[0]); err != nil {
		t.Fatal(err)
	}
	if err := foreign.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := <-done; !report.Done || report.Tokens.Read != 6 {
		t.Errorf("the report is %+v", report)
	}
	if u := h.get(ids[0]); u.Facebook.AccessToken != "token-0" {
		t.Errorf("the newer token was overwritten by %s", u.Facebook.AccessToken)
	}
}
