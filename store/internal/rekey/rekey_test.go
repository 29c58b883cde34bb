package rekey_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

var oldKey, newKey, lostKey = [32]byte{1, 2, 3}, [32]byte{4}, [32]byte{5}

// startStale creates users with two accounts each. Their tokens, also those in pending
// notifications, are encrypted with oldKey. It opens a store with newKey as its first key.
func startStale(t *testing.T, users int) (h *storetest.Harness, ids []int64) {
	t.Helper()
	h = storetest.Start(t, func(o *store.Options) {
		o.TokensInNotifications = true
		o.Keyring = store.NewKeyring(oldKey)
	})
	for n := range users {
		a := storetest.UserArgs(n)
		a["facebook"] = storetest.Args{"id": n, "access_token": fmt.Sprintf("facebook-%d", n)}
		ids = append(ids, h.Write("create", fmt.Sprint("stale", n), a).UserID)
	}
	h.Store = openWithKeys(h, newKey, oldKey)
	return h, ids
}

// openWithKeys opens another store on the same database, with other keys.
func openWithKeys(h *storetest.Harness, keys ...[32]byte) *store.Store {
	h.T.Helper()
	h.Options.Keyring = store.NewKeyring(keys...)
	return h.OpenStore()
}

func runRekey(h *storetest.Harness, o store.RekeyOptions) store.RekeyReport {
	h.T.Helper()
	if o.Batch == 0 {
		o.Batch = 7
	}
	report, err := h.Rekey(h.T.Context(), o)
	if err != nil {
		h.T.Fatal(err)
	}
	return report
}

// sealedValues returns all encrypted values.
func sealedValues(h *storetest.Harness) string {
	h.T.Helper()
	return h.Value(`SELECT coalesce((SELECT string_agg(user_id || sv_name::text || encode(access_token, 'escape') || xmin, ' ' ORDER BY user_id, sv_name) FROM services), '')
		|| ' ' || coalesce((SELECT string_agg(id || encode(body, 'escape') || xmin, ' ' ORDER BY id) FROM ident_sealed), '')`).(string)
}

func TestRekey(t *testing.T) {
	t.Parallel() // it waits most of the time
	t.Run("first_key_opens_everything", testRekeyFirstKeyOpensEverything)
	t.Run("dry_run_changes_nothing", testRekeyDryRunChangesNothing)
	t.Run("unreadable_rows_are_reported", testRekeyUnreadableRowsAreReported)
	t.Run("interrupted_and_repeated", testRekeyInterruptedAndRepeated)
	t.Run("locked_rows_wait_for_the_next_pass", testRekeyLockedRowsWaitForTheNextPass)
	t.Run("ends_despite_stale_writes", testRekeyEndsDespiteStaleWrites)
	t.Run("cached_user_is_patched_afterwards", testRekeyCachedUserIsPatchedAfterwards)
	t.Run("rate", testRekeyRate)
	t.Run("dry_run_rate", testRekeyDryRunRate)
	t.Run("is_not_a_foreign_write", testRekeyIsNotAForeignWrite)
}

func testRekeyFirstKeyOpensEverything(t *testing.T) {
	t.Parallel() // it waits most of the time
	h, ids := startStale(t, 10)
	report := runRekey(h, store.RekeyOptions{})
	want := store.RekeyReport{
		Done: true, Passes: 2,
		Tokens:        store.RekeyCount{Read: 20, Resealed: 20},
		Notifications: store.RekeyCount{Read: 10, Resealed: 10},
	}
	if fmt.Sprint(report) != fmt.Sprint(want) {
		t.Errorf("the report is %+v", report)
	}
	h.Store = openWithKeys(h, newKey)
	for n, id := range ids {
		u := h.User(id)
		if u.GitHub.AccessToken != fmt.Sprintf("token-%d", n) || u.Facebook.AccessToken != fmt.Sprintf("facebook-%d", n) {
			t.Errorf("user %d is %+v %+v", id, u.GitHub, u.Facebook)
		}
	}
	pending := h.StoredNotifications()
	if len(pending) != 10 {
		t.Fatal(len(pending))
	}
	for i, n := range pending {
		if !strings.Contains(string(n.Body), fmt.Sprintf(`"token-%d"`, i)) {
			t.Errorf("notification %d is %s", i, n.Body)
		}
	}
	before := sealedValues(h)
	if again := runRekey(h, store.RekeyOptions{}); !again.Done || again.Passes != 1 || again.Tokens.Resealed+again.Notifications.Resealed != 0 {
		t.Errorf("again: %+v", again)
	}
	if sealedValues(h) != before {
		t.Error("a value of the first key was sealed again")
	}
}

