package store_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/zap/zaptest"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
)

func TestMain(m *testing.M) { testservers.Main(m) }

var limits = msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

// A harness is a store in a database of its own, and a way to look behind it.
type harness struct {
	*store.Store
	t    testing.TB
	db   *pgx.Conn
	opts store.Options

	lease partition.Lease // on partition 0

	turn  atomic.Int64
	known sync.Map // users as the last outcome was, by id
}

// commit commits one write.
func commit(ctx context.Context, s actor.Store, lease partition.Lease, w *actor.Write) (actor.Outcome, error) {
	outcomes, err := s.Commit(ctx, lease, []*actor.Write{w})
	if err != nil {
		return actor.Outcome{}, err
	}
	return outcomes[0], nil
}

// commit commits a write. Every other time, it knows of the user what the harness
// has seen last, which may be out of date.
func (h *harness) commit(s *store.Store, lease partition.Lease, w *actor.Write) (actor.Outcome, error) {
	if known, ok := h.known.Load(w.UserID); ok && h.turn.Add(1)%2 == 0 {
		w.Cached = known.(*actor.User)
	}
	o, err := commit(h.t.Context(), s, lease, w)
	if err == nil && o.After != nil {
		h.known.Store(o.After.ID, o.After)
	}
	return o, err
}

