package contract

import (
	"crypto/rand"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	x := serve(t)
	x.run(t, "id_is_ignored", testCreateIDIsIgnored)
	x.run(t, "stored", testCreateStored)
	x.run(t, "refused", testCreateRefused)
	x.run(t, "long_email", testCreateLongEmail)
	t.Run("same_email_concurrently", testCreateSameEmailConcurrently)
	t.Run("tokens_are_sealed", testCreateTokensAreSealed)
	t.Run("wide_ids", testCreateWideIDs)
	t.Run("ids_are_used", testCreateIDsAreUsed)
}

// testCreateIDsAreUsed: nearly as many ids are drawn as users are created, with two instances
// and many requests in flight, which draw ids ahead.
func testCreateIDsAreUsed(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.ServeAs(t, "a")
	s.ServeAs(t, "b")
	c := s.NewCaller(t)
	const inFlight = 32
	run := func(all []*harness.Request, check func(int, harness.Reply)) {
		t.Helper()
		for i, m := range all {
			if i < inFlight {
				c.Send(t, m)
			}
		}
		for i, m := range all {
			check(i, c.AwaitReply(t, m))
			if next := i + inFlight; next < len(all) {
				c.Send(t, all[next])
			}
		}
	}
	requests := func(n int, user func() dict) (all []*harness.Request) {
		for range n {
			all = append(all, c.NewRequest("create", user()))
		}
		return all
	}
	created := requests(1000, func() dict { return harness.NewUser() })
	ids := make([]any, len(created))
	there := c.Create(t, harness.NewUser())
	conflicting := harness.Changed(harness.NewUser(), dict{"email": there["email"]})
	for _, step := range []struct {
		name  string
		all   []*harness.Request
		check func(int, harness.Reply)
		users int
	}{
		{"1,000 creates", created, func(i int, a harness.Reply) { ids[i] = a.Result(t).(dict)["user_id"] }, 1000},
		{"300 repeats", created[:300], func(i int, a harness.Reply) { a.IsResult(t, dict{"user_id": ids[i]}) }, 0},
		{"300 conflicts", requests(300, func() dict { return conflicting }), func(_ int, a harness.Reply) { a.IsError(t, "conflict") }, 0},
		{"conflicts among creates", requests(300, func() dict {
			if rand.Text() < "M" {
				return conflicting
			}
			return harness.NewUser()
		}), func(int, harness.Reply) {}, -1},
	} {
		before, usersBefore := s.Count(t, "SELECT last_value FROM users_id_seq"), s.Count(t, "SELECT count(*) FROM users")
		run(step.all, step.check)
		drawn, users := s.Count(t, "SELECT last_value FROM users_id_seq")-before, s.Count(t, "SELECT count(*) FROM users")-usersBefore
		if step.users >= 0 && users != step.users {
			t.Errorf("%s: there are %d more users", step.name, users)
		}
		// What each instance has drawn ahead for the next creates is not used if there are none for a
		// second, as on a busy machine.
		t.Logf("%s: %d ids were drawn for %d users", step.name, drawn, users)
		if drawn > users+users/2+2*inFlight {
			t.Errorf("%s: %d ids were drawn for %d users", step.name, drawn, users)
		}
	}
}

// testCreateWideIDs: ids go on beyond 32 bits, and up to the greatest 64-bit number, with
// forwarded requests too.
func testCreateWideIDs(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.ServeAs(t, "a")
	s.ServeAs(t, "b")
	c := s.NewCaller(t)
	heard := s.Subscribe(t)
	var last dict
	for _, drawn := range []int64{math.MaxInt32 - 1, 1 << 53, math.MaxInt64 - 20} {
		s.Exec(t, "SELECT setval('users_id_seq', $1)", drawn)
		for wide := 0; wide < 4; {
			u := c.Create(t, harness.NewUser("github"))
			if id := u["id"].(int64); id > drawn { // the instances may have drawn some ids before
				wide++
			}
			heard.Expect(t, harness.CreateKey, harness.AsListed(u))
			c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
			c.Ask(t, c.NewRequest("get", dict{"user_id": u["id"]}).ViaDirectReply(fmt.Sprint(u["id"]))).IsResult(t, u)
			c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret wide"))).Result(t)
			u["name"] = "s3cret wide"
			heard.Expect(t, harness.PatchKey, dict{"user_id": u["id"], "ops": list{op("replace", "/name", u["name"])}})
			c.Call(t, "get", dict{"email": u["email"]}).IsResult(t, u)
			last = u
		}
	}
	c.CheckListed(t, dict{"after_id": last["id"].(int64) - 1}, list{harness.AsListed(last)})
	c.CheckListed(t, dict{"after_id": math.MaxInt64}, list{})
	c.Call(t, "delete", dict{"user_id": last["id"]}).IsResult(t, dict{"user_id": last["id"]})
	heard.Expect(t, harness.DeleteKey, dict{"user_id": last["id"]})
	c.Call(t, "get", dict{"user_id": last["id"]}).IsError(t, "not_found")
	if n := s.Count(t, "SELECT count(*) FROM ident_log WHERE user_id = $1", last["id"]); n != 3 {
		t.Errorf("the log has %d rows of user %d", n, last["id"])
	}
}