func testRekeyDryRunChangesNothing(t *testing.T) {
	h, _ := startStale(t, 10)
	before := sealedValues(h)
	report := runRekey(h, store.RekeyOptions{DryRun: true})
	if report.Done || report.Passes != 1 || report.Tokens != (store.RekeyCount{Read: 20, Stale: 20}) ||
		report.Notifications != (store.RekeyCount{Read: 10, Stale: 10}) {
		t.Errorf("the report is %+v", report)
	}
	if sealedValues(h) != before {
		t.Error("the dry run has changed something")
	}
}

func testRekeyUnreadableRowsAreReported(t *testing.T) {
	t.Parallel() // it waits most of the time
	h, ids := startStale(t, 10)
	notification := h.Value("SELECT max(id) FROM ident_sealed").(int64)
	h.Exec("UPDATE services SET access_token = 'no token' WHERE user_id = $1 AND sv_name = 'fb'", ids[3])
	h.Exec("UPDATE services SET access_token = '' WHERE user_id = $1 AND sv_name = 'gh'", ids[5])
	h.Exec("UPDATE ident_sealed SET body = 'no token' WHERE id = $1", notification)
	report := runRekey(h, store.RekeyOptions{})
	want := []store.UnreadableToken{
		{UserID: ids[3], Service: "facebook"}, {UserID: ids[5], Service: "github"}, {UserID: ids[9], NotificationID: notification},
	}
	if !report.Done || !slices.Equal(report.Unreadable, want) || report.Tokens != (store.RekeyCount{Read: 20, Resealed: 18, Unreadable: 2}) ||
		report.Notifications != (store.RekeyCount{Read: 10, Resealed: 9, Unreadable: 1}) {
		t.Errorf("the report is %+v", report)
	}
	if n := h.Value("SELECT count(*) FROM services WHERE access_token IN ('', 'no token')"); n != int64(2) {
		t.Errorf("%v rows are left", n)
	}
}

func testRekeyInterruptedAndRepeated(t *testing.T) {
	t.Parallel() // it waits most of the time
	h, _ := startStale(t, 10)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	batches := 0
	report, err := h.Rekey(ctx, store.RekeyOptions{Batch: 4, Progress: func(p store.RekeyProgress) {
		if batches++; batches == 2 {
			interrupt()
		}
		if rows := float64(p.Tokens.Read) / 30; math.Abs(p.Fraction-rows) > 0.1 { // the fraction is that of the ids, and some ids are unused
			t.Errorf("the fraction is %v, by rows %v", p.Fraction, rows)
		}
	}})
	if !errors.Is(err, context.Canceled) || report.Tokens.Resealed != 8 || report.Done {
		t.Errorf("interrupted: %+v, %v", report, err)
	}
	if report := runRekey(h, store.RekeyOptions{}); !report.Done || report.Tokens.Resealed != 12 {
		t.Errorf("then: %+v", report)
	}
}

func testRekeyLockedRowsWaitForTheNextPass(t *testing.T) {
	t.Parallel() // it waits most of the time
	h, ids := startStale(t, 3)
	foreign := storetest.Begin(t, h.Connect(t))
	if _, err := foreign.Exec(t.Context(), "SELECT FROM services WHERE user_id = $1 FOR UPDATE", ids[1]); err != nil {
		t.Fatal(err)
	}
	report := runRekey(h, store.RekeyOptions{Batch: 100, Progress: func(p store.RekeyProgress) {
		if p.Passes > 1 || p.Notifications.Read == 0 {
			return
		}
		if p.Tokens != (store.RekeyCount{Read: 6, Resealed: 4, Stale: 2}) {
			t.Errorf("while two are locked: %+v", p)
		}
		foreign.Rollback(t.Context())
	}})
	if !report.Done || report.Passes != 3 || report.Tokens != (store.RekeyCount{Read: 6, Resealed: 6}) {
		t.Errorf("the report is %+v", report)
	}
}

func testRekeyEndsDespiteStaleWrites(t *testing.T) {
	t.Parallel() // it waits most of the time
	h, _ := startStale(t, 2)
	stale := h.Value("SELECT access_token FROM services LIMIT 1")
	report := runRekey(h, store.RekeyOptions{Progress: func(store.RekeyProgress) { h.Exec("UPDATE services SET access_token = $1", stale) }})
	if report.Done || report.Passes != 5 || report.Tokens.Resealed != 20 {
		t.Errorf("the report is %+v", report)
	}
}