func options(t testing.TB, db *testservers.Database) store.Options {
	return store.Options{
		Host: db.Host, Port: db.Port, Database: db.Name, User: db.User, Password: db.Password,
		SSLMode: "disable", MaxConnections: 10, Name: t.Name(),
		Keyring:   store.NewKeyring([32]byte{1, 2, 3}),
		AuditKeep: 30 * 24 * time.Hour,
		Log:       zaptest.NewLogger(t),
	}
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func migrate(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	if _, err := store.Migrate(t.Context(), conn, func(int, string) {}); err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB, change ...func(*store.Options)) *harness {
	t.Helper()
	return startOn(t, testservers.Postgres(t), change...)
}

func startOn(t testing.TB, db *testservers.Database, change ...func(*store.Options)) *harness {
	t.Helper()
	h := &harness{t: t, db: connect(t, db.URL()), opts: options(t, db)}
	migrate(t, h.db)
	for _, c := range change {
		c(&h.opts)
	}
	h.Store = h.open()
	h.agree(4)
	h.lease = h.claim(0, 0)
	return h
}

// open opens the harness's database once more.
func (h *harness) open() *store.Store {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	return s
}

// one queries a single value.
func (h *harness) one(sql string, args ...any) (v any) {
	h.t.Helper()
	if err := h.db.QueryRow(h.t.Context(), sql, args...).Scan(&v); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (h *harness) exec(sql string, args ...any) {
	h.t.Helper()
	if _, err := h.db.Exec(h.t.Context(), sql, args...); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

// await waits until a query says true.
func (h *harness) await(sql string, args ...any) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); h.one(sql, args...) != true; {
		if time.Now().After(deadline) {
			h.t.Fatalf("in vain: %s", sql)
		}
	}
}

type args = map[string]any

func request(t testing.TB, operation, messageID string, a args) *actor.Write {
	t.Helper()
	body, err := msgp.AppendMapStrIntf(nil, a)
	if err != nil {
		t.Fatal(err)
	}
	r, refusal := actor.Parse(operation, body, actor.RequestIDOf(messageID, "", ""), limits)
	if refusal != nil || r.Write == nil {
		t.Fatalf("%s %v is no write: %v", operation, a, refusal)
	}
	return r.Write
}

func ada(n int) args {
	return args{"name": fmt.Sprintf("Ada %d", n), "email": fmt.Sprintf("ada%d@example.org", n),
		"github": args{"id": n, "access_token": fmt.Sprintf("token-%d", n)}}
}

func replace(path string, value any) []any {
	return []any{args{"op": "replace", "path": path, "value": value}}
}

// do commits a write.
func (h *harness) do(operation, messageID string, a args) actor.Outcome {
	h.t.Helper()
	w := request(h.t, operation, messageID, a)
	if w.IsCreate() {
		id, err := h.NewUserID(h.t.Context())
		if err != nil {
			h.t.Fatal(err)
		}
		w.UserID = id
	}
	o, err := h.commit(h.Store, h.lease, w)
	if err != nil {
		h.t.Fatalf("%s: %v", operation, err)
	}
	return o
}

func (h *harness) create(n int) int64 {
	h.t.Helper()
	o := h.do("create", rand.Text(), ada(n))
	if o.Refusal != nil {
		h.t.Fatal(o.Refusal)
	}
	return o.UserID
}

func (h *harness) get(id int64) *actor.User {
	h.t.Helper()
	u, err := h.Find(h.t.Context(), &actor.Lookup{UserID: &id})
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

// same says whether two outcomes are answered the same.
func same(a, b actor.Outcome) bool {
	return a.UserID == b.UserID && reflect.DeepEqual(a.Refusal, b.Refusal)
}

func wantCode(t testing.TB, o actor.Outcome, code actor.Code) {
	t.Helper()
	if o.Refusal == nil || o.Refusal.Code != code {
		t.Fatalf("outcome %+v, want the refusal %s", o, code)
	}
}

func TestWhatIsCreatedIsFoundByEachOfItsKeys(t *testing.T) {
	h := start(t)
	id := h.create(7)
	h.create(8)
	email, github := "ada7@example.org", int64(7)
	for name, l := range map[string]actor.Lookup{
		"id":     {UserID: &id},
		"email":  {Email: &email},
		"github": {GitHubID: &github},
		"all":    {UserID: &id, Email: &email, GitHubID: &github},
	} {
		u, err := h.Find(t.Context(), &l)
		if err != nil || u == nil || u.ID != id || u.Name != "Ada 7" || u.GitHub.AccessToken != "token-7" || u.Facebook != nil {
			t.Errorf("by %s: %+v, %v", name, u, err)
		}
	}
	other := int64(8)
	if u, err := h.Find(t.Context(), &actor.Lookup{UserID: &id, GitHubID: &other}); u != nil || err != nil {
		t.Errorf("keys of two users find %+v, %v", u, err)
	}
}

func TestACreateDrawsTheIDOfTheNextOne(t *testing.T) {
	h := start(t)
	spare := int64(0)
	for n := 1; spare == 0; n++ { // one that takes long is too old at once
		h.create(n)
		if spare = h.ReservedUserID(); n == 100 {
			t.Fatal("no create has drawn another id")
		}
	}
	drawn, err := h.NewUserID(t.Context())
	if err != nil || drawn == spare || h.get(spare) != nil || h.ReservedUserID() != 0 {
		t.Errorf("the spare id is %d, the next one %d, %v", spare, drawn, err)
	}
}

func TestTokensAreSealedInTheDatabase(t *testing.T) {
	h := start(t, func(o *store.Options) { o.TokensInNotifications = true })
	h.create(1)
	for _, column := range []string{
		"SELECT string_agg(encode(access_token, 'escape'), '') FROM services",
		"SELECT string_agg(encode(body, 'escape'), '') FROM ident_outbox",
	} {
		if text := h.one(column).(string); len(text) < 100 || text[:6] != "gAAAAA" {
			t.Errorf("%s: %q is no Fernet token", column, text)
		}
	}
}

func TestARequestThatComesAgainIsAppliedOnceAndAnsweredTheSame(t *testing.T) {
	h := start(t)
	first := h.do("create", "m1", ada(1))
	for range 3 {
		if again := h.do("create", "m1", ada(1)); !same(again, first) {
			t.Errorf("again: %+v, first %+v", again, first)
		}
	}
	patch := args{"user_id": first.UserID, "ops": []any{args{"op": "add", "path": "/picture_url", "value": "p"}, args{"op": "test", "path": "/name", "value": "Ada 1"}}}
	h.do("patch", "m2", patch)
	h.do("patch", "m3", args{"user_id": first.UserID, "ops": replace("/name", "Eve")})
	if o := h.do("patch", "m2", patch); o.Refusal != nil {
		t.Errorf("a repeated patch is tried anew: %v", o.Refusal)
	}
	if n := h.one("SELECT count(*) FROM users"); n != int64(1) {
		t.Errorf("%v users", n)
	}
	if u := h.get(first.UserID); u.Name != "Eve" {
		t.Errorf("a repeated patch changed the name to %q", u.Name)
	}
	if n := h.one("SELECT count(*) FROM ident_outbox"); n != int64(3) {
		t.Errorf("%v notifications, want 3", n)
	}
}

func TestARefusalIsGivenAgainThoughItsCauseIsGone(t *testing.T) {
	h := start(t)
	id := h.create(1)
	wantCode(t, h.do("create", "m1", ada(1)), actor.Conflict)
	wantCode(t, h.do("patch", "m2", args{"user_id": 99, "ops": []any{}}), actor.NotFound)
	wantCode(t, h.do("patch", "m3", args{"user_id": id, "ops": replace("/picture_url", "x")}), actor.PatchFailed)
	wantCode(t, h.do("patch", "m4", args{"user_id": id, "ops": 1}), actor.BadRequest)
	h.exec("DELETE FROM services")
	h.exec("DELETE FROM users")
	h.exec("INSERT INTO users (id, name, email_address) VALUES (99, '', '')")
	wantCode(t, h.do("create", "m1", ada(1)), actor.Conflict)
	wantCode(t, h.do("patch", "m2", args{"user_id": 99, "ops": []any{}}), actor.NotFound)
	wantCode(t, h.do("patch", "m3", args{"user_id": id, "ops": replace("/picture_url", "x")}), actor.PatchFailed)
	wantCode(t, h.do("patch", "m4", args{"user_id": id, "ops": 1}), actor.BadRequest)
}

func TestOneIdentityWithAnotherRequestIsABadRequest(t *testing.T) {
	h := start(t)
	id := h.do("create", "m1", ada(1)).UserID
	wantCode(t, h.do("create", "m1", ada(2)), actor.BadRequest)
	wantCode(t, h.do("delete", "m1", args{"user_id": id}), actor.BadRequest)
	if h.get(id) == nil {
		t.Error("the user is gone")
	}
}

func TestConcurrentRequestsOfOneIdentityAreOne(t *testing.T) {
	h := start(t)
	other := h.open()
	var wg sync.WaitGroup
	outcomes := make([]actor.Outcome, 20)
	for i := range outcomes {
		w := request(t, "create", "same", ada(1))
		w.UserID = int64(i + 1)
		s := []*store.Store{h.Store, other}[i%2]
		wg.Go(func() {
			var err error
			if outcomes[i], err = commit(t.Context(), s, h.lease, w); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, o := range outcomes {
		if !same(o, outcomes[0]) || o.Refusal != nil {
			t.Errorf("outcomes %+v and %+v", o, outcomes[0])
		}
	}
	if n := h.one("SELECT count(*) FROM users"); n != int64(1) {
		t.Errorf("%v users", n)
	}
}

func TestConcurrentClaimsOfOneEmailHaveOneWinner(t *testing.T) {
	h := start(t)
	other := h.open()
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for i := range 40 {
		a := ada(i)
		a["email"] = "one@example.org"
		w := request(t, "create", fmt.Sprint("m", i), a)
		w.UserID = int64(i + 1)
		s := []*store.Store{h.Store, other}[i%2]
		wg.Go(func() {
			o, err := commit(t.Context(), s, h.lease, w)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if o.Refusal == nil {
				codes["done"]++
			} else {
				codes[string(o.Refusal.Code)]++
			}
		})
	}
	wg.Wait()
	if codes["done"] != 1 || codes["conflict"] != 39 {
		t.Errorf("outcomes %v", codes)
	}
	if n := h.one("SELECT count(*) FROM services"); n != int64(1) {
		t.Errorf("a refused create left services: %v", n)
	}
}

func TestAPatchThatTakesAnothersServiceIDIsAConflictAndChangesNothing(t *testing.T) {
	h := start(t)
	a, b := h.create(1), h.create(2)
	wantCode(t, h.do("patch", "", args{"user_id": a, "ops": []any{
		args{"op": "replace", "path": "/name", "value": "changed"},
		args{"op": "replace", "path": "/github/id", "value": 2}}}), actor.Conflict)
	wantCode(t, h.do("patch", "", args{"user_id": a, "ops": replace("/email", "ada2@example.org")}), actor.Conflict)
	if u := h.get(a); u.Name != "Ada 1" || u.GitHub.ID != 1 {
		t.Errorf("%+v", u)
	}
	// The same service id with the other service is free.
	if o := h.do("patch", "", args{"user_id": a, "ops": []any{args{"op": "add", "path": "/facebook", "value": args{"id": 2, "access_token": "t"}}}}); o.Refusal != nil {
		t.Error(o.Refusal)
	}
	if u := h.get(b); u.GitHub.ID != 2 || h.get(a).Facebook.ID != 2 {
		t.Errorf("%+v", u)
	}
}

func TestForeignWritesAreNeverOverwrittenUnseen(t *testing.T) {
	h := start(t)
	id := h.create(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				h.do("patch", "", args{"user_id": id, "ops": replace("/name", fmt.Sprint("name ", i))})
			}
		}
	})
	foreign := connect(t, h.db.Config().ConnString())
	for i := range 100 {
		picture := fmt.Sprint("picture ", i)
		if _, err := foreign.Exec(t.Context(), "UPDATE users SET picture_url = $1 WHERE id = $2", picture, id); err != nil {
			t.Fatal(err)
		}
		if _, err := foreign.Exec(t.Context(), "UPDATE services SET sv_id = $1 WHERE user_id = $2", 1000+i, id); err != nil {
			t.Fatal(err)
		}
		if u := h.get(id); *u.PictureURL != picture || u.GitHub.ID != int64(1000+i) {
			t.Fatalf("the foreign write %d is gone: %+v", i, u)
		}
	}
	close(stop)
	wg.Wait()
}

func TestDeleteRemovesTheUserAndItsServicesAlsoWhereNoKeyOpensItsToken(t *testing.T) {
	h := start(t)
	id := h.create(1)
	h.exec("UPDATE services SET access_token = 'garbage'")
	if _, err := h.Find(t.Context(), &actor.Lookup{UserID: &id}); err == nil {
		t.Error("a token that no key opens was read")
	}
	w := request(t, "patch", "m", args{"user_id": id, "ops": []any{}})
	if _, err := commit(t.Context(), h, h.lease, w); err == nil {
		t.Error("a patch saw a token that no key opens")
	}
	if n := h.one("SELECT count(*) FROM ident_requests WHERE code = 'invocation_failed'"); n != int64(0) {
		t.Error("a failure was kept as if it were final")
	}
	if o := h.do("delete", "", args{"user_id": id}); o.Refusal != nil || h.get(id) != nil {
		t.Errorf("%+v", o)
	}
	if n := h.one("SELECT count(*) FROM services"); n != int64(0) {
		t.Errorf("%v services left", n)
	}
}

// list returns the names that a filter finds, page by page.
func (h *harness) list(filter string) (names []string) {
	h.t.Helper()
	page := &actor.Page{Size: 2, Name: filter}
	for {
		users, next, err := h.List(h.t.Context(), page)
		if err != nil || len(users) > 2 || next != 0 && len(users) != 2 {
			h.t.Fatalf("%.40q: %v, %v, %v", filter, users, next, err)
		}
		for _, u := range users {
			names = append(names, u.Name)
			if u.GitHub.AccessToken != "" {
				h.t.Error("a token in a list")
			}
		}
		if next == 0 {
			return names
		}
		page.AfterID = next
	}
}

func TestListPagesByIDAndFiltersByTheBeginningsOfWords(t *testing.T) {
	h := start(t)
	names := []string{"Ada Lovelace", "ADELE Goldberg", "Grace Hopper", "José d'Ávila", "Jean-Luc Picard", "Ada-Marie Byron"}
	for i, name := range names {
		a := ada(i)
		a["name"] = name
		h.do("create", "", a)
	}
	for filter, want := range map[string][]string{
		"":           names,
		" ' & | ! ":  names,
		"ad":         {"Ada Lovelace", "ADELE Goldberg", "Ada-Marie Byron"},
		"AD lov":     {"Ada Lovelace"},
		"lov ada":    {"Ada Lovelace"},
		"ovelace":    nil,
		"luc":        {"Jean-Luc Picard"},
		"jean-luc":   {"Jean-Luc Picard"},
		"josé":       {"José d'Ávila"},
		"d'á":        {"José d'Ávila"},
		"ada:*":      {"Ada Lovelace", "Ada-Marie Byron"},
		`\' <-> hop`: {"Grace Hopper"},
	} {
		got := h.list(filter)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %q, want %q", filter, got, want)
		}
	}
}

func TestAWordThatNoNameCanHaveFindsNobody(t *testing.T) {
	h := start(t)
	a := ada(1)
	a["name"] = "zeta " + strings.Repeat("k", 900)
	h.do("create", "", a)
	var much strings.Builder
	for i := range 300 {
		fmt.Fprintf(&much, "%d%s ", i, strings.Repeat("σ", 1000))
	}
	for filter, found := range map[string]bool{
		"zeta " + strings.Repeat("k", 900):     true,
		"zeta " + strings.Repeat("k", 901):     false,
		"zeta " + strings.Repeat("k", 2046):    false,
		"zeta " + strings.Repeat("k", 2047):    false,
		strings.Repeat("k", 2047):              false,
		"zeta " + strings.Repeat("漢", 700):     false,
		"zeta " + strings.Repeat("Ⱥ", 700):     false, // has three bytes in lower case, not two
		"zeta " + strings.Repeat("zeta–", 900): false, // a word beside a word, 900 times
		"zeta " + strings.Repeat("🙂", 700):     true,
		much.String():                          false,
	} {
		if got := h.list(filter); (len(got) == 1) != found {
			t.Errorf("%.20q, of %d bytes: %d", filter, len(filter), len(got))
		}
	}
}

func TestWhatHasNeitherLettersNorDigitsIsNoWord(t *testing.T) {
	h := start(t)
	var names []string
	for i, name := range []string{"Zeta One", "Zeta – 🙂", "Eta ½", "-"} {
		a := ada(i)
		a["name"] = name
		h.do("create", "", a)
		names = append(names, name)
	}
	for _, nothing := range []string{"-", "...", "'", "\\", "🙂", "–", "\u200b", "\u00a0", "½", "€", "- 🙂 –"} {
		if got := h.list(nothing); !slices.Equal(got, names) {
			t.Errorf("%q: %q", nothing, got)
		}
		if got := h.list("zeta " + nothing); !slices.Equal(got, names[:2]) {
			t.Errorf("zeta %q: %q", nothing, got)
		}
	}
}

func TestNamesAreFoundWhateverTheirLettersCaseAndWhateverTheDatabasesLocale(t *testing.T) {
	for _, c := range []struct {
		locale string
		finds  map[string][]string // names, by what finds each
	}{
		{"C.UTF-8", map[string][]string{
			"Éloïse":       {"Éloïse", "ÉLOÏSE", "éloï"},
			"Παπαδόπουλος": {"Παπαδόπουλος", "ΠΑΠΑΔΌΠΟΥΛΟΣ", "παπαδόπουλοσ", "ΠΑΠ"},
			"ΟΔΥΣΣΕΎΣ":     {"Οδυσσεύς", "οδυσ", "ΟΔΥΣ", "οδυσσ"},
			"Σ":            {"Σ", "σ", "ς"},
		}},
		{"C", map[string][]string{
			"Éloïse":       {"Éloïse", "Élo"},
			"Παπαδόπουλος": {"Παπαδόπουλος", "Παπαδόπουλοσ"},
			"ADA":          {"ada"},
		}},
	} {
		t.Run(c.locale, func(t *testing.T) {
			h := startOn(t, testservers.PostgresIn(t, c.locale))
			n := 0
			for name, filters := range c.finds {
				a := ada(n)
				n++
				a["name"] = name
				h.do("create", "", a)
				for _, filter := range filters {
					if got := h.list(filter); !slices.Contains(got, name) {
						t.Errorf("%q does not find %q", filter, name)
					}
				}
			}
		})
	}
}

func TestAPageOfHugeUsersEndsEarlyAndIsContinued(t *testing.T) {
	h := start(t)
	for i := range 20 {
		h.exec("INSERT INTO users (id, name, email_address) VALUES ($1, repeat('x', 1000000), $2)", i+1, fmt.Sprint(i))
	}
	page, seen := &actor.Page{Size: 1000}, 0
	for pages := 1; ; pages++ {
		users, next, err := h.List(t.Context(), page)
		if err != nil || len(users) == 0 {
			t.Fatal(users, err)
		}
		for _, u := range users {
			if seen++; u.ID != int64(seen) {
				t.Fatalf("user %d at place %d", u.ID, seen)
			}
		}
		if next == 0 {
			if seen != 20 || pages != 5 {
				t.Errorf("%d users on %d pages", seen, pages)
			}
			return
		}
		page.AfterID = next
	}
}

func TestNotificationsComeInEachUsersOrderAndStayUntilDelivered(t *testing.T) {
	h := start(t)
	seen := make(chan actor.PendingNotification, 100)
	h.SetNotificationSink(func(n actor.PendingNotification) { seen <- n })
	id := h.create(1)
	for i := range 20 {
		h.do("patch", "", args{"user_id": id, "ops": replace("/name", fmt.Sprint(i))})
	}
	h.SetNotificationSink(nil)
	h.do("delete", "", args{"user_id": id})
	stored, err := h.PendingNotifications(t.Context(), nil, 0, 0, 100)
	if err != nil || len(stored) != 22 || len(seen) != 21 {
		t.Fatalf("%d stored, %d sent: %v", len(stored), len(seen), err)
	}
	var ids []int64
	for i, n := range stored {
		ids = append(ids, n.ID)
		if i < 21 {
			if s := <-seen; s.ID != n.ID || s.MessageID != n.MessageID || string(s.Body) != string(n.Body) {
				t.Errorf("sent %+v, stored %+v", s, n)
			}
		}
	}
	if got := string(stored[1].Body); got != fmt.Sprintf(`{"ops":[{"op":"replace","path":"/name","value":"0"}],"user_id":%d}`, id) {
		t.Error(got)
	}
	h.ConfirmNotifications(ids[:21]...)
	left, err := h.PendingNotifications(t.Context(), nil, 0, 0, 100)
	if err != nil || len(left) != 1 || left[0].RoutingKey != "notifications.user.delete" {
		t.Errorf("%+v, %v", left, err)
	}
	if old, err := h.PendingNotifications(t.Context(), nil, 0, time.Hour, 100); err != nil || len(old) != 0 {
		t.Errorf("%v is an hour old: %v", old, err)
	}
}

func TestAGroupWithAWriteThatCannotBeCommittedCommitsTheOthers(t *testing.T) {
	h := start(t)
	h.exec(`CREATE FUNCTION sour() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.name = 'sour' THEN RAISE EXCEPTION 'sour'; END IF; RETURN NEW; END $$`)
	h.exec("CREATE TRIGGER sour BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION sour()")
	var wg sync.WaitGroup
	for i := range 50 {
		a := ada(i)
		if i == 25 {
			a["name"] = "sour"
		}
		w := request(t, "create", fmt.Sprint("m", i), a)
		w.UserID = int64(i + 1)
		wg.Go(func() {
			if _, err := commit(t.Context(), h, h.lease, w); (err != nil) != (i == 25) {
				t.Errorf("create %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := h.one("SELECT count(*) FROM users"); n != int64(49) {
		t.Errorf("%v users", n)
	}
}
