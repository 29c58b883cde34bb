package store_test

import (
	"crypto/rand"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

// together commits writes to one user, which decide on a cached user, in as few calls as the
// store allows. It returns how many outcomes each call had.
func together(h *storetest.Harness, s *store.Store, cached *actor.User, writes []*actor.Write) (outcomes []actor.Outcome, at []int) {
	h.T.Helper()
	for len(writes) > 0 {
		writes[0].Cached = cached
		done, err := s.Commit(h.T.Context(), h.Lease, writes)
		if err != nil || len(done) == 0 || len(done) > len(writes) {
			h.T.Errorf("%d writes: %d outcomes, %v", len(writes), len(done), err)
			break
		}
		cached = done[len(done)-1].After
		outcomes, at, writes = append(outcomes, done...), append(at, len(done)), writes[len(done):]
	}
	return outcomes, at
}

// names returns writes that give a user one name after another: "0", "1", …
func names(t testing.TB, id int64, n int, messageID func(int) string) (writes []*actor.Write) {
	for i := range n {
		writes = append(writes, storetest.Request(t, "patch", messageID(i), storetest.Args{"user_id": id, "ops": storetest.Replace("/name", fmt.Sprint(i))}))
	}
	return writes
}

func anonymous(int) string { return "" }

// TestWritesToOneUser: writes to one user share transactions, and each has its outcome.
func TestWritesToOneUser(t *testing.T) {
	t.Run("cached", testShareCached)
	t.Run("read", testShareRead)
	t.Run("replays among them", testShareReplays)
	t.Run("new email or account", testShareUniqueKeys)
	t.Run("large", testShareLarge)
	t.Run("one fails", testShareFailing)
	t.Run("unknown outcome", testShareUnknownOutcome)
	t.Run("same as one after another", testShareAtRandom)
}

func testShareCached(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m", storetest.UserArgs(1))
	var sent []string
	storetest.OnSend(h.Store, func(n actor.PendingNotification) { sent = append(sent, string(n.Body)) })
	outcomes, at := together(h, h.Store, created.After, names(t, created.UserID, 50, func(i int) string { return fmt.Sprint("m", i) }))
	if n := h.Value("SELECT count(DISTINCT xmin::text) FROM ident_log WHERE operation = 'patch'"); n != int64(len(at)) || len(at) > 10 {
		t.Errorf("done %v at a time, in %v transactions", at, n) // one, unless the machine is very slow
	}
	for i, o := range outcomes {
		if !o.Applied || o.After.Name != fmt.Sprint(i) || i == 49 && o.After.Version == (actor.Version{}) {
			t.Errorf("outcome %d: %+v, after it %+v", i, o, o.After)
		}
		if want := fmt.Sprintf(`{"ops":[{"op":"replace","path":"/name","value":"%d"}],"user_id":%d}`, i, created.UserID); sent[i] != want {
			t.Errorf("notification %d: %s", i, sent[i])
		}
	}
	if last := outcomes[49].After; !reflect.DeepEqual(last, h.User(created.UserID)) {
		t.Errorf("the last outcome is not what is stored: %+v", last)
	}
	again := h.Write("patch", "m20", storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/name", "20")})
	if again.Applied || again.Refusal != nil || h.User(created.UserID).Name != "49" {
		t.Errorf("a replay of one of them: %+v", again)
	}
	left := h.StoredNotifications()
	if len(left) != 51 {
		t.Fatalf("%d notifications in the outbox", len(left))
	}
	for i, n := range left[1:] {
		if string(n.Body) != sent[i] {
			t.Errorf("number %d in the outbox is %s", i, n.Body)
		}
	}
}

func testShareRead(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(1)
	for _, user := range []int64{id, 1 << 30} { // the second one does not exist
		outcomes, at := together(h, h.Store, nil, names(t, user, 50, func(i int) string { return fmt.Sprint(user, "m", i) }))
		if len(at) > 10 {
			t.Errorf("user %d: done %v at a time", user, at)
		}
		for i, o := range outcomes {
			if o.Applied != (user == id) {
				t.Errorf("user %d, outcome %d: %+v", user, i, o)
			}
		}
	}
	if u := h.User(id); u.Name != "49" {
		t.Errorf("the user is %+v", u)
	}
}

// testShareReplays: replays hardly separate the writes around them.
func testShareReplays(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m", storetest.UserArgs(1))
	for i := range 3 {
		h.Write("patch", fmt.Sprint("m", 40+i), storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/name", fmt.Sprint(40+i))})
	}
	outcomes, at := together(h, h.Store, nil, names(t, created.UserID, 60, func(i int) string { return fmt.Sprint("m", i) }))
	if len(at) > 10 {
		t.Errorf("done %v at a time", at)
	}
	for i, o := range outcomes {
		if o.Refusal != nil || o.Applied != (i < 40 || i > 42) {
			t.Errorf("outcome %d: %+v", i, o)
		}
	}
}

// testShareUniqueKeys: a write is committed alone if others could fail with it.
func testShareUniqueKeys(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(2)
	for changed, ops := range map[string][]any{
		"email":   storetest.Replace("/email", "ada2@example.org"),
		"account": storetest.Replace("/github/id", 2),
		"both":    append(storetest.Replace("/email", "ada2@example.org"), storetest.Replace("/github/id", 2)...),
	} {
		created := h.Write("create", "", storetest.Args{"name": "Ada", "email": changed, "github": storetest.Args{"id": len(changed), "access_token": "t"}})
		writes := names(t, created.UserID, 20, anonymous)
		writes[10] = storetest.Request(t, "patch", "", storetest.Args{"user_id": created.UserID, "ops": ops})
		outcomes, at := together(h, h.Store, created.After, writes)
		var before []int // how many were committed before each transaction
		for i, done := 0, 0; i < len(at); i++ {
			before = append(before, done)
			done += at[i]
		}
		if !slices.Contains(before, 10) || !slices.Contains(before, 11) {
			t.Errorf("%s: done %v at a time", changed, at)
		}
		storetest.WantCode(t, outcomes[10], actor.Conflict)
		if last := outcomes[19].After; !reflect.DeepEqual(last, h.User(created.UserID)) || last.Name != "19" {
			t.Errorf("%s: %+v", changed, last)
		}
	}
}

func testShareLarge(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m", storetest.UserArgs(1))
	var writes []*actor.Write
	for i := range 10 {
		writes = append(writes, storetest.Request(t, "patch", "", storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/name", strings.Repeat(fmt.Sprint(i), 100_000))}))
	}
	_, at := together(h, h.Store, created.After, writes)
	if slices.Max(at) > 2 {
		t.Errorf("done %v at a time", at)
	}
	// Each of these is small, and its notification is larger than itself.
	writes = nil
	for range 10 {
		writes = append(writes, storetest.Request(t, "patch", "", storetest.Args{"user_id": created.UserID, "ops": []any{
			storetest.Args{"op": "add", "path": "/picture_url", "value": ""},
			storetest.Args{"op": "copy", "from": "/name", "path": "/picture_url"},
			storetest.Args{"op": "replace", "path": "/name", "value": ""},
			storetest.Args{"op": "copy", "from": "/picture_url", "path": "/name"},
			storetest.Args{"op": "replace", "path": "/picture_url", "value": rand.Text()},
		}}), storetest.Request(t, "patch", "", storetest.Args{"user_id": created.UserID, "ops": []any{
			storetest.Args{"op": "copy", "from": "/name", "path": "/picture_url"},
		}}))
	}
	if _, at := together(h, h.Store, nil, writes); slices.Max(at) > 4 {
		t.Errorf("small ones: done %v at a time", at)
	}
}

// testShareFailing: a write that the database refuses fails alone, and is found in a few
// attempts.
func testShareFailing(t *testing.T) {
	h := storetest.Start(t)
	created := h.Write("create", "m", storetest.UserArgs(1))
	h.Exec("CREATE SEQUENCE refused")
	h.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('refused'); RAISE 'refused'; END $$`)
	h.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON ident_log FOR EACH ROW WHEN (NEW.change::text SIMILAR TO '%"(7|62)"%') EXECUTE FUNCTION refuse()`)
	writes := names(t, created.UserID, 64, anonymous)
	var done, want []string
	for len(writes) > 0 {
		outcomes, err := h.Commit(t.Context(), h.Lease, writes)
		if err != nil {
			done, writes = append(done, "failed"), writes[1:]
			continue
		}
		for _, o := range outcomes {
			done = append(done, o.After.Name)
		}
		writes = writes[len(outcomes):]
	}
	for i := range 64 {
		want = append(want, fmt.Sprint(i))
	}
	want[7], want[62] = "failed", "failed"
	if !slices.Equal(done, want) {
		t.Errorf("done: %s", done)
	}
	if n := h.Value("SELECT last_value FROM refused").(int64); n > 40 {
		t.Errorf("%d attempts failed", n)
	}
}

func testShareUnknownOutcome(t *testing.T) {
	for name, overlap := range map[string]bool{"attempts follow each other": false, "attempts overlap": true} {
		t.Run(name, func(t *testing.T) {
			h := storetest.Start(t)
			created := h.Write("create", "m", storetest.UserArgs(1))
			s, p := h.OpenThroughProxy()
			letGo := h.HoldUpdates()
			writes := names(t, created.UserID, 20, anonymous)
			writes[0] = storetest.Request(t, "patch", "", storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/picture_url", "refused")})
			writes[5] = storetest.Request(t, "patch", "m5", storetest.Args{"user_id": created.UserID, "ops": storetest.Replace("/name", "5")})
			writes[7] = storetest.Request(t, "create", "", storetest.UserArgs(7)) // fails and is not recorded
			writes[7].UserID = created.UserID
			var sent sync.Map
			var missed atomic.Bool
			storetest.OnSend(s, func(n actor.PendingNotification) { sent.Store(n.Position, n) })
			storetest.OnMissed(s, func(partition.Lease) { missed.Store(true) })
			var outcomes []actor.Outcome
			var writing sync.WaitGroup
			writing.Go(func() { outcomes, _ = together(h, s, created.After, writes) })
			h.WaitUntil(storetest.OneWaitsForLock)
			if overlap {
				p.Cut() // the first attempt continues in the server
				letGo()
			} else {
				p.FallSilent()
				letGo()
				h.WaitUntil("SELECT name <> 'Ada 1' FROM users WHERE id = $1", created.UserID)
				p.Cut()
			}
			writing.Wait()
			for i, o := range outcomes {
				if (o.Refusal != nil) != (i == 0 || i == 7) {
					t.Errorf("outcome %d: %+v", i, o)
				}
			}
			left := h.StoredNotifications()
			if len(left) != 19 {
				t.Errorf("%d notifications", len(left))
			}
			for _, n := range left[1:] {
				if _, ok := sent.Load(n.Position); !ok && !missed.Load() {
					t.Errorf("notification %d was neither sent nor missed: %s", n.Position, n.Body)
				}
			}
			if rows := changes(h); strings.Count(rows, "\n") != 18 {
				t.Errorf("changes:\n%s", rows)
			}
			if u := h.User(created.UserID); u.Name != "19" {
				t.Errorf("the user is %+v", u)
			}
		})
	}
}

// trail lists everything that writes leave in the database, except random values.
func trail(h *storetest.Harness, messageID func(int) string, ids int) string {
	h.T.Helper()
	list := func(sql string) any {
		return h.Value("SELECT coalesce(string_agg(row, E'\n'), '') FROM (" + sql + ") AS t (row)")
	}
	var requestIDs []string
	for i := range ids {
		requestIDs = append(requestIDs, fmt.Sprintf("'%x'", actor.RequestIDOf(messageID(i), "", "")))
	}
	return fmt.Sprintf("users:\n%v\nrequests:\n%v\nchanges:\n%v",
		list("SELECT format('%s %s %s %s %s %s', id, sequence, name, email_address, picture_url, (SELECT string_agg(sv_name || '=' || sv_id, ' ' ORDER BY sv_name) FROM services s WHERE s.user_id = id)) FROM users ORDER BY id"),
		list("SELECT format('%s %s %s %s', request, user_id, code, message) FROM ident_log WHERE request IN ("+strings.Join(requestIDs, ", ")+") ORDER BY 1"),
		list("SELECT format('%s %s %s %s %s', user_id, sequence, partition, operation, change) FROM ident_log WHERE position IS NOT NULL ORDER BY position"))
}

// drawChange returns the operation and the arguments of a random write to a user.
func drawChange(r *rapid.T, user int64) (operation string, a storetest.Args) {
	operation, a = "patch", storetest.Args{"user_id": user}
	switch rapid.IntRange(0, 20).Draw(r, "operation") {
	case 0:
		operation = "delete"
	case 1:
		a["ops"] = storetest.Replace("/email", fmt.Sprint("e", rapid.IntRange(0, 3).Draw(r, "email")))
	case 2:
		a["ops"] = storetest.Replace("/github/id", rapid.IntRange(0, 3).Draw(r, "account"))
	case 3, 4:
		a["ops"] = []any{storetest.Args{"op": "remove", "path": rapid.SampledFrom([]string{"/github", "/facebook", "/picture_url"}).Draw(r, "removed")}}
	case 5:
		a["ops"] = []any{storetest.Args{"op": "add", "path": "/facebook", "value": storetest.Args{"id": rapid.IntRange(0, 3).Draw(r, "account"), "access_token": "n"}}}
	case 6, 7:
		a["ops"] = storetest.Replace(rapid.SampledFrom([]string{"/github", "/facebook"}).Draw(r, "service")+"/access_token", rapid.SampledFrom([]string{"g", "f", "x"}).Draw(r, "token"))
	case 8, 9:
		a["ops"] = []any{storetest.Args{"op": "test", "path": "/name", "value": rapid.SampledFrom([]string{"n", "o"}).Draw(r, "tested")}, storetest.Args{"op": "add", "path": "/picture_url", "value": "p"}}
	default:
		a["ops"] = storetest.Replace("/name", rapid.SampledFrom([]string{"n", "o", "p"}).Draw(r, "name"))
	}
	return operation, a
}

// testShareAtRandom: writes that share transactions do the same as one after another.
func testShareAtRandom(t *testing.T) {
	at, one := storetest.Start(t), storetest.Start(t)
	limitChecks(t, 15, 40)
	most := 0
	check := func(r *rapid.T) {
		ids := [2]int64{1 << 20, 1<<20 + 1}
		var cached [2]*actor.User
		for _, h := range []*storetest.Harness{at, one} {
			h.Exec("TRUNCATE users, services, ident_log")
			for i, id := range ids {
				w := storetest.Request(t, "create", "", storetest.Args{"name": "n", "email": fmt.Sprint("e", i), "github": storetest.Args{"id": i, "access_token": "g"}, "facebook": storetest.Args{"id": i, "access_token": "f"}})
				w.UserID = id
				o, err := storetest.Commit(t.Context(), h, h.Lease, w)
				if err != nil || o.Refusal != nil {
					r.Fatal(o, err)
				}
				if h == at {
					cached[i] = o.After
				}
			}
		}
		const requests = 20
		run := rand.Text()
		messageID := func(n int) string { return fmt.Sprint(run, n) }
		for range rapid.IntRange(1, 4).Draw(r, "rounds") {
			user := rapid.IntRange(0, 1).Draw(r, "user")
			drawn := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) func() *actor.Write {
				id := ""
				if n := rapid.IntRange(0, 2*requests).Draw(r, "request id"); n < requests {
					id = messageID(n)
				}
				operation, a := drawChange(r, ids[user])
				return func() *actor.Write { return storetest.Request(t, operation, id, a) }
			}), 1, 20).Draw(r, "writes")
			if rapid.IntRange(0, 3).Draw(r, "foreign") == 0 {
				for _, h := range []*storetest.Harness{at, one} {
					h.Exec("UPDATE users SET picture_url = 'foreign' WHERE id = $1", ids[user])
				}
			}
			var writes []*actor.Write
			var want []actor.Outcome
			var stored []*actor.User
			for _, w := range drawn {
				writes = append(writes, w())
				o, err := storetest.Commit(t.Context(), one, one.Lease, w())
				if err != nil {
					r.Fatal(err)
				}
				want, stored = append(want, o), append(stored, one.User(ids[user]))
			}
			got, by := together(at, at.Store, cached[user], writes)
			cached[user], most = got[len(got)-1].After, max(most, slices.Max(by))
			for i := range got {
				if !storetest.SameReply(got[i], want[i]) || got[i].Applied != want[i].Applied || (got[i].Applied || got[i].After != nil) && !alike(got[i].After, stored[i]) {
					r.Fatalf("write %d, done %v at a time: %+v (%+v), want %+v (%+v)", i, by, got[i], got[i].After, want[i], stored[i])
				}
			}
		}
		if got, want := trail(at, messageID, requests), trail(one, messageID, requests); got != want {
			r.Fatalf("%s\n\nwant\n\n%s", got, want)
		}
	}
	for tries := 0; tries == 0 || most < 5 && tries < 5; tries++ { // few random cases may all be small
		rapid.Check(t, check)
	}
	if most < 5 {
		t.Errorf("at most %d writes shared a transaction", most)
	}
}

// alike reports whether two users differ in nothing but their versions.
func alike(a, b *actor.User) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Version, y.Version = actor.Version{}, actor.Version{}
	return reflect.DeepEqual(x, y)
}