func testRekeyCachedUserIsPatchedAfterwards(t *testing.T) {
	t.Parallel() // it waits most of the time
	h, ids := startStale(t, 1)
	known := h.Write("patch", "before", storetest.Args{"user_id": ids[0], "ops": storetest.Replace("/name", "Eve")}).After
	runRekey(h, store.RekeyOptions{})
	patched := h.WriteCached(known, "patch", "after", storetest.Args{"user_id": ids[0], "ops": storetest.Replace("/github/id", 1234)})
	if !patched.Applied || patched.After.GitHub.AccessToken != "token-0" {
		t.Errorf("patched: %+v", patched)
	}
	h.Store = openWithKeys(h, newKey)
	if u := h.User(ids[0]); u.GitHub.ID != 1234 || u.GitHub.AccessToken != "token-0" || u.Name != "Eve" {
		t.Errorf("stored: %+v %+v", u, u.GitHub)
	}
}

func testRekeyRate(t *testing.T) {
	t.Parallel()              // it waits most of the time
	h, _ := startStale(t, 15) // 30 tokens
	began := time.Now()
	read := int64(0)
	runRekey(h, store.RekeyOptions{Batch: 100, Rate: 10, Progress: func(p store.RekeyProgress) {
		if p.Passes > 1 || p.Notifications.Read > 0 {
			return
		}
		if p.Tokens.Read-read > 10 {
			t.Errorf("%d rows at once", p.Tokens.Read-read)
		}
		read = p.Tokens.Read
		if least := time.Duration(read/10-1) * time.Second; time.Since(began) < least {
			t.Errorf("%d rows after %v", read, time.Since(began))
		}
	}})
	if read != 30 {
		t.Errorf("%d were read", read)
	}
}

func testRekeyDryRunRate(t *testing.T) {
	h, _ := startStale(t, 15) // 30 tokens and 15 notifications, 22 s at this rate
	began := time.Now()
	runRekey(h, store.RekeyOptions{DryRun: true, Rate: 2})
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("it took %v", took)
	}
}

func testRekeyIsNotAForeignWrite(t *testing.T) {
	h, _ := startStale(t, 3)
	listener := h.Connect(t)
	if _, err := listener.Exec(t.Context(), "LISTEN ident_foreign"); err != nil {
		t.Fatal(err)
	}
	runRekey(h, store.RekeyOptions{})
	h.Exec("UPDATE users SET name = name")
	n, err := listener.WaitForNotification(t.Context())
	if err != nil || n.PID != h.DB.PgConn().PID() {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestRekeyDuringWrites(t *testing.T) {
	t.Run("overwrites_nothing", testRekeyDuringWritesOverwritesNothing)
	t.Run("leaves_rows_changed_after_reading", testRekeyDuringWritesLeavesRowsChangedAfterReading)
}

// While Rekey runs, callers change the tokens, and half of the new tokens are still encrypted
// with the old key.
func testRekeyDuringWritesOverwritesNothing(t *testing.T) {
	h, ids := startStale(t, 40)
	h.Options.TokensInNotifications = false // otherwise pending notifications add up
	stores := []*store.Store{openWithKeys(h, newKey, oldKey), openWithKeys(h, oldKey, newKey)}
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
				ops := append([]any{storetest.Args{"op": "test", "path": "/github/access_token", "value": last[i]}}, storetest.Replace("/github/access_token", token)...)
				w := storetest.Request(t, "patch", "", storetest.Args{"user_id": id, "ops": ops})
				w.Cached = known
				o, err := storetest.Commit(t.Context(), stores[i%2], h.Lease, w)
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
	if report := runRekey(h, store.RekeyOptions{}); !report.Done {
		t.Errorf("at the end: %+v", report)
	}
	h.Store = openWithKeys(h, newKey)
	for i, id := range ids {
		if u := h.User(id); u.GitHub.AccessToken != last[i] || u.Facebook.AccessToken != fmt.Sprintf("facebook-%d", i) {
			t.Errorf("the tokens of user %d are %s and %s, written last was %s", id, u.GitHub.AccessToken, u.Facebook.AccessToken, last[i])
		}
	}
}

func testRekeyDuringWritesLeavesRowsChangedAfterReading(t *testing.T) {
	h, ids := startStale(t, 3)
	newer := h.Value("SELECT access_token FROM services WHERE user_id = $1 AND sv_name = 'gh'", ids[0])
	foreign := storetest.Begin(t, h.Connect(t))
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
	h.WaitUntil("SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'services'::regclass AND NOT granted)")
	if _, err := foreign.Exec(t.Context(), "UPDATE services SET access_token = $1 WHERE user_id = $2 AND sv_name = 'fb'", newer, ids[0]); err != nil {
		t.Fatal(err)
	}
	if err := foreign.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := <-done; !report.Done || report.Tokens.Read != 6 {
		t.Errorf("the report is %+v", report)
	}
	if u := h.User(ids[0]); u.Facebook.AccessToken != "token-0" {
		t.Errorf("the newer token was overwritten by %s", u.Facebook.AccessToken)
	}
}