func testCreateStored(t *testing.T, x *served) {
	c := x.caller
	account := func(id any) dict { return harness.Changed(harness.NewAccount(), dict{"id": id}) }
	for name, u := range map[string]dict{
		"github":                harness.NewUser("github"),
		"facebook":              harness.NewUser("facebook"),
		"both":                  harness.NewUser("github", "facebook"),
		"a picture":             harness.Changed(harness.NewUser(), dict{"picture_url": "https://secret.example/1.png"}),
		"an empty picture":      harness.Changed(harness.NewUser(), dict{"picture_url": ""}),
		"an empty name":         harness.Changed(harness.NewUser(), dict{"name": ""}),
		"an empty token":        harness.Changed(harness.NewUser(), dict{"github": dict{"id": 5, "access_token": ""}}),
		"an email of one word":  harness.Changed(harness.NewUser(), dict{"email": "s3cret"}),
		"an email in capitals":  harness.Changed(harness.NewUser(), dict{"email": "S3CRET"}),
		"all of Unicode":        harness.Changed(harness.NewUser(), dict{"name": "s3cret é e\u0301 İ ß 漢字 🦊 \U0010ffff \ufffd \u202e \\ ' \" \x01\x7f"}),
		"long":                  harness.Changed(harness.NewUser(), dict{"name": strings.Repeat("s3cret ", 20_000), "picture_url": strings.Repeat("s3cret/", 20_000)}),
		"a long token":          harness.Changed(harness.NewUser(), dict{"github": dict{"id": 6, "access_token": strings.Repeat("s3cret-", 20_000)}}),
		"the greatest 32 bits":  harness.Changed(harness.NewUser(), dict{"github": account(math.MaxInt32)}),
		"beyond 32 bits":        harness.Changed(harness.NewUser(), dict{"github": account(math.MaxInt32 + 1), "facebook": account(int64(1) << 53)}),
		"the greatest 64 bits":  harness.Changed(harness.NewUser(), dict{"github": account(math.MaxInt64), "facebook": account(math.MaxInt64)}),
		"the least 64 bits":     harness.Changed(harness.NewUser(), dict{"github": account(math.MinInt64)}),
		"an id of 0":            harness.Changed(harness.NewUser(), dict{"github": account(0), "facebook": account(0)}),
		"a name that is in SQL": harness.Changed(harness.NewUser(), dict{"name": "s3cret'); DROP TABLE users; --"}),
	} {
		t.Run(name, func(t *testing.T) {
			made := c.Create(t, u)
			c.Call(t, "get", dict{"user_id": made["id"]}).IsResult(t, made)
		})
	}
}

func testCreateIDIsIgnored(t *testing.T, x *served) {
	c := x.caller
	first := c.Create(t, harness.NewUser())
	for _, id := range []any{first["id"], 0, -5, 77, math.MaxInt64, uint64(math.MaxUint64)} {
		u := harness.NewUser()
		made := c.Create(t, harness.Changed(u, dict{"id": id}))
		if made["id"] == harness.Normalize(id) || made["id"].(int64) <= first["id"].(int64) {
			t.Errorf("the user with the id %v got the id %v", id, made["id"])
		}
		c.Call(t, "get", dict{"email": u["email"]}).IsResult(t, harness.Changed(u, dict{"id": made["id"]}))
	}
}

func testCreateRefused(t *testing.T, x *served) {
	s, c := x.site, x.caller
	other := c.Create(t, harness.NewUser("github", "facebook"))
	before := s.Contents(t)
	with := func(key string, v any) dict {
		u := harness.NewUser("github", "facebook")
		u[key] = v
		return u
	}
	without := func(key string) dict { return harness.Changed(harness.NewUser(), dict{key: nil}) }
	taken := func(service string) dict {
		return harness.Changed(harness.NewAccount(), dict{"id": other[service].(dict)["id"]})
	}
	for _, refused := range []struct {
		code string
		all  []dict
	}{
		{"bad_request", slices.Concat([]dict{
			{}, without("name"), without("email"), without("github"),
			with("nope", 1), with("created_at", nil), with("Name", "s3cret"), with("user_id", 1),
			with("id", "1"), with("id", 1.5), with("id", nil), with("id", true),
		}, wrongStrings(with, "name"), wrongStrings(with, "email"), wrongStrings(with, "picture_url"),
			wrongAccounts(with, "github"), wrongAccounts(with, "facebook"))},
		{"conflict", []dict{
			with("email", other["email"]), with("github", taken("github")), with("facebook", taken("facebook")),
			harness.Changed(with("github", taken("github")), dict{"email": other["email"], "facebook": taken("facebook")}),
		}},
	} {
		for _, u := range refused.all {
			if a := c.Call(t, "create", u); a.ErrorCode() != refused.code {
				t.Errorf("create %q: got %v, want %s", u, a.Value, refused.code)
			}
		}
	}
	if after := s.Contents(t); after != before {
		t.Errorf("the tables were\n%s\nand are\n%s", before, after)
	}
	// A service id is unique within its service only.
	c.Create(t, with("github", harness.Changed(taken("facebook"), dict{"id": int64(1) << 40})))
	c.Create(t, with("facebook", dict{"id": int64(1) << 40, "access_token": "s3cret"}))
}

