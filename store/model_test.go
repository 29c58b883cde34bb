package store_test

import (
	"crypto/rand"
	"flag"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/storetest"
)

// A model says what the store must do for writes that come one after another.
type model struct {
	h     *storetest.Harness
	users map[int64]actor.User    // without versions
	seen  map[int64][]*actor.User // all states of each user; the last one is out of date only after foreign writes
}

func (m *model) add(u *actor.User) {
	if u != nil {
		m.seen[u.ID] = append(m.seen[u.ID], u)
	}
}

// isCurrent reports whether u is the user as the model has it.
func (m *model) isCurrent(u *actor.User) bool {
	want, exists := m.users[u.ID]
	now := *u
	now.Version = actor.Version{}
	return exists && reflect.DeepEqual(now, want)
}

func (m *model) taken(u *actor.User) bool {
	same := func(a, b *actor.Account) bool { return a != nil && b != nil && a.ID == b.ID }
	for id, other := range m.users {
		if id != u.ID && (other.Email == u.Email || same(other.GitHub, u.GitHub) || same(other.Facebook, u.Facebook)) {
			return true
		}
	}
	return false
}

// limitChecks sets the number of checks of rapid, each of which takes tens of round trips,
// unless -rapid.checks is given.
func limitChecks(t *testing.T, quick, full int) {
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	t.Cleanup(func() { f.Value.Set(f.DefValue) })
	if storetest.Long {
		quick = full
	}
	f.Value.Set(strconv.Itoa(quick))
}

// TestModel: the store does what its model does.
func TestModel(t *testing.T) {
	h := storetest.Start(t)
	limitChecks(t, 15, 50)
	rapid.Check(t, func(r *rapid.T) {
		h.Exec("TRUNCATE users, services, ident_log")
		m := &model{h: h, users: map[int64]actor.User{}, seen: map[int64][]*actor.User{}}
		r.Repeat(map[string]func(*rapid.T){
			"create":            m.create,
			"replace":           m.replace,
			"copy the name":     m.copyName,
			"swap the accounts": m.swapAccounts,
			"delete":            func(r *rapid.T) { id := m.drawID(r); m.write(r, "delete", id, storetest.Args{"user_id": id}, nil) },
			"another program":   m.writeForeign,
			"":                  m.check,
		})
	})
}

// drawAccount draws the arguments of an account.
var drawAccount = rapid.Custom(func(r *rapid.T) storetest.Args {
	return storetest.Args{"id": rapid.IntRange(1, 3).Draw(r, "account"), "access_token": rapid.StringN(0, 3, -1).Filter(noNUL).Draw(r, "token")}
})

