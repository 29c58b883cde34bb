package store_test

import (
	"crypto/rand"
	"flag"
	"fmt"
	"reflect"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/storetest"
)

// A model says what the store must do for writes that come one after another.
type model struct {
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
		h.Exec("TRUNCATE users, services, ident_outbox")
		m := model{users: map[int64]actor.User{}, seen: map[int64][]*actor.User{}}
		account := rapid.Custom(func(r *rapid.T) storetest.Args {
			return storetest.Args{"id": rapid.IntRange(1, 3).Draw(r, "account"), "access_token": rapid.StringN(0, 3, -1).Filter(noNUL).Draw(r, "token")}
		})
		user := rapid.Custom(func(r *rapid.T) storetest.Args {
			u := storetest.Args{"name": rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name"), "email": rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "email")}
			services := rapid.IntRange(1, 3).Draw(r, "services")
			if services&1 != 0 {
				u["github"] = account.Draw(r, "github")
			}
			if services&2 != 0 {
				u["facebook"] = account.Draw(r, "facebook")
			}
			if rapid.Bool().Draw(r, "with picture") {
				u["picture_url"] = rapid.SampledFrom([]string{"", "p"}).Draw(r, "picture")
			}
			return u
		})
		someone := func(r *rapid.T) int64 {
			ids := []int64{1 << 30} // a user that does not exist
			for id := range m.users {
				ids = append(ids, id)
			}
			return ids[rapid.IntRange(0, len(ids)-1).Draw(r, "user")]
		}
		write := func(operation string, id int64, a storetest.Args, next *actor.User) {
			var want actor.Code
			_, exists := m.users[id]
			switch {
			case operation != "create" && !exists:
				want = actor.NotFound
			case next != nil && m.taken(next):
				want = actor.Conflict
			}
			w := storetest.Request(t, operation, rand.Text(), a)
			w.UserID = id
			if seen := m.seen[id]; len(seen) > 0 && rapid.Bool().Draw(r, "cached") {
				w.Cached = seen[len(seen)-1]
				if rapid.IntRange(0, 4).Draw(r, "stale") == 0 {
					w.Cached = rapid.SampledFrom(seen).Draw(r, "cached state")
				}
			}
			o, err := storetest.Commit(t.Context(), h, h.Lease, w)
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
				if now := h.User(id); !reflect.DeepEqual(o.After, now) {
					r.Fatalf("%s %v: user %d is %+v, and %+v according to the outcome", operation, a, id, now, o.After)
				}
			}
		}
		parsed := func(a storetest.Args, id int64) *actor.User {
			tree := storetest.Args{}
			for k, v := range a {
				tree[k] = v
			}
			for _, service := range []string{"github", "facebook"} {
				if acc, ok := a[service].(storetest.Args); ok {
					tree[service] = storetest.Args{"id": int64(acc["id"].(int)), "access_token": acc["access_token"]}
				}
			}
			u, err := actor.ParseUser(map[string]any(tree))
			if err != nil {
				r.Fatal(err)
			}
			u.ID = id
			return &u
		}
		r.Repeat(map[string]func(*rapid.T){
			"create": func(r *rapid.T) {
				a := user.Draw(r, "user")
				id, err := h.NewUserID(t.Context())
				if err != nil {
					r.Fatal(err)
				}
				write("create", id, a, parsed(a, id))
			},
			"replace": func(r *rapid.T) {
				id, a := someone(r), user.Draw(r, "user")
				write("patch", id, storetest.Args{"user_id": id, "ops": storetest.Replace("", a)}, parsed(a, id))
			},
			"copy the name": func(r *rapid.T) {
				id := someone(r)
				next := m.users[id]
				next.PictureURL = &next.Name
				write("patch", id, storetest.Args{"user_id": id, "ops": []any{storetest.Args{"op": "copy", "from": "/name", "path": "/picture_url"}}}, &next)
			},
			"swap the accounts": func(r *rapid.T) {
				id := someone(r)
				next, exists := m.users[id]
				if exists && (next.GitHub == nil || next.Facebook == nil) {
					return
				}
				next.GitHub, next.Facebook = next.Facebook, next.GitHub
				write("patch", id, storetest.Args{"user_id": id, "ops": []any{
					storetest.Args{"op": "move", "from": "/github", "path": "/name"},
					storetest.Args{"op": "move", "from": "/facebook", "path": "/github"},
					storetest.Args{"op": "move", "from": "/name", "path": "/facebook"},
					storetest.Args{"op": "add", "path": "/name", "value": next.Name},
				}}, &next)
			},
			"delete": func(r *rapid.T) {
				id := someone(r)
				write("delete", id, storetest.Args{"user_id": id}, nil)
			},
			"another program": func(r *rapid.T) {
				id, name := someone(r), rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name")
				u, exists := m.users[id]
				switch service := rapid.SampledFrom([]string{"", "gh", "fb"}).Draw(r, "service"); {
				case !exists:
					return
				case service == "":
					h.Exec("UPDATE users SET name = $2 WHERE id = $1", id, name)
					u.Name = name
				case u.GitHub == nil || u.Facebook == nil:
					return
				case service == "gh":
					h.Exec("DELETE FROM services WHERE user_id = $1 AND sv_name = 'gh'", id)
					u.GitHub = nil
				default:
					h.Exec("DELETE FROM services WHERE user_id = $1 AND sv_name = 'fb'", id)
					u.Facebook = nil
				}
				m.users[id] = u
			},
			"": func(r *rapid.T) {
				for id, want := range m.users {
					got := h.User(id)
					if got == nil || !m.isCurrent(got) {
						r.Fatalf("user %d is %+v, want %+v", id, got, want)
					}
					if last := m.seen[id][len(m.seen[id])-1]; last.Version == got.Version && !m.isCurrent(last) {
						r.Fatalf("user %d is %+v, and was %+v with this version", id, got, last)
					}
					m.add(got)
				}
				counts := fmt.Sprint(h.Value("SELECT count(*) FROM users"), h.Value("SELECT count(*) FROM services s WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id)"))
				if counts != fmt.Sprint(len(m.users), 0) {
					r.Fatalf("users and stray services: %s, want %d", counts, len(m.users))
				}
			},
		})
	})
}

func noNUL(s string) bool {
	for _, r := range s {
		if r == 0 {
			return false
		}
	}
	return true
}