// wrongStrings are users whose key is no string that can be stored.
func wrongStrings(with func(string, any) dict, key string) []dict {
	return []dict{with(key, 1), with(key, 1.5), with(key, true), with(key, list{}), with(key, dict{}), with(key, []byte("s3cret")), with(key, "s3cret\x00")}
}

func wrongAccounts(with func(string, any) dict, service string) (all []dict) {
	for _, account := range []any{
		"s3cret", 1, list{}, dict{},
		dict{"id": 1}, dict{"access_token": "s3cret"},
		dict{"id": nil, "access_token": "s3cret"}, dict{"id": 1, "access_token": nil},
		dict{"id": "1", "access_token": "s3cret"}, dict{"id": 1.5, "access_token": "s3cret"},
		dict{"id": uint64(math.MaxInt64 + 1), "access_token": "s3cret"},
		dict{"id": 1, "access_token": 7}, dict{"id": 1, "access_token": []byte("s3cret")}, dict{"id": 1, "access_token": "s3cret\x00"},
		dict{"id": 1, "access_token": "s3cret", "nope": 1}, dict{"sv_id": 1, "access_token": "s3cret"},
	} {
		all = append(all, with(service, account))
	}
	return all
}

// The index over emails has room for some 2,600 bytes, if they cannot be
// compressed.
func testCreateLongEmail(t *testing.T, x *served) {
	c := x.caller
	for _, size := range []int{254, 2000, 2600, 2601, 2700, 2704, 3000, 10_000, 500_000} {
		email := "s3cret"
		for len(email) < size {
			email += rand.Text()
		}
		u := harness.Changed(harness.NewUser(), dict{"email": email[:size]})
		a := c.Call(t, "create", u)
		if a.ErrorCode() == "" {
			c.Call(t, "get", dict{"email": email[:size]}).IsResult(t, harness.Changed(u, dict{"id": a.Result(t).(dict)["user_id"]}))
		} else {
			a.IsError(t, "bad_request")
		}
		if size <= 2000 && a.ErrorCode() != "" {
			t.Errorf("an email of %d bytes is a %s", size, a.ErrorCode())
		}
	}
}

// Of concurrent creates with the same email, one succeeds.
func testCreateSameEmailConcurrently(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	s.Serve(t)
	c := s.NewCaller(t)
	const rounds, rivals = 20, 10
	for range rounds {
		u := harness.NewUser("github", "facebook")
		var all []*harness.Request
		for range rivals {
			all = append(all, c.NewRequest("create", u))
			c.Send(t, all[len(all)-1])
		}
		won := 0
		for _, m := range all {
			if a := c.AwaitReply(t, m); a.ErrorCode() == "" {
				won++
			} else {
				a.IsError(t, "conflict")
			}
		}
		if won != 1 {
			t.Errorf("%d creates of one user succeeded", won)
		}
	}
	if n := s.Count(t, "SELECT count(*) FROM users"); n != rounds {
		t.Errorf("there are %d users", n)
	}
	if n := s.Count(t, "SELECT count(*) FROM services"); n != 2*rounds {
		t.Errorf("there are %d services", n)
	}
}

// A stored token is a Fernet token of the first key.
func testCreateTokensAreSealed(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser("github", "facebook"))
	c.Call(t, "patch", harness.Patch(u, op("replace", "/facebook/access_token", "s3cret-new"))).Result(t)
	for service, want := range map[string]any{"gh": u["github"].(dict)["access_token"], "fb": "s3cret-new"} {
		var token []byte
		if err := s.DB.QueryRow(t.Context(), "SELECT access_token FROM services WHERE sv_name = $1", service).Scan(&token); err != nil {
			t.Fatal(err)
		}
		if got := harness.Unseal(t, s.Settings["database.encryption_key"], token); got != want {
			t.Errorf("the token %.8q… is %q", token, got)
		}
	}
	found := s.Count(t, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE nspname = 'public' AND relkind = 'r'
		AND query_to_xml(format('SELECT t::text AS x FROM %I t', relname), true, false, '')::text ~ 's3cret-(token|new)'`)
	if found > 0 {
		t.Errorf("%d tables hold a token in clear", found)
	}
}