// drawUser draws the arguments of a user.
var drawUser = rapid.Custom(func(r *rapid.T) storetest.Args {
	u := storetest.Args{"name": rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name"), "email": rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "email")}
	services := rapid.IntRange(1, 3).Draw(r, "services")
	if services&1 != 0 {
		u["github"] = drawAccount.Draw(r, "github")
	}
	if services&2 != 0 {
		u["facebook"] = drawAccount.Draw(r, "facebook")
	}
	if rapid.Bool().Draw(r, "with picture") {
		u["picture_url"] = rapid.SampledFrom([]string{"", "p"}).Draw(r, "picture")
	}
	return u
})

// drawID draws the id of a user, or one that no user has.
func (m *model) drawID(r *rapid.T) int64 {
	ids := []int64{1 << 30}
	for id := range m.users {
		ids = append(ids, id)
	}
	return ids[rapid.IntRange(0, len(ids)-1).Draw(r, "user")]
}

// parseUser returns the user that arguments describe.
func parseUser(r *rapid.T, a storetest.Args, id int64) *actor.User {
	tree := maps.Clone(a)
	for _, service := range []string{"github", "facebook"} {
		if account, ok := a[service].(storetest.Args); ok {
			tree[service] = storetest.Args{"id": int64(account["id"].(int)), "access_token": account["access_token"]}
		}
	}
	u, err := actor.ParseUser(tree)
	if err != nil {
		r.Fatal(err)
	}
	u.ID = id
	return &u
}

// wantedCode returns the code with which a write that leads to next must be refused, or "".
func (m *model) wantedCode(operation string, id int64, next *actor.User) actor.Code {
	_, exists := m.users[id]
	switch {
	case operation != "create" && !exists:
		return actor.NotFound
	case next != nil && m.taken(next):
		return actor.Conflict
	}
	return ""
}

// drawCached draws the state of a user that a write has cached. It is mostly the last one.
func (m *model) drawCached(r *rapid.T, id int64) *actor.User {
	seen := m.seen[id]
	if len(seen) == 0 || !rapid.Bool().Draw(r, "cached") {
		return nil
	}
	if rapid.IntRange(0, 4).Draw(r, "stale") == 0 {
		return rapid.SampledFrom(seen).Draw(r, "cached state")
	}
	return seen[len(seen)-1]
}

// write commits a write that leads to next, which is nil for a delete. It checks the outcome.
func (m *model) write(r *rapid.T, operation string, id int64, a storetest.Args, next *actor.User) {
	want := m.wantedCode(operation, id, next)
	w := storetest.Request(m.h.T, operation, rand.Text(), a)
	w.UserID = id
	w.Cached = m.drawCached(r, id)
	o, err := storetest.Commit(m.h.T.Context(), m.h, m.h.Lease, w)
	if err != nil {
		r.Fatal(err)
	}
	m.add(o.After)
	var got actor.Code
	if o.Refusal != nil {
		got = o.Refusal.Code
	}
	if got != want {
		r.Fatalf("%s %v: %q, want %q", operation, a, got, want)
	}
	switch {
	case want != "":
	case next == nil:
		delete(m.users, id)
	default:
		m.users[id] = *next
		if now := m.h.User(id); !reflect.DeepEqual(o.After, now) {
			r.Fatalf("%s %v: user %d is %+v, and %+v according to the outcome", operation, a, id, now, o.After)
		}
	}
}

func (m *model) create(r *rapid.T) {
	a := drawUser.Draw(r, "user")
	id, err := storetest.DrawUserID(m.h.T.Context(), m.h.Store)
	if err != nil {
		r.Fatal(err)
	}
	m.write(r, "create", id, a, parseUser(r, a, id))
}

func (m *model) replace(r *rapid.T) {
	id, a := m.drawID(r), drawUser.Draw(r, "user")
	m.patch(r, id, storetest.Replace("", a), parseUser(r, a, id))
}

func (m *model) patch(r *rapid.T, id int64, ops []any, next *actor.User) {
	m.write(r, "patch", id, storetest.Args{"user_id": id, "ops": ops}, next)
}

func (m *model) copyName(r *rapid.T) {
	id := m.drawID(r)
	next := m.users[id]
	next.PictureURL = &next.Name
	m.patch(r, id, []any{storetest.Args{"op": "copy", "from": "/name", "path": "/picture_url"}}, &next)
}

func (m *model) swapAccounts(r *rapid.T) {
	id := m.drawID(r)
	next, exists := m.users[id]
	if exists && (next.GitHub == nil || next.Facebook == nil) {
		return
	}
	next.GitHub, next.Facebook = next.Facebook, next.GitHub
	m.patch(r, id, []any{
		storetest.Args{"op": "move", "from": "/github", "path": "/name"},
		storetest.Args{"op": "move", "from": "/facebook", "path": "/github"},
		storetest.Args{"op": "move", "from": "/name", "path": "/facebook"},
		storetest.Args{"op": "add", "path": "/name", "value": next.Name},
	}, &next)
}

// writeForeign changes a user as another program does.
func (m *model) writeForeign(r *rapid.T) {
	id, name := m.drawID(r), rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name")
	u, exists := m.users[id]
	switch service := rapid.SampledFrom([]string{"", "gh", "fb"}).Draw(r, "service"); {
	case !exists:
		return
	case service == "":
		m.h.Exec("UPDATE users SET name = $2 WHERE id = $1", id, name)
		u.Name = name
	case u.GitHub == nil || u.Facebook == nil:
		return
	case service == "gh":
		m.h.Exec("DELETE FROM services WHERE user_id = $1 AND sv_name = 'gh'", id)
		u.GitHub = nil
	default:
		m.h.Exec("DELETE FROM services WHERE user_id = $1 AND sv_name = 'fb'", id)
		u.Facebook = nil
	}
	m.users[id] = u
}

// check compares what is stored with the model.
func (m *model) check(r *rapid.T) {
	for id, want := range m.users {
		got := m.h.User(id)
		if got == nil || !m.isCurrent(got) {
			r.Fatalf("user %d is %+v, want %+v", id, got, want)
		}
		if last := m.seen[id][len(m.seen[id])-1]; last.Version == got.Version && !m.isCurrent(last) {
			r.Fatalf("user %d is %+v, and was %+v with this version", id, got, last)
		}
		m.add(got)
	}
	ids := append(slices.Sorted(maps.Keys(m.users)), 1<<30)
	page, err := m.h.List(m.h.T.Context(), &actor.Page{Size: actor.MaxPageSize, IDs: ids})
	if err != nil || len(page.Users) != len(m.users) || page.NextAfterID != 0 {
		r.Fatalf("users %v are %+v, %v", ids, page, err)
	}
	for i := range page.Users {
		want := m.users[ids[i]]
		want.GitHub, want.Facebook = withoutToken(want.GitHub), withoutToken(want.Facebook)
		if !reflect.DeepEqual(page.Users[i], want) {
			r.Fatalf("get_many has %+v, want %+v", page.Users[i], want)
		}
	}
	counts := fmt.Sprint(m.h.Value("SELECT count(*) FROM users"), m.h.Value("SELECT count(*) FROM services s WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id)"))
	if counts != fmt.Sprint(len(m.users), 0) {
		r.Fatalf("users and stray services: %s, want %d", counts, len(m.users))
	}
}

func withoutToken(a *actor.Account) *actor.Account {
	if a == nil {
		return nil
	}
	return &actor.Account{ID: a.ID}
}

func noNUL(s string) bool {
	for _, r := range s {
		if r == 0 {
			return false
		}
	}
	return true
}
