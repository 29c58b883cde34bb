package store_test

import (
	"crypto/rand"
	"flag"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/glotpod/ident/actor"
)

// A model is what the store promises of writes that come one after another.
type model struct {
	users map[int64]actor.User    // without versions
	known map[int64][]*actor.User // as each was once, the last one as he is but for foreign writes
}

func (m *model) know(u *actor.User) {
	if u != nil {
		m.known[u.ID] = append(m.known[u.ID], u)
	}
}

// isNow says whether u is what the model has of the user.
func (m *model) isNow(u *actor.User) bool {
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

func TestTheStoreDoesWhatItsModelDoes(t *testing.T) {
	h := start(t)
	// Each check takes tens of round trips: -rapid.checks asks for more.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("25")
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(r *rapid.T) {
		h.exec("TRUNCATE users, services, ident_outbox")
		m := model{users: map[int64]actor.User{}, known: map[int64][]*actor.User{}}
		account := rapid.Custom(func(r *rapid.T) args {
			return args{"id": rapid.IntRange(1, 3).Draw(r, "account"), "access_token": rapid.StringN(0, 3, -1).Filter(noNUL).Draw(r, "token")}
		})
		user := rapid.Custom(func(r *rapid.T) args {
			u := args{"name": rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name"), "email": rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "email")}
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
			ids := []int64{1 << 30} // who does not exist
			for id := range m.users {
				ids = append(ids, id)
			}
			return ids[rapid.IntRange(0, len(ids)-1).Draw(r, "who")]
		}
		write := func(operation string, id int64, a args, next *actor.User) {
			var want actor.Code
			_, exists := m.users[id]
			switch {
			case operation != "create" && !exists:
				want = actor.NotFound
			case next != nil && m.taken(next):
				want = actor.Conflict
			}
			w := request(t, operation, rand.Text(), a)
			w.UserID = id
			if known := m.known[id]; len(known) > 0 && rapid.Bool().Draw(r, "known") {
				w.Cached = known[len(known)-1]
				if rapid.IntRange(0, 4).Draw(r, "stale") == 0 {
					w.Cached = rapid.SampledFrom(known).Draw(r, "as known")
				}
			}
			o, err := commit(t.Context(), h, h.lease, w)
			if err != nil {
				r.Fatal(err)
			}
			m.know(o.After)
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
				if now := h.get(id); !reflect.DeepEqual(o.After, now) {
					r.Fatalf("%s %v: user %d is %+v, and %+v according to the outcome", operation, a, id, now, o.After)
				}
			}
		}
		parsed := func(a args, id int64) *actor.User {
			tree := args{}
			for k, v := range a {
				tree[k] = v
			}
			for _, service := range []string{"github", "facebook"} {
				if acc, ok := a[service].(args); ok {
					tree[service] = args{"id": int64(acc["id"].(int)), "access_token": acc["access_token"]}
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
				write("patch", id, args{"user_id": id, "ops": replace("", a)}, parsed(a, id))
			},
			"copy the name": func(r *rapid.T) {
				id := someone(r)
				next := m.users[id]
				next.PictureURL = &next.Name
				write("patch", id, args{"user_id": id, "ops": []any{args{"op": "copy", "from": "/name", "path": "/picture_url"}}}, &next)
			},
			"swap the accounts": func(r *rapid.T) {
				id := someone(r)
				next, exists := m.users[id]
				if exists && (next.GitHub == nil || next.Facebook == nil) {
					return
				}
				next.GitHub, next.Facebook = next.Facebook, next.GitHub
				write("patch", id, args{"user_id": id, "ops": []any{
					args{"op": "move", "from": "/github", "path": "/name"},
					args{"op": "move", "from": "/facebook", "path": "/github"},
					args{"op": "move", "from": "/name", "path": "/facebook"},
					args{"op": "add", "path": "/name", "value": next.Name},
				}}, &next)
			},
			"delete": func(r *rapid.T) {
				id := someone(r)
				write("delete", id, args{"user_id": id}, nil)
			},
			"another program": func(r *rapid.T) {
				id, name := someone(r), rapid.StringN(0, 5, -1).Filter(noNUL).Draw(r, "name")
				u, exists := m.users[id]
				switch service := rapid.SampledFrom([]string{"", "gh", "fb"}).Draw(r, "service"); {
				case !exists:
					return
				case service == "":
					h.exec("UPDATE users SET name = $2 WHERE id = $1", id, name)
					u.Name = name
				case u.GitHub == nil || u.Facebook == nil:
					return
				case service == "gh":
					h.exec("DELETE FROM services WHERE user_id = $1 AND sv_name = 'gh'", id)
					u.GitHub = nil
				default:
					h.exec("DELETE FROM services WHERE user_id = $1 AND sv_name = 'fb'", id)
					u.Facebook = nil
				}
				m.users[id] = u
			},
			"": func(r *rapid.T) {
				for id, want := range m.users {
					got := h.get(id)
					if got == nil || !m.isNow(got) {
						r.Fatalf("user %d is %+v, want %+v", id, got, want)
					}
					if last := m.known[id][len(m.known[id])-1]; last.Version == got.Version && !m.isNow(last) {
						r.Fatalf("user %d is %+v, and was %+v with this version", id, got, last)
					}
					m.know(got)
				}
				counts := fmt.Sprint(h.one("SELECT count(*) FROM users"), h.one("SELECT count(*) FROM services s WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id)"))
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
